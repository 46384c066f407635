package etcdstore

import (
	"context"
	"reflect"
	"time"

	"github.com/baize-net/baize/topology"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Update is what Watch delivers.
type Update struct {
	// Snapshot is the topology as last known; nil when it was never read.
	Snapshot *topology.Snapshot
	// Err is set while etcd cannot be reached: the snapshot may be old.
	Err error
}

// Watch delivers the topology, and again after every change, until ctx is
// done; then it returns nil. Nothing else ends it. deliver is called from the
// calling goroutine, with ever newer snapshots; changes that come together
// are delivered together.
//
// When etcd cannot be reached, one Update with the last snapshot and the
// error is delivered, and one without an error when it is back. After any
// interruption (an outage, a new connection, a compaction, a lost leader)
// everything is listed anew, so nothing can be missed, not even that etcd was
// restored from a backup meanwhile and written past what was seen before.
func (s *Store) Watch(ctx context.Context, deliver func(Update)) error {
	w := watcher{s: s, deliver: deliver}
	for b := s.backoff(); ctx.Err() == nil; {
		began := time.Now()
		err := w.listAndFollow(ctx)
		if time.Since(began) > settled {
			b = s.backoff()
		}
		if err != nil && ctx.Err() == nil {
			w.lost(err)
		}
		if !b.wait(ctx) {
			break
		}
	}
	return nil
}

// settled is how long a watch must have lasted for the next attempt to come
// at once.
const settled = 10 * time.Second

type watcher struct {
	s       *Store
	deliver func(Update)
	last    *topology.Snapshot
	cluster uint64 // that last was listed from
	down    bool   // the last Update had an error
}

// lost reports an outage, once.
func (w *watcher) lost(err error) {
	if w.down {
		return
	}
	w.down = true
	w.deliver(Update{Snapshot: w.last, Err: err})
}

// good delivers a snapshot unless it says what is known already.
func (w *watcher) good(snap *topology.Snapshot) {
	if !w.down && w.last != nil && sameContent(w.last, snap) {
		w.last = snap
		return
	}
	w.last, w.down = snap, false
	w.deliver(Update{Snapshot: snap})
}

// sameContent compares everything but the revision.
func sameContent(a, b *topology.Snapshot) bool {
	c := *b
	c.Revision = a.Revision
	return reflect.DeepEqual(a, &c)
}

// listAndFollow lists everything and follows the changes until the watch
// ends, stalls or is due for an audit.
func (w *watcher) listAndFollow(ctx context.Context) error {
	c, err := w.s.connect(ctx)
	if err != nil {
		return w.s.explain(ctx, err)
	}
	// The client resumes a watch over a new connection by itself, at the next
	// revision. If etcd was restored from a backup in between, and written past
	// that revision, nothing in the watch shows it.
	reconnected := c.Reconnected()
	snap, cluster, err := w.s.list(ctx)
	if err != nil {
		return err
	}
	w.cluster = cluster
	if w.last != nil {
		snap = snap.Sharing(w.last)
	}
	w.good(snap)

	// Without WithRequireLeader a member cut off from its peers would keep
	// the watch silently open. Ending this context ends the watch on the
	// server too.
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	// Watch blocks until etcd has answered.
	limit := time.AfterFunc(w.s.cfg.Timeout, cancel)
	// Not from the next revision: etcd from 3.6 on gives no sign of life to a
	// watch that begins in the future, as long as nobody writes. What was listed
	// already is left out by apply.
	from, end := w.s.span()
	events := c.Watch(wctx, from, clientv3.WithRange(end), clientv3.WithRev(snap.Revision))
	if !limit.Stop() {
		return w.s.stalled(ctx)
	}
	return w.follow(ctx, wctx, c, events, reconnected)
}

// follow takes the events of one watch, wctx being its context.
func (w *watcher) follow(
	ctx, wctx context.Context, c Client, events clientv3.WatchChan, reconnected <-chan struct{},
) error {
	began := time.Now()
	audit := time.NewTimer(w.s.cfg.AuditInterval)
	defer audit.Stop()
	probe := time.NewTicker(w.s.cfg.ProbeInterval)
	defer probe.Stop()
	asked := false // and nothing was heard since
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-audit.C:
			return nil
		case <-reconnected:
			// Several members are connected to one after the other, and one that
			// flaps must not cost a listing each time.
			reconnected = nil
			audit.Reset(max(0, w.s.cfg.ProbeInterval-time.Since(began)))
		case <-probe.C:
			if asked {
				return w.s.stalled(ctx)
			}
			// This blocks while the client reconnects.
			pctx, stop := context.WithTimeout(wctx, w.s.cfg.Timeout)
			err := c.RequestProgress(pctx)
			stop()
			if err != nil {
				return w.s.stalled(ctx)
			}
			asked = true
		case resp, open := <-events:
			asked = false
			if !open {
				return w.s.stalled(ctx)
			}
			again, err := w.apply(ctx, resp, events)
			if again || err != nil {
				return err
			}
		}
	}
}

// apply takes a response, and those that wait behind it, into the snapshot.
// again asks for a new listing.
func (w *watcher) apply(
	ctx context.Context, resp clientv3.WatchResponse, more clientv3.WatchChan,
) (again bool, err error) {
	revision := w.last.Revision
	changes := changes{last: map[string]*mvccpb.KeyValue{}}
	for open := true; open; {
		if err := resp.Err(); err != nil {
			// Compaction is no outage: listing anew mends it.
			if resp.CompactRevision != 0 || is(err, rpctypes.ErrCompacted) {
				return true, nil
			}
			return false, w.s.explain(ctx, err)
		}
		if resp.Header.Revision < revision || resp.Header.ClusterId != w.cluster {
			// etcd has gone back in time, or is another: restored or wiped.
			return true, nil
		}
		for _, e := range resp.Events {
			if e.Kv.ModRevision > w.last.Revision {
				revision = max(revision, e.Kv.ModRevision)
				changes.add(w.s, e)
			}
		}
		select {
		case next, ok := <-more:
			if !ok {
				return true, nil
			}
			resp = next
		default:
			open = false
		}
	}
	if len(changes.order) == 0 {
		return false, nil // a sign of life only
	}
	puts, deletes := changes.split(w.s)
	w.last, w.down = w.last.With(revision, puts, deletes), false
	w.deliver(Update{Snapshot: w.last})
	return false, nil
}

// changes are events by key; the last one of a key counts, nil is a deletion.
type changes struct {
	last  map[string]*mvccpb.KeyValue
	order []string
}

func (c *changes) add(s *Store, e *clientv3.Event) {
	key := s.rel(e.Kv.Key)
	if _, seen := c.last[key]; !seen {
		c.order = append(c.order, key)
	}
	c.last[key] = e.Kv
	if e.Type == mvccpb.Event_DELETE {
		c.last[key] = nil
	}
}

func (c *changes) split(s *Store) (puts []topology.KV, deletes []string) {
	for _, key := range c.order {
		if kv := c.last[key]; kv != nil {
			puts = append(puts, s.kv(kv))
		} else {
			deletes = append(deletes, key)
		}
	}
	return puts, deletes
}

// stalled finds out why a watch ended or says nothing: nil when etcd answers
// all the same, so that listing anew is enough.
func (s *Store) stalled(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return s.Check(ctx)
}
