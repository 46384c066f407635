//go:build system

package domaintest

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// pluginWait is less than what the engine waits for a plugin that does not answer,
// half a minute for each request.
const pluginWait = 20 * time.Second

// Real engines on three hosts, their containers in networks of the plugin.
func TestDockerPlugin(t *testing.T) {
	t.Parallel()
	testDockerPlugin(t, nil)
}

func testDockerPlugin(t *testing.T, engines map[string]string) {
	d := up(t, topology.VXLAN, labkit.Race(t, lab.Config{
		Docker: true, Engines: engines, AgentArgs: []string{"--audit-interval", "2s"},
	}))
	p := plugin{d}
	for i := 1; i <= 3; i++ {
		p.network(fmt.Sprintf("host%d", i), "shop", "--ipv6", "--subnet", "10.7.0.0/16", "--subnet", "fd00:10:7::/48")
	}
	for _, c := range []struct {
		name string
		test func(plugin)
	}{
		{"the first engine creates, others join, a contradiction is refused", testDockerNetworks},
		{"a network that is refused leaves nothing", testDockerRefusedNetwork},
		{"a network goes with the last engine that has it", testDockerLastNetwork},
		{"addresses, masks and MTU", testDockerAddresses},
		{"bulk TCP over three hosts", testDockerBulk},
		{"addresses that people choose", testDockerChosen},
		{"on hosts that join, too", testDockerSecondHost},
		{"an address range, and addresses kept", testDockerRange},
		{"connect and disconnect while it runs", testDockerConnect},
		{"a container's life is in the journal", testDockerEvents},
		{"internal, published and outward", testDockerOutside},
		{"ports are named after containers", testDockerPortNames},
		{"a restart with the same address", testDockerRestart},
		{"a container goes to another host", testDockerMove},
		{"etcd is down", testDockerWithoutEtcd},
		{"the agent is killed and stopped", testDockerWithoutAgent},
		{"the agent is restarted all the time", testDockerAgentRestarts},
		{"the agent hangs", testDockerAgentHangs},
		{"the engine is restarted and killed", testDockerEngine},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(plugin{d.in(t)}) }) {
			d.Explain()
		}
	}
}

// plugin is a lab with an engine on each host.
type plugin struct{ *domain }

// network creates a network of Docker's, of the same name as Baize's.
func (p plugin) network(host, name string, args ...string) {
	p.T.Helper()
	p.docker(
		host,
		append(
			append(
				[]string{
					"network",
					"create",
					"-d",
					"baize",
					"--ipam-driver",
					"baize",
					"--ipam-opt",
					"baize.network=" + name,
					"-o",
					"baize.network=" + name,
				},
				args...),
			name,
		)...)
}

// container starts one that sleeps, and removes it at the end of the test.
func (p plugin) container(host, name string, args ...string) {
	p.T.Helper()
	p.docker(
		host,
		append(append([]string{"run", "-d", "--init", "--name", name}, args...), lab.DockerImage, "sleep", "100000")...)
	p.T.Cleanup(func() { _, _ = p.Host(host).Exec(context.Background(), dockerCLI, "rm", "-f", name) })
}

// addr is a container's address in a network.
func (p plugin) addr(host, name, network string) netip.Addr {
	p.T.Helper()
	a, err := netip.ParseAddr(
		p.docker(
			host,
			"inspect",
			"-f",
			fmt.Sprintf("{{with index .NetworkSettings.Networks %q}}{{.IPAddress}}{{end}}", network),
			name,
		),
	)
	require.NoError(p.T, err)
	return a
}

func (p plugin) addr6(host, name, network string) netip.Addr {
	p.T.Helper()
	a, err := netip.ParseAddr(
		p.docker(
			host,
			"inspect",
			"-f",
			fmt.Sprintf("{{with index .NetworkSettings.Networks %q}}{{.GlobalIPv6Address}}{{end}}", network),
			name,
		),
	)
	require.NoError(p.T, err)
	return a
}

func (p plugin) within(host, name string, argv ...string) string {
	p.T.Helper()
	return p.docker(host, append([]string{"exec", name}, argv...)...)
}

// reach waits until a container reaches an address.
func (p plugin) reach(host, name string, to fmt.Stringer) {
	p.T.Helper()
	p.AwaitRun(
		fmt.Sprintf("%s/%s to reach %s", host, name, to),
		host,
		dockerCLI,
		"exec",
		name,
		"ping",
		"-c",
		"1",
		"-W",
		"1",
		to.String(),
	)
}

