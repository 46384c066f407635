// Package etcdfake is an etcd cluster in memory, for tests that need time to
// pass quickly and faults at will. It is as strict as etcd: revisions, leases
// and errors are the same, which a test shows by doing the same to both. It runs
// in a bubble of testing/synctest: it waits on its own channels and timers
// only.
//
// Requests pass through etcd's own client library, from clientv3 to the
// protobuf messages. Watches do not, because the library's wait on a channel
// outside of any bubble; they behave as it does, and go on over a new connection
// without a word.
package etcdfake

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// minTTL is the shortest lease of an etcd with its default timing.
	minTTL = 2
	// expiryLag is how late etcd notices that a lease has expired: it looks
	// every 500 ms.
	expiryLag = 250 * time.Millisecond
	// proposalTimeout is how long a member waits for a leader before it gives a
	// request up (5 s and two elections).
	proposalTimeout = 7 * time.Second
)

// Cluster is an etcd cluster. Its methods may be called concurrently.
type Cluster struct {
	mu       sync.Mutex
	id, term uint64
	db       *database
	down     bool
	noLeader bool
	noSpace  bool
	// generation counts the starts: a connection is with one of them.
	generation int
	// changed is closed at every change that somebody may wait for.
	changed chan struct{}
	reads   int
}

// New returns an empty cluster that serves.
func New() *Cluster {
	return &Cluster{id: 0x1001, term: 2, db: newDatabase(), changed: make(chan struct{})}
}

// update changes the cluster and wakes who waits for it.
func (c *Cluster) update(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.wake()
}

func (c *Cluster) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Stop ends all members: connections are refused from now on.
func (c *Cluster) Stop() { c.update(func() { c.down = true; c.generation++ }) }

// Start starts the members of a cluster that was stopped, with its data.
func (c *Cluster) Start() {
	c.update(func() {
		c.down = false
		c.generation++
		c.term++
		c.promote()
	})
}

// SetLeader says whether the members have a leader. Without one nothing is
// answered but serializable reads.
func (c *Cluster) SetLeader(has bool) {
	c.update(func() {
		if has && c.noLeader {
			c.term++
			c.promote()
		}
		c.noLeader = !has
	})
}

// SetNoSpace raises or disarms the alarm of a database that is full.
func (c *Cluster) SetNoSpace(full bool) { c.update(func() { c.noSpace = full }) }

// Compact forgets the history up to a revision, the newest when 0.
func (c *Cluster) Compact(rev int64) {
	c.update(func() {
		if rev == 0 {
			rev = c.db.rev
		}
		_ = c.db.compact(rev)
	})
}

// Backup is the data of a cluster at one moment.
type Backup struct{ db *database }

// Backup returns what 'etcdctl snapshot save' would.
func (c *Cluster) Backup() Backup {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Backup{c.db.clone()}
}

// Restore stops the members and starts them with the data of a backup, or with
// none when it is the zero value. A cluster with new members or another token
// has a new ID. meanwhile, unless nil, is what others do before any of the old
// connections is back: with it the revision may pass the one that was reached
// before.
func (c *Cluster) Restore(b Backup, newID bool, meanwhile func(put func(key, value string))) {
	c.update(func() {
		c.db = newDatabase()
		if b.db != nil {
			c.db = b.db.clone()
		}
		if newID {
			c.id++
		}
		c.term = 2
		c.generation++
		c.down = false
		c.promote()
		if meanwhile != nil {
			meanwhile(func(key, value string) {
				c.db.put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)}, c.db.rev+1)
			})
		}
	})
}

// Put stores a key as a person with etcdctl does; whatever the cluster suffers
// from.
func (c *Cluster) Put(key, value string) {
	c.update(func() { c.db.put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)}, c.db.rev+1) })
}

// Delete removes a key, or all that begin with it.
func (c *Cluster) Delete(key string, prefix bool) {
	r := &pb.DeleteRangeRequest{Key: []byte(key)}
	if prefix {
		r.RangeEnd = append([]byte(key[:len(key)-1]), key[len(key)-1]+1)
	}
	c.update(func() { c.db.remove(r, c.db.rev+1) })
}

// Keys returns the keys that begin with prefix, and their values.
func (c *Cluster) Keys(prefix string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]string{}
	for _, key := range c.db.keys {
		if kv := c.db.at(key, c.db.rev); kv != nil && len(key) >= len(prefix) && key[:len(prefix)] == prefix {
			out[key] = string(kv.Value)
		}
	}
	return out
}

// Revision returns the newest revision: it grows with every change.
func (c *Cluster) Revision() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.db.rev
}

// Reads returns how many ranges were read, in transactions or not.
func (c *Cluster) Reads() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

// header needs c.mu.
func (c *Cluster) header(h *pb.ResponseHeader) *pb.ResponseHeader {
	h.ClusterId, h.MemberId, h.RaftTerm = c.id, 0x2001, c.term
	return h
}

// promote gives every lease its whole time to live again, as a new leader does.
// It needs c.mu.
func (c *Cluster) promote() {
	for _, l := range c.db.leases {
		c.refresh(l)
	}
}

// refresh needs c.mu.
func (c *Cluster) refresh(l *lease) {
	d := time.Duration(l.ttl)*time.Second + expiryLag
	l.expires = time.Now().Add(d)
	time.AfterFunc(d, func() { c.expire(l) })
}

// expire revokes a lease that was not renewed. Only a leader does.
func (c *Cluster) expire(l *lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db.leases[l.id] == l && !c.down && !c.noLeader && !time.Now().Before(l.expires) {
		c.revoke(l)
	}
}

// revoke needs c.mu.
func (c *Cluster) revoke(l *lease) {
	rev := c.db.rev + 1
	for _, key := range sorted(l.keys) {
		c.db.remove(&pb.DeleteRangeRequest{Key: []byte(key)}, rev)
	}
	delete(c.db.leases, l.id)
	c.wake()
}

func (c *Cluster) grant(r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	id := r.ID
	if id == 0 {
		c.db.nextLease++
		id = c.db.nextLease
	}
	const tooLong = 9_000_000_000
	switch {
	case r.TTL > tooLong:
		return nil, rpctypes.ErrGRPCLeaseTTLTooLarge
	case c.db.leases[id] != nil:
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	l := &lease{id: id, ttl: max(r.TTL, minTTL), keys: map[string]bool{}}
	c.db.leases[id] = l
	c.refresh(l)
	return &pb.LeaseGrantResponse{Header: &pb.ResponseHeader{Revision: c.db.rev}, ID: id, TTL: l.ttl}, nil
}

// renew returns a time to live of 0 when there is no such lease.
func (c *Cluster) renew(id int64) *pb.LeaseKeepAliveResponse {
	out := &pb.LeaseKeepAliveResponse{Header: &pb.ResponseHeader{Revision: c.db.rev}, ID: id}
	if l := c.db.leases[id]; l != nil {
		c.refresh(l)
		out.TTL = l.ttl
	}
	return out
}

func (c *Cluster) timeToLive(r *pb.LeaseTimeToLiveRequest) *pb.LeaseTimeToLiveResponse {
	out := &pb.LeaseTimeToLiveResponse{Header: &pb.ResponseHeader{Revision: c.db.rev}, ID: r.ID, TTL: -1}
	if l := c.db.leases[r.ID]; l != nil {
		out.TTL, out.GrantedTTL = int64(time.Until(l.expires.Add(-expiryLag)).Seconds()), l.ttl
		if r.Keys {
			for _, key := range sorted(l.keys) {
				out.Keys = append(out.Keys, []byte(key))
			}
		}
	}
	return out
}

// sleep reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
