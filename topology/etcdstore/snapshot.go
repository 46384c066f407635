package etcdstore

import (
	"context"
	"errors"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Snapshot lists the whole topology at one revision. Keys that cannot be
// decoded are in Snapshot.Malformed, the rest stands.
func (s *Store) Snapshot(ctx context.Context) (*topology.Snapshot, error) {
	snap, _, err := s.list(ctx)
	return snap, err
}

// list reads page after page, all at the revision of the first one, and
// returns the cluster's ID as well. It begins anew where that revision is
// compacted between two pages, or another cluster answers, for as long as a
// request is repeated.
func (s *Store) list(ctx context.Context) (*topology.Snapshot, uint64, error) {
	until := time.Now().Add(retryFor * s.cfg.Timeout)
	for b := s.backoff(); ; {
		snap, cluster, err := s.listOnce(ctx)
		if !is(err, rpctypes.ErrCompacted) && !is(err, rpctypes.ErrFutureRev) && !errors.Is(err, errOtherCluster) {
			return snap, cluster, err
		}
		if time.Now().After(until) {
			return nil, 0, unavailable(s.item(), "its pages do not fit together: "+rpctypes.ErrorDesc(err),
				"see that all endpoints are members of one cluster, and that it is not compacted all the time")
		}
		if !b.wait(ctx) {
			return nil, 0, s.explain(ctx, ctx.Err())
		}
	}
}

var errOtherCluster = errors.New("another etcd cluster answers")

func (s *Store) listOnce(ctx context.Context) (*topology.Snapshot, uint64, error) {
	from, end := s.span()
	var kvs []topology.KV
	var revision int64
	var cluster uint64
	for {
		resp, err := do(ctx, s, func(ctx context.Context, c Client) (*clientv3.GetResponse, error) {
			return c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		})
		switch {
		case err != nil:
			return nil, 0, err
		case revision == 0:
			revision, cluster = resp.Header.Revision, resp.Header.ClusterId
		case cluster != resp.Header.ClusterId:
			return nil, 0, errOtherCluster
		}
		kvs = append(kvs, s.kvs(resp.Kvs)...)
		if !resp.More || len(resp.Kvs) == 0 {
			return s.cfg.Decode(revision, kvs), cluster, nil
		}
		// The next key after the last one.
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// span is the range of the keys of a topology: questions and answers, which are
// behind it, are for those who take part in them.
func (s *Store) span() (from, end string) {
	from = s.cfg.Prefix + "/"
	if s.cfg.Raw {
		return from, clientv3.GetPrefixRangeEnd(from)
	}
	return from, from + topology.TopologyEnd
}

func (s *Store) kv(kv *mvccpb.KeyValue) topology.KV {
	return topology.KV{
		Key: s.rel(kv.Key), Value: kv.Value,
		Meta: topology.Meta{CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Lease: kv.Lease},
	}
}

func (s *Store) kvs(in []*mvccpb.KeyValue) []topology.KV {
	out := make([]topology.KV, len(in))
	for i, kv := range in {
		out[i] = s.kv(kv)
	}
	return s.rehearsal.seen(out)
}

// view is part of the topology: what one decision needs.
type view struct {
	*topology.Snapshot
	// meta has the revisions of every key read, the malformed ones included.
	meta map[string]topology.Meta
}

// read fetches keys, and directories when they end in '/', in one
// transaction, which means at one revision. Directories are not paged: those
// asked for here are a part of one network.
func (s *Store) read(ctx context.Context, rels ...string) (view, error) {
	var ops []clientv3.Op
	for _, r := range rels {
		ops = append(ops, s.get(r))
	}
	resp, err := s.commit(ctx, txn{then: ops})
	if err != nil {
		return view{}, err
	}
	return s.viewOf(resp), nil
}

func (s *Store) get(rel string) clientv3.Op {
	if rel[len(rel)-1] == '/' {
		return clientv3.OpGet(s.key(rel), clientv3.WithPrefix())
	}
	return clientv3.OpGet(s.key(rel))
}

// viewOf gathers the answers to the gets of a transaction.
func (s *Store) viewOf(resp answer) view {
	var kvs []topology.KV
	for _, r := range resp.Responses {
		kvs = append(kvs, s.kvs(r.GetResponseRange().GetKvs())...)
	}
	v := view{Snapshot: topology.NewSnapshot(resp.Header.Revision, kvs), meta: map[string]topology.Meta{}}
	for _, kv := range kvs {
		v.meta[kv.Key] = kv.Meta
	}
	return v
}

// network returns a network of the view, or why it cannot be used.
func (v view) network(name string) (topology.Network, error) {
	if n, ok := v.Networks[name]; ok {
		return n, nil
	}
	if err := v.malformed(topology.NetworkKey(name)); err != nil {
		return topology.Network{}, err
	}
	return topology.Network{}, &topology.Error{
		Kind: topology.ErrNotFound, Code: fault.NetworkMissing, Item: "network " + name, What: "there is no such network",
		Remedy: "see 'baize network list', or create it with 'baize network create'",
	}
}

// malformed returns the problem of a key as an error.
func (v view) malformed(rel string) error {
	if p, ok := v.Malformed[rel]; ok {
		return &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.RecordMalformed, Item: p.Item, What: p.What, Remedy: p.Remedy,
		}
	}
	return nil
}

// written returns the revisions of a record just put.
func written(old topology.Meta, resp answer) topology.Meta {
	m := topology.Meta{CreateRevision: old.CreateRevision, ModRevision: resp.Header.Revision}
	if m.CreateRevision == 0 {
		m.CreateRevision = resp.Header.Revision
	}
	return m
}

// mergeExtra keeps the stored fields this version does not know, unless the
// new record brings its own.
func mergeExtra(old, extra topology.Extra) topology.Extra {
	if len(old) == 0 {
		return extra
	}
	out := topology.Extra{}
	for k, v := range old {
		out[k] = v
	}
	for k, v := range extra {
		out[k] = v
	}
	return out
}