// refused runs a command of Docker's that has to fail with all of the words.
func (p plugin) refused(host string, words []string, args ...string) {
	p.T.Helper()
	out, err := p.Run(host, append([]string{dockerCLI}, args...)...)
	require.Error(p.T, err, out)
	for _, w := range words {
		assert.Contains(p.T, err.Error(), w)
	}
}

// sweptWithin is more than the plugin takes to find an endpoint that its engine
// forgot while no agent was there: two minutes in which it may be on its way, and
// the minute between two looks.
const sweptWithin = 4 * time.Minute

// nothingLeft waits until a host has no port, no device and no address more
// than its endpoints and running containers account for.
func (p plugin) nothingLeft(host string) {
	p.T.Helper()
	testkit.AwaitWithin(p.T, sweptWithin, "nothing to be left over", func() (bool, string) {
		wanted := strings.Fields(
			p.docker(host, "network", "inspect", "-f", "{{range .Containers}}{{slice .EndpointID 0 12}} {{end}}", "shop"),
		)
		var have []string
		ports := 0
		for _, e := range p.AgentStatus(host).Endpoints {
			ports++
			if id, ok := strings.CutPrefix(e.Name, "docker-"); ok {
				have = append(have, id)
			}
		}
		slices.Sort(wanted)
		slices.Sort(have)
		devices := strings.Count(
			p.Must(host, "sh", "-c", "ip -o link show type veth | grep -E ': bz[^@]+@' || true"),
			"\n",
		)
		saw := fmt.Sprintf("Docker has %v, Baize %v; %d endpoints, %d devices", wanted, have, ports, devices)
		return slices.Equal(wanted, have) && devices == ports, saw
	})
}

func testDockerNetworks(p plugin) {
	p.Await("the network in etcd", func() (bool, string) {
		out := p.Must("host3", "baize", "network", "list")
		return strings.Contains(out, "shop") && strings.Contains(out, "10.7.0.0/16") &&
			strings.Contains(out, "fd00:10:7::/48"), out
	})
	p.refused(
		"host2", []string{"10.8.0.0/16", "10.7.0.0/16", "shop"}, "network", "create", "-d", "baize", "--ipam-driver",
		"baize", "-o", "baize.network=shop", "--subnet", "10.8.0.0/16", "other",
	)
	p.refused(
		"host2", []string{"gre", "vxlan"}, "network", "create", "-d", "baize", "--ipam-driver", "baize", "-o",
		"baize.network=shop", "-o", "baize.transport=gre", "--subnet", "10.7.0.0/16", "other",
	)
	p.refused(
		"host2", []string{"baize.trnsport", "baize.transport"}, "network", "create", "-d", "baize", "--ipam-driver",
		"baize", "-o", "baize.trnsport=gre", "--subnet", "10.9.0.0/16", "other",
	)
	p.refused(
		"host2", []string{"--ipam-driver baize"}, "network", "create", "-d", "baize", "-o", "baize.network=shop",
		"--subnet", "10.7.0.0/16", "other",
	)
	// One that is there needs no more than its name.
	p.docker(
		"host2", "network", "create", "-d", "baize", "--ipam-driver", "baize", "--ipam-opt", "baize.network=blue", "-o",
		"baize.network=blue", "blue",
	)
	p.container("host2", "guest", "--network", "blue")
	p.reach("host2", "guest", p.Endpoint("host1/c1").IPs[0])
}

