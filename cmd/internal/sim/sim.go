// Package sim lets whole agents live through random histories in virtual time:
// the agents of cmd/internal/agent as they are, on an etcd, Open vSwitches and
// kernels in memory that are as strict as the real ones. Etcd is lost, full,
// emptied and restored; agents are killed, stopped, frozen and copied; switches
// are restarted and wiped; networks are partitioned. After each history all is
// healed, and has to become right again by itself (World.Check), and to rest
// then (World.CheckSilence).
//
// It runs in a bubble of testing/synctest. A seed that failed is printed, and
// lived through again by
//
//	go test ./cmd/internal/sim -run Random -seed N
//
// and -agents, -worlds and -histories make a longer run. What happens, and when,
// is the same for the same seed; in which order goroutines of one moment run is
// not.
package sim

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/etcdstore"
)

// settleFor bounds the virtual time in which everything must be right again
// after a history.
const settleFor = 5 * time.Minute

// livenessTTL is that of the agents.
const livenessTTL = 10 * time.Second

// World is a domain of simulated hosts.
type World struct {
	t    testing.TB
	seed uint64
	rng  *rand.Rand
	dir  string

	Etcd     *etcdfake.Cluster
	listings listings
	Operator *etcdstore.Store
	Nodes    []*Node
	// LeaseGrace is that of the agents that are started from now on.
	LeaseGrace time.Duration

	mu sync.Mutex
	// down are the pairs of underlay addresses between which no packet passes.
	down    map[[2]netip.Addr]bool
	history []string
	created int
	// networks are the names of those that were created.
	networks []string
	// transports are those of networks, also where nobody knows whether etcd has them.
	transports map[string]topology.Transport
	// records are the networks' own, by key, as they were created; backup is an
	// old one of etcd.
	records map[string]string
	backup  etcdfake.Backup
	// copies are the machines that run beside those they are copies of.
	copies []*Node
	// over is closed at the world's end.
	over    chan struct{}
	counter int
}

// New returns a world of n hosts, none of which runs.
func New(t testing.TB, seed uint64, n int) *World {
	t.Helper()
	// Agents sync their files: on a disk that is most of the time.
	root := "/dev/shm"
	if _, err := os.Stat(root); err != nil {
		root = ""
	}
	dir, err := os.MkdirTemp(root, "baize-sim-")
	require.NoError(t, err)
	w := &World{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), dir: dir, Etcd: etcdfake.New(),
		down: map[[2]netip.Addr]bool{}, transports: map[string]topology.Transport{}, records: map[string]string{},
		over: make(chan struct{}), LeaseGrace: 10 * time.Minute,
	}
	w.Operator = w.store(w.Etcd.Host("operator"), "operator")
	for i := range n {
		w.Nodes = append(w.Nodes, w.newNode(fmt.Sprintf("host%d", i+1), i+1))
	}
	t.Cleanup(w.end)
	return w
}

// end stops all agents.
func (w *World) end() {
	var all sync.WaitGroup
	for _, n := range w.Nodes {
		all.Go(n.Stop)
	}
	all.Wait()
	close(w.over)
	_ = w.Operator.Close()
	_ = os.RemoveAll(w.dir)
	if w.t.Failed() {
		w.t.Logf("seed %d; what happened:\n  %s", w.seed, strings.Join(w.history, "\n  "))
	}
}

func (w *World) store(h *etcdfake.Host, name string) *etcdstore.Store {
	s, err := etcdstore.Open(context.Background(), etcdstore.Config{
		Endpoints: []string{"fake"}, Backend: h, Jitter: jitter(w.seed, name), Decode: w.listings.decode,
	})
	require.NoError(w.t, err)
	return s
}

// jitter is etcdstore's, but the same for the same seed and name.
func jitter(seed uint64, name string) func(time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	rng := rand.New(rand.NewPCG(seed, h.Sum64()))
	var mu sync.Mutex
	return func(d time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return d/2 + time.Duration(rng.Int64N(int64(d)))
	}
}

// note writes down what happens.
func (w *World) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.history = append(w.history, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// Pass lets virtual time go by.
func (w *World) Pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// transports are those of the networks of a world, one after the other. A seed
// says which is the first.
var transports = []topology.Transport{topology.GRE, topology.Geneve, topology.Auto, topology.Route, topology.VXLAN}

// CreateNetwork makes a network as an operator does.
func (w *World) CreateNetwork(name string) error {
	return w.CreateNetworkOf(name, transports[(uint64(w.created)+w.seed-1)%uint64(len(transports))])
}

// CreateNetworkOf is CreateNetwork for one transport.
func (w *World) CreateNetworkOf(name string, t topology.Transport) error {
	w.created++
	n := topology.Network{
		Name: name, Transport: t, IPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(w.created), 0, 0}), 16),
	}
	// The hosts have IPv4 addresses only, to which no IPv6 route leads.
	if w.created%2 == 1 && t != topology.Route {
		n.IPv6 = netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/48", w.created))
	}
	w.transports[name] = t
	_, err := w.Operator.CreateNetwork(w.t.Context(), n)
	w.note("network create %s, %s: %v", name, t, err)
	if err == nil {
		w.networks = append(w.networks, name)
		key := topology.DefaultPrefix + "/" + n.Key()
		w.records[key] = w.Etcd.Keys(key)[key]
	}
	return err
}

// StartAll starts every host that does not run, and waits until all is right.
func (w *World) StartAll() {
	w.t.Helper()
	for _, n := range w.Nodes {
		n.Start()
	}
	w.Settle()
}

// Heal mends everything that was harmed.
func (w *World) Heal() {
	w.note("all is healed")
	w.removeCopies()
	w.Etcd.SetNoSpace(false)
	w.Etcd.SetLeader(true)
	w.Etcd.Start()
	w.putBack()
	w.mu.Lock()
	clear(w.down)
	w.mu.Unlock()
	for _, n := range w.Nodes {
		n.heal()
	}
}

// Settle waits until Check finds nothing, and fails the test if it does not.
func (w *World) Settle() {
	w.t.Helper()
	var found []string
	for began := time.Now(); time.Since(began) < settleFor; {
		w.Pass(5 * time.Second)
		for _, n := range w.Nodes {
			// systemd starts an agent again that was refused its name.
			if errors.Is(n.Ended(), topology.ErrConflict) {
				n.Start()
			}
		}
		if found = w.Check(); len(found) == 0 {
			return
		}
		w.obey()
	}
	require.Empty(w.t, found, "seed %d: not right again after %s", w.seed, settleFor)
}

// fabric is the underlay.
func (w *World) fabric() *ovsfake.Fabric {
	f := &ovsfake.Fabric{Switches: map[netip.Addr][]*ovsfake.Switch{}}
	for _, n := range w.Nodes {
		f.Switches[n.VTEP] = append(f.Switches[n.VTEP], n.Switch)
	}
	f.Down = func(from, to netip.Addr) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.down[[2]netip.Addr{from, to}]
	}
	return f
}

// Partition cuts two hosts' underlay.
func (w *World) Partition(a, b *Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[[2]netip.Addr{a.VTEP, b.VTEP}] = true
	w.down[[2]netip.Addr{b.VTEP, a.VTEP}] = true
}

func copyDir(from, to string) error {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err != nil || strings.HasPrefix(f.Name(), ".") {
			continue // a temporary file that is gone by now
		}
		if err := os.WriteFile(filepath.Join(to, f.Name()), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
