package etcdstore

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
)

// ClaimSubnet leases one particular subnet, for a node that lost its lease
// while endpoints have addresses of it: a lease lost must not renumber them.
//
// Errors: ErrInvalid (not one of the network's subnets), ErrNotFound,
// ErrConflict (somebody else has it, or the network is being deleted).
func (s *Store) ClaimSubnet(ctx context.Context, sub topology.Subnet) (topology.Subnet, error) {
	var out topology.Subnet
	item := "subnet " + sub.Prefix.String()
	err := s.attempts(ctx, item, func() (bool, error) {
		v, err := s.read(ctx, topology.NetworkKey(sub.Network), topology.NodeKey(sub.Node), subnetDir(sub.Network))
		if err != nil {
			return false, err
		}
		n, err := v.network(sub.Network)
		if err != nil {
			return false, err
		}
		f := topology.FamilyOf(sub.Prefix.Addr())
		inside := n.Prefix(f).Contains(sub.Prefix.Addr())
		if !inside || sub.Prefix.Bits() != n.SubnetLen(f) || sub.Prefix != sub.Prefix.Masked() {
			return false, invalid(item, "", "it is not a /%d of network %s", n.SubnetLen(f), n.Name)
		}
		if others := v.overlapping(sub.Network, sub.Prefix); len(others) > 0 {
			o := others[0]
			if o.Prefix == sub.Prefix && o.Node == sub.Node && o.Segment == sub.Segment && v.malformed(o.Key()) == nil {
				out = o
				return true, nil
			}
			return false, inTheWay(fmt.Sprintf("node %s: %s", sub.Node, item), o, v)
		}
		if err := n.CheckOpen(); err != nil {
			return false, err
		}
		next := topology.Subnet{Network: sub.Network, Prefix: sub.Prefix, Node: sub.Node, Segment: sub.Segment}
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{
				s.sameBirth(next.Key(), 0),
				s.unchanged(n.Key(), n.ModRevision),
				s.sameBirth(topology.NodeKey(sub.Node), v.meta[topology.NodeKey(sub.Node)].CreateRevision),
			},
			then: []clientv3.Op{s.put(next)},
		})
		if err != nil || !resp.Succeeded {
			return false, err
		}
		out, out.Meta = next, written(topology.Meta{}, resp)
		return true, nil
	})
	return out, err
}