// testDockerLastNetwork is U3: what engines create leaves nothing, and what an operator
// creates stays.
func testDockerLastNetwork(p plugin) {
	subnets := func() string { return p.Must("host1", "baize", "subnet", "list", "--network", "fleeting") }
	records := func() string { return p.Must("host1", "baize", "network", "list") }
	p.network("host1", "fleeting", "--subnet", "10.14.0.0/16")
	p.network("host2", "fleeting")
	p.container("host1", "short", "--network", "fleeting")
	p.container("host2", "lived", "--network", "fleeting")
	p.reach("host1", "short", p.addr("host2", "lived", "fleeting"))
	require.NotContains(p.T, subnets(), "host3", "it does not use the network")
	for host, name := range map[string]string{"host1": "short", "host2": "lived"} {
		p.docker(host, "rm", "-f", name)
	}
	p.docker("host1", "network", "rm", "fleeting")
	p.Await("host1 has given its subnet back", func() (bool, string) {
		out := subnets()
		return !strings.Contains(out, "host1") && strings.Contains(out, "host2"), out
	})
	p.docker("host2", "network", "rm", "fleeting")
	p.Await("nothing is left of the network", func() (bool, string) {
		out := records()
		return !strings.Contains(out, "fleeting"), out
	})
	left := p.Must("host1", "baize", "backup")
	require.NotContains(p.T, left, "fleeting")
	require.NotContains(p.T, left, "10.14.")

	// Two engines at once, and a network of an operator's.
	p.Must("host1", "baize", "network", "create", "lasting", "--subnet", "10.15.0.0/16")
	for _, host := range []string{"host1", "host2"} {
		p.network(host, "fleeting", "--subnet", "10.14.0.0/16")
		p.network(host, "lasting")
	}
	var both errgroup.Group
	for _, host := range []string{"host1", "host2"} {
		both.Go(func() error {
			_, err := p.Host(host).Exec(p.T.Context(), dockerCLI, "network", "rm", "fleeting", "lasting")
			return err
		})
	}
	require.NoError(p.T, both.Wait())
	p.Await("the engines' network is gone, and the operator's is there", func() (bool, string) {
		out := records()
		return !strings.Contains(out, "fleeting") && strings.Contains(out, "lasting"), out
	})
	p.Must("host1", "baize", "network", "delete", "lasting")
}

func testDockerAddresses(p plugin) {
	for i := 1; i <= 3; i++ {
		host := fmt.Sprintf("host%d", i)
		p.container(host, "web", "--network", "shop")
		inLease := false
		for _, n := range p.AgentStatus(host).Networks {
			for _, s := range n.Subnets {
				inLease = inLease || (n.Name == "shop" && s.Contains(p.addr(host, "web", "shop")))
			}
		}
		assert.True(p.T, inLease, "%s is of the node's lease", p.addr(host, "web", "shop"))
		show := p.within(host, "web", "ip", "addr", "show", "eth0")
		assert.Contains(p.T, show, fmt.Sprintf("inet %s/16", p.addr(host, "web", "shop")))
		assert.Contains(p.T, show, fmt.Sprintf("inet6 %s/48", p.addr6(host, "web", "shop")))
		assert.Contains(p.T, show, "mtu 1450")
		assert.Contains(p.T, show, topology.MACOf(p.addr(host, "web", "shop")).String())
	}
	for _, hosts := range [][2]string{{"host1", "host2"}, {"host2", "host3"}, {"host3", "host1"}} {
		p.reach(hosts[0], "web", p.addr(hosts[1], "web", "shop"))
		p.reach(hosts[0], "web", p.addr6(hosts[1], "web", "shop"))
		// As large as it may be, and not a byte more.
		to := p.addr(hosts[1], "web", "shop").String()
		p.within(hosts[0], "web", "ping", "-c", "1", "-W", "5", "-s", "1422", to)
		p.refused(
			hosts[0],
			nil,
			"exec",
			"web",
			"sh",
			"-c",
			"ip route change 10.7.0.0/16 dev eth0 mtu lock 1450 && ping -c 1 -W 1 -s 1423 "+to+" | grep -q '1 packets received'",
		)
	}
}

func testDockerBulk(p plugin) {
	for i := 1; i <= 3; i++ {
		p.container(fmt.Sprintf("host%d", i), "bulk", "--network", "shop")
	}
	for _, hosts := range [][2]string{{"host1", "host2"}, {"host2", "host3"}, {"host3", "host1"}} {
		p.bulk(hosts[0], "bulk", hosts[1], "bulk", p.addr(hosts[1], "bulk", "shop").String())
	}
}

func testDockerChosen(p plugin) {
	p.container("host1", "peer", "--network", "shop", "--network-alias", "colleague")
	// An address outside of every lease, one of the own.
	p.container("host2", "away", "--network", "shop", "--ip", "10.7.250.9", "--ip6", "fd00:10:7:fa::9")
	assert.Equal(p.T, "10.7.250.9", p.addr("host2", "away", "shop").String())
	p.reach("host1", "peer", netip.MustParseAddr("10.7.250.9"))
	p.reach("host1", "peer", netip.MustParseAddr("fd00:10:7:fa::9"))
	p.refused(
		"host3", []string{"10.7.250.9"}, "run", "--rm", "--network", "shop", "--ip", "10.7.250.9", lab.DockerImage, "true",
	)
	p.refused(
		"host2", []string{"10.7.250.9"}, "run", "--rm", "--network", "shop", "--ip", "10.7.250.9", lab.DockerImage, "true",
	)
	p.theft()
	p.container("host3", "mac", "--network", "shop", "--mac-address", "02:00:00:00:77:01")
	assert.Contains(p.T, p.within("host3", "mac", "ip", "link", "show", "eth0"), "02:00:00:00:77:01")
	p.reach("host1", "peer", p.addr("host3", "mac", "shop"))
	p.allowed()
	// Docker's own resolver, on one engine.
	p.container("host1", "friend", "--network", "shop")
	p.within("host1", "friend", "ping", "-c", "1", "-W", "5", "colleague")
	p.within("host1", "friend", "ping", "-c", "1", "-W", "5", "peer")
}

