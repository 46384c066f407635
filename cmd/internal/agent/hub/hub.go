// Package hub holds the newest topology that the agent knows, and hands it to
// the parts that subscribed: coalesced, without polling, and without a call
// under a lock.
//
// The topology is Baize's own records, and what other sources add to them
// (topology/source). A source whose records were never seen holds the whole back: half a
// topology would cut endpoints off.
package hub

import (
	"reflect"
	"slices"
	"sync"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/source"
)

// Identity is who this node is.
type Identity struct {
	// Node is its name, ID the installation's identity behind it.
	Node, ID string
	// Hostname is the machine's own name, Epoch changes when it boots.
	Hostname, Epoch string
}

// Topology is what is known at a moment. It is immutable.
type Topology struct {
	// Snapshot is Baize's own records with those of all sources; nil before there
	// is any.
	Snapshot *topology.Snapshot
	// Own is without the sources.
	Own *topology.Snapshot
	// Cached: it is what was seen before the agent started; the store has not
	// answered yet.
	Cached bool
	// Err is why the store does not answer; nil while it does.
	Err error

	view *lazyView
}

// Known reports whether there is a topology.
func (t Topology) Known() bool { return t.Snapshot != nil }

// View returns what this node has to know of it. It is computed once.
func (t Topology) View() topology.View {
	if t.view == nil {
		return topology.View{}
	}
	return t.view.get()
}

type lazyView struct {
	once     sync.Once
	snapshot *topology.Snapshot
	node     string
	view     topology.View
}

func (l *lazyView) get() topology.View {
	l.once.Do(func() { l.view = l.snapshot.View(l.node) })
	return l.view
}

// Hub is the holder.
type Hub struct {
	self Identity
	// topology wakes at every change, records only when something changed that
	// a view is made of: neither liveness nor names are.
	topology, records *part.Cell[Topology]

	mu      sync.Mutex
	sources []source.Source
	now     Topology
	held    bool
}

// New returns a hub without a topology.
func New(self Identity) *Hub {
	return &Hub{self: self, topology: part.NewCell[Topology](nil), records: part.NewCell(sameRecords)}
}

// Self is who this node is.
func (h *Hub) Self() Identity { return h.self }

// AddSource adds a source, before anything runs.
func (h *Hub) AddSource(s source.Source) { h.sources = append(h.sources, s) }

// Topology is the newest; it wakes at every change.
func (h *Hub) Topology() *part.Cell[Topology] { return h.topology }

// Records is the newest as well; it wakes only when networks, nodes, subnets or
// pins changed, not for liveness or names.
func (h *Hub) Records() *part.Cell[Topology] { return h.records }

// SetOwn gives the hub Baize's own records. cached: they are those of an
// earlier run, which never replace any.
func (h *Hub) SetOwn(s *topology.Snapshot, cached bool) {
	h.change(func(t *Topology) bool {
		if cached && t.Own != nil {
			return false
		}
		t.Own, t.Cached = s, cached
		if !cached {
			t.Err = nil
		}
		return true
	})
}

// SetError says that the store does not answer. What is known stays.
func (h *Hub) SetError(err error) {
	h.change(func(t *Topology) bool { t.Err = err; return true })
}

// Merge looks at the sources again: one has something new.
func (h *Hub) Merge() { h.change(func(*Topology) bool { return true }) }

// Hold says that the store has confirmed, once, that the node's name is ours.
func (h *Hub) Hold() {
	h.change(func(*Topology) bool {
		if h.held {
			return false
		}
		h.held = true
		return true
	})
}

func (h *Hub) change(f func(*Topology) bool) {
	h.mu.Lock()
	next := h.now
	if !f(&next) {
		h.mu.Unlock()
		return
	}
	if merged, ok := h.merged(next.Own); ok && merged != next.Snapshot {
		next.Snapshot, next.view = merged, &lazyView{snapshot: merged, node: h.self.Node}
	}
	h.now = next
	// Within the lock, so that an older one never replaces a newer one; a cell
	// only wakes signals, which blocks nobody.
	h.topology.Set(next)
	if h.admitted(next) {
		h.records.Set(next)
	}
	h.mu.Unlock()
}

func (h *Hub) merged(own *topology.Snapshot) (*topology.Snapshot, bool) {
	if own == nil {
		return nil, false
	}
	for _, s := range h.sources {
		var ok bool
		if own, ok = s.Merge(own); !ok {
			return nil, false
		}
	}
	return own, true
}

// admitted reports whether the topology may be acted on. Until the store has
// confirmed that the node's name is ours, another host may have it, and its
// switch is not ours to copy. A record that has our own identity, with nobody
// else alive under it, is as good: then a store that refuses to be written does
// not keep a node from its work.
func (h *Hub) admitted(t Topology) bool {
	if !t.Known() {
		return false
	}
	if h.held || t.Cached {
		return true
	}
	alive, running := t.Snapshot.Alive[h.self.Node]
	return t.Snapshot.Nodes[h.self.Node].ID == h.self.ID && (!running || alive.ID == h.self.ID)
}

// sameRecords compares what a view is made of, by identity: a snapshot shares
// what did not change with the one before.
func sameRecords(a, b Topology) bool {
	if a.Snapshot == b.Snapshot {
		return true
	}
	if a.Snapshot == nil || b.Snapshot == nil {
		return false
	}
	x, y := a.Snapshot, b.Snapshot
	return !slices.ContainsFunc([][2]any{
		{x.Networks, y.Networks}, {x.Nodes, y.Nodes}, {x.Subnets, y.Subnets}, {x.Pins, y.Pins}, {x.Malformed, y.Malformed},
	}, func(p [2]any) bool { return reflect.ValueOf(p[0]).Pointer() != reflect.ValueOf(p[1]).Pointer() })
}
