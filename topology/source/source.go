// Package source says what a topology source is: a place other than Baize's own
// keys that networks, nodes and subnets come from, such as the keys of another
// program in the same etcd, or the Kubernetes API. The agent holds a list of sources and does not know
// what they are.
//
// A source that has nothing yet holds the whole topology back, and each keeps
// its own copy of what it saw last, for a start without the store: the copy of
// one never replaces what another has read.
//
// Networks and nodes that come from a source have its name as their Layout.
// Subnets in them are leased by the source, as its own layout asks for, and by
// nobody else.
package source

import (
	"context"
	"errors"
	"net/netip"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Source is a topology source. Its methods may be called concurrently, but Run
// only once.
type Source interface {
	// Name is what people call it, and the Layout of what comes from it.
	Name() string
	// Run follows the source, and keeps the node's own records in it, until ctx
	// ends; then it returns nil. What goes wrong meanwhile is in Faults, and
	// tried again. The source says when Merge has something new by a function
	// that it was made with.
	Run(ctx context.Context) error
	// Merge returns own, Baize's own records, with what the source has. ok is false
	// before the source knows anything: half of a topology would cut endpoints off.
	// Without a change the same snapshot is returned.
	Merge(own *topology.Snapshot) (merged *topology.Snapshot, ok bool)
	// Wake has it look again at what Member says of the node.
	Wake()
	// Ready reports whether what others on this host wait for is there.
	Ready() bool
	// Faults are what is wrong with it now.
	Faults() []fault.Fault
	// Files are those that it keeps on this host, which a cleanup removes.
	Files() []string
}

// ErrNotYet says that the node may not take part yet: the source waits for
// Wake, and that is no fault.
var ErrNotYet = errors.New("the node does not take part yet")

// Member is a node, as a source has to know it in order to lease subnets.
type Member struct {
	// Underlay are the node's VTEPs, at most one a family.
	Underlay []netip.Addr
	// InUse are the addresses of endpoints on the node, by network. A lease that
	// was lost is taken again by them: it is never a renumbering.
	InUse map[string][]netip.Addr
}

// Cache keeps what a source has read, for a start without the store.
type Cache interface {
	// Load returns what was kept; fs.ErrNotExist where there is nothing.
	Load() (*topology.Snapshot, error)
	// Save has a snapshot kept soon, Flush now.
	Save(*topology.Snapshot)
	Flush()
	// File is where it is.
	File() string
}
