package etcdstore

import (
	"context"
	"fmt"
	"slices"

	"github.com/baize-net/baize/topology"
)

// Restore carries a plan out, part by part, each part in one transaction that
// is done only where its keys are as they were when the plan was made. An error
// says how much of it was done; the same restore, again, does the rest.
func (s *Store) Restore(ctx context.Context, p topology.RestorePlan) error {
	steps := slices.Concat(p.Delete, p.Put)
	done := 0
	partly := func(kind error, what string) error {
		return &topology.Error{
			Kind: kind, Item: "restore", What: fmt.Sprintf("%d of %d keys are done: %s", done, len(steps), what),
			Remedy: "run it again: it does what is left",
		}
	}
	for part := range slices.Chunk(steps, maxTxnOps) {
		var t topology.Txn
		for i, kv := range part {
			t.If = append(t.If, topology.Condition{Key: s.key(kv.Key), ModRevision: kv.ModRevision})
			t.Then = append(t.Then, topology.Change{Key: s.key(kv.Key), Value: kv.Value, Delete: done+i < len(p.Delete)})
		}
		result, err := s.Commit(ctx, t)
		if err != nil {
			return partly(topology.ErrUnavailable, err.Error())
		}
		if !result.Done {
			return partly(topology.ErrConflict, "somebody changed a key meanwhile")
		}
		done += len(part)
	}
	return nil
}
