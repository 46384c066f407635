package etcdstore_test

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// patience is how long a condition may take on a busy machine.
const patience = time.Minute

func open(t testing.TB, cfg etcdstore.Config) *etcdstore.Store {
	t.Helper()
	s, err := etcdstore.Open(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// openAt is for tests in which etcd answers: how soon, on a busy machine, is no
// matter of theirs.
func openAt(t testing.TB, endpoints ...string) *etcdstore.Store {
	return open(t, etcdstore.Config{Endpoints: endpoints, Timeout: patience})
}

// raw is an etcd client for what a person does by hand.
func raw(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func putRaw(t testing.TB, c *clientv3.Client, rel, value string) {
	t.Helper()
	_, err := c.Put(t.Context(), topology.DefaultPrefix+"/"+rel, value)
	require.NoError(t, err)
}

func getRaw(t testing.TB, c *clientv3.Client, rel string) string {
	t.Helper()
	r, err := c.Get(t.Context(), topology.DefaultPrefix+"/"+rel)
	require.NoError(t, err)
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func blue() topology.Network {
	return topology.Network{Name: "blue", IPv4: prefix("10.1.0.0/16"), IPv6: prefix("fd00:1::/48")}
}

func mustCreate(t testing.TB, s *etcdstore.Store, n topology.Network) topology.Network {
	t.Helper()
	n, err := s.CreateNetwork(t.Context(), n)
	require.NoError(t, err)
	return n
}

func node(name string) topology.Node {
	return topology.Node{
		Name:           name,
		ID:             "id-" + name,
		Hostname:       name + ".example",
		VTEPs:          []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Encapsulations: []topology.Transport{topology.VXLAN},
	}
}

// alive runs KeepAlive until the returned function is called or the test ends.
func alive(
	t testing.TB,
	s *etcdstore.Store,
	l topology.Liveness,
	ttl time.Duration,
) (stop func(), states <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan error, 100)
	done := make(chan error, 1)
	go func() { done <- s.KeepAlive(ctx, l, ttl, func(err error) { ch <- err }) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	require.NoError(t, receive(t, ch))
	return stop, ch
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came in time")
		panic("unreachable")
	}
}

// watch runs Watch until the test ends.
func watch(t testing.TB, s *etcdstore.Store) <-chan etcdstore.Update {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	updates := make(chan etcdstore.Update, 100000)
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, func(u etcdstore.Update) { updates <- u }) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return updates
}

// until takes updates until one satisfies f.
func until(t testing.TB, updates <-chan etcdstore.Update, f func(etcdstore.Update) bool) etcdstore.Update {
	t.Helper()
	for {
		if u := receive(t, updates); f(u) {
			return u
		}
	}
}

func refused(t testing.TB, err, kind error, words ...string) {
	t.Helper()
	require.ErrorIs(t, err, kind)
	var te *topology.Error
	require.ErrorAs(t, err, &te)
	require.NotEmpty(t, te.Item)
	for _, w := range words {
		require.Contains(t, err.Error(), w)
	}
}

// proxy is a TCP proxy that can be paused: connections stay open and say
// nothing, or cut: they are closed and new ones refused.
type proxy struct {
	endpoint string
	target   string
	l        net.Listener

	mu     sync.Mutex
	cond   *sync.Cond
	paused bool
	cut    bool
	conns  map[net.Conn]bool
	wg     sync.WaitGroup
}

func newProxy(t testing.TB, endpoint string) *proxy {
	t.Helper()
	u, err := url.Parse(endpoint)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{endpoint: "http://" + l.Addr().String(), target: u.Host, l: l, conns: map[net.Conn]bool{}}
	p.cond = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.set(false, true)
		p.wg.Wait()
	})
	return p
}

// set pauses, or cuts, or with neither lets traffic flow.
func (p *proxy) set(paused, cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused, p.cut = paused, cut
	if cut {
		for c := range p.conns {
			_ = c.Close()
		}
	}
	p.cond.Broadcast()
}

// retarget closes what is open and leads new connections elsewhere.
func (p *proxy) retarget(t testing.TB, endpoint string) {
	t.Helper()
	u, err := url.Parse(endpoint)
	require.NoError(t, err)
	p.set(false, true)
	p.mu.Lock()
	p.target = u.Host
	p.mu.Unlock()
	p.set(false, false)
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		cut, target := p.cut, p.target
		p.mu.Unlock()
		up, err := net.Dial("tcp", target)
		if err != nil || cut {
			_ = c.Close()
			if err == nil {
				_ = up.Close()
			}
			continue
		}
		p.mu.Lock()
		p.conns[c], p.conns[up] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(up, c) })
		p.wg.Go(func() { p.copy(c, up) })
	}
}

func (p *proxy) copy(to, from net.Conn) {
	defer func() {
		_, _ = to.Close(), from.Close()
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for p.paused && !p.cut {
			p.cond.Wait()
		}
		p.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
