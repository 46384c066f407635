package etcdstore

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Keys are the keys of another program's layout, undecoded: for a topology
// source that is kept in the same etcd.
type Keys struct{ s *Store }

// OpenKeys is Open for the keys below cfg.Prefix.
func OpenKeys(ctx context.Context, cfg Config) (*Keys, error) {
	cfg.Raw = true
	s, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Keys{s}, nil
}

// Close ends the connection.
func (k *Keys) Close() error { return k.s.Close() }

// Prefix returns the prefix of the keys, without a slash at its end.
func (k *Keys) Prefix() string { return k.s.Prefix() }

// Snapshot lists all keys at one revision, in Snapshot.Raw.
func (k *Keys) Snapshot(ctx context.Context) (*topology.Snapshot, error) { return k.s.Snapshot(ctx) }

// Watch is Store.Watch.
func (k *Keys) Watch(ctx context.Context, deliver func(last *topology.Snapshot, err error)) error {
	return k.s.Watch(ctx, func(u Update) { deliver(u.Snapshot, u.Err) })
}

// Commit executes a transaction; see topology.Committed.
func (k *Keys) Commit(ctx context.Context, t topology.Txn) (topology.Committed, error) {
	return k.s.Commit(ctx, t)
}

// Attempts runs a compare-and-swap until f says it is done; each call reads anew.
// item is for the error when it never ends.
func (k *Keys) Attempts(ctx context.Context, item string, f func() (done bool, err error)) error {
	return k.s.attempts(ctx, item, f)
}

// Grant makes a lease that ends after ttl unless it is renewed.
func (k *Keys) Grant(ctx context.Context, ttl time.Duration) (lease int64, err error) {
	id, err := k.s.grant(ctx, ttl)
	return int64(id), err
}

// Renew has a lease last for its whole time from now on. The error is of kind
// ErrNotFound when there is no such lease any more.
func (k *Keys) Renew(ctx context.Context, lease int64) error {
	left, err := do(ctx, k.s, func(ctx context.Context, c Client) (int64, error) {
		return c.Renew(ctx, clientv3.LeaseID(lease))
	})
	if err == nil && left <= 0 {
		err = &topology.Error{
			Kind: topology.ErrNotFound, Code: fault.RecordVanished, Item: fmt.Sprintf("etcd lease %x", lease),
			What: "it was revoked or has expired",
		}
	}
	return err
}

// Revoke ends a lease and deletes the keys that are held under it. It is not
// repeated: the lease ends by itself.
func (k *Keys) Revoke(ctx context.Context, lease int64) error {
	_, err := request(ctx, k.s, func(ctx context.Context, c Client) (*clientv3.LeaseRevokeResponse, error) {
		return c.Revoke(ctx, clientv3.LeaseID(lease))
	})
	return k.s.explain(ctx, err)
}

// Commit executes a transaction on whole keys, which may be outside of the
// store's prefix.
//
// It is sent again when its answer is lost. The second one's conditions then
// fail where the first was executed, and fail as well where the first never
// arrived and somebody changed a key meanwhile; which it was is seen by the
// keys.
func (s *Store) Commit(ctx context.Context, t topology.Txn) (topology.Committed, error) {
	var x txn
	for _, c := range t.If {
		if c.Dir {
			x.cmps = append(x.cmps, clientv3.Compare(clientv3.ModRevision(c.Key), "<", c.ModRevision+1).WithPrefix())
		} else {
			x.cmps = append(x.cmps, clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.ModRevision))
		}
	}
	for _, c := range t.Then {
		x.then = append(x.then, operation(c))
		x.other = append(x.other, clientv3.OpGet(c.Key))
	}
	resp, err := s.commit(ctx, x)
	switch {
	case err != nil:
		return topology.Committed{}, err
	case resp.Succeeded:
		return topology.Committed{Done: true, Revision: resp.Header.Revision}, nil
	case !resp.repeated:
		return topology.Committed{}, nil
	}
	if revision, ok := executed(t.Then, resp); ok {
		return topology.Committed{Done: true, Revision: revision}, nil
	}
	return topology.Committed{Unsure: true}, nil
}

func operation(c topology.Change) clientv3.Op {
	switch {
	case c.Delete:
		return clientv3.OpDelete(c.Key)
	case c.KeepLease:
		return clientv3.OpPut(c.Key, string(c.Value), clientv3.WithIgnoreLease())
	}
	return clientv3.OpPut(c.Key, string(c.Value), clientv3.WithLease(clientv3.LeaseID(c.Lease)))
}

// executed reports whether the keys are as one transaction with these changes
// has left them, and its revision: puts of one transaction have one in common.
func executed(changes []topology.Change, resp answer) (revision int64, ok bool) {
	for i, c := range changes {
		var have *mvccpb.KeyValue
		if kvs := resp.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			have = kvs[0]
		}
		if c.Delete {
			if have != nil {
				return 0, false
			}
			continue
		}
		switch {
		case have == nil || !bytes.Equal(have.Value, c.Value),
			!c.KeepLease && have.Lease != c.Lease,
			revision != 0 && have.ModRevision != revision:
			return 0, false
		}
		revision = have.ModRevision
	}
	if revision == 0 { // deletes only
		revision = resp.Header.Revision
	}
	return revision, true
}
