package etcdfake

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

// reconnectAfter is how long it takes the client to open a watch again over a
// new connection.
const reconnectAfter = 100 * time.Millisecond

// watch is one watch as the client's library keeps it: next is the revision it
// asks for when it has to begin again on another connection.
type watch struct {
	c        *Client
	ctx      context.Context
	key, end []byte
	next     int64
	out      chan clientv3.WatchResponse
	created  chan struct{} // closed once etcd has answered

	// server is the state of the other side, of one connection.
	server struct {
		generation, position, start int64
		open                        bool
	}
	asked bool          // for a sign of life; guarded by cluster.mu
	poked chan struct{} // it was asked; a cluster of many would be woken for each
}

// Watch implements etcdstore.Client.
func (c *Client) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpWatch(key, opts...)
	w := &watch{
		c: c, ctx: ctx, key: op.KeyBytes(), end: op.RangeBytes(), next: op.Rev(),
		out: make(chan clientv3.WatchResponse, 1), created: make(chan struct{}),
		poked: make(chan struct{}, 1),
	}
	go w.run()
	select {
	case <-w.created:
		return w.out
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	closed := make(chan clientv3.WatchResponse)
	close(closed)
	return closed
}

// RequestProgress implements etcdstore.Client. It returns when the request is
// sent, which waits for a connection; its answer comes by the watches.
func (c *Client) RequestProgress(ctx context.Context) error {
	h := c.host
	for {
		h.cluster.mu.Lock()
		changed := h.cluster.changed
		sent := h.connected == h.cluster.generation && !h.cluster.down && !h.faults.Refused
		if sent {
			for w := range watches(h) {
				if w.c == c {
					w.ask()
				}
			}
		}
		h.cluster.mu.Unlock()
		if sent {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// watches returns the host's open watches; the set is guarded by cluster.mu.
func watches(h *Host) map[*watch]bool {
	if h.watches == nil {
		h.watches = map[*watch]bool{}
	}
	return h.watches
}

// ask asks for a sign of life. It needs cluster.mu.
func (w *watch) ask() {
	w.asked = true
	select {
	case w.poked <- struct{}{}:
	default:
	}
}

// run is the watch's goroutine.
func (w *watch) run() {
	h := w.c.host
	c := h.cluster
	c.mu.Lock()
	watches(h)[w] = true
	c.mu.Unlock()
	defer close(w.out)
	defer func() {
		c.mu.Lock()
		delete(watches(h), w)
		c.mu.Unlock()
	}()
	for {
		c.mu.Lock()
		changed := c.changed
		resp, end, lost := w.step()
		var way time.Duration
		if lost || resp != nil {
			way = h.latency()
		}
		c.mu.Unlock()
		switch {
		case lost:
			// The library opens it again by itself.
			if !w.sleep(reconnectAfter + way) {
				return
			}
			continue
		case resp != nil:
			if !w.sleep(way) || !w.send(*resp) || end {
				return
			}
			continue
		}
		select {
		case <-w.ctx.Done():
			return
		case <-w.c.ctx.Done():
			return
		case <-w.poked:
		case <-changed:
		}
	}
}

func (w *watch) sleep(d time.Duration) bool { return sleep(w.ctx, d) && w.c.ctx.Err() == nil }

func (w *watch) send(resp clientv3.WatchResponse) bool {
	select {
	case w.out <- resp:
		return true
	case <-w.ctx.Done():
	case <-w.c.ctx.Done():
	}
	return false
}

// step returns the next response, and whether the watch ends with it, or that
// the connection was lost; nothing when there is nothing to do. It needs
// cluster.mu.
func (w *watch) step() (resp *clientv3.WatchResponse, end, lost bool) {
	h := w.c.host
	c := h.cluster
	if w.server.open && (w.server.generation != int64(h.connected) || h.connected != c.generation) {
		w.server.open = false
		return nil, false, true
	}
	if h.faults.Cut || h.faults.Refused || c.down || h.faults.StallWatches {
		return nil, false, false
	}
	if c.noLeader && requiresLeader(w.ctx) {
		select {
		case <-w.created:
		default:
			close(w.created)
		}
		return &clientv3.WatchResponse{
			Header: c.header(&pb.ResponseHeader{}), Canceled: true,
			CancelReason: status.Convert(rpctypes.ErrGRPCNoLeader).Message(),
		}, true, false
	}
	if !w.server.open {
		w.open()
	}
	return w.poll()
}

// open creates the watch on the server.
func (w *watch) open() {
	h := w.c.host
	h.connect()
	w.server.open, w.server.generation = true, int64(h.connected)
	if w.next == 0 {
		w.next = h.cluster.db.rev + 1
	}
	w.server.position, w.server.start = w.next, w.next
	select {
	case <-w.created:
	default:
		close(w.created)
	}
}

// poll returns what the server has to say.
func (w *watch) poll() (resp *clientv3.WatchResponse, end, lost bool) {
	c := w.c.host.cluster
	header := c.header(&pb.ResponseHeader{Revision: c.db.rev})
	if w.server.position < c.db.compacted {
		return &clientv3.WatchResponse{Header: header, Canceled: true, CompactRevision: c.db.compacted}, true, false
	}
	if w.server.position <= c.db.rev {
		events := c.db.since(w.server.position, w.key, w.end)
		w.server.position = c.db.rev + 1
		if len(events) > 0 {
			out := &clientv3.WatchResponse{Header: header}
			out.Events = append(out.Events, events...)
			w.next = events[len(events)-1].Kv.ModRevision + 1
			return out, false, false
		}
	}
	// A watch that begins in the future gives no sign of life, not even when it
	// is the next revision that it begins with.
	if w.asked && c.db.rev >= w.server.start {
		w.asked = false
		w.next = c.db.rev + 1
		return &clientv3.WatchResponse{Header: header}, false, false
	}
	return nil, false, false
}