// allowed gives a container an address beside its own (row B7).
func (p plugin) allowed() {
	p.refused("host3", []string{"option baize.allow", "10.7.0.1/16"}, "run", "--rm",
		"--network", "name=shop,driver-opt=baize.allow=10.7.0.1/16", lab.DockerImage, "true")
	p.container("host3", "plain", "--network", "shop")
	float := last(p.addr("host3", "plain", "shop"))
	p.container("host3", "floats", "--cap-add", "NET_ADMIN", "--network", "name=shop,driver-opt=baize.allow="+float.String())
	p.within("host3", "floats", "ip", "addr", "add", float.String()+"/32", "dev", "eth0")
	p.reach("host1", "peer", float)
	p.reach("host3", "plain", float)
	// A running container is not cut off by the command line without a word.
	id := p.docker("host3", "inspect", "-f", "{{with index .NetworkSettings.Networks \"shop\"}}{{slice .EndpointID 0 12}}{{end}}", "floats")
	out, err := p.Run("host3", "baize", "endpoint", "remove", "docker-"+id)
	require.ErrorContains(p.T, err, "--yes", out)
	require.ErrorContains(p.T, err, "is that of container floats")
	p.reach("host1", "peer", float)
}

// theft is U2: it tries to start a container on host2 with the address of one on host1, whose
// traffic goes on, and starts it once that one has stopped.
func (p plugin) theft() {
	p.container("host1", "shopkeeper", "--network", "shop")
	p.container("host3", "client", "--network", "shop")
	owned := p.addr("host1", "shopkeeper", "shop")
	p.AwaitRun("the container's name is known", "host3",
		dockerCLI, "exec", "client", "ping", "-c", "1", "-W", "1", "shopkeeper")
	stream := p.pingingFrom("host3", "client", owned)
	p.refused(
		"host2", []string{owned.String(), "node host1 has it: taken by endpoint docker-", "container shopkeeper"},
		"run", "--rm", "--network", "shop", "--ip", owned.String(), lab.DockerImage, "true",
	)
	stream.Goes(100)
	assert.Empty(p.T, stream.Ends().Missing, "whoever has the address is not disturbed")
	p.docker("host1", "rm", "-f", "shopkeeper")
	p.squatter()
	p.container("host2", "heir", "--network", "shop", "--ip", owned.String())
	p.reach("host3", "client", owned)
	p.reach("host1", "peer", owned)
}

// squatter takes free addresses of host1's lease by hand, which nobody else can have then.
func (p plugin) squatter() {
	p.container("host1", "squatter", "--network", "shop", "--cap-add", "NET_ADMIN")
	beside := func(a netip.Addr) netip.Addr {
		b := a.AsSlice()
		b[len(b)-1] ^= 0x80
		a, _ = netip.AddrFromSlice(b)
		return a
	}
	free6 := beside(p.addr6("host1", "squatter", "shop"))
	for _, a := range []netip.Addr{beside(p.addr("host1", "squatter", "shop")), free6} {
		p.within("host1", "squatter", "ip", "addr", "add", a.String()+"/"+fmt.Sprint(a.BitLen()), "dev", "eth0")
		p.Await("duplicate address detection to end", func() (bool, string) {
			out := p.within("host1", "squatter", "ip", "addr", "show", "eth0")
			return !strings.Contains(out, "tentative"), out
		})
		p.refused("host2", []string{
			a.String(), "node host1 has it: taken by endpoint docker-", "container squatter",
			topology.MACOf(p.addr("host1", "squatter", "shop")).String() + " answers for it",
		}, "run", "--rm", "--network", "shop", map[bool]string{true: "--ip", false: "--ip6"}[a.Is4()], a.String(),
			lab.DockerImage, "true")
		p.within("host1", "squatter", "ip", "addr", "del", a.String()+"/"+fmt.Sprint(a.BitLen()), "dev", "eth0")
	}
	p.docker("host2", "run", "--rm", "--network", "shop", "--ip6", free6.String(), lab.DockerImage, "true")
	p.docker("host1", "rm", "-f", "squatter")
}

