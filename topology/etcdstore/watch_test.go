package etcdstore_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// quick notices a silent etcd soon.
func quick(endpoints ...string) etcdstore.Config {
	return etcdstore.Config{Endpoints: endpoints, Timeout: time.Second, ProbeInterval: 200 * time.Millisecond}
}

func hasNode(name string) func(etcdstore.Update) bool {
	return func(u etcdstore.Update) bool {
		return u.Err == nil && u.Snapshot.Nodes[name].ID != ""
	}
}

func TestSnapshotPages(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := openAt(t, ep), raw(t, ep)
	putRaw(t, c, "nodes/bad", "[]")
	putRaw(t, c, "unknown/key", "x")
	for i := range 2100 {
		putRaw(t, c, fmt.Sprintf("nodes/n%d", i), `{"id":"x"}`)
	}
	_, err := c.Put(t.Context(), topology.DefaultPrefix+"x/nodes/foreign", "{}")
	require.NoError(t, err)
	snap, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	require.Len(t, snap.Nodes, 2100)
	require.Equal(t, []string{"nodes/bad"}, keys(snap.Malformed))
}

func keys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	return out
}

func TestWatchOrder(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := openAt(t, ep), raw(t, ep)
	putRaw(t, c, "nodes/early", `{"id":"0"}`)
	updates := watch(t, s)
	first := receive(t, updates)
	require.NoError(t, first.Err)
	require.Contains(t, first.Snapshot.Nodes, "early")

	for i := range 300 {
		putRaw(t, c, "nodes/n", fmt.Sprintf(`{"id":"%d"}`, i))
		if i%10 == 9 {
			_, err := c.Delete(t.Context(), topology.DefaultPrefix+"/nodes/n")
			require.NoError(t, err)
		}
	}
	putRaw(t, c, "nodes/n", `{"id":"last"}`)
	revision := first.Snapshot.Revision
	last := until(t, updates, func(u etcdstore.Update) bool {
		require.NoError(t, u.Err)
		require.Greater(t, u.Snapshot.Revision, revision)
		revision = u.Snapshot.Revision
		return u.Snapshot.Nodes["n"].ID == "last"
	})
	require.Equal(t, last.Snapshot.Revision, last.Snapshot.Nodes["n"].ModRevision)
	fresh, err := s.Snapshot(t.Context())
	require.NoError(t, err)
	require.Equal(t, fresh, last.Snapshot, "following gives what listing gives")
	require.NotContains(t, first.Snapshot.Nodes, "n", "a snapshot does not change")
}

func TestWatchMalformed(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	s, c := openAt(t, ep), raw(t, ep)
	mustCreate(t, s, blue())
	updates := watch(t, s)
	putRaw(t, c, "networks/blue", `{"ipv4":"10.1.0.0/16"`)
	u := until(t, updates, func(u etcdstore.Update) bool { return len(u.Snapshot.Malformed) > 0 })
	require.Equal(t, "networks/blue", u.Snapshot.Malformed["networks/blue"].Item)
	require.Empty(t, u.Snapshot.Networks)
	putRaw(t, c, "nodes/a", `{"id":"1"}`)
	until(t, updates, hasNode("a"))

	_, err := s.LeaseSubnet(t.Context(), "blue", "a", topology.IPv4, false)
	refused(t, err, topology.ErrInvalid, "networks/blue", "docs/keyspace.md")
	_, err = s.CreateNetwork(t.Context(), blue())
	refused(t, err, topology.ErrInvalid, "networks/blue")
	require.NoError(t, s.DeleteNetwork(t.Context(), "blue"))
	until(t, updates, func(u etcdstore.Update) bool { return len(u.Snapshot.Malformed) == 0 })
	mustCreate(t, s, blue())
}

// Cut off, then everything it would have resumed from is compacted away.
func TestWatchCompacted(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	p := newProxy(t, ep)
	direct, c := openAt(t, ep), raw(t, ep)
	putRaw(t, c, "nodes/goes", `{"id":"1"}`)
	putRaw(t, c, "nodes/changes", `{"id":"1"}`)
	updates := watch(t, open(t, quick(p.endpoint)))
	until(t, updates, hasNode("changes"))

	p.set(false, true)
	_, err := direct.RemoveNode(t.Context(), "goes", false)
	require.NoError(t, err)
	putRaw(t, c, "nodes/changes", `{"id":"2"}`)
	for i := range 50 {
		putRaw(t, c, "nodes/n", fmt.Sprintf(`{"id":"%d"}`, i))
	}
	got, err := c.Get(t.Context(), "x")
	require.NoError(t, err)
	_, err = c.Compact(t.Context(), got.Header.Revision)
	require.NoError(t, err)
	p.set(false, false)

	u := until(t, updates, func(u etcdstore.Update) bool { return u.Err == nil && u.Snapshot.Nodes["n"].ID == "49" })
	require.Equal(t, "2", u.Snapshot.Nodes["changes"].ID)
	require.NotContains(t, u.Snapshot.Nodes, "goes")
	putRaw(t, c, "nodes/after", `{"id":"1"}`)
	until(t, updates, hasNode("after"))
}

