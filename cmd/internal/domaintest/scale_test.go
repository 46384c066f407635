//go:build system

package domaintest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// crowd is one real host among nodes that are only keys, written through the
// real store.
type crowd struct {
	tb    testing.TB
	l     *lab.Lab
	host  *lab.Host
	store *etcdstore.Store
	net   topology.Network
	flows *openflow.Client
}

func newCrowd(tb testing.TB) *crowd {
	config := lab.Config{
		Name: fmt.Sprintf("crowd%d", os.Getpid()), BaseDir: fmt.Sprintf("/run/baize-domaintest-%d", os.Getpid()), Hosts: 1, NoProof: true,
		Networks: []lab.NetworkSpec{{Name: "big", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00:10::/32")}}},
	}
	tb.Cleanup(func() {
		_, err := lab.Down(context.Background(), config)
		require.NoError(tb, err)
	})
	l, err := lab.Up(tb.Context(), config)
	require.NoError(tb, err)
	store, err := etcdstore.Open(tb.Context(), etcdstore.Config{Endpoints: []string{l.EtcdEndpoint()}})
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = store.Close() })
	s, err := store.Snapshot(tb.Context())
	require.NoError(tb, err)
	c := &crowd{tb: tb, l: l, host: l.Host("host1"), store: store, net: s.Networks["big"]}
	pid, err := c.host.PID()
	require.NoError(tb, err)
	c.flows = openflow.New(openflow.Config{Bridge: ovs.DefaultBridge, RunDir: fmt.Sprintf("/proc/%d/root/run/openvswitch", pid)})
	return c
}

// subnet is the i-th node's: clear of where the real host's hash may lie.
func (c *crowd) subnet(f topology.Family, i int) netip.Prefix {
	return topology.SubnetAt(c.net, f, uint64(1000+i))
}

func (c *crowd) node(i int, third byte) topology.Node {
	return topology.Node{
		Name: fmt.Sprintf("node%d", i), ID: fmt.Sprint(i), Encapsulations: topology.Transports(),
		VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, third, byte(i >> 8), byte(i)})},
	}
}

// join writes the keys that a joining node writes.
func (c *crowd) join(ctx context.Context, i int) error {
	n, err := c.store.RegisterNode(ctx, c.node(i, 169))
	if err != nil {
		return err
	}
	for _, f := range c.net.Families() {
		if _, err := c.store.ClaimSubnet(ctx, topology.Subnet{Network: c.net.Name, Prefix: c.subnet(f, i), Node: n.Name}); err != nil {
			return err
		}
	}
	return nil
}

// joinAll has nodes from to to-1 join, many at a time.
func (c *crowd) joinAll(from, to int) {
	g, ctx := errgroup.WithContext(c.tb.Context())
	g.SetLimit(16)
	for i := from; i < to; i++ {
		g.Go(func() error { return c.join(ctx, i) })
	}
	require.NoError(c.tb, g.Wait())
}

// await waits for a condition and returns how long that took.
func (c *crowd) await(what string, condition func() bool) time.Duration {
	c.tb.Helper()
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		require.Less(c.tb, time.Since(began), 2*time.Minute, what)
		<-tick.C
	}
	return time.Since(began)
}

// counts returns the ports and flows of the real host.
func (c *crowd) counts() (ports, flows int) {
	c.tb.Helper()
	observed, err := c.flows.Observe(c.tb.Context())
	require.NoError(c.tb, err)
	out, err := c.host.Exec(c.tb.Context(), "ovs-vsctl", "list-ports", ovs.DefaultBridge)
	require.NoError(c.tb, err)
	return strings.Count(out, "vx-"), len(observed.Flows)
}

// hasFlow asks the switch itself for one flow.
func (c *crowd) hasFlow(match string) bool {
	out, err := c.host.Exec(c.tb.Context(), "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", ovs.DefaultBridge, match)
	return err == nil && strings.Contains(out, "actions=")
}

func (c *crowd) target(i int) string {
	return "table=20,arp,arp_tpa=" + c.subnet(topology.IPv4, i).String()
}

// agent returns the agent's process as the machine sees it.
func (c *crowd) agent() string {
	c.tb.Helper()
	init, err := c.host.PID()
	require.NoError(c.tb, err)
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init))
	require.NoError(c.tb, err)
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(c.tb, err)
	for _, file := range all {
		dir := filepath.Dir(file)
		cmd, _ := os.ReadFile(file)
		if its, err := os.Readlink(filepath.Join(dir, "ns/pid")); err == nil && its == ns && strings.Contains(string(cmd), "\x00agent\x00") {
			return filepath.Base(dir)
		}
	}
	require.Fail(c.tb, "no agent")
	return ""
}

