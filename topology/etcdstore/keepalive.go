package etcdstore

import (
	"context"
	"errors"
	"time"

	"github.com/baize-net/baize/topology"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// KeepAlive holds alive/<node> under an etcd lease of ttl (whole seconds, 1 at
// least; etcd may give more) until ctx is done, then gives it up at once and
// returns nil. Whatever is lost, the lease or etcd itself, is acquired again
// for ever. The only error is ErrConflict, naming both hosts, when another
// agent holds the name, at the start or when it took it while this one was cut
// off, or when the node's record is another installation's; that is for the
// caller to decide on. An agent with the same ID is another
// one when it runs on a machine that was booted at another time (a copied disk),
// and its key does not expire; or when it took the key from this one.
//
// onState, unless nil, is called from the calling goroutine: with nil
// whenever the key is held, with the reason when it cannot be acquired, or
// when it was lost: etcd said so, or did not answer for ttl.
func (s *Store) KeepAlive(ctx context.Context, l topology.Liveness, ttl time.Duration, onState func(error)) error {
	if err := topology.CheckName("node", l.Node); err != nil {
		return err
	}
	k := keeper{s: s, l: l, ttl: max(ttl.Round(time.Second), time.Second), onState: onState}
	for b := s.backoff(); ctx.Err() == nil; {
		held, err := k.acquire(ctx)
		if err == nil {
			k.state(nil)
			b = s.backoff()
			err = k.hold(ctx, held)
			if ctx.Err() != nil {
				k.s.revoke(ctx, held)
				return nil
			}
		}
		if errors.Is(err, topology.ErrConflict) {
			return err
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errEarlierBoot) {
			k.state(err)
		}
		b.wait(ctx)
	}
	return nil
}

type keeper struct {
	s       *Store
	l       topology.Liveness
	ttl     time.Duration
	onState func(error)
	called  bool // onState was, and lost is what it was given
	lost    bool
	// patience: until then a key of an earlier boot may expire.
	patience time.Time
}

// state reports a change, once.
func (k *keeper) state(err error) {
	if k.onState == nil || (k.called && k.lost == (err != nil)) {
		return
	}
	k.called, k.lost = true, err != nil
	k.onState(err)
}

// acquire puts the key under a new lease. Its own key of an earlier run is
// taken over.
func (k *keeper) acquire(ctx context.Context) (clientv3.LeaseID, error) {
	s := k.s
	v, err := s.read(ctx, k.l.Key(), topology.NodeKey(k.l.Node))
	if err != nil {
		return 0, err
	}
	if err := k.free(v); err != nil {
		return 0, err // before there is a lease to give up
	}
	id, err := s.grant(ctx, k.ttl)
	if err != nil {
		return 0, err
	}
	if err := k.take(ctx, id); err != nil {
		k.s.revoke(ctx, id)
		return 0, err
	}
	return id, nil
}

// take puts the key under a lease. It refuses when another agent has it.
func (k *keeper) take(ctx context.Context, id clientv3.LeaseID) error {
	s, key, node := k.s, k.l.Key(), topology.NodeKey(k.l.Node)
	return s.attempts(ctx, "node "+k.l.Node, func() (bool, error) {
		v, err := s.read(ctx, key, node)
		if err != nil {
			return false, err
		}
		if err := k.free(v); err != nil {
			return false, err
		}
		resp, err := s.commit(ctx, txn{
			cmps: []clientv3.Cmp{s.unchanged(key, v.meta[key].ModRevision), s.unchanged(node, v.meta[node].ModRevision)},
			then: []clientv3.Op{clientv3.OpPut(s.key(key), string(topology.Encode(k.l)), clientv3.WithLease(id))},
		})
		if err != nil {
			return false, err
		}
		return resp.Succeeded, nil
	})
}

// errEarlierBoot: the key is that of an earlier boot of this machine, or of one
// whose disk is a copy of this one's.
var errEarlierBoot = errors.New("the key of an earlier boot has not expired yet")

// free returns why the key cannot be taken, nil where it can. A key of an earlier
// boot is errEarlierBoot for as long as it may expire: this machine was booted
// again within the lease's time to live, or a copy of its disk runs elsewhere.
// Time tells which.
func (k *keeper) free(v view) error {
	o, there := v.Alive[k.l.Node]
	switch {
	case !there:
		k.patience = time.Time{}
		return ownedByAnother(v.Nodes[k.l.Node], k.l.ID, k.l.Hostname)
	case sameAgent(o, k.l.ID, k.l.Epoch):
		k.patience = time.Time{}
		return nil
	case o.ID != k.l.ID:
	case k.patience.IsZero():
		k.patience = time.Now().Add(2 * k.ttl)
		return errEarlierBoot
	case time.Now().Before(k.patience):
		return errEarlierBoot
	}
	return nodeTaken(k.l.Node, k.l.Hostname, k.l.ID, o)
}

// sameAgent reports whether a liveness record is that of an installation since
// a boot. Versions before this one may have written no epoch.
func sameAgent(l topology.Liveness, id, epoch string) bool {
	return l.ID == id && (l.Epoch == epoch || l.Epoch == "" || epoch == "")
}

// hold renews the lease until it is lost, with the reason, or ctx is done.
func (k *keeper) hold(ctx context.Context, id clientv3.LeaseID) error {
	beat := time.NewTicker(k.ttl / 3)
	defer beat.Stop()
	good := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
		}
		err := k.renew(ctx, id)
		switch {
		case err == nil:
			good = time.Now()
		case errors.Is(err, errLost), errors.Is(err, topology.ErrConflict), time.Since(good) > k.ttl:
			return k.s.explain(ctx, err)
		}
	}
}

// errLost: the key is not held any more.
var errLost = unavailable("liveness in etcd", "the lease was revoked or has expired",
	"it is acquired again; if this repeats, look for a slow disk or network of etcd")

// renew extends the lease and sees that the key still belongs to it. The
// client's own KeepAlive notices a lost lease seconds late.
func (k *keeper) renew(ctx context.Context, id clientv3.LeaseID) error {
	got, err := request(ctx, k.s, func(ctx context.Context, c Client) (*clientv3.GetResponse, error) {
		return c.Get(ctx, k.s.key(k.l.Key()))
	})
	if err != nil {
		return err
	}
	if len(got.Kvs) == 0 {
		return errLost
	}
	if got.Kvs[0].Lease != int64(id) {
		// There is one agent on a host, so one that took the key while this one
		// runs is on another.
		if r, err := topology.Decode(k.s.kv(got.Kvs[0])); err == nil {
			return nodeTaken(k.l.Node, k.l.Hostname, k.l.ID, r.(topology.Liveness))
		}
		return errLost
	}
	left, err := request(ctx, k.s, func(ctx context.Context, c Client) (int64, error) {
		return c.Renew(ctx, id)
	})
	if err != nil {
		return err
	}
	if left <= 0 {
		return errLost
	}
	return nil
}

// grant makes an etcd lease.
func (s *Store) grant(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	resp, err := do(ctx, s, func(ctx context.Context, c Client) (*clientv3.LeaseGrantResponse, error) {
		return c.Grant(ctx, int64(ttl/time.Second))
	})
	if err != nil {
		return 0, err
	}
	return resp.ID, nil
}

// revoke ends a lease, its keys with it, so that a clean stop shows at once. etcd
// expires it anyway.
func (s *Store) revoke(ctx context.Context, id clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = request(ctx, s, func(ctx context.Context, c Client) (*clientv3.LeaseRevokeResponse, error) {
		return c.Revoke(ctx, id)
	})
}
