package etcdstore

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// PutPin says that an address lives on a node, and returns the record as
// stored; nothing is written when nothing changed. The address must lie in
// its network. A pin of another node is replaced only when there is no such node
// any more: otherwise ErrConflict, naming it. An endpoint runs on while its
// node's agent does not.
//
// An address that another node leases is pinned only with a claim that was granted
// (ClaimAddress): otherwise ErrUnclaimed. The claim ends with it. A granted claim
// also confirms a pin that was made while its owner could not be asked.
func (s *Store) PutPin(ctx context.Context, p topology.Pin) (topology.Pin, error) {
	p.Addr = p.Addr.Unmap()
	if err := topology.CheckName("network", p.Network); err != nil {
		return topology.Pin{}, err
	}
	if err := topology.CheckName("node", p.Node); err != nil {
		return topology.Pin{}, err
	}
	mac, err := topology.ParseMAC(p.MAC)
	if err != nil {
		return topology.Pin{}, invalid(pinItem(p), "give the endpoint's own link address", "%v", err)
	}
	p.MAC = mac.String()
	g := pinning{s: s, want: p}
	err = s.attempts(ctx, pinItem(p), func() (bool, error) { return g.step(ctx) })
	return g.out, err
}

// pinning is a pin on its way.
type pinning struct {
	s         *Store
	want, out topology.Pin
}

func (g *pinning) step(ctx context.Context) (bool, error) {
	s, p := g.s, g.want
	v, cmps, err := s.readAddress(ctx, p.Network, p.Node, p.Addr)
	if err != nil {
		return false, err
	}
	id := topology.PinID{Network: p.Network, Addr: p.Addr}
	old, next := v.Pins[id], p
	ours := old.Node == p.Node
	_, claimed := v.Claims[id]
	if ours {
		next.Extra, next.Unconfirmed = mergeExtra(old.Extra, p.Extra), old.Unconfirmed
		if old.MAC == p.MAC {
			next.MovedFrom = old.MovedFrom // the other node may not have seen it yet
		}
	}
	if !ours || old.Unconfirmed {
		more, absent, err := s.right(ctx, v, p)
		switch {
		case err == nil:
			next.Unconfirmed, cmps = absent, append(cmps, more...)
		case !ours:
			return false, err
		default:
			claimed = false // it is still being decided on
		}
	}
	if sameRecord(old, next) {
		g.out = old
		return true, nil
	}
	then := []clientv3.Op{s.put(next)}
	if claimed {
		then = append(then, clientv3.OpDelete(s.key(topology.ClaimKey(p.Network, p.Addr))))
	}
	resp, err := s.commit(ctx, txn{cmps: cmps, then: then})
	if err != nil || !resp.Succeeded {
		return false, err
	}
	g.out, g.out.Meta = next, written(v.meta[p.Key()], resp)
	return true, nil
}

func addressItem(network string, a netip.Addr) string {
	return fmt.Sprintf("address %s of network %s", a, network)
}

func pinItem(p topology.Pin) string { return addressItem(p.Network, p.Addr) }

// mayReplace returns what has to hold still when a node takes over a pin, or
// why it cannot: the address is another node's.
func (s *Store) mayReplace(ctx context.Context, old topology.Pin, node string) ([]clientv3.Cmp, error) {
	if old.Node == "" || old.Node == node {
		return nil, nil
	}
	owner, alive := topology.NodeKey(old.Node), topology.AliveKey(old.Node)
	v, err := s.read(ctx, owner, alive, topology.NetworkKey(old.Network), topology.NamesKey(old.Network, old.Node))
	if err != nil {
		return nil, err
	}
	holder := old.MAC
	if h := topology.DescribeEndpoint(old.Endpoint, v.LookupAddr(old.Network, old.Addr)); h != "" {
		holder = h + ", " + old.MAC
	}
	e := &topology.Error{
		Kind: topology.ErrConflict, Code: fault.AddressTaken, Item: pinItem(old),
		What:   fmt.Sprintf("it is pinned to node %s (%s), which is alive", old.Node, holder),
		Remedy: "choose another address, or remove that endpoint first",
	}
	if _, runs := v.meta[alive]; runs {
		return nil, e
	}
	if _, registered := v.meta[owner]; registered {
		e.What = fmt.Sprintf("it is pinned to node %s (%s), whose agent does not run; its endpoint may", old.Node, holder)
		e.Remedy = fmt.Sprintf("choose another address, or start the agent there and remove that endpoint; "+
			"if the host is gone for good, run 'baize node remove %s'", old.Node)
		return nil, e
	}
	return []clientv3.Cmp{s.sameBirth(owner, 0), s.sameBirth(alive, 0)}, nil
}

// DeletePin removes the pin of an address if it is still that of p.Node. It is
// no error when there is none, or when another node has the address by now.
func (s *Store) DeletePin(ctx context.Context, p topology.Pin) error {
	return s.attempts(ctx, p.Key(), func() (bool, error) {
		v, err := s.read(ctx, p.Key())
		if err != nil {
			return false, err
		}
		old, there := v.Pins[topology.PinID{Network: p.Network, Addr: p.Addr.Unmap()}]
		if !there || old.Node != p.Node {
			return true, nil
		}
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{s.unchanged(p.Key(), old.ModRevision)},
			then: []clientv3.Op{clientv3.OpDelete(s.key(p.Key()))},
		})
		if err != nil {
			return false, err
		}
		return resp.Succeeded, nil
	})
}