func TestWatchOutageAndReturn(t *testing.T) {
	t.Parallel()
	m := etcdtest.StartCluster(t, 1).Members[0]
	s := open(t, quick(m.Endpoints...))
	c := raw(t, m.Endpoints...)
	putRaw(t, c, "nodes/a", `{"id":"1"}`)
	updates := watch(t, s)
	until(t, updates, hasNode("a"))

	m.Stop()
	u := receive(t, updates)
	refused(t, u.Err, topology.ErrUnavailable, m.Endpoints[0])
	require.Contains(t, u.Snapshot.Nodes, "a", "the last snapshot stays")
	_, err := s.Snapshot(t.Context())
	refused(t, err, topology.ErrUnavailable, "connection refused")

	m.Restart()
	u = receive(t, updates)
	require.NoError(t, u.Err, "the outage was told once")
	putRaw(t, c, "nodes/b", `{"id":"1"}`)
	until(t, updates, hasNode("b"))
}

// A connection that stays open and says nothing.
func TestWatchHung(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	p := newProxy(t, ep)
	c := raw(t, ep)
	putRaw(t, c, "nodes/a", `{"id":"1"}`)
	updates := watch(t, open(t, quick(p.endpoint)))
	until(t, updates, hasNode("a"))
	p.set(true, false)
	u := receive(t, updates)
	refused(t, u.Err, topology.ErrUnavailable, p.endpoint)
	putRaw(t, c, "nodes/b", `{"id":"1"}`)
	p.set(false, false)
	until(t, updates, hasNode("b"))
}

// Nothing was there at the start.
func TestWatchBeforeEtcd(t *testing.T) {
	t.Parallel()
	m := etcdtest.StartCluster(t, 1).Members[0]
	m.Stop()
	updates := watch(t, open(t, quick(m.Endpoints...)))
	u := receive(t, updates)
	require.ErrorIs(t, u.Err, topology.ErrUnavailable)
	require.Nil(t, u.Snapshot)
	m.Restart()
	require.NoError(t, receive(t, updates).Err)
}

func TestWatchLeaderDies(t *testing.T) {
	t.Parallel()
	cl := etcdtest.StartCluster(t, 3)
	s := open(
		t,
		etcdstore.Config{Endpoints: cl.Endpoints, Timeout: 2 * time.Second, ProbeInterval: 500 * time.Millisecond},
	)
	updates := watch(t, s)
	_, err := s.RegisterNode(t.Context(), node("a"))
	require.NoError(t, err)
	until(t, updates, hasNode("a"))
	leader := leaderOf(t, cl)
	leader.Stop()
	_, err = s.RegisterNode(t.Context(), node("b"))
	require.NoError(t, err)
	until(t, updates, hasNode("b"))
}

// An etcd that lost its data, under the same address.
func TestWatchWiped(t *testing.T) {
	t.Parallel()
	ep := etcdtest.Start(t)
	p := newProxy(t, ep)
	c := raw(t, ep)
	for i := range 20 {
		putRaw(t, c, "nodes/old", fmt.Sprintf(`{"id":"%d"}`, i))
	}
	updates := watch(t, open(t, quick(p.endpoint)))
	until(t, updates, hasNode("old"))
	wiped := etcdtest.Start(t)
	putRaw(t, raw(t, wiped), "nodes/new", `{"id":"1"}`)
	p.retarget(t, wiped)
	u := until(t, updates, hasNode("new"))
	require.NotContains(t, u.Snapshot.Nodes, "old")
}

func TestNoGoroutineStays(t *testing.T) { // alone: others have goroutines too
	ep := etcdtest.Start(t)
	// The server shares the process, and is still starting parts of itself.
	warm := openAt(t, ep)
	require.NoError(t, warm.Check(t.Context()))
	require.NoError(t, warm.Close())
	stays := []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/soheilhy/cmux.muxListener.Accept"),
		goleak.IgnoreAnyFunction("go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc.monitorLeader.func1"),
		goleak.IgnoreAnyFunction("google.golang.org/grpc/internal/transport.(*http2Server).keepalive"),
		goleak.IgnoreCurrent(),
	}
	s, err := etcdstore.Open(t.Context(), etcdstore.Config{Endpoints: []string{ep}, Timeout: patience})
	require.NoError(t, err)
	goleak.VerifyNone(t, stays...) // Open starts none
	ctx, cancel := context.WithCancel(t.Context())
	updates := make(chan etcdstore.Update, 10)
	held := make(chan error, 10)
	watched, kept := make(chan error, 1), make(chan error, 1)
	go func() { watched <- s.Watch(ctx, func(u etcdstore.Update) { updates <- u }) }()
	go func() {
		kept <- s.KeepAlive(ctx, topology.Liveness{Node: "a", ID: "1"}, 2*time.Second, func(err error) { held <- err })
	}()
	require.NoError(t, receive(t, updates).Err)
	require.NoError(t, receive(t, held))
	cancel()
	require.NoError(t, receive(t, watched))
	require.NoError(t, receive(t, kept))
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Check(t.Context()), topology.ErrUnavailable)
	goleak.VerifyNone(t, stays...)
}
