package sim

import (
	"bytes"
	"slices"
	"sync"

	"github.com/baize-net/baize/topology"
)

// listings decodes what agents list. Where etcd comes back all of them list the
// same, and they share the snapshot, which nobody may change.
type listings struct {
	mu   sync.Mutex
	last []listing // the newest comes last
}

type listing struct {
	kvs      []topology.KV
	snapshot *topology.Snapshot
}

// keptListings are as many as agents may list in turns.
const keptListings = 8

func (l *listings) decode(revision int64, kvs []topology.KV) *topology.Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.last {
		if o.snapshot.Revision == revision && slices.EqualFunc(o.kvs, kvs, sameKV) {
			return o.snapshot
		}
	}
	if len(l.last) == keptListings {
		l.last = slices.Delete(l.last, 0, 1)
	}
	s := topology.NewSnapshot(revision, kvs)
	l.last = append(l.last, listing{kvs, s})
	return s
}

func sameKV(a, b topology.KV) bool {
	return a.Key == b.Key && a.Meta == b.Meta && bytes.Equal(a.Value, b.Value)
}
