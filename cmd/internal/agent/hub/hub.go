// Package hub holds the newest topology that the agent knows, and hands it to
// the parts that subscribed: coalesced, without polling, and without a call
// under a lock.
//
// The topology is Baize's own records, and what other sources add to them
// (topology/source). A source whose records were never seen holds the whole back: half a
// topology would cut endpoints off.
package hub

import (
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
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
	// Own is without the sources, as it is in force: with the last good record of
	// what vanished under running endpoints, which Vanished reports.
	Own      *topology.Snapshot
	Vanished []fault.Fault
	// Stored is what the store says, without what is kept and without the sources.
	Stored *topology.Snapshot
	// Cached: it is what was seen before the agent started; the store has not
	// answered yet.
	Cached bool
	// Err is why the store does not answer; nil while it does.
	Err error
	// At is when this node learned of it.
	At time.Time

	view *lazyView
}

// Known reports whether there is a topology.
func (t Topology) Known() bool { return t.Snapshot != nil }

// Writable is the snapshot to compare with before something is written: what is
// only kept has to be written again.
func (t Topology) Writable() *topology.Snapshot {
	if len(t.Vanished) > 0 {
		return t.Stored
	}
	return t.Snapshot
}

// View returns what this node has to know of it. It is computed once.
func (t Topology) View() topology.View {
	if t.view == nil {
		return topology.View{}
	}
	return t.view.get()
}

// SameView reports whether two topologies have one view; false where that would
// have to be looked for.
func (t Topology) SameView(other Topology) bool { return t.view == other.view }

type lazyView struct {
	once     sync.Once
	viewer   *topology.Viewer
	snapshot *topology.Snapshot
	node     string
	view     topology.View
}

func (l *lazyView) get() topology.View {
	l.once.Do(func() { l.view = l.viewer.View(l.snapshot, l.node) })
	return l.view
}

// Hub is the holder.
type Hub struct {
	self Identity
	// topology wakes at every change, records only when something changed that
	// a view is made of: neither liveness nor names are.
	topology, records *part.Cell[Topology]
	viewer            topology.Viewer

	mu      sync.Mutex
	sources []source.Source
	now     Topology
	held    bool
	// due is when the reconcilers may be given the next topology, later that they
	// soon are.
	due   time.Time
	later bool
	// stored is what the store says, last what was in force before this agent or
	// before it was told which networks are in use.
	stored, last *topology.Snapshot
	// brake says what is in force, releases is when it is asked again.
	brake    brake
	releases time.Time
	// earlier is what was in force when the agent ran last.
	earlier *topology.Snapshot
	// inUse are the networks with endpoints on this node; nil before they are known.
	inUse map[string]bool
}

// New returns a hub without a topology.
func New(self Identity) *Hub {
	return &Hub{
		self: self, brake: brake{self: self.Node}, topology: part.NewCell[Topology](nil), records: part.NewCell(sameRecords),
	}
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
		if cached && h.stored != nil {
			return false
		}
		h.stored, t.Cached = s, cached
		if !cached {
			t.Err = nil
		}
		return true
	})
}

// SetLast gives the hub what was in force when the agent ran last: a record that
// vanished meanwhile is not a deletion.
func (h *Hub) SetLast(s *topology.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.earlier = s
	if h.last == nil {
		h.last = s
	}
}

// Earlier is what was in force when the agent ran last; nil where that is not known.
func (h *Hub) Earlier() *topology.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.earlier
}

// SetInUse says which networks have endpoints on this node. Before the first
// call nothing may be acted on.
func (h *Hub) SetInUse(networks map[string]bool) {
	h.change(func(*Topology) bool {
		if h.inUse != nil && maps.Equal(h.inUse, networks) {
			return false
		}
		h.inUse = networks
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
	if h.stored != nil && h.inUse != nil {
		next.Own, next.Vanished = h.brake.apply(h.last, h.stored, h.inUse, time.Now())
		h.last, next.Stored = next.Own, h.stored
		h.release()
	}
	if merged, ok := h.merged(next.Own); ok && merged != next.Snapshot {
		if next.Snapshot = merged; !sameRecords(h.now, next) {
			next.view = &lazyView{viewer: &h.viewer, snapshot: merged, node: h.self.Node}
		}
	}
	next.At = time.Now()
	h.now = next
	// Within the lock, so that an older one never replaces a newer one; a cell
	// only wakes signals, which blocks nobody.
	h.topology.Set(next)
	h.publish()
	h.mu.Unlock()
}

// release looks again when the brake lets go of something. It needs h.mu.
func (h *Hub) release() {
	at := h.brake.next()
	if at.IsZero() || at.Equal(h.releases) {
		return
	}
	h.releases = at
	time.AfterFunc(time.Until(at), h.Merge)
}

const (
	// publishEvery is the least time between two topologies that reconcilers are
	// given while changes come thick and fast, publishBurst how many come at once
	// before that: each costs them a view, and there is one for all of them.
	publishEvery = 50 * time.Millisecond
	publishBurst = 10
)

// publish gives the reconcilers the newest topology, now or soon. It needs h.mu.
func (h *Hub) publish() {
	if !h.admitted(h.now) || h.later {
		return
	}
	now := time.Now()
	earliest := now.Add(-publishBurst * publishEvery)
	if h.due.Before(earliest) {
		h.due = earliest
	}
	h.due = h.due.Add(publishEvery)
	if wait := h.due.Sub(now); wait > 0 {
		h.later = true
		time.AfterFunc(wait, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.later = false
			h.records.Set(h.now)
		})
		return
	}
	h.records.Set(h.now)
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
	}, func(p [2]any) bool { return !samePointer(p[0], p[1]) })
}

// samePointer reports whether two maps are one.
func samePointer(a, b any) bool { return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer() }
