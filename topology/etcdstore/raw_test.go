package etcdstore_test

import (
	"context"
	"sync"
	"testing"
	"time"

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

// A part that was sent twice and refused is not done: the first may have
// been lost before it reached etcd.
func TestRestoreRepeated(t *testing.T) {
	e := etcdtest.Start(t)
	c := raw(t, e)
	putRaw(t, c, "networks/blue", `{"old":1}`)
	now, err := open(t, etcdstore.Config{Endpoints: []string{e}, Raw: true}).Snapshot(t.Context())
	require.NoError(t, err)
	plan := topology.RestorePlan{
		Put: []topology.KV{{Key: "networks/blue", Value: []byte(`{"new":1}`), Meta: now.Raw["networks/blue"].Meta}},
	}

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

// Commit does what its conditions allow, on whole keys.
func TestCommit(t *testing.T) {
	ctx, c := t.Context(), raw(t, etcdtest.Start(t))
	k, err := etcdstore.OpenKeys(ctx, etcdstore.Config{Endpoints: c.Endpoints(), Prefix: "/other"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, k.Close()) })
	put := func(lease int64, keep bool, conditions ...topology.Condition) bool {
		t.Helper()
		change := topology.Change{Key: "/other/dir/a", Value: []byte("x"), Lease: lease, KeepLease: keep}
		result, err := k.Commit(ctx, topology.Txn{If: conditions, Then: []topology.Change{change}})
		require.NoError(t, err)
		require.False(t, result.Unsure)
		return result.Done
	}
	have := func() topology.KV {
		t.Helper()
		s, err := k.Snapshot(ctx)
		require.NoError(t, err)
		return s.Raw["dir/a"]
	}
	lease, err := k.Grant(ctx, time.Hour)
	require.NoError(t, err)
	absent := topology.Condition{Key: "/other/dir/a"}
	require.True(t, put(lease, false, absent))
	require.False(t, put(0, false, absent), "it is there now")
	kv := have()
	require.Equal(t, lease, kv.Lease)

	require.True(t, put(0, true, topology.Condition{Key: "/other/dir/a", ModRevision: kv.ModRevision}))
	require.Equal(t, lease, have().Lease, "kept")
	require.False(
		t,
		put(0, false, topology.Condition{Key: "/other/dir/", Dir: true, ModRevision: kv.ModRevision}),
		"put since",
	)
	require.True(t, put(0, false, topology.Condition{Key: "/other/dir/", Dir: true, ModRevision: have().ModRevision}))
	require.Zero(t, have().Lease)

	require.NoError(t, k.Renew(ctx, lease))
	require.NoError(t, k.Revoke(ctx, lease))
	require.Error(t, k.Renew(ctx, lease))
	require.NotEmpty(t, have().Key, "it was not held under the lease any more")
}

// A transaction whose answer is lost is done when its changes are found, and
// unsure when they were changed since.
func TestCommitAnswerLost(t *testing.T) {
	e := etcdtest.Start(t)
	c := raw(t, e)
	then := []topology.Change{
		{
			Key:   topology.DefaultPrefix + "/nodes/a",
			Value: []byte("{}"),
		}, {Key: topology.DefaultPrefix + "/nodes/b", Delete: true},
	}
	for name, x := range map[string]struct {
		since func()
		want  topology.Committed
	}{
		"and nothing else":   {func() {}, topology.Committed{Done: true}},
		"changed since":      {func() { putRaw(t, c, "nodes/a", "{} ") }, topology.Committed{Unsure: true}},
		"written once more":  {func() { putRaw(t, c, "nodes/b", "{}") }, topology.Committed{Unsure: true}},
		"not executed, once": {nil, topology.Committed{Done: true}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Delete(t.Context(), topology.DefaultPrefix, clientv3.WithPrefix())
			require.NoError(t, err)
			s := openLossy(t, e, func(n int, do func()) bool {
				if n == 1 && x.since != nil {
					do()
					x.since()
				}
				return n == 1
			})
			got, err := s.Commit(t.Context(), topology.Txn{If: []topology.Condition{{Key: then[0].Key}}, Then: then})
			require.NoError(t, err)
			require.Equal(t, x.want.Done, got.Revision > 0)
			got.Revision = 0
			require.Equal(t, x.want, got)
		})
	}
}
