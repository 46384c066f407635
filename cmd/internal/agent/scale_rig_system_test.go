//go:build system

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	osignal "os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/etcdstore"
)

const (
	// agentVar says that the process is to be an agent, and with which configuration.
	agentVar = "BAIZE_TEST_AGENT_CONFIG"
	// boundsVar has the files that put a process into a control group.
	boundsVar = "BAIZE_TEST_AGENT_BOUNDS"

	// awaitLimit is ample: what is waited for takes seconds on a busy machine
	// with the race detector.
	awaitLimit = 6 * time.Minute
)

// TestMain: the agents of the tests at scale are processes, so that their memory
// and CPU are theirs alone: this executable again.
func TestMain(m *testing.M) {
	if config := os.Getenv(agentVar); config != "" {
		if err := beAgent(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(testkit.InNamespaces(m, prepareHost))
}

func beAgent(config string) error {
	for _, file := range strings.Fields(os.Getenv(boundsVar)) {
		if err := os.WriteFile(file, []byte("0"), 0o644); err != nil {
			return err
		}
	}
	var cfg Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	ctx, stop := osignal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return Run(ctx, cfg, logrus.New())
}

// vteps are the addresses of this host that agents may have.
var vteps = []string{"192.0.2.1", "192.0.2.2"}

func prepareHost() error {
	commands := []string{"link add underlay type veth peer name wire", "link set underlay up", "link set wire up"}
	for _, a := range vteps {
		commands = append(commands, "address add "+a+"/24 dev underlay")
	}
	for _, c := range commands {
		if err := ip(c); err != nil {
			return err
		}
	}
	return nil
}

func ip(args string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

// await waits until done, from the test's own goroutine.
func await(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	deadline := time.Now().Add(awaitLimit)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not after %s", what, awaitLimit)
		}
		<-tick.C
	}
}

// cluster is an etcd with a network and many nodes in it.
type cluster struct {
	tb       testing.TB
	endpoint string
	store    *etcdstore.Store
	nodes    int // host101 … are registered and have their subnets
	// bounds, unless nil, are those of the agents that are started.
	bounds *testkit.Bounds
}

const (
	blue      = "blue"
	firstNode = 101 // the numbers below are of real agents
)

func newCluster(tb testing.TB) *cluster {
	tb.Helper()
	endpoint := etcdtest.Start(tb)
	store, err := etcdstore.Open(tb.Context(), etcdstore.Config{
		Endpoints: []string{endpoint},
		Timeout:   awaitLimit, // etcd, the agents and this share the processors: what is asserted are counts
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = store.Close() })
	c := &cluster{tb: tb, endpoint: endpoint, store: store}
	_, err = store.CreateNetwork(tb.Context(), topology.Network{
		Name: blue, IPv4: netip.MustParsePrefix("10.0.0.0/8"), IPv6: netip.MustParsePrefix("fd00:10::/32"),
	})
	require.NoError(tb, err)
	return c
}

// node is the record of a node that is not there.
func node(i int) topology.Node {
	return topology.Node{
		Name: fmt.Sprintf("host%d", i), ID: fmt.Sprintf("id-%d", i), Encapsulations: topology.Encapsulations(),
		UnderlayMTU: 1500,
		VTEPs:       []netip.Addr{netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})},
	}
}

// join writes what a node that joins writes, as its agent does, and returns
// its last subnet.
func (c *cluster) join(ctx context.Context, i int) (topology.Subnet, error) {
	n, err := c.store.RegisterNode(ctx, node(i))
	if err != nil {
		return topology.Subnet{}, err
	}
	if _, err := c.store.LeaseSubnet(ctx, blue, n.Name, topology.IPv4, false); err != nil {
		return topology.Subnet{}, err
	}
	return c.store.LeaseSubnet(ctx, blue, n.Name, topology.IPv6, false)
}

// grow makes it n nodes, all at once: that they find their subnets is not what is
// measured.
func (c *cluster) grow(tb testing.TB, n int) {
	tb.Helper()
	s := c.snapshot(tb)
	taken := map[netip.Prefix]bool{}
	for id := range s.Subnets {
		taken[id.Prefix] = true
	}
	kvs := map[string]string{}
	put := func(r topology.Record) { kvs[topology.DefaultPrefix+"/"+r.Key()] = string(topology.Encode(r)) }
	for ; c.nodes < n; c.nodes++ {
		node := node(firstNode + c.nodes)
		put(node)
		for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
			for prefix := range topology.Candidates(s.Networks[blue], f, node.Name) {
				if !taken[prefix] {
					taken[prefix] = true
					put(topology.Subnet{Network: blue, Prefix: prefix, Node: node.Name})
					break
				}
			}
		}
	}
	etcdtest.Put(tb, c.endpoint, kvs)
}

func (c *cluster) snapshot(tb testing.TB) *topology.Snapshot {
	tb.Helper()
	s, err := c.store.Snapshot(tb.Context())
	require.NoError(tb, err)
	return s
}

// want is what the Open vSwitch of a node is to be.
func (c *cluster) want(tb testing.TB, name string, endpoints ...ovs.Endpoint) ovs.State {
	tb.Helper()
	return pipeline.Build(c.snapshot(tb).View(name), endpoints, pipeline.Options{Datapath: "system"})
}

