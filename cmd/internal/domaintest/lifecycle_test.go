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
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

func TestLifecycle(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, labkit.Race(t, lab.Config{AgentArgs: []string{"--metrics", metricsAt}}))
	for _, c := range []struct {
		name string
		test func(*domain)
	}{
		{"commands find etcd where the agent has it", testSettings},
		{"what is not ours is left alone and reported", testForeign},
		{"what is changed by hand is restored", testHealing},
		{"a second agent of the same name is refused", testNameTaken},
		{"a restart of the agent loses no packet", testAgentRestart},
		{"a restart of ovs-vswitchd is healed", testVswitchdRestart},
		{"without etcd everything goes on", testWithoutEtcd},
		{"the journal has what happened", testEvents},
		{"metrics are what is", testMetrics},
		{"an address away from home", testPin},
		{"a namespace that goes takes its endpoint along", testNamespaceGone},
		{"a network is deleted while agents run", testNetworkDeleted},
		{"a host joins and leaves", testJoinAndLeave},
		{"cleanup removes what is ours", testCleanup},
	} {
		ok := t.Run(c.name, func(t *testing.T) { c.test(d.in(t)) })
		if !ok {
			d.Explain()
		}
	}
}

// U4: no variable says where etcd is, and no file.
func testSettings(d *domain) {
	shell := []string{"env", "-u", "BAIZE_ETCD_ENDPOINTS", "baize"}
	require.Contains(d.T, d.Must("host2", append(shell, "network", "list")...), "blue")
	out := d.Must("host2", append(shell, "config")...)
	require.Regexp(d.T, `(?m)^etcd-endpoints +http://\S+ +agent at /run/baize/agent.sock$`, out)
	_, agent, _ := strings.Cut(out, "runs with:")
	require.Regexp(d.T, `(?m)^etcd-endpoints +http://\S+ +environment variable BAIZE_ETCD_ENDPOINTS$`, agent)
	require.Regexp(d.T, `(?m)^node +host2 +environment variable BAIZE_NODE$`, agent)
}

func testForeign(d *domain) {
	d.Must("host1", "ovs-vsctl", "add-port", "br-baize", "theirs", "--", "set", "interface", "theirs", "type=internal")
	d.Must("host1", "ovs-ofctl", "add-flow", "br-baize", "table=77,priority=7,actions=drop")
	d.T.Cleanup(func() {
		_, _ = d.Host("host1").Exec(context.Background(), "ovs-vsctl", "del-port", "theirs")
		_, _ = d.Host("host1").Exec(context.Background(), "ovs-ofctl", "del-flows", "br-baize", "table=77")
	})
	require.NoError(d.T, d.Host("host1").Kill(d.T.Context(), lab.ServiceAgent, unix.SIGTERM))
	require.NoError(d.T, d.Host("host1").AwaitService(d.T.Context(), lab.ServiceAgent))
	d.Must("host1", "ovs-vsctl", "del-port", "vx-host3") // so that there is something to do
	d.Await("the tunnel is back", func() (bool, string) {
		out := d.Must("host1", "ovs-vsctl", "list-ports", "br-baize")
		return strings.Contains(out, "vx-host3"), out
	})
	require.Contains(d.T, d.Must("host1", "ovs-vsctl", "list-ports", "br-baize"), "theirs")
	require.Contains(d.T, d.Must("host1", "ovs-ofctl", "dump-flows", "br-baize"), "table=77")
	foreign := strings.Join(d.AgentStatus("host1").Foreign, "\n")
	require.Contains(d.T, foreign, "port theirs")
	require.Contains(d.T, foreign, "table=77")
}

var counters = regexp.MustCompile(`cookie=\S+ |duration=\S+ |n_packets=\S+ |n_bytes=\S+ |idle_age=\S+ `)