func testDockerRange(p plugin) {
	p.network(
		"host1", "ranged", "--subnet", "10.9.0.0/16", "--ip-range", "10.9.200.0/24", "--aux-address", "printer=10.9.200.2",
	)
	p.T.Cleanup(func() { _, _ = p.Host("host1").Exec(context.Background(), dockerCLI, "network", "rm", "ranged") })
	for _, name := range []string{"r1", "r2"} {
		p.container("host1", name, "--network", "ranged")
		a := p.addr("host1", name, "ranged")
		assert.True(p.T, netip.MustParsePrefix("10.9.200.0/24").Contains(a), a)
		assert.NotEqual(p.T, "10.9.200.2", a.String())
	}
	p.refused(
		"host1", []string{"10.9.200.2"}, "run", "--rm", "--network", "ranged", "--ip", "10.9.200.2", lab.DockerImage,
		"true",
	)
	p.reach("host1", "r1", p.addr("host1", "r2", "ranged"))
}

func testDockerConnect(p plugin) {
	p.network("host1", "second", "--subnet", "10.11.0.0/16")
	p.network("host2", "second", "--subnet", "10.11.0.0/16")
	p.T.Cleanup(func() {
		for _, host := range []string{"host1", "host2"} {
			_, _ = p.Host(host).Exec(context.Background(), dockerCLI, "network", "rm", "second")
		}
	})
	p.container("host1", "both", "--network", "shop")
	p.container("host2", "one", "--network", "shop")
	p.container("host2", "two", "--network", "second")
	p.docker("host1", "network", "connect", "--ip", "10.11.250.1", "second", "both")
	p.reach("host1", "both", p.addr("host2", "one", "shop"))
	p.reach("host1", "both", p.addr("host2", "two", "second"))
	p.reach("host2", "two", netip.MustParseAddr("10.11.250.1"))
	p.docker("host1", "network", "disconnect", "shop", "both")
	p.reach("host1", "both", p.addr("host2", "two", "second"))
	p.refused("host1", nil, "exec", "both", "ping", "-c", "1", "-W", "1", p.addr("host2", "one", "shop").String())
	p.docker("host1", "network", "connect", "shop", "both")
	p.reach("host1", "both", p.addr("host2", "one", "shop"))
}

func testDockerOutside(p plugin) {
	const outside = "192.168.77.1" // the fabric's own address
	p.container("host1", "front", "--network", "shop", "-p", "8080:80")
	assert.Contains(p.T, p.docker("host1", "port", "front"), "80/tcp -> 0.0.0.0:8080")
	p.docker(
		"host1", "exec", "-d", "front", "sh", "-c",
		"mkdir /www; echo hello from front > /www/index.html; httpd -p 80 -h /www",
	)
	p.AwaitRun(
		"the published port from another host", "host2", "sh", "-c",
		"busybox wget -qO- http://192.168.77.11:8080/ | grep 'hello from front'",
	)
	p.reach("host1", "front", netip.MustParseAddr(outside))

	p.network("host1", "inner", "--internal", "--subnet", "10.12.0.0/16")
	p.network("host2", "inner", "--internal", "--subnet", "10.12.0.0/16")
	p.T.Cleanup(func() {
		for _, host := range []string{"host1", "host2"} {
			_, _ = p.Host(host).Exec(context.Background(), dockerCLI, "network", "rm", "inner")
		}
	})
	p.container("host1", "in1", "--network", "inner")
	p.container("host2", "in2", "--network", "inner")
	p.reach("host1", "in1", p.addr("host2", "in2", "inner"))
	assert.NotContains(p.T, p.within("host1", "in1", "ip", "route"), "default")
	p.refused("host1", nil, "exec", "in1", "ping", "-c", "1", "-W", "1", outside)
}

