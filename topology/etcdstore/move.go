package etcdstore

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// MovePins says that addresses of one endpoint, which another node has, live on a node from
// now on: all pins in one transaction, which requires that the other node still has each,
// by a pin with the same MAC or by its lease, and that its agent runs, which lets go of the
// endpoint when it sees them. The pins are all of one network and one node.
//
// Errors: ErrConflict where the other node does not have an address, its agent does not
// run, or the network is being deleted; ErrNotFound; ErrUnavailable.
func (s *Store) MovePins(ctx context.Context, from string, pins []topology.Pin) error {
	m := moving{s: s, from: from, pins: pins}
	return s.attempts(ctx, "endpoint "+pins[0].Endpoint, func() (bool, error) { return m.step(ctx) })
}

// moving is a move on its way.
type moving struct {
	s    *Store
	from string
	pins []topology.Pin
}

func (m moving) step(ctx context.Context) (bool, error) {
	s, self, network := m.s, m.pins[0].Node, m.pins[0].Network
	alive, node := topology.AliveKey(m.from), topology.NodeKey(self)
	keys := []string{topology.NetworkKey(network), node, alive, subnetDir(network)}
	for _, p := range m.pins {
		keys = append(keys, p.Key(), topology.ClaimKey(network, p.Addr))
	}
	v, err := s.read(ctx, keys...)
	if err != nil {
		return false, err
	}
	n, err := v.network(network)
	if err != nil {
		return false, err
	}
	if err := n.CheckOpen(); err != nil {
		return false, err
	}
	t := txn{cmps: []clientv3.Cmp{
		s.sameBirth(n.Key(), n.CreateRevision), s.sameBirth(node, v.meta[node].CreateRevision),
		s.sameBirth(alive, v.meta[alive].CreateRevision),
	}}
	for _, p := range m.pins {
		p.MovedFrom = m.from
		old := v.Pins[topology.PinID{Network: network, Addr: p.Addr}]
		if sameRecord(old, p) {
			continue // this call did it, and its answer was lost
		}
		cmps, err := m.has(v, old, p)
		if err != nil {
			return false, err
		}
		t.cmps = append(t.cmps, cmps...)
		t.then = append(t.then, s.put(p))
	}
	if len(t.then) == 0 {
		return true, nil
	}
	if _, runs := v.meta[alive]; !runs {
		return false, &topology.Error{
			Kind: topology.ErrConflict, Item: "node " + m.from,
			What: "its agent does not run, and cannot let go of the endpoint",
			Remedy: "start it; if the host is gone for good, 'baize node remove " + m.from +
				"' frees its addresses for 'baize endpoint add --ip'",
		}
	}
	resp, err := s.commit(ctx, t)
	return err == nil && resp.Succeeded, err
}

// has requires that the other node has an address, and returns what has to hold still for
// that.
func (m moving) has(v view, old, p topology.Pin) ([]clientv3.Cmp, error) {
	claim := topology.ClaimKey(p.Network, p.Addr)
	if c, there := v.Claims[topology.PinID{Network: p.Network, Addr: p.Addr}]; there && c.Node != p.Node {
		return nil, claimedBy(c)
	}
	cmps := []clientv3.Cmp{
		m.s.unchanged(p.Key(), v.meta[p.Key()].ModRevision), m.s.unchanged(claim, v.meta[claim].ModRevision),
	}
	home, _ := v.Home(p.Network, p.Addr)
	switch {
	case old.Node == m.from && old.MAC == p.MAC:
		return cmps, nil
	case old.Node == "" && home.Node == m.from:
		return append(cmps, m.s.unchanged(home.Key(), home.ModRevision)), nil
	}
	what := fmt.Sprintf("node %s does not have it", m.from)
	if old.Node != "" {
		what += fmt.Sprintf(": it is pinned to node %s, %s", old.Node, old.MAC)
	}
	return nil, &topology.Error{
		Kind: topology.ErrConflict, Code: fault.AddressTaken, Item: pinItem(p), What: what,
		Remedy: "see 'baize pin list' and 'baize endpoint list' on that node",
	}
}