// flows returns a bridge's flows without what changes by itself.
func (d *domain) flows(host string) string {
	d.T.Helper()
	text := counters.ReplaceAllString(
		d.Must(host, "ovs-ofctl", "-O", "OpenFlow14", "--names", "dump-flows", "br-baize"),
		"",
	)
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func testHealing(d *domain) {
	want := d.flows("host1")
	same := func() (bool, string) { got := d.flows("host1"); return got == want, got }
	for name, damage := range map[string][]string{
		"all flows deleted": {"ovs-ofctl", "del-flows", "br-baize"},
		"one flow deleted": {
			"ovs-ofctl", "-O", "OpenFlow14", "--strict", "del-flows", "br-baize", "table=40,priority=0",
		},
		"a flow changed": {
			"ovs-ofctl", "-O", "OpenFlow14", "--strict", "mod-flows", "br-baize", "table=40,priority=0,actions=drop",
		},
		"a flow in place of one": {
			"ovs-ofctl", "-O", "OpenFlow14", "add-flow", "br-baize", "table=40,priority=0,cookie=0,actions=drop",
		},
		"a port deleted":        {"ovs-vsctl", "del-port", "vx-host2"},
		"an option changed":     {"ovs-vsctl", "set", "interface", "vx-host2", "options:remote_ip=192.168.77.99"},
		"the fail mode changed": {"ovs-vsctl", "set-fail-mode", "br-baize", "standalone"},
	} {
		d.Must("host1", damage...)
		d.Await(name+" is restored", same)
		require.Equal(d.T, "secure", strings.TrimSpace(d.Must("host1", "ovs-vsctl", "get-fail-mode", "br-baize")))
		require.Contains(d.T, d.Must("host1", "ovs-vsctl", "get", "interface", "vx-host2", "options"), "192.168.77.12", name)
		d.Reaches("host1/c1", d.Endpoint("host2/c1"))
	}
}

func testNameTaken(d *domain) {
	before := d.flows("host2")
	out, err := d.Run(
		"host2", "baize", "agent", "--node", "host1", "--socket", "/run/second.sock", "--state-dir", "/run/second",
	)
	require.Error(d.T, err)
	text := fmt.Sprint(out, err)
	require.Contains(d.T, text, "host host1 runs under this name")
	require.Contains(d.T, text, "host2 wants it too")
	require.Equal(d.T, before, d.flows("host2"))
	d.Reaches("host2/c1", d.Endpoint("host1/c1"))
}

func testAgentRestart(d *domain) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		require.Zero(d.T, d.Lost("host1/c1", "host2/c1", func() {
			require.NoError(d.T, d.Host("host1").Kill(d.T.Context(), lab.ServiceAgent, sig))
			require.NoError(d.T, d.Host("host1").AwaitService(d.T.Context(), lab.ServiceAgent))
		}), "%s", unix.SignalName(sig))
	}
}

func testVswitchdRestart(d *domain) {
	want := d.flows("host1")
	began := time.Now()
	lost := d.Lost("host1/c1", "host2/c1", func() {
		require.NoError(d.T, d.Host("host1").Kill(d.T.Context(), lab.ServiceVswitchd, unix.SIGKILL))
	})
	d.T.Logf("ovs-vswitchd killed: %d pings lost in %s", lost, time.Since(began))
	d.Await("all flows are back", func() (bool, string) {
		// The ports may have got other numbers, but names are shown.
		got, err := d.Run("host1", "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", "br-baize")
		return err == nil && strings.Count(got, "actions=") == strings.Count(want, "actions="), got
	})
	d.Reaches("host1/c1", d.Endpoint("host2/c1"))
	d.Reaches("host3/c1", d.Endpoint("host1/c1"))
}

func testWithoutEtcd(d *domain) {
	ctx := d.T.Context()
	require.NoError(d.T, d.Host("fabric").StopService(ctx, lab.ServiceEtcd))
	d.T.Cleanup(func() { _ = d.Host("fabric").StartService(context.Background(), lab.ServiceEtcd) })
	d.Reaches("host1/c1", d.Endpoint("host2/c1"))

	d.Must("host1", "ip", "netns", "add", "c2")
	d.Must("host1", "baize", "endpoint", "add", "--network", "blue", "--netns", "c2")
	d.Reaches("host1/c2", d.Endpoint("host2/c1"))
	d.Must("host1", "baize", "endpoint", "remove", "c2")

	// Even an agent that starts now knows the topology it saw last.
	require.NoError(d.T, d.Host("host1").Kill(ctx, lab.ServiceAgent, unix.SIGKILL))
	require.NoError(d.T, d.Host("host1").AwaitService(ctx, lab.ServiceAgent))
	d.Await("an endpoint can be added by an agent that never saw etcd", func() (bool, string) {
		out, err := d.Run("host1", "baize", "endpoint", "add", "--network", "blue", "--netns", "c2")
		return err == nil, fmt.Sprint(out, err)
	})
	d.Reaches("host1/c2", d.Endpoint("host3/c1"))
	require.False(d.T, d.AgentStatus("host1").Etcd.Connected)
	d.Must("host1", "baize", "endpoint", "remove", "c2")

	require.NoError(d.T, d.Host("fabric").StartService(ctx, lab.ServiceEtcd))
	d.Await("the agents find etcd again", func() (bool, string) {
		for _, h := range d.Hosts() {
			if st := d.AgentStatus(h.Name()); !st.Etcd.Connected || len(st.Problems) > 0 {
				return false, fmt.Sprint(st.Problems)
			}
		}
		return true, ""
	})
}

