package etcdfake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/baize-net/baize/topology/etcdserver"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
)

// client is what the fake and etcd's own client have in common.
type client interface {
	clientv3.KV
	Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error)
	Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error)
	KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error)
	TimeToLive(
		ctx context.Context,
		id clientv3.LeaseID,
		opts ...clientv3.LeaseOption,
	) (*clientv3.LeaseTimeToLiveResponse, error)
	Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan
	RequestProgress(ctx context.Context) error
}

// world is one etcd that operations are done to.
type world struct {
	t       *testing.T
	c       client
	noSpace func(full bool)
	leases  map[int64]string // given names, because IDs differ
}

func (w *world) lease(id int64) string {
	if id == 0 {
		return ""
	}
	if w.leases[id] == "" {
		w.leases[id] = fmt.Sprintf("L%d", len(w.leases)+1)
	}
	return w.leases[id]
}

func (w *world) kv(kv *mvccpb.KeyValue) string {
	return fmt.Sprintf(
		"%s=%q c%d m%d v%d %s",
		kv.Key,
		kv.Value,
		kv.CreateRevision,
		kv.ModRevision,
		kv.Version,
		w.lease(kv.Lease),
	)
}

func (w *world) kvs(kvs []*mvccpb.KeyValue) string {
	var out []string
	for _, kv := range kvs {
		out = append(out, w.kv(kv))
	}
	return "[" + strings.Join(out, "; ") + "]"
}

func problem(err error) string {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return fmt.Sprintf("etcd error %v: %v", e.Code(), err)
	}
	return "error: " + err.Error()
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) get(key string, opts ...clientv3.OpOption) string {
	r, err := w.c.Get(w.ctx(), key, opts...)
	if err != nil {
		return problem(err)
	}
	return fmt.Sprintf("rev %d count %d more %v %s", r.Header.Revision, r.Count, r.More, w.kvs(r.Kvs))
}

func (w *world) put(key, value string, opts ...clientv3.OpOption) string {
	r, err := w.c.Put(w.ctx(), key, value, opts...)
	if err != nil {
		return problem(err)
	}
	out := fmt.Sprintf("rev %d", r.Header.Revision)
	if r.PrevKv != nil {
		out += " was " + w.kv(r.PrevKv)
	}
	return out
}

func (w *world) del(key string, opts ...clientv3.OpOption) string {
	r, err := w.c.Delete(w.ctx(), key, opts...)
	if err != nil {
		return problem(err)
	}
	return fmt.Sprintf("rev %d deleted %d %s", r.Header.Revision, r.Deleted, w.kvs(r.PrevKvs))
}

func (w *world) txn(cmps []clientv3.Cmp, then, other []clientv3.Op) string {
	r, err := w.c.Txn(w.ctx()).If(cmps...).Then(then...).Else(other...).Commit()
	if err != nil {
		return problem(err)
	}
	out := fmt.Sprintf("rev %d ok %v", r.Header.Revision, r.Succeeded)
	for _, resp := range r.Responses {
		switch {
		case resp.GetResponseRange() != nil:
			g := resp.GetResponseRange()
			out += fmt.Sprintf(" get count %d more %v %s", g.Count, g.More, w.kvs(g.Kvs))
		case resp.GetResponsePut() != nil:
			out += " put"
		case resp.GetResponseDeleteRange() != nil:
			out += fmt.Sprintf(" deleted %d", resp.GetResponseDeleteRange().Deleted)
		}
	}
	return out
}

func (w *world) event(r clientv3.WatchResponse) string {
	if err := r.Err(); err != nil {
		return fmt.Sprintf("%s compact %d", problem(err), r.CompactRevision)
	}
	var out []string
	for _, e := range r.Events {
		out = append(out, e.Type.String()+" "+w.kv(e.Kv))
	}
	return fmt.Sprintf("header %d progress %v %s", r.Header.Revision, r.IsProgressNotify(), strings.Join(out, "; "))
}

// watch does f and returns what a watch said until n events were seen, or it
// ended.
func (w *world) watch(n int, f func(), key string, opts ...clientv3.OpOption) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ch := w.c.Watch(ctx, key, opts...)
	if f != nil {
		f()
	}
	var out []string
	for seen := 0; seen < n; {
		r, open := <-ch
		if !open {
			return strings.Join(append(out, "closed"), " | ")
		}
		if r.Err() != nil {
			out = append(out, w.event(r))
			continue
		}
		// etcd may put several revisions into one response, or not.
		for _, e := range r.Events {
			out = append(out, e.Type.String()+" "+w.kv(e.Kv))
			seen++
		}
	}
	return strings.Join(out, " | ")
}

// progress returns whether a watch from a revision on gives a sign of life.
func (w *world) progress(from int64, patience time.Duration) string {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(context.Background()))
	defer cancel()
	ch := w.c.Watch(ctx, "a", clientv3.WithPrefix(), clientv3.WithRev(from))
	// A watch that has not caught up yet does not answer: it is asked again.
	for end := time.After(patience); ; {
		if err := w.c.RequestProgress(ctx); err != nil {
			return problem(err)
		}
		select {
		case r := <-ch:
			return w.event(r)
		case <-time.After(50 * time.Millisecond):
		case <-end:
			return "silence"
		}
	}
}

