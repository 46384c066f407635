package etcdstore

import (
	"context"
	"fmt"

	"github.com/baize-net/baize/topology"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// PutPin says that an address lives on a node, and returns the record as
// stored; nothing is written when nothing changed. The address must lie in
// its network. A pin of another node is replaced only when that node is not
// alive: otherwise ErrConflict, naming it.
func (s *Store) PutPin(ctx context.Context, p topology.Pin) (topology.Pin, error) {
	var out topology.Pin
	p.Addr = p.Addr.Unmap()
	item := fmt.Sprintf("address %s of network %s", p.Addr, p.Network)
	if err := topology.CheckName("network", p.Network); err != nil {
		return out, err
	}
	if err := topology.CheckName("node", p.Node); err != nil {
		return out, err
	}
	mac, err := topology.ParseMAC(p.MAC)
	if err != nil {
		return out, invalid(item, "give the endpoint's own link address", "%v", err)
	}
	p.MAC = mac.String()
	network, node := topology.NetworkKey(p.Network), topology.NodeKey(p.Node)
	err = s.attempts(ctx, item, func() (bool, error) {
		v, err := s.read(ctx, network, node, p.Key())
		if err != nil {
			return false, err
		}
		n, err := v.network(p.Network)
		if err != nil {
			return false, err
		}
		if whole := n.Prefix(topology.FamilyOf(p.Addr)); !p.Addr.IsValid() || !whole.IsValid() || !whole.Contains(p.Addr) {
			return false, invalid(item, "choose one in "+joinPrefixes(n.Prefixes()), "it is outside the network")
		}
		old := v.Pins[topology.PinID{Network: p.Network, Addr: p.Addr}]
		meta := v.meta[p.Key()]
		next := p
		cmps := []clientv3.Cmp{
			s.unchanged(p.Key(), meta.ModRevision),
			s.sameBirth(network, n.CreateRevision),
			s.sameBirth(node, v.meta[node].CreateRevision),
		}
		if old.Node == p.Node {
			next.Extra = mergeExtra(old.Extra, p.Extra)
			if sameRecord(old, next) {
				out = old
				return true, nil
			}
		}
		if old.Node != "" && old.Node != p.Node {
			alive := topology.AliveKey(old.Node)
			a, err := s.read(ctx, alive)
			if err != nil {
				return false, err
			}
			if _, there := a.meta[alive]; there {
				return false, &topology.Error{Kind: topology.ErrConflict, Item: item, What: fmt.Sprintf("it is pinned to node %s (%s), which is alive", old.Node, old.MAC), Remedy: "choose another address, or remove that endpoint first"}
			}
			cmps = append(cmps, s.sameBirth(alive, 0))
		}
		resp, err := s.commit(ctx, txn{cmps: cmps, then: []clientv3.Op{s.put(next)}})
		if err != nil || !resp.Succeeded {
			return false, err
		}
		out, out.Meta = next, written(meta, resp)
		return true, nil
	})
	return out, err
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