func testPin(d *domain) {
	d.Must("host2", "ip", "netns", "add", "away")
	_, err := d.Run(
		"host2", "baize", "endpoint", "add", "--network", "blue", "--netns", "away", "--ip",
		d.Endpoint("host2/c1").IPs[0].String(),
	)
	require.ErrorContains(d.T, err, "taken by endpoint c1")
	testTheft(d)
	d.Must(
		"host2", "baize", "endpoint", "add", "--network", "blue", "--netns", "away", "--ip", "10.1.200.9", "--ip",
		"fd00:10:1:200::9", "--mac", "02:aa:bb:cc:dd:ee",
	)
	away := d.Endpoint("host2/away")
	require.Contains(d.T, d.Must("host1", "baize", "pin", "list", "-o", "json"), "10.1.200.9")
	for _, from := range []string{"host1/c1", "host2/c1", "host3/c1"} {
		d.Reaches(from, away)
	}
	d.Reaches("host2/away", d.Endpoint("host3/c1"))
	d.Must("host2", "baize", "endpoint", "remove", "away")
	d.Await("the pin goes with its endpoint", func() (bool, string) {
		out := d.Must("host1", "baize", "pin", "list", "-o", "json")
		return !strings.Contains(out, "10.1.200.9") && !strings.Contains(out, "200::9"), out
	})
	// The address may live elsewhere at once.
	d.Must("host3", "ip", "netns", "add", "away")
	d.Must("host3", "baize", "endpoint", "add", "--network", "blue", "--netns", "away", "--ip", "10.1.200.9")
	d.Reaches("host1/c1", d.Endpoint("host3/away"))
	d.Must("host3", "baize", "endpoint", "remove", "away")
	removed := time.Now()
	d.Await("the pin's routes go", func() (bool, string) {
		own, _ := d.routes("host1")
		return !strings.Contains(own, "10.1.200.9"), own
	})
	require.Less(d.T, time.Since(removed), 10*time.Second, "and not at an audit")
}

// testTheft tries to take the address of another host's endpoint, whose traffic
// goes on, and takes one that is free there.
func testTheft(d *domain) {
	owned := d.Endpoint("host1/c1").IPs
	add := func(name string, ip netip.Addr) error {
		_, err := d.Run("host2", "baize", "endpoint", "add", name, "--network", "blue", "--netns", "away", "--ip", ip.String())
		return err
	}
	lost := d.Lost("host3/c1", "host1/c1", func() {
		for _, ip := range owned {
			err := add("thief", ip)
			require.ErrorContains(d.T, err, ip.String())
			require.ErrorContains(d.T, err, "node host1 has it: taken by endpoint c1")
		}
	})
	require.Zero(d.T, lost, "whoever has the address is not disturbed")
	pins := d.Must("host1", "baize", "pin", "list", "-o", "json")
	for _, ip := range owned {
		require.NotContains(d.T, pins, fmt.Sprintf("%q", ip))
	}

	free := owned[0].As4()
	free[3] = 250
	require.NoError(d.T, add("guest", netip.AddrFrom4(free)))
	d.Reaches("host1/c1", d.Endpoint("host2/guest"))
	d.Must("host1", "ip", "netns", "add", "late")
	_, err := d.Run("host1", "baize", "endpoint", "add", "--network", "blue", "--netns", "late", "--ip",
		netip.AddrFrom4(free).String())
	require.ErrorContains(d.T, err, "taken by endpoint guest, of node host2")
	d.Must("host2", "baize", "endpoint", "remove", "guest")
}