// host is a real agent, as a process, with an Open vSwitch of its own.
type rigHost struct {
	*ovstest.OVS
	name  string
	api   *api.Client
	log   string
	pid   int
	ended chan error
}

// start runs host1 or host2 on an Open vSwitch.
func (c *cluster) start(tb testing.TB, i int, sw *ovstest.OVS, audit time.Duration) *rigHost {
	tb.Helper()
	h := &rigHost{OVS: sw, name: fmt.Sprintf("host%d", i), ended: make(chan error, 1)}
	// Not TempDir: its path may be longer than a unix socket's name.
	dir, err := os.MkdirTemp("", "bzt-agent-")
	require.NoError(tb, err)
	h.log = filepath.Join(dir, "agent.log")
	cfg := Config{
		Node: h.name, VTEP: vteps[i-1], Datapath: "system", OVSDB: sw.Endpoint(), OVSRunDir: sw.RunDir(),
		StateDir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "agent.sock"), AuditInterval: audit,
		Etcd: etcdstore.Config{Endpoints: []string{c.endpoint}}, Version: "test", Networks: []string{blue},
	}
	h.api = api.NewClient(cfg.Socket)
	config, err := json.Marshal(cfg)
	require.NoError(tb, err)
	log, err := os.Create(h.log)
	require.NoError(tb, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentVar+"="+string(config))
	if c.bounds != nil {
		cmd.Env = append(cmd.Env, boundsVar+"="+strings.Join(c.bounds.Files(), " "))
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() { // the thread that forks has to stay, see Pdeathsig
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			h.ended <- cmd.Wait()
		}
	}()
	require.NoError(tb, <-started)
	h.pid = cmd.Process.Pid
	tb.Cleanup(func() {
		h.stop(tb)
		if b, err := os.ReadFile(h.log); tb.Failed() || bytes.Contains(b, []byte("DATA RACE")) ||
			bytes.Contains(b, []byte("panic:")) {
			tb.Errorf("log of %s: %v\n%s", h.name, err, b)
		}
		require.NoError(tb, os.RemoveAll(dir))
	})
	return h
}

// stop ends the agent as systemd does. Stopping twice is fine.
func (h *rigHost) stop(tb testing.TB) {
	tb.Helper()
	if h.pid == 0 {
		return
	}
	_ = syscall.Kill(h.pid, syscall.SIGTERM)
	h.pid = 0
	select {
	case err := <-h.ended:
		if err != nil {
			tb.Errorf("agent of %s: %v", h.name, err)
		}
	case <-time.After(awaitLimit):
		tb.Errorf("agent of %s did not stop", h.name)
	}
}

// converged waits until the switch has as many flows and ports as it should.
func (c *cluster) converged(tb testing.TB, h *rigHost, endpoints ...ovs.Endpoint) ovs.State {
	tb.Helper()
	await(tb, h.name+" has joined", func() bool {
		return len(c.snapshot(tb).NodeSubnets(blue, h.name)) == 2 &&
			h.Vsctl("--columns=name", "find", "Interface", "name="+ovs.DefaultBridge, "ofport=65534") != ""
	})
	want := c.want(tb, h.name, endpoints...)
	await(
		tb,
		fmt.Sprintf("%s has %d flows", h.name, len(want.Flows)),
		func() bool { return h.flowCount() == len(want.Flows) },
	)
	return want
}

// flowCount asks the switch, not the agent.
func (h *rigHost) flowCount() int {
	_, rest, _ := strings.Cut(h.Ofctl("dump-aggregate", ovs.DefaultBridge), "flow_count=")
	n, _ := strconv.Atoi(strings.TrimSpace(rest))
	return n
}

// hasFlow looks for a flow with these matches.
func (h *rigHost) hasFlow(match string) bool {
	return strings.Contains(h.Ofctl("dump-flows", ovs.DefaultBridge, match), "cookie=")
}

// ndFlow matches the flow that is written last for a node.
func ndFlow(p netip.Prefix) string {
	return fmt.Sprintf("table=%d,icmp6,icmp_type=135,icmp_code=0,nd_target=%s", pipeline.TableSteer, p)
}

// dbWrites counts the transactions that vswitchd was told of.
func (h *rigHost) dbWrites() string { return h.Vsctl("get", "Open_vSwitch", ".", "next_cfg") }

// flowAges returns how long each flow stands, by its text.
func (h *rigHost) flowAges(tb testing.TB) map[string]float64 {
	tb.Helper()
	out := map[string]float64{}
	for line := range strings.Lines(h.Ofctl("--no-names", "dump-flows", ovs.DefaultBridge)) {
		before, rest, ok := strings.Cut(line, "duration=")
		if !ok {
			continue
		}
		age, rest, _ := strings.Cut(rest, "s,")
		seconds, err := strconv.ParseFloat(age, 64)
		require.NoError(tb, err, line)
		out[before+rest] = seconds
	}
	return out
}

// interfaces returns what was configured, by interface.
func (h *rigHost) interfaces(tb testing.TB) map[string]string {
	tb.Helper()
	var table struct{ Data [][]any }
	out := h.Vsctl("--format=json", "--columns=name,_uuid,type,options,ofport,error", "list", "Interface")
	require.NoError(tb, json.Unmarshal([]byte(out), &table))
	rows := map[string]string{}
	for _, r := range table.Data {
		rows[fmt.Sprint(r[0])] = fmt.Sprint(r...)
	}
	return rows
}
