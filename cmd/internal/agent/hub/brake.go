package hub

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// brake keeps what vanished from the store under running endpoints: a record
// that is not there any more is not a deletion. Nobody deletes a network, or a
// node, that still has subnets: 'baize network delete' and 'baize node remove' do
// not. So what is gone all the same was wiped, restored from an old backup or
// mistyped by hand, and the last good record stays in force. The exception is a
// network that was to go now, with what uses it.
//
// last is what was in force, inUse are the networks that have endpoints on this
// node. The snapshot that is returned is next where nothing is kept.
func brake(last, next *topology.Snapshot, inUse map[string]bool) (*topology.Snapshot, []fault.Fault) {
	if last == nil {
		return next, nil
	}
	b := braking{last: last, next: next, out: *next}
	for _, name := range slices.Sorted(maps.Keys(inUse)) {
		n, known := last.Networks[name]
		if _, there := next.Networks[name]; known && !there && n.Layout == "" && n.Deleting != topology.DeleteNow {
			b.keepNetwork(n)
		}
	}
	b.keepOwners()
	if len(b.faults) == 0 {
		return next, nil
	}
	return &b.out, b.faults
}

// braking is one application of the brake. The maps of out are copied before
// they are changed.
type braking struct {
	last, next *topology.Snapshot
	out        topology.Snapshot
	faults     []fault.Fault
}

// keepNetwork keeps a network with the subnets and pins that vanished with it.
func (b *braking) keepNetwork(n topology.Network) {
	own(&b.out.Networks, b.next.Networks)[n.Name] = n
	for id, s := range b.last.Subnets {
		if _, there := b.next.Subnets[id]; !there && id.Network == n.Name && !overlaps(b.next, id) {
			own(&b.out.Subnets, b.next.Subnets)[id] = s
		}
	}
	for id, p := range b.last.Pins {
		if _, there := b.next.Pins[id]; !there && id.Network == n.Name {
			own(&b.out.Pins, b.next.Pins)[id] = p
		}
	}
	b.faults = append(b.faults, fault.Fault{
		Code: fault.RecordVanished, Severity: fault.Error, Item: n.Key(),
		What: fmt.Sprintf("the record is gone from etcd, or cannot be read, while endpoints of this node use it: "+
			"the last good one (of revision %d) stays in force", n.ModRevision),
		Remedy: "put it back with 'baize restore', or remove the endpoints first and then " +
			"'baize network delete " + n.Name + "'",
	})
}

// overlaps reports whether a subnet that vanished was leased anew by somebody.
func overlaps(s *topology.Snapshot, id topology.SubnetID) bool {
	for other := range s.Subnets {
		if other.Network == id.Network && other.Prefix.Overlaps(id.Prefix) {
			return true
		}
	}
	return false
}

// keepOwners keeps the nodes that subnets in force belong to, and whose own
// records vanished.
func (b *braking) keepOwners() {
	gone := map[string][]netip.Prefix{}
	for id, s := range b.out.Subnets {
		if _, there := b.next.Nodes[s.Node]; there || s.Node == "" {
			continue
		}
		if _, known := b.last.Nodes[s.Node]; known {
			gone[s.Node] = append(gone[s.Node], id.Prefix)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		n := b.last.Nodes[name]
		if b.addressTaken(n) {
			continue // renamed, or another machine has its place
		}
		own(&b.out.Nodes, b.next.Nodes)[name] = n
		b.faults = append(b.faults, fault.Fault{
			Code: fault.RecordVanished, Severity: fault.Error, Item: n.Key(),
			What:   "the record is gone from etcd, or cannot be read, and its subnets are not: the last good one stays in force",
			Remedy: "start the agent on that node, which writes it again; or 'baize node remove " + name + "'",
		})
	}
}

func (b *braking) addressTaken(n topology.Node) bool {
	for _, other := range b.next.Nodes {
		if slices.ContainsFunc(other.VTEPs, func(a netip.Addr) bool { return slices.Contains(n.VTEPs, a) }) {
			return true
		}
	}
	return false
}

// own returns a map that may be changed: a copy of what it was made from.
func own[K comparable, V any](m *map[K]V, from map[K]V) map[K]V {
	if len(*m) == len(from) && samePointer(*m, from) {
		*m = maps.Clone(from)
	}
	if *m == nil {
		*m = map[K]V{}
	}
	return *m
}