// A network that was created and deleted leaves nothing on any host: bridges and
// flows are what they were.
func testNetworkDeleted(d *domain) {
	hosts := []string{"host1", "host2", "host3"}
	seen := func(host string) string {
		return d.flows(host) + d.Must(host, "ovs-vsctl", "list-ports", "br-baize") + d.Must(host, "ip", "-o", "link")
	}
	before := map[string]string{}
	for _, host := range hosts {
		before[host] = seen(host)
	}
	as := func(want map[string]string) func() (bool, string) {
		return func() (bool, string) {
			for _, host := range hosts {
				if got := seen(host); got != want[host] {
					return false, host + ":\n" + got + "\nwanted:\n" + want[host]
				}
			}
			return true, ""
		}
	}
	create := func() {
		d.Must("host1", "baize", "network", "create", "junk", "--subnet", "10.7.0.0/16", "--subnet", "fd00:7::/48")
		for _, host := range hosts {
			d.Must(host, "ip", "netns", "add", "once")
			d.AwaitRun("an endpoint leases a subnet", host, "baize", "endpoint", "add", "--network", "junk", "--netns", "once")
			d.Must(host, "baize", "endpoint", "remove", "junk/once")
			d.Must(host, "ip", "netns", "delete", "once")
		}
		d.Await("every host has a part of it", func() (bool, string) {
			out := d.Must("host1", "baize", "topology", "--network", "junk")
			return strings.Count(out, "10.7.") == 4 && strings.Count(out, "fd00:7:") == 4, out
		})
	}
	create()
	require.Contains(d.T, d.Must("host2", "baize", "network", "delete", "junk"), "network junk deleted")
	d.Await("nothing is left of it", as(before))

	create()
	d.Must("host2", "ip", "netns", "add", "user")
	d.Must("host2", "baize", "endpoint", "add", "--network", "junk", "--netns", "user")
	_, err := d.Run("host1", "baize", "network", "delete", "junk", "--wait", "1s")
	require.Error(d.T, err)
	require.Regexp(d.T, `host2 +endpoint user`, err.Error())
	require.Contains(d.T, err.Error(), "--cancel junk")
	_, err = d.Run("host2", "baize", "endpoint", "add", "late", "--network", "junk", "--netns", "user", "--ifname", "eth1")
	require.ErrorContains(d.T, err, "it is being deleted")
	d.Must("host2", "ip", "netns", "exec", "user", "ip", "link", "show", "eth0")
	d.Must("host2", "baize", "endpoint", "remove", "user")
	d.Await("it goes with its last user", as(before))
	require.NotContains(d.T, d.Must("host1", "baize", "network", "list"), "junk")

	create()
	d.Must("host2", "baize", "endpoint", "add", "--network", "junk", "--netns", "user")
	d.Must("host1", "baize", "network", "delete", "junk", "--force", "--yes")
	d.Await("it is taken from its user", as(before))
	_, err = d.Run("host2", "ip", "netns", "exec", "user", "ip", "link", "show", "eth0")
	require.Error(d.T, err, "the interface is gone")
	d.Must("host2", "ip", "netns", "delete", "user")
	d.Reaches("host1/c1", d.Endpoint("host2/c1"))
}

func testNamespaceGone(d *domain) {
	d.Must("host1", "ip", "netns", "add", "brief")
	d.Must("host1", "baize", "endpoint", "add", "--network", "blue", "--netns", "brief")
	port := ""
	for _, e := range d.AgentStatus("host1").Endpoints {
		if e.Name == "brief" {
			port = e.Port
		}
	}
	require.NotEmpty(d.T, port)
	d.Must("host1", "ip", "netns", "del", "brief")
	d.Await("its port is removed", func() (bool, string) {
		out := d.Must("host1", "ovs-vsctl", "list-ports", "br-baize")
		return !strings.Contains(out, port), out
	})
}