func (w *world) grant(ttl int64) (clientv3.LeaseID, string) {
	r, err := w.c.Grant(w.ctx(), ttl)
	if err != nil {
		return 0, problem(err)
	}
	return r.ID, fmt.Sprintf("%s ttl %d", w.lease(int64(r.ID)), r.TTL)
}

func (w *world) revoke(id clientv3.LeaseID) string {
	r, err := w.c.Revoke(w.ctx(), id)
	if err != nil {
		return problem(err)
	}
	return fmt.Sprintf("rev %d", r.Header.Revision)
}

func (w *world) renew(id clientv3.LeaseID) string {
	r, err := w.c.KeepAliveOnce(w.ctx(), id)
	if err != nil {
		return problem(err)
	}
	return fmt.Sprintf("ttl %d", r.TTL)
}

func (w *world) left(id clientv3.LeaseID) string {
	r, err := w.c.TimeToLive(w.ctx(), id, clientv3.WithAttachedKeys())
	if err != nil {
		return problem(err)
	}
	slices.SortFunc(r.Keys, bytes.Compare) // etcd has them in no order
	return fmt.Sprintf("granted %d expired %v keys %q", r.GrantedTTL, r.TTL < 0, r.Keys)
}

func (w *world) compact(rev int64) string {
	if _, err := w.c.Compact(w.ctx(), rev); err != nil {
		return problem(err)
	}
	return "compacted"
}

// many returns n puts of different keys.
func many(n int) []clientv3.Op {
	var out []clientv3.Op
	for i := range n {
		out = append(out, clientv3.OpPut(fmt.Sprintf("many%d", i), "x"))
	}
	return out
}

