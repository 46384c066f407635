package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// LeaseSubnet returns the node's first subnet of one family in a network, and
// leases one when it has none, or, with another, leases one more. A subnet
// reserved for the node counts as its own. There is no expiry: a node that
// comes back finds its subnet.
//
// A lease is one transaction: the subnet's key must not exist, the network's
// key must be the one that was read, and so must be the existence of the
// node's. Keys of equal length cannot overlap without being equal; those of
// another length are reservations, and [Store.ReserveSubnet] touches the
// network's key, so that a lease decided before it fails and is decided anew.
// The search starts at a place hashed from the node's name, so nodes that
// join at the same moment rarely meet; whoever loses gets the new state in
// the same round trip and takes the next one.
//
// One node should not ask for a family twice at the same time: it might get
// two subnets, both its own.
//
// Errors: ErrNotFound, ErrInvalid (the network lacks that family), ErrFull,
// ErrUnavailable.
func (s *Store) LeaseSubnet(ctx context.Context, network, node string, f topology.Family, another bool) (topology.Subnet, error) {
	return s.leaseSubnet(ctx, network, node, "", f, another)
}

// LeaseSegment is LeaseSubnet for one of the node's segments
// (topology.Subnet.Segment): those subnets are told apart from the ones of
// endpoints, and from those of other segments.
func (s *Store) LeaseSegment(ctx context.Context, network, node, segment string, f topology.Family) (topology.Subnet, error) {
	return s.leaseSubnet(ctx, network, node, segment, f, false)
}

func (s *Store) leaseSubnet(ctx context.Context, network, node, segment string, f topology.Family, another bool) (topology.Subnet, error) {
	var out topology.Subnet
	if err := topology.CheckName("network", network); err != nil {
		return out, err
	}
	if err := topology.CheckName("node", node); err != nil {
		return out, err
	}
	what := []string{topology.NetworkKey(network), topology.NodeKey(node), subnetDir(network)}
	var gets []clientv3.Op
	for _, rel := range what {
		gets = append(gets, s.get(rel))
	}
	var before []topology.Subnet // what the node had when it asked
	var v view
	err := s.attempts(ctx, "network "+network, func() (bool, error) {
		first := v.Snapshot == nil
		if first {
			var err error
			if v, err = s.read(ctx, what...); err != nil {
				return false, err
			}
		}
		n, err := v.network(network)
		if err != nil {
			return false, err
		}
		if !n.Prefix(f).IsValid() {
			return false, invalid("network "+network, "lease only the families it has", "it has no %s prefix", f)
		}
		own := v.owned(network, node, segment, f)
		if first && before == nil {
			before = own
		}
		for _, sub := range own {
			// With another, a new one here was leased by a request whose
			// answer was lost.
			if !another || !slices.ContainsFunc(before, func(b topology.Subnet) bool { return b.Prefix == sub.Prefix }) {
				out = sub
				return true, nil
			}
		}
		held := v.unreadable(network)
		skip := func(p netip.Prefix) bool { return slices.ContainsFunc(held, p.Overlaps) }
		p, err := v.FreeSubnet(n, f, node, skip)
		if errors.Is(err, topology.ErrFull) {
			// Only a whole snapshot can tell who of the owners is dead.
			all, err := s.Snapshot(ctx)
			if err != nil {
				return false, err
			}
			_, err = all.FreeSubnet(n, f, node, skip)
			v = view{} // one may have come free just now
			return false, err
		}
		if err != nil {
			return false, err
		}
		sub := topology.Subnet{Network: network, Prefix: p, Node: node, Segment: segment}
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{
				s.sameBirth(sub.Key(), 0),
				s.unchanged(n.Key(), n.ModRevision),
				s.sameBirth(topology.NodeKey(node), v.meta[topology.NodeKey(node)].CreateRevision),
			},
			then:  []clientv3.Op{s.put(sub)},
			other: gets,
		})
		if err != nil {
			return false, err
		}
		if !resp.Succeeded {
			v = s.viewOf(resp)
			return false, nil
		}
		out, out.Meta = sub, written(topology.Meta{}, resp)
		return true, nil
	})
	return out, err
}

// owned returns a node's subnets of one family and segment in a network, by
// prefix.
func (v view) owned(network, node, segment string, f topology.Family) []topology.Subnet {
	return slices.DeleteFunc(v.NodeSubnets(network, node), func(sub topology.Subnet) bool {
		return topology.FamilyOf(sub.Prefix.Addr()) != f || sub.Segment != segment
	})
}