func testJoinAndLeave(d *domain) {
	began := time.Now()
	h, err := d.AddHost(d.T.Context())
	require.NoError(d.T, err)
	up := time.Since(began)
	began = time.Now()
	joined := d.Endpoint(h.Name() + "/c1")
	for _, from := range []string{"host1/c1", "host2/c1", "host3/c1"} {
		d.Reaches(from, joined)
	}
	d.T.Logf("the host was up after %s, reachable from all %s later", up, time.Since(began))
	subnet := regexp.MustCompile(
		`=` + regexp.QuoteMeta(joined.IPs[0].String()[:strings.LastIndex(joined.IPs[0].String(), ".")]) + `\.0/24`,
	)
	require.Regexp(d.T, subnet, d.flows("host1"))
	require.NoError(d.T, d.RemoveHost(d.T.Context(), h.Name()))
	for _, host := range []string{"host1", "host2", "host3"} {
		d.Await("nothing of the host is left on "+host, func() (bool, string) {
			ports, flows := d.Must(host, "ovs-vsctl", "list-ports", "br-baize"), d.flows(host)
			return !strings.Contains(ports, h.Name()) && !subnet.MatchString(flows) &&
				!strings.Contains(flows, h.Name()), ports + flows
		})
	}
}

func testCleanup(d *domain) {
	ctx := d.T.Context()
	_, err := d.Run("host3", "baize", "agent", "cleanup")
	require.ErrorContains(d.T, err, "the agent is running")
	before := d.belongings("host3")
	plan := d.Must("host3", "baize", "agent", "cleanup", "--dry-run")
	require.Contains(d.T, plan, "would remove bridge br-baize with ")
	require.Contains(d.T, plan, "would remove network device bz-c1")
	require.Contains(d.T, plan, "nothing was changed (--dry-run)")
	require.Equal(d.T, before, d.belongings("host3"))
	c1 := d.Endpoint("host3/c1")
	require.NoError(d.T, d.Host("host3").StopService(ctx, lab.ServiceAgent))
	d.Reaches("host1/c1", c1) // a stopped agent takes nothing down
	ownerIsAway(d, c1, c1.MAC+" answers for it")
	// Who sits at a terminal is asked first.
	asked := d.Must("host3", "sh", "-c", "echo n | script -qec 'baize agent cleanup' /dev/null")
	require.Contains(d.T, asked, "of this host lose their network: ")
	require.Contains(d.T, asked, "c1 ("+c1.IPs[0].String())
	require.Contains(d.T, asked, "nothing was changed")
	d.Reaches("host1/c1", c1)
	// The same is done then, but for what the agent made meanwhile.
	report := d.Must("host3", "baize", "agent", "cleanup")
	for line := range strings.Lines(report) {
		if rest, ok := strings.CutPrefix(line, "removed network device "); ok {
			require.Contains(d.T, plan, "would remove network device "+rest)
		}
	}
	bridges := d.Must("host3", "ovs-vsctl", "list-br")
	require.NotContains(d.T, bridges, "br-baize")
	require.Contains(d.T, bridges, "br-phy")
	require.NotContains(d.T, d.Must("host3", "ip", "-o", "link"), " bz")
}

// ownerIsAway is U2: no agent can be asked for the address, and its endpoint answers on the
// wire. One that nobody answers for is to be had.
func ownerIsAway(d *domain, c1 lab.EndpointStatus, answer string) {
	d.T.Helper()
	d.Await("host3's agent to be missed", func() (bool, string) {
		out := d.Must("host1", "baize", "node", "list", "--filter", "name=host3", "-o", "json")
		return strings.Contains(out, `"down"`), out
	})
	d.Must("host1", "ip", "netns", "add", "heir")
	add := func(a netip.Addr) error {
		_, err := d.Run("host1", "baize", "endpoint", "add", "--network", c1.Network, "--netns", "heir", "--ip", a.String())
		return err
	}
	for _, a := range c1.IPs {
		err := add(a)
		require.ErrorContains(d.T, err, a.String())
		require.ErrorContains(d.T, err, "node host3 has it: "+answer+" there, though no agent runs")
	}
	require.NoError(d.T, add(last(c1.IPs[0])))
	d.Must("host1", "baize", "endpoint", "remove", "heir")
	d.Must("host1", "ip", "netns", "del", "heir")
}
