//go:build system

package domaintest

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/topology"
)

func TestLifecycle(t *testing.T) {
	d := up(t, topology.VXLAN, lab.Config{})
	for _, c := range []struct {
		name string
		test func(*domain)
	}{
		{"what is not ours is left alone and reported", testForeign},
		{"what is changed by hand is restored", testHealing},
		{"a second agent of the same name is refused", testNameTaken},
		{"a restart of the agent loses no packet", testAgentRestart},
		{"a restart of ovs-vswitchd is healed", testVswitchdRestart},
		{"without etcd everything goes on", testWithoutEtcd},
		{"an address away from home", testPin},
		{"a namespace that goes takes its endpoint along", testNamespaceGone},
		{"a host joins and leaves", testJoinAndLeave},
		{"cleanup removes what is ours", testCleanup},
	} {
		ok := t.Run(c.name, func(t *testing.T) { c.test(&domain{d.Lab, t}) })
		if !ok {
			d.explain(t)
		}
	}
}

// explain shows what the hosts say after a failure.
func (d *domain) explain(t *testing.T) {
	for _, h := range d.Hosts() {
		out, err := h.Exec(context.Background(), "baize", "status")
		t.Logf("%s: %s %v", h.Name(), out, err)
	}
}

// reaches waits until one endpoint reaches another one's addresses.
func (d *domain) reaches(from string, to lab.EndpointStatus) {
	d.t.Helper()
	for _, ip := range to.IPs {
		d.eventually(fmt.Sprintf("%s reaches %s", from, ip), func() (bool, string) {
			out, err := d.run(from, "ping", "-c", "1", "-W", "1", ip.String())
			return err == nil, fmt.Sprint(out, err)
		})
	}
}

func testForeign(d *domain) {
	d.must("host1", "ovs-vsctl", "add-port", "br-baize", "theirs", "--", "set", "interface", "theirs", "type=internal")
	d.must("host1", "ovs-ofctl", "add-flow", "br-baize", "table=77,priority=7,actions=drop")
	d.t.Cleanup(func() {
		_, _ = d.Host("host1").Exec(context.Background(), "ovs-vsctl", "del-port", "theirs")
		_, _ = d.Host("host1").Exec(context.Background(), "ovs-ofctl", "del-flows", "br-baize", "table=77")
	})
	require.NoError(d.t, d.Host("host1").Kill(d.t.Context(), lab.ServiceAgent, unix.SIGTERM))
	require.NoError(d.t, d.Host("host1").AwaitService(d.t.Context(), lab.ServiceAgent))
	d.must("host1", "ovs-vsctl", "del-port", "vx-host3") // so that there is something to do
	d.eventually("the tunnel is back", func() (bool, string) {
		out := d.must("host1", "ovs-vsctl", "list-ports", "br-baize")
		return strings.Contains(out, "vx-host3"), out
	})
	require.Contains(d.t, d.must("host1", "ovs-vsctl", "list-ports", "br-baize"), "theirs")
	require.Contains(d.t, d.must("host1", "ovs-ofctl", "dump-flows", "br-baize"), "table=77")
	foreign := strings.Join(d.status("host1").Foreign, "\n")
	require.Contains(d.t, foreign, "port theirs")
	require.Contains(d.t, foreign, "table=77")
}

var counters = regexp.MustCompile(`cookie=\S+ |duration=\S+ |n_packets=\S+ |n_bytes=\S+ |idle_age=\S+ `)

