// Package etcdtest gives tests real etcd servers: one, a cluster whose members
// can be stopped and restarted, or one behind TLS and a password. Everything
// is stopped and removed with the test.
package etcdtest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/baize-net/baize/topology/etcdserver"
)

// startTimeout is ample: a member is ready within a second under -race, and
// takes half a minute where four others want each processor.
const startTimeout = 90 * time.Second

// Start runs a single member until the test ends and returns its endpoint,
// http://127.0.0.1:PORT.
func Start(t testing.TB) string {
	t.Helper()
	return Run(t, etcdserver.Config{ClientURLs: []string{"http://127.0.0.1:0"}}).Endpoints[0]
}

// Member is a running server.
type Member struct {
	Name      string
	Endpoints []string

	t      testing.TB
	cfg    etcdserver.Config
	cancel context.CancelFunc
	done   chan error
	ready  chan []string
}

// Run runs one member with a configuration of the test's own, made fast and
// free of fsync. Dir is a temporary one unless set.
func Run(t testing.TB, cfg etcdserver.Config) *Member {
	t.Helper()
	cfg.Fast = true
	m := newMember(t, cfg)
	m.start()
	m.wait()
	return m
}

func newMember(t testing.TB, cfg etcdserver.Config) *Member {
	cfg.UnsafeNoFsync, cfg.CheapPasswords = true, true
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "etcd")
	}
	m := &Member{Name: cfg.Name, Endpoints: cfg.ClientURLs, t: t, cfg: cfg}
	t.Cleanup(m.Stop)
	return m
}

// start begins to serve without waiting: a member of a cluster is ready only
// when a majority is.
func (m *Member) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan error, 1), make(chan []string, 1)
	m.cancel, m.done = cancel, done
	m.ready = ready
	go func() { done <- etcdserver.Run(ctx, m.cfg, func(e []string) { ready <- e }) }()
}

func (m *Member) wait() {
	m.t.Helper()
	select {
	case m.Endpoints = <-m.ready:
		// A restart must come back at the same place.
		m.cfg.ClientURLs = m.Endpoints
	case err := <-m.done:
		m.done <- err
		m.t.Fatalf("etcd did not start: %v", err)
	case <-time.After(startTimeout):
		m.t.Fatal("etcd was not ready in time")
	}
}

// Stop closes the member; its data stays. Stopping twice is fine.
func (m *Member) Stop() {
	if m.cancel == nil {
		return
	}
	m.cancel()
	m.cancel = nil
	select {
	case err := <-m.done:
		if err != nil {
			m.t.Errorf("etcd: %v", err)
		}
	case <-time.After(startTimeout):
		m.t.Error("etcd did not stop in time")
	}
}

// Restart starts a stopped member with its old data at its old endpoints and
// waits until it answers.
func (m *Member) Restart() {
	m.t.Helper()
	m.Stop()
	m.start()
	m.wait()
}

// putMost is how many keys etcd takes in one transaction.
const putMost = 128

// Put stores keys as they are, as a person does, in as few transactions as
// possible.
func Put(t testing.TB, endpoint string, kvs map[string]string) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for keys := range slices.Chunk(slices.Sorted(maps.Keys(kvs)), putMost) {
		var ops []clientv3.Op
		for _, k := range keys {
			ops = append(ops, clientv3.OpPut(k, kvs[k]))
		}
		if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// Delete removes keys, as a person does.
func Delete(t testing.TB, endpoint string, keys ...string) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, k := range keys {
		if _, err := c.Delete(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
}

// Cluster is several members of one etcd.
type Cluster struct {
	Members []*Member
	// Endpoints are those of all members.
	Endpoints []string
}

// StartCluster runs n members.
func StartCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	addrs := freeAddrs(t, 2*n)
	var initial []string
	for i := range n {
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i+1, addrs[2*i]))
	}
	c := &Cluster{}
	for i := range n {
		m := newMember(t, etcdserver.Config{
			Name:           fmt.Sprintf("m%d", i+1),
			ClientURLs:     []string{"http://" + addrs[2*i+1]},
			PeerURLs:       []string{"http://" + addrs[2*i]},
			InitialCluster: strings.Join(initial, ","),
			// Slow enough that a busy machine does not lose its leader.
			Heartbeat: 50 * time.Millisecond,
		})
		m.start()
		c.Members = append(c.Members, m)
		c.Endpoints = append(c.Endpoints, m.Endpoints...)
	}
	for _, m := range c.Members {
		m.wait()
	}
	return c
}

// freeAddrs returns loopback addresses nobody listens on just now.
func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	var open []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, l)
		out = append(out, l.Addr().String())
	}
	// All at once at the end: none of them may be given out twice.
	for _, l := range open {
		_ = l.Close()
	}
	return out
}
