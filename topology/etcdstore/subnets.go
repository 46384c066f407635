package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
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
// ErrConflict (the network is being deleted), ErrUnavailable.
func (s *Store) LeaseSubnet(
	ctx context.Context, network, node string, f topology.Family, another bool,
) (topology.Subnet, error) {
	return s.leaseSubnet(ctx, leasing{s: s, network: network, node: node, family: f, another: another})
}

// LeaseSegment is LeaseSubnet for one of the node's segments
// (topology.Subnet.Segment): those subnets are told apart from the ones of
// endpoints, and from those of other segments.
func (s *Store) LeaseSegment(
	ctx context.Context, network, node, segment string, f topology.Family,
) (topology.Subnet, error) {
	return s.leaseSubnet(ctx, leasing{s: s, network: network, node: node, segment: segment, family: f})
}

func (s *Store) leaseSubnet(ctx context.Context, l leasing) (topology.Subnet, error) {
	if err := topology.CheckName("network", l.network); err != nil {
		return l.out, err
	}
	if err := topology.CheckName("node", l.node); err != nil {
		return l.out, err
	}
	l.what = []string{topology.NetworkKey(l.network), topology.NodeKey(l.node), subnetDir(l.network)}
	err := s.attempts(ctx, "network "+l.network, func() (bool, error) { return l.step(ctx) })
	return l.out, err
}

// leasing is one search for a subnet.
type leasing struct {
	s                      *Store
	network, node, segment string
	family                 topology.Family
	another                bool

	what   []string          // the keys that are read
	v      view              // what they were; a lost race brings the new state along
	before []topology.Subnet // what the node had when it asked
	out    topology.Subnet
}

// step takes what the node has, or tries to lease what is free.
func (l *leasing) step(ctx context.Context) (done bool, err error) {
	first := l.v.Snapshot == nil
	if first {
		if l.v, err = l.s.read(ctx, l.what...); err != nil {
			return false, err
		}
	}
	n, err := l.v.network(l.network)
	if err != nil {
		return false, err
	}
	if !n.Prefix(l.family).IsValid() {
		return false, invalid("network "+l.network, "lease only the families it has", "it has no %s prefix", l.family)
	}
	own := l.v.owned(l.network, l.node, l.segment, l.family)
	if first && l.before == nil {
		l.before = own
	}
	for _, sub := range own {
		// With another, a new one here was leased by a request whose answer was
		// lost.
		old := slices.ContainsFunc(l.before, func(b topology.Subnet) bool { return b.Prefix == sub.Prefix })
		if !l.another || !old {
			l.out = sub
			return true, nil
		}
	}
	if err := n.CheckOpen(); err != nil {
		return false, err
	}
	p, err := l.free(ctx, n)
	if err != nil || !p.IsValid() {
		return false, err
	}
	return l.lease(ctx, n, p)
}

// free chooses a subnet; none when one has come free only just now.
func (l *leasing) free(ctx context.Context, n topology.Network) (netip.Prefix, error) {
	held := l.v.unreadable(l.network)
	skip := func(p netip.Prefix) bool { return slices.ContainsFunc(held, p.Overlaps) }
	p, err := l.v.FreeSubnet(n, l.family, l.node, skip)
	if !errors.Is(err, topology.ErrFull) {
		return p, err
	}
	// Only a whole snapshot can tell who of the owners is dead.
	all, err := l.s.Snapshot(ctx)
	if err != nil {
		return p, err
	}
	l.v = view{}
	_, err = all.FreeSubnet(n, l.family, l.node, skip)
	return netip.Prefix{}, err
}

