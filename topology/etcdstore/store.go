// Package etcdstore keeps a topology in etcd: it lists and watches it as
// whole snapshots, and changes it by compare-and-swap only. It is the one
// package that imports the etcd client.
//
// Every write is a transaction that compares the revisions of what the
// decision was based on. Where a decision rests on a whole directory (a VNI
// no network uses, a reservation that overlaps nothing), the transaction
// compares the directory: "no key below it is newer than what was read". No
// guard or index keys are needed for that, and keys put by hand count too.
//
// Every error is a *topology.Error with a remedy, or the context's own.
package etcdstore

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/baize-net/baize/topology"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Limits of etcd and of our patience.
const (
	// pageSize is how many keys one list request asks for.
	pageSize = 1000
	// maxTxnOps is etcd's default limit of operations in a transaction.
	maxTxnOps = topology.MaxTxn
	// maxAttempts bounds a compare-and-swap loop. Each failed attempt means
	// that somebody else succeeded, so this is reached only when something
	// rewrites the same keys without pause.
	maxAttempts = 1000
	// reconnectMost bounds the wait between attempts to connect.
	reconnectMost = 2 * time.Second
	// retryFor times the request timeout is how long a request that may find
	// another member, or the next leader, is repeated.
	retryFor = 4
)

// Store is a topology in etcd. Its methods may be called concurrently.
type Store struct {
	cfg     Config
	backend Backend

	// sem guards client and closed; a channel, so that waiting ends with the
	// context.
	sem    chan struct{}
	client Client
	closed bool

	rehearsal *Rehearsal // nil in a store that writes
}

// Open checks the configuration (errors of kind ErrInvalid naming the
// endpoint or file) and returns a store. It does not connect: etcd may be
// down, and Check says whether it answers. ctx is not kept.
func Open(_ context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	backend := cfg.Backend
	if backend == nil {
		if backend, err = cfg.network(); err != nil {
			return nil, err
		}
	}
	return &Store{cfg: cfg, backend: backend, sem: make(chan struct{}, 1)}, nil
}

// Close ends the connection. Calls in progress fail. Closing twice is fine.
func (s *Store) Close() error {
	s.sem <- struct{}{}
	defer func() { <-s.sem }()
	s.closed = true
	if s.client == nil {
		return nil
	}
	c := s.client
	s.client = nil
	if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Prefix returns the prefix of the cluster's keys, without a slash at its end.
func (s *Store) Prefix() string { return s.cfg.Prefix }

// Check asks etcd for one key. The error, of kind ErrUnavailable, tells an
// etcd that does not answer from a refused certificate, user or permission.
func (s *Store) Check(ctx context.Context) error {
	_, err := request(ctx, s, func(ctx context.Context, c Client) (*clientv3.GetResponse, error) {
		return c.Get(ctx, s.cfg.Prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	})
	return s.explain(ctx, err)
}

// connect returns the client, made at the first use: with a password the
// client insists on an etcd that answers, and constructors start nothing.
func (s *Store) connect(ctx context.Context) (Client, error) {
	select {
	case s.sem <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.sem }()
	if s.closed {
		return nil, errClosed
	}
	if s.client != nil {
		return s.client, nil
	}
	c, err := s.backend.Connect(ctx)
	if err != nil {
		return nil, err
	}
	s.client = c
	return c, nil
}

var errClosed = unavailable("etcd", "the store is closed", "")

// request runs one request within the timeout, without repeating it.
func request[T any](ctx context.Context, s *Store, f func(context.Context, Client) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		var zero T
		return zero, err
	}
	return f(ctx, c)
}

// do runs a request, and again while the error is one that another member or
// the next leader may not give. The request must be one that may be executed
// twice: a read, or a transaction whose comparisons fail the second time. The
// error is explained.
func do[T any](ctx context.Context, s *Store, f func(context.Context, Client) (T, error)) (T, error) {
	var zero T
	until := time.Now().Add(retryFor * s.cfg.Timeout)
	for b := s.backoff(); ; {
		v, err := request(ctx, s, f)
		if err == nil {
			return v, nil
		}
		err = s.explain(ctx, err)
		if !mayRecover(err) || time.Now().After(until) || !b.wait(ctx) {
			return zero, err
		}
	}
}

// txn is one transaction: then is executed when every comparison holds, else
// otherwise.
type txn struct {
	cmps        []clientv3.Cmp
	then, other []clientv3.Op
}

// answer is the response to a transaction.
type answer struct {
	*clientv3.TxnResponse
	// repeated: it was sent more than once, so an earlier one may have been
	// executed although its answer was lost.
	repeated bool
}

func (s *Store) commit(ctx context.Context, t txn) (answer, error) {
	if resp, rehearsed, err := s.rehearse(ctx, t); rehearsed {
		return resp, err
	}
	sent := 0
	resp, err := do(ctx, s, func(ctx context.Context, c Client) (*clientv3.TxnResponse, error) {
		sent++
		return c.Txn(ctx).If(t.cmps...).Then(t.then...).Else(t.other...).Commit()
	})
	return answer{resp, sent > 1}, s.nameDenied(ctx, t, err)
}

// attempts runs a compare-and-swap until f says it is done; each call reads
// anew. item is for the error when it never ends.
func (s *Store) attempts(ctx context.Context, item string, f func() (done bool, err error)) error {
	b := backoff{jitter: s.cfg.Jitter, next: time.Millisecond, most: 100 * time.Millisecond}
	for range maxAttempts {
		if done, err := f(); done || err != nil {
			return err
		}
		if !b.wait(ctx) {
			return s.explain(ctx, ctx.Err())
		}
	}
	return unavailable(item, "others keep changing it",
		"try again; if it stays so, look for a process that rewrites the key")
}

// key returns the full key.
func (s *Store) key(rel string) string { return s.cfg.Prefix + "/" + rel }

// rel returns the key relative to the prefix.
func (s *Store) rel(key []byte) string { return strings.TrimPrefix(string(key), s.cfg.Prefix+"/") }

// unchanged compares a key with what was read: 0 means it was absent.
func (s *Store) unchanged(rel string, modRevision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(s.key(rel)), "=", modRevision)
}

// sameBirth holds as long as the key was not deleted, or made, since it was
// read: 0 means it was absent.
func (s *Store) sameBirth(rel string, createRevision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(s.key(rel)), "=", createRevision)
}

// nothingNewer holds while no key below dir was put after revision. Deleted
// keys do not count.
func (s *Store) nothingNewer(dir string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(s.key(dir)), "<", revision+1).WithPrefix()
}

func (s *Store) put(r topology.Record) clientv3.Op {
	return clientv3.OpPut(s.key(r.Key()), string(topology.Encode(r)))
}

// backoff waits longer each time, up to most.
type backoff struct {
	jitter     func(time.Duration) time.Duration
	next, most time.Duration
}

// backoff is for attempts to reach etcd.
func (s *Store) backoff() backoff {
	return backoff{jitter: s.cfg.Jitter, next: 50 * time.Millisecond, most: time.Second}
}

// wait reports false when ctx ended first.
func (b *backoff) wait(ctx context.Context) bool {
	t := time.NewTimer(b.jitter(b.next))
	defer t.Stop()
	b.next = min(2*b.next, b.most)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