// flows returns a bridge's flows without what changes by itself.
func (d *domain) flows(host string) string {
	d.t.Helper()
	text := counters.ReplaceAllString(d.must(host, "ovs-ofctl", "-O", "OpenFlow14", "--names", "dump-flows", "br-baize"), "")
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func testHealing(d *domain) {
	want := d.flows("host1")
	same := func() (bool, string) { got := d.flows("host1"); return got == want, got }
	for name, damage := range map[string][]string{
		"all flows deleted":      {"ovs-ofctl", "del-flows", "br-baize"},
		"one flow deleted":       {"ovs-ofctl", "-O", "OpenFlow14", "--strict", "del-flows", "br-baize", "table=40,priority=0"},
		"a flow changed":         {"ovs-ofctl", "-O", "OpenFlow14", "--strict", "mod-flows", "br-baize", "table=40,priority=0,actions=drop"},
		"a flow in place of one": {"ovs-ofctl", "-O", "OpenFlow14", "add-flow", "br-baize", "table=40,priority=0,cookie=0,actions=drop"},
		"a port deleted":         {"ovs-vsctl", "del-port", "vx-host2"},
		"an option changed":      {"ovs-vsctl", "set", "interface", "vx-host2", "options:remote_ip=192.168.77.99"},
		"the fail mode changed":  {"ovs-vsctl", "set-fail-mode", "br-baize", "standalone"},
	} {
		d.must("host1", damage...)
		d.eventually(name+" is restored", same)
		require.Equal(d.t, "secure", strings.TrimSpace(d.must("host1", "ovs-vsctl", "get-fail-mode", "br-baize")))
		require.Contains(d.t, d.must("host1", "ovs-vsctl", "get", "interface", "vx-host2", "options"), "192.168.77.12", name)
		d.reaches("host1/c1", d.endpoint("host2/c1"))
	}
}

func testNameTaken(d *domain) {
	before := d.flows("host2")
	out, err := d.run("host2", "baize", "agent", "--node", "host1", "--socket", "/run/second.sock", "--state-dir", "/run/second")
	require.Error(d.t, err)
	text := fmt.Sprint(out, err)
	require.Contains(d.t, text, "host host1 runs under this name")
	require.Contains(d.t, text, "host2 wants it too")
	require.Equal(d.t, before, d.flows("host2"))
	d.reaches("host2/c1", d.endpoint("host1/c1"))
}

// lost pings every 10 ms from before something happens until after it, and
// for five seconds at least; it returns how many answers were missing.
func (d *domain) lost(from, to string, during func()) int {
	d.t.Helper()
	host, endpoint, _ := strings.Cut(from, "/")
	path, err := d.Host(host).Endpoint(endpoint).NetnsPath()
	require.NoError(d.t, err)
	p := d.pinging(path, d.endpoint(to).IPs[0], 10*time.Millisecond)
	during()
	p.await(max(100, 500-p.Sent()))
	e := p.end()
	d.t.Logf("%s to %s: %d of %d pings lost", from, to, len(e.Missing), e.Sent)
	return len(e.Missing)
}

// pings are pings that run.
type pings struct {
	*probe.Pings
	t *testing.T
}

// pinging pings from a network namespace until the end of the test at the
// latest. It returns when there are answers.
func (d *domain) pinging(netns string, to netip.Addr, interval time.Duration) pings {
	d.t.Helper()
	running, err := lab.StartPings(netns, to, interval)
	require.NoError(d.t, err)
	d.t.Cleanup(func() { _, _ = running.End() })
	p := pings{running, d.t}
	p.await(5)
	return p
}

// await waits for the answers to n more.
func (p pings) await(n int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*patience)
	defer cancel()
	require.NoError(p.t, p.Await(ctx, n))
}

func (p pings) end() probe.Echoes {
	p.t.Helper()
	e, err := p.End()
	require.NoError(p.t, err)
	if e.Unsent != nil {
		p.t.Logf("pings to %s: could not be sent: %v", e.To, e.Unsent)
	}
	return e
}

func testAgentRestart(d *domain) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		require.Zero(d.t, d.lost("host1/c1", "host2/c1", func() {
			require.NoError(d.t, d.Host("host1").Kill(d.t.Context(), lab.ServiceAgent, sig))
			require.NoError(d.t, d.Host("host1").AwaitService(d.t.Context(), lab.ServiceAgent))
		}), "%s", unix.SignalName(sig))
	}
}

func testVswitchdRestart(d *domain) {
	want := d.flows("host1")
	began := time.Now()
	lost := d.lost("host1/c1", "host2/c1", func() {
		require.NoError(d.t, d.Host("host1").Kill(d.t.Context(), lab.ServiceVswitchd, unix.SIGKILL))
	})
	d.t.Logf("ovs-vswitchd killed: %d pings lost in %s", lost, time.Since(began))
	d.eventually("all flows are back", func() (bool, string) {
		// The ports may have got other numbers, but names are shown.
		got, err := d.run("host1", "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", "br-baize")
		return err == nil && strings.Count(got, "actions=") == strings.Count(want, "actions="), got
	})
	d.reaches("host1/c1", d.endpoint("host2/c1"))
	d.reaches("host3/c1", d.endpoint("host1/c1"))
}

func testWithoutEtcd(d *domain) {
	ctx := d.t.Context()
	require.NoError(d.t, d.Host("fabric").StopService(ctx, lab.ServiceEtcd))
	d.t.Cleanup(func() { _ = d.Host("fabric").StartService(context.Background(), lab.ServiceEtcd) })
	d.reaches("host1/c1", d.endpoint("host2/c1"))

	d.must("host1", "ip", "netns", "add", "c2")
	d.must("host1", "baize", "endpoint", "add", "--network", "blue", "--netns", "c2")
	d.reaches("host1/c2", d.endpoint("host2/c1"))
	d.must("host1", "baize", "endpoint", "remove", "c2")

	// Even an agent that starts now knows the topology it saw last.
	require.NoError(d.t, d.Host("host1").Kill(ctx, lab.ServiceAgent, unix.SIGKILL))
	require.NoError(d.t, d.Host("host1").AwaitService(ctx, lab.ServiceAgent))
	d.eventually("an endpoint can be added by an agent that never saw etcd", func() (bool, string) {
		out, err := d.run("host1", "baize", "endpoint", "add", "--network", "blue", "--netns", "c2")
		return err == nil, fmt.Sprint(out, err)
	})
	d.reaches("host1/c2", d.endpoint("host3/c1"))
	require.False(d.t, d.status("host1").Etcd.Connected)
	d.must("host1", "baize", "endpoint", "remove", "c2")

	require.NoError(d.t, d.Host("fabric").StartService(ctx, lab.ServiceEtcd))
	d.eventually("the agents find etcd again", func() (bool, string) {
		for _, h := range d.Hosts() {
			if st := d.status(h.Name()); !st.Etcd.Connected || len(st.Problems) > 0 {
				return false, fmt.Sprint(st.Problems)
			}
		}
		return true, ""
	})
}