// script does everything once and returns what came of it, line by line.
func script(w *world) []string {
	var out []string
	say := func(s string) { out = append(out, s) }
	prefix, rev := clientv3.WithPrefix(), clientv3.WithRev
	mod, create, version := clientv3.ModRevision, clientv3.CreateRevision, clientv3.Version
	is := clientv3.Compare

	say(w.get("a"))
	say(w.put("a", "1"))
	say(w.put("a", "2", clientv3.WithPrevKV()))
	say(w.put("ab", "x"))
	say(w.put("b", "y"))
	say(w.get("a", prefix))
	say(w.get("a", prefix, clientv3.WithLimit(1)))
	say(w.get("a", prefix, clientv3.WithKeysOnly()))
	say(w.get("a", prefix, clientv3.WithCountOnly()))
	say(w.get("a", clientv3.WithFromKey()))
	say(w.get("", prefix))
	say(w.get("a", rev(2)))
	say(w.get("a", prefix, rev(3), clientv3.WithLimit(1)))
	say(w.get("a", rev(100)))
	say(w.get("none", prefix))
	say(w.put("", "x"))
	say(w.del("none"))
	say(w.del("ab", clientv3.WithPrevKV()))
	say(w.put("ab", "again"))
	say(w.put("none", "", clientv3.WithIgnoreValue()))
	say(w.put("a", "", clientv3.WithIgnoreValue()))
	say(w.put("a", "3", clientv3.WithIgnoreLease()))
	say(w.put("a", "3", clientv3.WithLease(12345)))

	// Transactions.
	put := func(k, v string) []clientv3.Op { return []clientv3.Op{clientv3.OpPut(k, v)} }
	got := func(k string, o ...clientv3.OpOption) []clientv3.Op { return []clientv3.Op{clientv3.OpGet(k, o...)} }
	say(w.txn(nil, nil, nil))
	say(w.txn(nil, got("a", prefix), nil))
	say(w.txn([]clientv3.Cmp{is(create("c"), "=", 0)}, put("c", "1"), got("c")))
	say(w.txn([]clientv3.Cmp{is(create("c"), "=", 0)}, put("c", "2"), got("c")))
	say(w.txn([]clientv3.Cmp{is(mod("c"), "=", 12), is(version("c"), "=", 1)}, put("c", "3"), nil))
	say(w.txn([]clientv3.Cmp{is(mod("a"), "<", 11).WithPrefix()}, put("c", "4"), got("a", prefix)))
	say(w.txn([]clientv3.Cmp{is(mod("a"), "<", 4).WithPrefix()}, put("c", "4"), got("c")))
	say(w.txn([]clientv3.Cmp{is(mod("zz/"), "<", 1).WithPrefix()}, put("c", "5"), got("c")))
	say(w.txn([]clientv3.Cmp{is(clientv3.Value("none"), "=", "")}, put("c", "6"), nil))
	say(w.txn([]clientv3.Cmp{is(clientv3.Value("b"), ">", "x")}, got("b"), nil))
	say(w.txn([]clientv3.Cmp{is(clientv3.LeaseValue("b"), "=", 0)}, got("b"), nil))
	say(
		w.txn(
			[]clientv3.Cmp{is(version("b"), "!=", 0)},
			append(put("t1", "1"), clientv3.OpGet("t", prefix), clientv3.OpPut("t2", "2"), clientv3.OpGet("t", prefix)),
			nil,
		),
	)
	say(w.txn(nil, append(put("t1", "1"), clientv3.OpPut("t1", "2")), nil))
	say(w.txn(nil, append(put("t1", "1"), clientv3.OpDelete("t", prefix)), nil))
	say(w.txn(nil, []clientv3.Op{clientv3.OpDelete("t", prefix), clientv3.OpDelete("t1")}, nil))
	say(w.txn(nil, []clientv3.Op{clientv3.OpDelete("nothing", prefix)}, nil))
	say(w.txn(nil, put("t1", "1"), append(put("t1", "1"), clientv3.OpPut("t1", "2"))))
	say(w.txn(nil, put("", "1"), nil))
	say(w.txn(nil, got("a", rev(1000)), nil))
	say(w.txn(nil, append(put("partly", "1"), clientv3.OpPut("x", "1", clientv3.WithLease(999))), nil))
	say(w.get("partly"))
	say(w.txn(nil, many(128), nil))
	say(w.txn(nil, many(129), nil))

	// Leases.
	id, s := w.grant(60)
	say(s)
	_, s = w.grant(9_000_000_001)
	say(s)
	say(w.put("l1", "x", clientv3.WithLease(id)))
	say(w.put("l2", "x", clientv3.WithLease(id)))
	say(w.left(id))
	say(w.put("l2", "y", clientv3.WithIgnoreLease()))
	say(w.put("l2", "z"))
	say(w.left(id))
	say(w.renew(id))
	say(w.renew(777))
	say(w.left(777))
	say(w.revoke(777))
	say(w.revoke(id))
	say(w.get("l", prefix))
	say(w.renew(id))
	// One that nobody renews ends with its keys.
	id, s = w.grant(2)
	say(s)
	say(w.watch(2, func() { w.put("l3", "x", clientv3.WithLease(id)) }, "l3"))

	// Watches.
	say(w.watch(6, nil, "a", prefix, rev(2)))
	say(w.watch(2, func() { w.put("w", "1"); w.del("w") }, "w"))
	now, err := w.c.Get(w.ctx(), "a")
	require.NoError(w.t, err)
	r := now.Header.Revision
	say(w.watch(1, func() { w.put("w", "2"); w.put("w", "3"); w.put("w", "4") }, "w", rev(r+3)))
	say(w.progress(r, 10*time.Second))
	say(w.progress(r+3, 10*time.Second))
	say(w.progress(r+4, time.Second))
	say(w.progress(r+10, time.Second))

	// Compaction.
	say(w.compact(r))
	say(w.compact(r))
	say(w.compact(r + 100))
	say(w.get("a", rev(r-1)))
	say(w.get("w", prefix, rev(r)))
	say(w.txn(nil, got("a", rev(2)), nil))
	say(w.watch(1, nil, "a", rev(r-1)))
	say(w.watch(2, nil, "w", rev(r)))

	// A full database.
	id, _ = w.grant(60)
	w.noSpace(true)
	say(w.put("full", "x"))
	_, s = w.grant(60)
	say(s)
	say(w.txn([]clientv3.Cmp{is(create("b"), "=", 0)}, put("full", "x"), got("b")))
	say(w.txn(nil, got("b"), nil))
	say(w.renew(id))
	say(w.del("b"))
	say(w.revoke(id))
	w.noSpace(false)
	say(w.put("full", "x"))
	say(w.put("big", strings.Repeat("x", 3<<19+1)))
	return out
}

// The fake does what etcd does: the same operations, line by line.
func TestLikeEtcd(t *testing.T) {
	t.Parallel()
	// Not fast: the shortest lease depends on the election's timing.
	m := etcdtest.Run(t, etcdserver.Config{ClientURLs: []string{"http://127.0.0.1:0"}, Heartbeat: 100 * time.Millisecond})
	etcd, err := clientv3.New(clientv3.Config{Endpoints: m.Endpoints, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = etcd.Close() })
	alarm := func(full bool) {
		action := pb.AlarmRequest_DEACTIVATE
		if full {
			action = pb.AlarmRequest_ACTIVATE
		}
		status, err := etcd.Status(t.Context(), m.Endpoints[0])
		require.NoError(t, err)
		_, err = pb.NewMaintenanceClient(etcd.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{
			Action: action, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE,
		})
		require.NoError(t, err)
	}
	want := script(&world{t: t, c: etcd, noSpace: alarm, leases: map[int64]string{}})

	cluster := etcdfake.New()
	fake := cluster.Host("test").Client()
	t.Cleanup(func() { _ = fake.Close() })
	got := script(&world{t: t, c: fake, noSpace: cluster.SetNoSpace, leases: map[int64]string{}})
	require.Equal(t, strings.Join(want, "\n"), strings.Join(got, "\n"))
}