// ReserveSubnet keeps a part of a network free of leases, or, with a node,
// for that node. It must lie inside the network's prefix and overlap no other
// subnet; what the node leases already may become its reservation, and an
// existing reservation may change its node and comment.
//
// The transaction requires that no subnet of the network is newer than what
// was read, and touches the network's key, unchanged, so that a lease decided
// before it is decided anew.
//
// Errors: ErrInvalid, ErrNotFound, ErrConflict naming the subnet in the way
// and its owner.
func (s *Store) ReserveSubnet(ctx context.Context, sub topology.Subnet) (topology.Subnet, error) {
	var out topology.Subnet
	sub.Reserved = true
	item := "subnet " + sub.Prefix.String()
	if err := topology.CheckName("network", sub.Network); err != nil {
		return out, err
	}
	if sub.Node != "" {
		if err := topology.CheckName("node", sub.Node); err != nil {
			return out, err
		}
	}
	if sub.Prefix != sub.Prefix.Masked() {
		return out, invalid(item, "write "+sub.Prefix.Masked().String(), "it has bits set beyond its length")
	}
	err := s.attempts(ctx, "network "+sub.Network, func() (bool, error) {
		v, err := s.read(ctx, topology.NetworkKey(sub.Network), subnetDir(sub.Network))
		if err != nil {
			return false, err
		}
		n, err := v.network(sub.Network)
		if err != nil {
			return false, err
		}
		whole := n.Prefix(topology.FamilyOf(sub.Prefix.Addr()))
		if !whole.IsValid() || !whole.Contains(sub.Prefix.Addr()) || sub.Prefix.Bits() <= whole.Bits() {
			return false, invalid(item, fmt.Sprintf("choose a part of %s", joinPrefixes(n.Prefixes())), "it is not a part of network %s", n.Name)
		}
		var old topology.Subnet
		for _, o := range v.overlapping(sub.Network, sub.Prefix) {
			same := o.Prefix == sub.Prefix
			if same && v.malformed(o.Key()) == nil && (o.Reserved || o.Node == sub.Node) {
				old = o
				continue
			}
			return false, inTheWay(item, o, v)
		}
		next := sub
		next.Extra = mergeExtra(old.Extra, sub.Extra)
		if next.Segment == "" && next.Node == old.Node {
			next.Segment = old.Segment // who gives its addresses away does not change
		}
		if old.ModRevision != 0 && sameRecord(old, next) {
			out = old
			return true, nil
		}
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{
				s.unchanged(sub.Key(), old.ModRevision),
				s.unchanged(n.Key(), n.ModRevision),
				s.nothingNewer(subnetDir(sub.Network), v.Revision),
			},
			then: []clientv3.Op{s.put(next), clientv3.OpPut(s.key(n.Key()), "", clientv3.WithIgnoreValue())},
		})
		if err != nil || !resp.Succeeded {
			return false, err
		}
		out, out.Meta = next, written(old.Meta, resp)
		return true, nil
	})
	return out, err
}

func inTheWay(item string, o topology.Subnet, v view) error {
	what, remedy := "overlaps ", fmt.Sprintf("release it first: baize subnet release %s --network %s", o.Prefix, o.Network)
	switch {
	case v.malformed(o.Key()) != nil:
		what += o.Prefix.String() + ", which cannot be read"
		remedy = "correct or delete the key " + o.Key()
	case o.Reserved && o.Node == "":
		what += o.Prefix.String() + ", which is reserved"
	case o.Reserved:
		what += fmt.Sprintf("%s, which is reserved for node %s", o.Prefix, o.Node)
	default:
		what += fmt.Sprintf("%s, which node %s leases", o.Prefix, o.Node)
	}
	return &topology.Error{Kind: topology.ErrConflict, Item: item, What: what, Remedy: remedy}
}

func joinPrefixes(ps []netip.Prefix) string {
	var out []string
	for _, p := range ps {
		out = append(out, p.String())
	}
	return strings.Join(out, " or ")
}

// ReleaseSubnet gives a lease or a reservation back. While its owner is alive
// it is refused with ErrInUse unless force is set. force also removes a key
// whose value cannot be read.
func (s *Store) ReleaseSubnet(ctx context.Context, network string, prefix netip.Prefix, force bool) error {
	key := topology.SubnetKey(network, prefix)
	item := fmt.Sprintf("subnet %s of network %s", prefix, network)
	if err := topology.CheckName("network", network); err != nil {
		return err
	}
	repeated := false
	return s.attempts(ctx, item, func() (bool, error) {
		v, err := s.read(ctx, key)
		if err != nil {
			return false, err
		}
		meta, there := v.meta[key]
		if !there {
			if repeated { // it was this call that deleted it, its answer lost
				return true, nil
			}
			return false, &topology.Error{Kind: topology.ErrNotFound, Item: item, What: "nobody leases or reserves it", Remedy: "see 'baize subnet list'"}
		}
		if err := v.malformed(key); err != nil && !force {
			return false, err
		}
		cmps := []clientv3.Cmp{s.unchanged(key, meta.ModRevision)}
		owner := v.Subnets[topology.SubnetID{Network: network, Prefix: prefix.Masked()}].Node
		if owner != "" && !force {
			alive := topology.AliveKey(owner)
			a, err := s.read(ctx, alive)
			if err != nil {
				return false, err
			}
			if _, there := a.meta[alive]; there {
				return false, &topology.Error{Kind: topology.ErrInUse, Item: item, What: fmt.Sprintf("node %s has it and is alive", owner), Remedy: "stop the agent there, or use --force: its endpoints lose their addresses"}
			}
			cmps = append(cmps, s.sameBirth(alive, 0))
		}
		resp, err := s.commit(ctx, txn{cmps: cmps, then: []clientv3.Op{clientv3.OpDelete(s.key(key))}})
		if err != nil {
			return false, err
		}
		repeated = resp.repeated
		return resp.Succeeded, nil
	})
}
