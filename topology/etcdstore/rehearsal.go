package etcdstore

import (
	"context"
	"slices"
	"sync"

	"github.com/baize-net/baize/topology"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Rehearsal has what a store would have written.
type Rehearsal struct {
	mu      sync.Mutex
	changes []RehearsedChange
}

// RehearsedChange is a key that would have been put or deleted. Before and After are
// its values, nil where there is none.
type RehearsedChange struct {
	Key           string
	Before, After []byte
}

// Rehearse makes the store one that reads as ever and writes nothing: every
// transaction that puts or deletes keys is taken for done, as if nobody else wrote
// meanwhile, and later reads see keys that it changed so. It comes before the first
// write.
func (s *Store) Rehearse() *Rehearsal {
	s.rehearsal = &Rehearsal{}
	return s.rehearsal
}

// Changes are the keys that would have been changed, in the order of the writes.
func (r *Rehearsal) Changes() []RehearsedChange {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.changes), func(c RehearsedChange) bool {
		return string(c.Before) == string(c.After) && (c.Before == nil) == (c.After == nil)
	})
}

// find returns the change of a key; it needs r.mu.
func (r *Rehearsal) find(key string) *RehearsedChange {
	if i := slices.IndexFunc(r.changes, func(c RehearsedChange) bool { return c.Key == key }); i >= 0 {
		return &r.changes[i]
	}
	return nil
}

// seen returns keys as they would be by now. It does not add those that would be new.
func (r *Rehearsal) seen(kvs []topology.KV) []topology.KV {
	if r == nil {
		return kvs
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := kvs[:0]
	for _, kv := range kvs {
		c := r.find(kv.Key)
		switch {
		case c == nil:
			out = append(out, kv)
		case c.After != nil:
			kv.Value = c.After
			out = append(out, kv)
		}
	}
	return out
}

// rehearse takes a transaction for done. ok is false of one that only reads.
func (s *Store) rehearse(ctx context.Context, t txn) (resp answer, ok bool, err error) {
	writes := func(op clientv3.Op) bool { return op.IsPut() || op.IsDelete() }
	if s.rehearsal == nil || !slices.ContainsFunc(t.then, writes) {
		return answer{}, false, nil
	}
	var revision int64
	for _, op := range t.then {
		key := string(op.KeyBytes())
		have, err := do(ctx, s, func(ctx context.Context, c Client) (*clientv3.GetResponse, error) { return c.Get(ctx, key) })
		if err != nil {
			return answer{}, true, err
		}
		revision = have.Header.Revision
		var before []byte
		if len(have.Kvs) > 0 {
			before = have.Kvs[0].Value
		}
		s.rehearsal.add(s.rel(op.KeyBytes()), before, op)
	}
	return answer{&clientv3.TxnResponse{Succeeded: true, Header: &etcdserverpb.ResponseHeader{Revision: revision}}, false},
		true, nil
}

func (r *Rehearsal) add(key string, before []byte, op clientv3.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.find(key)
	if c == nil {
		r.changes = append(r.changes, RehearsedChange{Key: key, Before: before, After: before})
		c = &r.changes[len(r.changes)-1]
	}
	switch {
	case op.IsDelete():
		c.After = nil
	case len(op.ValueBytes()) > 0: // a key that is only touched keeps its value
		c.After = op.ValueBytes()
	}
}
