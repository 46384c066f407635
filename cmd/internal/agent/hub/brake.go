package hub

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// returning is how long the leases and pins of a network are kept after its record came
// back without them: whoever puts a topology back does so record by record, and agents
// that run write theirs again within a second. A network without a record is kept as long
// after its last endpoint left: a container that is restarted leaves and comes back.
const returning = 30 * time.Second

// brake keeps what vanished from the store under running endpoints: a record
// that is not there any more is not a deletion. Nobody deletes a network, or a
// node, that still has subnets: 'baize network delete' and 'baize node remove' do
// not. So what is gone all the same was wiped, restored from an old backup or
// mistyped by hand, and the last good record stays in force. The exception is a
// network that was to go now, with what uses it.
type brake struct {
	// self is this node's name.
	self string
	// wiped are the networks that are kept, until those whose subnets and pins are,
	// though the network itself is there.
	wiped map[string]bool
	until map[string]time.Time
	// left is until when those of wiped are kept that have no endpoints any more.
	left map[string]time.Time
}

// apply returns what is in force. last is what was until now, inUse are the networks
// that have endpoints on this node. The snapshot is next where nothing is kept.
func (k *brake) apply(
	last, next *topology.Snapshot, inUse map[string]bool, now time.Time,
) (*topology.Snapshot, []fault.Fault) {
	if last == nil {
		return next, nil
	}
	b := braking{last: last, next: next, out: *next}
	wiped, until, left := map[string]bool{}, map[string]time.Time{}, map[string]time.Time{}
	concerned := maps.Clone(inUse)
	for name := range k.wiped {
		concerned[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(concerned)) {
		n, known := last.Networks[name]
		is, there := next.Networks[name]
		switch {
		case !known || n.Layout != "" || n.Deleting == topology.DeleteNow:
		case !there && inUse[name]:
			wiped[name] = true
			b.keepNetwork(n)
		case !there:
			if end, ok := k.stays(name, now); ok {
				wiped[name], left[name] = true, end
				b.keepNetwork(n)
			}
		case is.Deleting == "" && inUse[name]:
			if end, ok := k.returns(&b, name, now); ok {
				until[name] = end
				b.keepLeases(is)
			}
		}
	}
	k.wiped, k.until, k.left = wiped, until, left
	b.keepOwners()
	if len(b.faults) == 0 {
		return next, nil
	}
	return &b.out, b.faults
}

// stays reports whether a network without a record is kept although its last endpoint has
// left, and until when.
func (k *brake) stays(name string, now time.Time) (time.Time, bool) {
	end, began := k.left[name]
	if !began {
		end = now.Add(returning)
	}
	return end, now.Before(end)
}

// returns reports whether a network that is there lacks leases or pins that were not given
// back, and until when they are kept. Nobody but this node gives its own leases back, and no
// store goes back in time.
func (k *brake) returns(b *braking, name string, now time.Time) (time.Time, bool) {
	missing, own := b.missing(name)
	if !missing {
		return time.Time{}, false
	}
	if end, began := k.until[name]; began {
		return end, now.Before(end)
	}
	return now.Add(returning), k.wiped[name] || own[k.self] || b.next.Revision < b.last.Revision
}

// next is when the brake has to be applied again; zero: with the next change.
func (k *brake) next() (at time.Time) {
	for _, ends := range []map[string]time.Time{k.until, k.left} {
		for _, end := range ends {
			if at.IsZero() || end.Before(at) {
				at = end
			}
		}
	}
	return at
}

// braking is one application of the brake. The maps of out are copied before
// they are changed.
type braking struct {
	last, next *topology.Snapshot
	out        topology.Snapshot
	faults     []fault.Fault
	// leases are those in next; nil until they are asked for.
	leases map[member][]netip.Prefix
}

// missing reports whether leases or pins of a network are gone, and which nodes lack leases.
func (b *braking) missing(network string) (missing bool, nodes map[string]bool) {
	if samePointer(b.last.Subnets, b.next.Subnets) && samePointer(b.last.Pins, b.next.Pins) {
		return false, nil // neither liveness nor names are looked through ten thousand leases for
	}
	nodes = map[string]bool{}
	for id, s := range b.last.Subnets {
		if _, there := b.next.Subnets[id]; !there && id.Network == network {
			missing, nodes[s.Node] = true, true
		}
	}
	for id, p := range b.last.Pins {
		missing = missing || id.Network == network && b.lacks(id, p)
	}
	return missing, nodes
}

// lacks reports whether a pin is gone that is needed: not one within a lease of its own node,
// which was written while that lease was gone, too.
func (b *braking) lacks(id topology.PinID, p topology.Pin) bool {
	if _, there := b.next.Pins[id]; there {
		return false
	}
	if b.leases == nil {
		b.leases = map[member][]netip.Prefix{}
		for s, lease := range b.next.Subnets {
			m := member{s.Network, lease.Node}
			b.leases[m] = append(b.leases[m], s.Prefix)
		}
	}
	own := b.leases[member{id.Network, p.Node}]
	return !slices.ContainsFunc(own, func(s netip.Prefix) bool { return s.Contains(id.Addr) })
}

// member is a node in a network.
type member struct{ network, node string }

// keepNetwork keeps a network with the subnets and pins that vanished with it.
func (b *braking) keepNetwork(n topology.Network) {
	own(&b.out.Networks, b.next.Networks)[n.Name] = n
	b.keepMembers(n)
	b.faults = append(b.faults, fault.Fault{
		Code: fault.RecordVanished, Severity: fault.Error, Item: n.Key(),
		What: fmt.Sprintf("the record is gone from etcd, or cannot be read, while endpoints of this node use it: "+
			"the last good one (of revision %d) stays in force", n.ModRevision),
		Remedy: "put it back with 'baize restore', or remove the endpoints first and then " +
			"'baize network delete " + n.Name + "'",
	})
}

// keepMembers keeps a network's subnets and pins that vanished, but for those that would not
// fit any more.
func (b *braking) keepMembers(n topology.Network) {
	for id, s := range b.last.Subnets {
		within := n.Prefix(topology.FamilyOf(id.Prefix.Addr())).Contains(id.Prefix.Addr())
		if _, there := b.next.Subnets[id]; !there && id.Network == n.Name && within && !overlaps(b.next, id) {
			own(&b.out.Subnets, b.next.Subnets)[id] = s
		}
	}
	for id, p := range b.last.Pins {
		if id.Network == n.Name && b.lacks(id, p) {
			own(&b.out.Pins, b.next.Pins)[id] = p
		}
	}
}

// keepLeases keeps the subnets and pins of a network whose own record is there.
func (b *braking) keepLeases(n topology.Network) {
	b.keepMembers(n)
	b.faults = append(b.faults, fault.Fault{
		Code: fault.RecordVanished, Severity: fault.Warning, Item: n.Key(),
		What: fmt.Sprintf("its subnets or pins are gone from etcd, and nobody gave them back: the last good ones stay in "+
			"force for %s", returning),
		Remedy: "nothing where etcd is being restored; agents that run write theirs again",
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