// A container is stopped on one engine and started on another one with its address and MAC:
// who has its MAC in the neighbour cache reaches it from its start on.
func testDockerMove(p plugin) {
	p.container("host1", "peer", "--network", "shop")
	at := netip.MustParseAddr("10.7.251.7")
	start := func(host string) {
		p.container(host, "server", "--network", "shop", "--ip", at.String(), "--mac-address", "02:00:00:00:77:07")
	}
	start("host2")
	p.reach("host1", "peer", at)
	for _, way := range [][2]string{{"host2", "host3"}, {"host3", "host2"}} {
		p.docker(way[0], "rm", "-f", "server")
		start(way[1])
		pings := p.Ping(p.containerNetns("host1", "peer"), at, 10*time.Millisecond)
		pings.Goes(100)
		lost := len(pings.Ends().Missing)
		p.T.Logf("started on %s: %d ms lost", way[1], 10*lost)
		assert.LessOrEqual(p.T, lost, moveLoss)
	}
}

// testDockerPortNames is U13: the switch shows containers by what people call them.
func testDockerPortNames(p plugin) {
	ports := func() []string {
		return strings.Fields(p.Must("host2", "ovs-vsctl", "list-ports", "br-baize"))
	}
	p.container("host2", "named", "--network", "shop")
	require.Contains(p.T, ports(), "bz-named")
	require.Contains(p.T, p.Must("host2", "ovs-vsctl", "show"), "Port bz-named")
	require.Contains(p.T, p.Must("host2", "baize", "endpoint", "list"), "named")
	p.container("host1", "peer", "--network", "shop")
	for range 3 { // it has the name again, at once
		p.docker("host2", "restart", "-t", "0", "named")
		require.Contains(p.T, ports(), "bz-named")
	}
	p.reach("host1", "peer", p.addr("host2", "named", "shop"))

	// A container has the name in one network alone; what they share in long ones is not all.
	p.network("host2", "other", "--subnet", "10.16.0.0/16")
	p.T.Cleanup(func() { _, _ = p.Host("host2").Exec(context.Background(), dockerCLI, "network", "rm", "other") })
	before := len(ports())
	p.docker("host2", "network", "connect", "other", "named")
	for _, name := range []string{"accounting-front-1", "accounting-front-2"} {
		p.container("host2", name, "--network", "shop")
	}
	require.Len(p.T, ports(), before+3)
	named := func(pattern string) (n int) {
		for _, port := range ports() {
			if ok, _ := path.Match(pattern, port); ok {
				n++
			}
		}
		return n
	}
	require.Equal(p.T, 1, named("bz-??????-named"), "%v", ports())
	require.Equal(p.T, 1, named("bz-??????-ont-1"), "%v", ports())
	require.Equal(p.T, 1, named("bz-??????-ont-2"), "%v", ports())

	// The name stays while the container runs, whatever it is called meanwhile.
	stream := p.pingingFrom("host1", "peer", p.addr("host2", "named", "shop"))
	p.docker("host2", "rename", "named", "renamed")
	p.T.Cleanup(func() { _, _ = p.Host("host2").Exec(context.Background(), dockerCLI, "rm", "-f", "renamed") })
	p.Await("its new name", func() (bool, string) {
		out := p.Must("host2", "baize", "endpoint", "list")
		return strings.Contains(out, "renamed"), out
	})
	require.Contains(p.T, ports(), "bz-named")
	stream.Goes(10)
	assert.Zero(p.T, stream.Ends().Row(), "packets lost")
	p.docker("host2", "restart", "-t", "0", "renamed")
	require.Contains(p.T, ports(), "bz-renamed")
	p.docker("host2", "rm", "-f", "renamed", "accounting-front-1", "accounting-front-2")
	p.docker("host1", "rm", "-f", "peer")
	p.nothingLeft("host2")
}

func testDockerRestart(p plugin) {
	p.container("host1", "peer", "--network", "shop")
	p.container("host2", "server", "--network", "shop", "--ip", "10.7.251.1")
	at := netip.MustParseAddr("10.7.251.1")
	p.reach("host1", "peer", at)
	p.docker("host2", "restart", "-t", "0", "server")
	p.within("host1", "peer", "ping", "-c", "1", "-W", "2", at.String())
	// Another container with the address and another MAC, which the peer's cache
	// does not know: on this host, then on the third.
	p.docker("host2", "rm", "-f", "server")
	p.container("host2", "server", "--network", "shop", "--ip", at.String(), "--mac-address", "02:00:00:00:77:02")
	p.within("host1", "peer", "ping", "-c", "2", "-W", "2", at.String())
	p.docker("host2", "rm", "-f", "server")
	p.container("host3", "server", "--network", "shop", "--ip", at.String(), "--mac-address", "02:00:00:00:77:03")
	p.reach("host1", "peer", at)
}
