package topology

import (
	"reflect"
	"sync"
)

// Viewer computes views one after the other, as Snapshot.View does. Where a snapshot has
// the maps of subnets and pins that the last one had, as after With, it does not go
// through them again: nearly all changes of a large topology are of nodes' records.
//
// The zero Viewer is ready to use, from any goroutine.
type Viewer struct {
	mu   sync.Mutex
	last *resolved
}

// View is what a node has to know of a snapshot, whose maps must not be changed any more.
func (m *Viewer) View(s *Snapshot, node string) View {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = s.resolve(m.last)
	return m.last.view(node)
}

// sameSubnets reports whether the subnets and pins lead to the same members as those of
// another topology: they are the same, of the same networks, of nodes that are the same
// by name, and nothing was or is to be said of any.
func (r *resolved) sameSubnets(last *resolved) bool {
	if last == nil || !last.settled || len(r.excluded) > 0 || len(r.Nodes) != len(last.Nodes) ||
		!sameMap(r.Subnets, last.Subnets) || !sameMap(r.Pins, last.Pins) || !sameMap(r.Networks, last.Networks) {
		return false
	}
	if sameMap(r.Nodes, last.Nodes) {
		return true
	}
	for name := range r.Nodes {
		if _, there := last.Nodes[name]; !there {
			return false
		}
	}
	return true
}

// takeSubnets takes what the subnets and pins of another topology lead to.
func (r *resolved) takeSubnets(last *resolved) {
	for name, c := range r.networks {
		was := last.networks[name]
		c.members, c.inOrder, c.pins = was.members, was.sorted(), was.pins
	}
	r.settled = true
}

// sameMap reports whether two maps are one.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}
