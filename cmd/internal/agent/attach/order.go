package attach

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/topology"
)

// An engine gives up on a plugin by killing it, and goes on with the opposite request.
// What the killed one has sent may be at work still, or arrive later. So requests for
// one attachment come after each other, in the order in which they began: each says
// when, by a clock that all processes of the host share and that nobody sets.

// moment is CLOCK_BOOTTIME in nanoseconds.
type moment int64

// now is the moment.
func now() moment { return moment(hostnet.SinceBoot()) }

// removalFor is how long it is remembered that an attachment was to end. No request that
// began before that one is under way any more: plugins give up after api.RequestTimeout
// and a few seconds.
const removalFor = 2 * time.Minute

// removal is the last request for the end of an attachment, in the file.
type removal struct {
	api.Attachment
	Began moment `json:"began"`
}

// order has the requests at work.
type order struct {
	mu     sync.Mutex
	atWork map[api.Attachment]*call
}

// call is a request at work.
type call struct {
	adds   bool
	began  moment
	cancel context.CancelFunc
	done   chan struct{}
}

// enter waits until nothing else is at work for an attachment. A request that adds is
// given up for one that removes and began later. The context ends when this one is
// given up; leave lets the next one in.
func (o *order) enter(
	ctx context.Context, a api.Attachment, adds bool, began moment,
) (_ context.Context, leave func(), err error) {
	for {
		o.mu.Lock()
		other := o.atWork[a]
		if other == nil {
			mine, cancel := context.WithCancel(ctx)
			c := &call{adds: adds, began: began, cancel: cancel, done: make(chan struct{})}
			if o.atWork == nil {
				o.atWork = map[api.Attachment]*call{}
			}
			o.atWork[a] = c
			o.mu.Unlock()
			return mine, func() {
				o.mu.Lock()
				delete(o.atWork, a)
				o.mu.Unlock()
				close(c.done)
				cancel()
			}, nil
		}
		if other.adds && !adds && other.began <= began {
			other.cancel()
		}
		o.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			return ctx, func() {}, &topology.Error{
				Kind: topology.ErrUnavailable, Item: itemOf(a), What: "another request for it is at work",
				Remedy: "try again",
			}
		}
	}
}

// noteRemoval remembers that an attachment was to end.
func (r *records) noteRemoval(a api.Attachment, began moment) {
	r.change(func() { r.removals[a] = max(r.removals[a], began) })
}

// checkOrder refuses a request that was overtaken by one for the end of what it asks
// for.
func (r *records) checkOrder(a api.Attachment, began moment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.removals[a] <= began {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrConflict, Item: itemOf(a), What: "the engine has asked to remove it meanwhile",
		Remedy: "nothing is left of it; start the container again",
	}
}

// loadRemovals reads removals from the file. Those of another boot are no matter: what
// began before it is gone. It needs r.mu.
func (r *records) loadRemovals(from []removal) {
	for _, x := range from {
		if x.Began <= now() {
			r.removals[x.Attachment] = x.Began
		}
	}
}

// recentRemovals drops those that are too old, and returns the others. It needs r.mu.
func (r *records) recentRemovals() (out []removal) {
	for a, began := range r.removals {
		if time.Duration(now()-began) > removalFor {
			delete(r.removals, a)
			continue
		}
		out = append(out, removal{a, began})
	}
	slices.SortFunc(out, func(a, b removal) int {
		return cmp.Or(cmp.Compare(a.Began, b.Began), cmp.Compare(a.Container, b.Container), cmp.Compare(a.Ifname, b.Ifname))
	})
	return out
}

func itemOf(a api.Attachment) string {
	return fmt.Sprintf("interface %s of container %.12s", a.Ifname, a.Container)
}