func testPin(d *domain) {
	d.must("host2", "ip", "netns", "add", "away")
	_, err := d.run("host2", "baize", "endpoint", "add", "--network", "blue", "--netns", "away", "--ip", d.endpoint("host2/c1").IPs[0].String())
	require.ErrorContains(d.t, err, "taken by endpoint c1")
	d.must("host2", "baize", "endpoint", "add", "--network", "blue", "--netns", "away", "--ip", "10.1.200.9", "--ip", "fd00:10:1:200::9", "--mac", "02:aa:bb:cc:dd:ee")
	away := d.endpoint("host2/away")
	require.Contains(d.t, d.must("host1", "baize", "pin", "list", "-o", "json"), "10.1.200.9")
	for _, from := range []string{"host1/c1", "host2/c1", "host3/c1"} {
		d.reaches(from, away)
	}
	d.reaches("host2/away", d.endpoint("host3/c1"))
	d.must("host2", "baize", "endpoint", "remove", "away")
	d.eventually("the pin goes with its endpoint", func() (bool, string) {
		out := d.must("host1", "baize", "pin", "list", "-o", "json")
		return !strings.Contains(out, "10.1.200.9") && !strings.Contains(out, "200::9"), out
	})
	// The address may live elsewhere at once.
	d.must("host3", "ip", "netns", "add", "away")
	d.must("host3", "baize", "endpoint", "add", "--network", "blue", "--netns", "away", "--ip", "10.1.200.9")
	d.reaches("host1/c1", d.endpoint("host3/away"))
	d.must("host3", "baize", "endpoint", "remove", "away")
}

func testNamespaceGone(d *domain) {
	d.must("host1", "ip", "netns", "add", "brief")
	d.must("host1", "baize", "endpoint", "add", "--network", "blue", "--netns", "brief")
	port := ""
	for _, e := range d.status("host1").Endpoints {
		if e.Name == "brief" {
			port = e.Port
		}
	}
	require.NotEmpty(d.t, port)
	d.must("host1", "ip", "netns", "del", "brief")
	d.eventually("its port is removed", func() (bool, string) {
		out := d.must("host1", "ovs-vsctl", "list-ports", "br-baize")
		return !strings.Contains(out, port), out
	})
}

func testJoinAndLeave(d *domain) {
	began := time.Now()
	h, err := d.AddHost(d.t.Context())
	require.NoError(d.t, err)
	up := time.Since(began)
	began = time.Now()
	joined := d.endpoint(h.Name() + "/c1")
	for _, from := range []string{"host1/c1", "host2/c1", "host3/c1"} {
		d.reaches(from, joined)
	}
	d.t.Logf("the host was up after %s, reachable from all %s later", up, time.Since(began))
	subnet := regexp.MustCompile(`=` + regexp.QuoteMeta(joined.IPs[0].String()[:strings.LastIndex(joined.IPs[0].String(), ".")]) + `\.0/24`)
	require.Regexp(d.t, subnet, d.flows("host1"))
	require.NoError(d.t, d.RemoveHost(d.t.Context(), h.Name()))
	for _, host := range []string{"host1", "host2", "host3"} {
		d.eventually("nothing of the host is left on "+host, func() (bool, string) {
			ports, flows := d.must(host, "ovs-vsctl", "list-ports", "br-baize"), d.flows(host)
			return !strings.Contains(ports, h.Name()) && !subnet.MatchString(flows) && !strings.Contains(flows, h.Name()), ports + flows
		})
	}
}

func testCleanup(d *domain) {
	ctx := d.t.Context()
	_, err := d.run("host3", "baize", "agent", "cleanup")
	require.ErrorContains(d.t, err, "the agent is running")
	c1 := d.endpoint("host3/c1")
	require.NoError(d.t, d.Host("host3").StopService(ctx, lab.ServiceAgent))
	d.reaches("host1/c1", c1) // a stopped agent takes nothing down
	d.must("host3", "baize", "agent", "cleanup")
	bridges := d.must("host3", "ovs-vsctl", "list-br")
	require.NotContains(d.t, bridges, "br-baize")
	require.Contains(d.t, bridges, "br-phy")
	require.NotContains(d.t, d.must("host3", "ip", "-o", "link"), " bz")
}
