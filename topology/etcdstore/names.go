package etcdstore

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
)

// PutNames publishes what a node's containers are called in a network; nothing
// is written when nothing changed. Without names the key is deleted. The node
// and the network must be there: ErrNotFound. A network of another layout has no record
// here.
func (s *Store) PutNames(ctx context.Context, n topology.Names) error {
	if err := topology.CheckName("network", n.Network); err != nil {
		return err
	}
	if err := topology.CheckName("node", n.Node); err != nil {
		return err
	}
	network, node := topology.NetworkKey(n.Network), topology.NodeKey(n.Node)
	return s.attempts(ctx, n.Key(), func() (bool, error) {
		v, err := s.read(ctx, network, node, n.Key())
		if err != nil {
			return false, err
		}
		old, meta := v.Names[topology.NamesID{Network: n.Network, Node: n.Node}], v.meta[n.Key()]
		cmps := []clientv3.Cmp{s.unchanged(n.Key(), meta.ModRevision)}
		var then clientv3.Op
		if len(n.Names) == 0 {
			if meta.ModRevision == 0 {
				return true, nil
			}
			then = clientv3.OpDelete(s.key(n.Key()))
		} else {
			if _, err := v.network(n.Network); err != nil && n.Layout == "" {
				return false, err
			}
			if _, there := v.meta[node]; !there {
				return false, &topology.Error{Kind: topology.ErrNotFound, Item: "node " + n.Node, What: "is not registered"}
			}
			next := n
			next.Extra = mergeExtra(old.Extra, n.Extra)
			if sameRecord(old, next) {
				return true, nil
			}
			// Both have to live on, or nobody would take the key away.
			cmps = append(cmps, s.sameBirth(network, v.meta[network].CreateRevision),
				s.sameBirth(node, v.meta[node].CreateRevision))
			then = s.put(next)
		}
		resp, err := s.commit(ctx, txn{cmps: cmps, then: []clientv3.Op{then}})
		return err == nil && resp.Succeeded, err
	})
}

func namesDir(network string) string { return topology.DirNames + network + "/" }