// cpu returns the processor time a process has used.
func (c *crowd) cpu(pid string) time.Duration {
	c.tb.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	require.NoError(c.tb, err)
	fields := strings.Fields(string(b)[strings.LastIndexByte(string(b), ')')+1:])
	var ticks int
	for _, f := range fields[11:13] { // utime, stime: proc(5)
		n, err := strconv.Atoi(f)
		require.NoError(c.tb, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}

// rss returns a process's memory in MiB.
func (c *crowd) rss(pid string) float64 {
	c.tb.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/status")
	require.NoError(c.tb, err)
	var kib float64
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "VmRSS:") {
			_, err = fmt.Sscanf(line, "VmRSS: %f kB", &kib)
			require.NoError(c.tb, err)
		}
	}
	return kib / 1024
}

// The counts that make the domain large, on a real switch.
func TestCostAmongNodes(t *testing.T) {
	c := newCrowd(t)
	_, local := c.counts()
	from := 1
	for _, nodes := range []int{10, 100, 1000} {
		c.joinAll(from, nodes)
		from = nodes
		c.await(fmt.Sprintf("%d nodes are in the switch", nodes), func() bool { ports, _ := c.counts(); return ports == nodes-1 && c.hasFlow(c.target(nodes-1)) })
		ports, flows := c.counts()
		require.Equal(t, nodes-1, ports)
		require.LessOrEqual(t, flows, local+6*(nodes-1)+2, "%d nodes", nodes)
	}

	// Starting an endpoint writes nothing to etcd and tells nobody.
	before, err := c.store.Snapshot(t.Context())
	require.NoError(t, err)
	_, err = c.host.AddEndpoint(t.Context(), "big", "more")
	require.NoError(t, err)
	after, err := c.store.Snapshot(t.Context())
	require.NoError(t, err)
	require.Equal(t, before.Revision, after.Revision)

	// A peer that moves is the change of one port and of no flow.
	ids := func() map[ovs.FlowID]bool {
		observed, err := c.flows.Observe(t.Context())
		require.NoError(t, err)
		out := map[ovs.FlowID]bool{}
		for _, id := range observed.IDs() {
			out[id] = true
		}
		return out
	}
	flows := ids()
	_, err = c.store.RegisterNode(t.Context(), c.node(500, 170))
	require.NoError(t, err)
	c.await("the peer's new address is in the switch", func() bool {
		out, err := c.host.Exec(t.Context(), "ovs-vsctl", "get", "interface", "vx-node500", "options:remote_ip")
		return err == nil && strings.Contains(out, "192.170.1.244")
	})
	require.Equal(t, flows, ids())
}

func BenchmarkAmongThousandNodes(b *testing.B) {
	const nodes = 1000
	c := newCrowd(b)
	began := time.Now()
	c.joinAll(1, nodes)
	written := time.Since(began)
	arrived := c.await("all nodes are in the switch", func() bool { ports, _ := c.counts(); return ports == nodes-1 && c.hasFlow(c.target(nodes-1)) })

	var total time.Duration
	times := 0
	next := nodes
	for b.Loop() {
		require.NoError(b, c.join(b.Context(), next))
		total += c.await("the flow is in the switch", func() bool { return c.hasFlow(c.target(next)) })
		next++
		times++
	}
	// Only now: the loop drops what was reported before it.
	b.ReportMetric(written.Seconds(), "s/999-joins-written")
	b.ReportMetric(arrived.Seconds(), "s/then-until-all-in-ovs")
	b.ReportMetric(float64(total.Milliseconds())/float64(times), "ms/key-to-flow")

	ctx := b.Context()
	require.NoError(b, c.host.StopService(ctx, lab.ServiceAgent))
	began = time.Now()
	require.NoError(b, c.host.StartService(ctx, lab.ServiceAgent))
	b.ReportMetric(time.Since(began).Seconds(), "s/warm-start")
	require.NoError(b, c.host.StopService(ctx, lab.ServiceAgent))
	_, err := c.host.Exec(ctx, "baize", "agent", "cleanup")
	require.NoError(b, err)
	began = time.Now()
	require.NoError(b, c.host.StartService(ctx, lab.ServiceAgent))
	c.await("all nodes are in the switch", func() bool { ports, _ := c.counts(); return ports == next-1 && c.hasFlow(c.target(next-1)) })
	b.ReportMetric(time.Since(began).Seconds(), "s/cold-start")
	log, _ := os.ReadFile(filepath.Join(c.host.Dir(), "log", "agent.log"))
	b.Logf("%s", log[max(0, len(log)-3000):])

	ports, flows := c.counts()
	b.ReportMetric(float64(ports), "ports")
	b.ReportMetric(float64(flows), "flows")
	pid := c.agent()
	b.ReportMetric(c.rss(pid), "MiB-agent")
	used, idle := c.cpu(pid), 20*time.Second
	time.Sleep(idle)
	b.ReportMetric(100*float64(c.cpu(pid)-used)/float64(idle), "%cpu-idle")
}
