package etcdstore_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
)

// lossy is a backend that loses a transaction or its answer: send decides, and
// is given what would carry the transaction out.
type lossy struct {
	etcdstore.Backend
	send func(n int, do func()) (lost bool)

	mu sync.Mutex
	n  int
}

func (l *lossy) Connect(ctx context.Context) (etcdstore.Client, error) {
	c, err := l.Backend.Connect(ctx)
	return lossyClient{c, l}, err
}

type lossyClient struct {
	etcdstore.Client
	l *lossy
}

func (c lossyClient) Txn(ctx context.Context) clientv3.Txn { return lossyTxn{c.Client.Txn(ctx), c.l} }

type lossyTxn struct {
	clientv3.Txn
	l *lossy
}

func (t lossyTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { return lossyTxn{t.Txn.If(cs...), t.l} }
func (t lossyTxn) Then(ops ...clientv3.Op) clientv3.Txn { return lossyTxn{t.Txn.Then(ops...), t.l} }
func (t lossyTxn) Else(ops ...clientv3.Op) clientv3.Txn { return lossyTxn{t.Txn.Else(ops...), t.l} }
func (t lossyTxn) Commit() (resp *clientv3.TxnResponse, err error) {
	t.l.mu.Lock()
	t.l.n++
	n := t.l.n
	t.l.mu.Unlock()
	done := false
	commit := func() {
		done = true
		resp, err = t.Txn.Commit()
	}
	if t.l.send(n, commit) {
		return nil, rpctypes.ErrNoLeader // another member may answer: the store repeats the request
	}
	if !done {
		commit()
	}
	return resp, err
}

// openLossy returns a store whose n-th transaction goes through send.
func openLossy(t *testing.T, endpoint string, send func(n int, do func()) bool) *etcdstore.Store {
	t.Helper()
	cfg := etcdstore.Config{Endpoints: []string{endpoint}}
	b, err := etcdstore.Network(cfg)
	require.NoError(t, err)
	cfg.Backend = &lossy{Backend: b, send: send}
	return open(t, cfg)
}

// R11: a part that was sent twice and refused is not done: the first may have
// been lost before it reached etcd.
func TestRestoreRepeated(t *testing.T) {
	e := etcdtest.Start(t)
	c := raw(t, e)
	putRaw(t, c, "networks/blue", `{"old":1}`)
	now, err := open(t, etcdstore.Config{Endpoints: []string{e}, Raw: true}).Snapshot(t.Context())
	require.NoError(t, err)
	plan := topology.RestorePlan{Put: []topology.KV{{Key: "networks/blue", Value: []byte(`{"new":1}`), Meta: now.Raw["networks/blue"].Meta}}}

	s := openLossy(t, e, func(n int, _ func()) bool {
		if n == 1 {
			putRaw(t, c, "networks/blue", `{"foreign":1}`)
		}
		return n == 1
	})
	refused(t, s.Restore(t.Context(), plan), topology.ErrConflict, "somebody changed a key")
	require.JSONEq(t, `{"foreign":1}`, getRaw(t, c, "networks/blue"))

	// An answer that is lost is another matter: it was done.
	putRaw(t, c, "networks/blue", `{"old":1}`)
	now, err = open(t, etcdstore.Config{Endpoints: []string{e}, Raw: true}).Snapshot(t.Context())
	require.NoError(t, err)
	plan.Put[0].Meta = now.Raw["networks/blue"].Meta
	s = openLossy(t, e, func(n int, do func()) bool {
		if n == 1 {
			do()
		}
		return n == 1
	})
	require.NoError(t, s.Restore(t.Context(), plan))
}
