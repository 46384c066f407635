package etcdstore

import (
	"context"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// An answer may be on its way when a question's time is over: Ask waits answerGrace
// longer. The question lives for questionGrace, where Ask cannot remove it.
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
	grant, err := do(ctx, s, func(ctx context.Context, c Client) (*clientv3.LeaseGrantResponse, error) {
		return c.Grant(ctx, int64((limit+questionGrace)/time.Second))
	})
	if err != nil {
		return err
	}
	defer (&keeper{s: s}).release(ctx, grant.ID)
	resp, err := s.commit(ctx, txn{
		cmps: []clientv3.Cmp{s.sameBirth(q.Key(), 0)},
		then: []clientv3.Op{clientv3.OpPut(s.key(q.Key()), string(topology.Encode(q)), clientv3.WithLease(grant.ID))},
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
	err = s.followDir(within, topology.AnswersDir(q.ID), func(r topology.Record) bool {
		a, ok := r.(topology.NodeAnswer)
		return ok && answered(a)
	})
	if within.Err() != nil {
		err = ctx.Err()
	}
	return err
}

// Questions calls asked with every question that is there or comes, once, until ctx
// ends; then it returns nil. It goes on when etcd is back after an outage. Asked is
// called from the calling goroutine.
func (s *Store) Questions(ctx context.Context, asked func(topology.Question)) error {
	for b := s.backoff(); ctx.Err() == nil; {
		err := s.followDir(ctx, topology.DirQuestions, func(r topology.Record) bool {
			if q, ok := r.(topology.Question); ok {
				asked(q)
			}
			return false
		})
		if err == nil {
			b = s.backoff()
		}
		b.wait(ctx)
	}
	return nil
}

// PutAnswer answers a question, as it was read. An answer that is too long is stored
// as an error that says so. It is no error when the question is gone by now.
func (s *Store) PutAnswer(ctx context.Context, q topology.Question, a topology.NodeAnswer) error {
	a.Question = q.ID
	a = a.Bounded()
	_, err := s.commit(ctx, txn{
		cmps: []clientv3.Cmp{s.unchanged(q.Key(), q.ModRevision)},
		then: []clientv3.Op{
			clientv3.OpPut(s.key(a.Key()), string(topology.Encode(a)), clientv3.WithLease(clientv3.LeaseID(q.Lease))),
		},
	})
	return err
}

// followDir calls each with every record of a directory and every one that comes, once
// for each revision of a key, until that returns true or ctx ends; both are no error.
// Keys that cannot be read are left out.
func (s *Store) followDir(ctx context.Context, dir string, each func(topology.Record) (enough bool)) error {
	seen := map[string]int64{}
	deliver := func(kv topology.KV) bool {
		if seen[kv.Key] >= kv.ModRevision {
			return false
		}
		seen[kv.Key] = kv.ModRevision
		r, err := topology.Decode(kv)
		return err == nil && each(r)
	}
	for b := s.backoff(); ctx.Err() == nil; b.wait(ctx) {
		enough, err := s.followOnce(ctx, dir, deliver)
		if enough || (err != nil && ctx.Err() == nil) {
			return err
		}
	}
	return nil
}

// followOnce lists a directory and follows it until the watch ends.
func (s *Store) followOnce(ctx context.Context, dir string, deliver func(topology.KV) bool) (enough bool, err error) {
	c, err := s.connect(ctx)
	if err != nil {
		return false, s.explain(ctx, err)
	}
	// Over a new connection etcd may be another one than before.
	reconnected := c.Reconnected()
	list, err := do(ctx, s, func(ctx context.Context, c Client) (*clientv3.GetResponse, error) {
		return c.Get(ctx, s.key(dir), clientv3.WithPrefix())
	})
	if err != nil {
		return false, err
	}
	for _, kv := range list.Kvs {
		if deliver(s.kv(kv)) {
			return true, nil
		}
	}
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	limit := time.AfterFunc(s.cfg.Timeout, cancel) // Watch blocks until etcd has answered
	events := c.Watch(wctx, s.key(dir), clientv3.WithPrefix(), clientv3.WithRev(list.Header.Revision+1),
		clientv3.WithFilterDelete())
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
				if deliver(s.kv(e.Kv)) {
					return true, nil
				}
			}
		}
	}
}
