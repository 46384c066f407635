package etcdstore

import (
	"context"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// An answer may be on its way when a question's time is over: Ask waits answerGrace
// longer. Question and answers live for questionGrace, where Ask cannot remove them.
const (
	answerGrace   = time.Second
	questionGrace = 5 * time.Second
)

// Ask puts a question, and calls answered with every answer until that returns true,
// the question's time is over or ctx ends. Nobody may answer: that is no error. The
// question and its answers are gone when Ask returns, or, where it cannot remove them,
// a few seconds after the question's time.
//
// Errors: ErrInvalid; ErrConflict where there is a question of that ID;
// ErrUnavailable.
func (s *Store) Ask(ctx context.Context, q topology.Question, answered func(topology.NodeAnswer) (enough bool)) error {
	if err := q.Check(); err != nil {
		return err
	}
	limit := time.Duration(q.Seconds) * time.Second
	lease, err := s.grant(ctx, limit+questionGrace)
	if err != nil {
		return err
	}
	defer s.revoke(ctx, lease)
	resp, err := s.commit(ctx, txn{
		cmps: []clientv3.Cmp{s.sameBirth(q.Key(), 0)},
		then: []clientv3.Op{clientv3.OpPut(s.key(q.Key()), string(topology.Encode(q)), clientv3.WithLease(lease))},
	})
	if err != nil {
		return err
	}
	if !resp.Succeeded && !resp.repeated {
		return &topology.Error{
			Kind: topology.ErrConflict, Code: fault.RecordConflict, Item: q.Key(), What: "somebody asks under this ID",
			Remedy: "try again",
		}
	}
	within, cancel := context.WithTimeout(ctx, limit+answerGrace)
	defer cancel()
	var seen []clientv3.Op
	defer func() { s.sweep(ctx, seen) }()
	f := s.follower(topology.DirAnswers, func(r topology.Record) bool {
		a, ok := r.(topology.NodeAnswer)
		if !ok || a.Question != q.ID {
			return false
		}
		seen = append(seen, clientv3.OpDelete(s.key(a.Key())))
		return answered(a)
	})
	for b := s.backoff(); within.Err() == nil; b.wait(within) {
		if enough, err := f.follow(within); enough || (err != nil && within.Err() == nil) {
			return err
		}
	}
	return ctx.Err()
}

// sweep deletes answers. Where it may not, or cannot, they expire.
func (s *Store) sweep(ctx context.Context, answers []clientv3.Op) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for part := range slices.Chunk(answers, maxTxnOps) {
		_, err := request(ctx, s, func(ctx context.Context, c Client) (*clientv3.TxnResponse, error) {
			return c.Txn(ctx).Then(part...).Commit()
		})
		if err != nil {
			return
		}
	}
}

// Questions calls asked with every question that is there or comes, once, until ctx
// ends; then it returns nil. It goes on when etcd is back after an outage. Asked is
// called from the calling goroutine.
func (s *Store) Questions(ctx context.Context, asked func(topology.Question)) error {
	f := s.follower(topology.DirQuestions, func(r topology.Record) bool {
		if q, ok := r.(topology.Question); ok {
			asked(q)
		}
		return false
	})
	for b := s.backoff(); ctx.Err() == nil; b.wait(ctx) {
		if _, err := f.follow(ctx); err == nil {
			b = s.backoff()
		}
	}
	return nil
}

// PutAnswer answers a question, as it was read. An answer that is too long is stored
// as an error that says so. It is no error when the question is gone by now.
func (s *Store) PutAnswer(ctx context.Context, q topology.Question, a topology.NodeAnswer) error {
	a.Question = q.ID
	a = a.Bounded()
	id, err := s.grant(ctx, time.Duration(q.Seconds)*time.Second+questionGrace)
	if err != nil {
		return err
	}
	resp, err := s.commit(ctx, txn{
		cmps: []clientv3.Cmp{s.unchanged(q.Key(), q.ModRevision)},
		then: []clientv3.Op{clientv3.OpPut(s.key(a.Key()), string(topology.Encode(a)), clientv3.WithLease(id))},
	})
	if err != nil || !resp.Succeeded {
		s.revoke(ctx, id)
	}
	return err
}

// follower hands over every record of a directory that is there or comes, once for each
// revision of its key, also over outages of etcd. Keys that cannot be read are left out.
type follower struct {
	s    *Store
	dir  string
	each func(topology.Record) (enough bool)
	// seen has the revisions of the keys that are there, by key.
	seen map[string]int64
}

func (s *Store) follower(dir string, each func(topology.Record) (enough bool)) *follower {
	return &follower{s: s, dir: dir, each: each, seen: map[string]int64{}}
}

// follow lists the directory and follows it until each says that it is enough, the watch
// ends or ctx does.
func (f *follower) follow(ctx context.Context) (enough bool, err error) {
	s := f.s
	c, err := s.connect(ctx)
	if err != nil {
		return false, s.explain(ctx, err)
	}
	// Over a new connection etcd may be another one than before.
	reconnected := c.Reconnected()
	list, err := do(ctx, s, func(ctx context.Context, c Client) (*clientv3.GetResponse, error) {
		return c.Get(ctx, s.key(f.dir), clientv3.WithPrefix())
	})
	if err != nil {
		return false, err
	}
	if f.list(list) {
		return true, nil
	}
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	limit := time.AfterFunc(s.cfg.Timeout, cancel) // Watch blocks until etcd has answered
	events := c.Watch(wctx, s.key(f.dir), clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1))
	if !limit.Stop() {
		return false, s.stalled(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-reconnected:
			return false, nil
		case resp, open := <-events:
			if !open || resp.Err() != nil {
				return false, s.stalled(ctx)
			}
			for _, e := range resp.Events {
				if f.event(e) {
					return true, nil
				}
			}
		}
	}
}

// list takes a listing. What is not in it any more is forgotten.
func (f *follower) list(list *clientv3.GetResponse) (enough bool) {
	before := f.seen
	f.seen = make(map[string]int64, len(list.Kvs))
	for _, kv := range list.Kvs {
		key := string(kv.Key)
		f.seen[key] = kv.ModRevision
		if before[key] < kv.ModRevision && f.deliver(kv) {
			return true
		}
	}
	return false
}

func (f *follower) event(e *clientv3.Event) (enough bool) {
	if e.Type == clientv3.EventTypeDelete {
		delete(f.seen, string(e.Kv.Key))
		return false
	}
	f.seen[string(e.Kv.Key)] = e.Kv.ModRevision
	return f.deliver(e.Kv)
}

func (f *follower) deliver(kv *mvccpb.KeyValue) (enough bool) {
	r, err := topology.Decode(f.s.kv(kv))
	return err == nil && f.each(r)
}