// lease writes the lease, or gets the new state when it lost a race.
func (l *leasing) lease(ctx context.Context, n topology.Network, p netip.Prefix) (bool, error) {
	s, node := l.s, topology.NodeKey(l.node)
	sub := topology.Subnet{Network: l.network, Prefix: p, Node: l.node, Segment: l.segment}
	t := txn{
		cmps: []clientv3.Cmp{
			s.sameBirth(sub.Key(), 0),
			s.unchanged(n.Key(), n.ModRevision),
			s.sameBirth(node, l.v.meta[node].CreateRevision),
		},
		then: []clientv3.Op{s.put(sub)},
	}
	for _, rel := range l.what {
		t.other = append(t.other, s.get(rel))
	}
	resp, err := s.commit(ctx, t)
	if err != nil {
		return false, err
	}
	if !resp.Succeeded {
		l.v = s.viewOf(resp)
		return false, nil
	}
	l.out, l.out.Meta = sub, written(topology.Meta{}, resp)
	return true, nil
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
// subnet; what the node leases already may become its reservation. A reservation that is
// there changes its node and comment only for who has seen it: sub has its
// ModRevision then.
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
	if err := checkReservation(sub); err != nil {
		return out, err
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
		if err := n.CheckOpen(); err != nil {
			return false, err
		}
		old, err := v.mayReserve(n, sub)
		if err != nil {
			return false, err
		}
		next := sub
		next.Extra = mergeExtra(old.Extra, sub.Extra)
		if next.Segment == "" && next.Node == old.Node {
			next.Segment = old.Segment // who assigns its addresses does not change
		}
		if old.ModRevision != 0 && sameRecord(old, next) {
			out = old
			return true, nil
		}
		if old.Reserved && old.ModRevision != sub.ModRevision {
			return false, reservedAlready(old)
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

// checkReservation refuses what no network could make sense of.
func checkReservation(sub topology.Subnet) error {
	if err := topology.CheckName("network", sub.Network); err != nil {
		return err
	}
	if sub.Node != "" {
		if err := topology.CheckName("node", sub.Node); err != nil {
			return err
		}
	}
	if whole := sub.Prefix.Masked(); sub.Prefix != whole {
		return invalid("subnet "+sub.Prefix.String(), "write "+whole.String(), "it has bits set beyond its length")
	}
	return nil
}

// mayReserve returns the record that a reservation replaces, or what is in its
// way.
func (v view) mayReserve(n topology.Network, sub topology.Subnet) (old topology.Subnet, err error) {
	item := "subnet " + sub.Prefix.String()
	whole := n.Prefix(topology.FamilyOf(sub.Prefix.Addr()))
	if !whole.IsValid() || !whole.Contains(sub.Prefix.Addr()) || sub.Prefix.Bits() <= whole.Bits() {
		return old, invalid(item, "choose a part of "+joinPrefixes(n.Prefixes()), "it is not a part of network %s", n.Name)
	}
	for _, o := range v.overlapping(sub.Network, sub.Prefix) {
		if o.Prefix != sub.Prefix || v.malformed(o.Key()) != nil || (!o.Reserved && o.Node != sub.Node) {
			return old, inTheWay(item, o, v)
		}
		old = o
	}
	return old, nil
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
	return &topology.Error{Kind: topology.ErrConflict, Code: fault.RecordConflict, Item: item, What: what, Remedy: remedy}
}

// reservedAlready refuses to write over a reservation.
func reservedAlready(o topology.Subnet) error {
	what := "it is reserved already"
	if o.Node != "" {
		what += " for node " + o.Node
	}
	if o.Comment != "" {
		what += fmt.Sprintf(" (%q)", o.Comment)
	}
	return &topology.Error{
		Kind: topology.ErrExists, Item: "subnet " + o.Prefix.String() + " of network " + o.Network, What: what,
		Remedy: "release it first, or say --force",
	}
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
	var lost int64 // the birth of the record that a transaction without an answer may have deleted
	return s.attempts(ctx, item, func() (bool, error) {
		v, err := s.read(ctx, key)
		if err != nil {
			return false, err
		}
		meta, there := v.meta[key]
		if lost != 0 && lost != meta.CreateRevision {
			return true, nil // it was this call that deleted it; what is there now is somebody else's
		}
		if !there {
			return false, &topology.Error{
				Kind: topology.ErrNotFound, Item: item, What: "nobody leases or reserves it", Remedy: "see 'baize subnet list'",
			}
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
				return false, &topology.Error{
					Kind: topology.ErrInUse, Item: item, What: fmt.Sprintf("node %s has it and is alive", owner),
					Remedy: "stop the agent there, or use --force: its endpoints lose their addresses",
				}
			}
			cmps = append(cmps, s.sameBirth(alive, 0))
		}
		resp, err := s.commit(ctx, txn{cmps: cmps, then: []clientv3.Op{clientv3.OpDelete(s.key(key))}})
		if err != nil {
			return false, err
		}
		if resp.repeated {
			lost = meta.CreateRevision
		}
		return resp.Succeeded, nil
	})
}
