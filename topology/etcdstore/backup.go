package etcdstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/baize-net/baize/topology"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Restore carries a plan out, part by part, each part in one transaction that
// is done only where its keys are as they were when the plan was made. An error
// says how much of it was done; the same restore, again, does the rest.
func (s *Store) Restore(ctx context.Context, p topology.RestorePlan) error {
	type step struct {
		kv topology.KV
		op clientv3.Op
	}
	var steps []step
	for _, kv := range p.Delete {
		steps = append(steps, step{kv, clientv3.OpDelete(s.key(kv.Key))})
	}
	for _, kv := range p.Put {
		steps = append(steps, step{kv, clientv3.OpPut(s.key(kv.Key), string(kv.Value))})
	}
	done := 0
	partly := func(kind error, what string) error {
		return &topology.Error{
			Kind: kind, Item: "restore", What: fmt.Sprintf("%d of %d keys are done: %s", done, len(steps), what),
			Remedy: "run it again: it does what is left",
		}
	}
	for part := range slices.Chunk(steps, maxTxnOps) {
		var t txn
		for _, x := range part {
			t.cmps, t.then = append(t.cmps, s.unchanged(x.kv.Key, x.kv.ModRevision)), append(t.then, x.op)
		}
		resp, err := s.commit(ctx, t)
		if err != nil {
			return partly(topology.ErrUnavailable, err.Error())
		}
		if !resp.Succeeded && !resp.repeated {
			return partly(topology.ErrConflict, "somebody changed a key meanwhile")
		}
		done += len(part)
	}
	return nil
}
