//go:build system

package domaintest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// dockerCLI is the client of the engine's own version; another may come first
// in the path, and refuse what its engine could do.
const dockerCLI = "/usr/bin/docker"

func (d *domain) docker(host string, args ...string) string {
	d.T.Helper()
	return strings.TrimSpace(d.Must(host, append([]string{dockerCLI}, args...)...))
}

// plain starts a container as anybody does, without any --network, and returns
// its address.
func (d *domain) plain(host, name string) string {
	d.T.Helper()
	d.docker(host, "run", "-d", "--init", "--name", name, lab.DockerImage, "sleep", "100000")
	return d.docker(host, "inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)
}

func (d *domain) subnetEnv(host string) subnetenv.Env {
	d.T.Helper()
	e, err := subnetenv.Parse([]byte(d.Must(host, "cat", subnetenv.BaizeFile)))
	require.NoError(d.T, err)
	return e
}

// bulk sends a file of some MB between two containers and compares what
// arrived.
func (d *domain) bulk(fromHost, from, toHost, to, addr string) {
	d.T.Helper()
	const megabytes = 8
	d.docker(fromHost, "exec", from, "sh", "-c", fmt.Sprintf("head -c %d /dev/urandom > /tmp/out", megabytes<<20))
	d.docker(
		toHost, "exec", "-d", to, "sh", "-c",
		// An nc whose input ends hangs up: it gets one that does not.
		"rm -f /tmp/in /tmp/sum /tmp/open; mkfifo /tmp/open; exec 3<>/tmp/open; nc -l -p 5001 <&3 >/tmp/in; sha256sum "+
			"/tmp/in >/tmp/sum",
	)
	d.Await("a listener", func() (bool, string) {
		out, err := d.Run(toHost, dockerCLI, "exec", to, "sh", "-c", "netstat -ltn | grep :5001")
		return err == nil, out
	})
	start := time.Now()
	d.docker(fromHost, "exec", from, "sh", "-c", "nc "+addr+" 5001 < /tmp/out")
	sum := strings.Fields(d.docker(fromHost, "exec", from, "sha256sum", "/tmp/out"))[0]
	var got string
	d.Await("the bytes that were sent", func() (bool, string) {
		got, _ = d.Run(toHost, dockerCLI, "exec", to, "cat", "/tmp/sum")
		return strings.HasPrefix(got, sum), got + " is not " + sum
	})
	d.T.Logf(
		"%s/%s to %s/%s: %d MB in %v", fromHost, from, toHost, to, megabytes,
		time.Since(start).Round(time.Millisecond),
	)
}

// Plain 'docker run' on three hosts is one Ethernet, with endpoints of Baize's
// own in it.
func TestDocker0(t *testing.T) {
	t.Parallel()
	testDocker0(t, nil)
}

func testDocker0(t *testing.T, engines map[string]string) {
	d := up(t, topology.VXLAN, lab.Config{
		DockerBridge: true, Engines: engines,
		Networks:  []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")}}},
		AgentArgs: []string{"--audit-interval", "2s"},
	})
	addrs := map[string]string{}
	for i := 1; i <= 3; i++ {
		host := fmt.Sprintf("host%d", i)
		e := d.subnetEnv(host)
		assert.True(t, e.L2)
		addrs[host] = d.plain(host, "web")
		ip := netip.MustParseAddr(addrs[host])
		assert.True(t, e.Subnet.Contains(ip), "%s has %s, its lease is %s", host, ip, e.Subnet)
		// The first container has the lease's own address.
		assert.Equal(t, e.Subnet.Addr(), ip)
		if s := d.AgentStatus(host).Segments; assert.Len(t, s, 1) {
			assert.Equal(t, "docker0", s[0].Name)
			assert.Equal(t, []netip.Prefix{e.Subnet, e.IPv6Subnet}, s[0].Subnets)
		}
		for _, x := range d.AgentStatus(host).Endpoints {
			assert.NotContains(t, e.Subnet.String(), x.IPs[0].String(), "an endpoint has one of docker0's addresses")
		}
	}
	ping := func(to string) []string { return []string{dockerCLI, "exec", "web", "ping", "-c", "1", "-W", "1", to} }
	for host := range addrs {
		for other, addr := range addrs {
			if host == other {
				continue
			}
			d.AwaitRun("container to container", host, ping(addr)...)
			// docker0 itself, an endpoint of Baize's own on either host, by both families.
			d.AwaitRun("container to another docker0", host, ping(topology.NodeAddr(d.subnetEnv(other).Subnet).String())...)
			c1 := d.Endpoint(other + "/c1")
			d.AwaitRun("container to endpoint", host, ping(c1.IPs[0].String())...)
			d.AwaitRun("container to endpoint, IPv6", host, ping(c1.IPs[1].String())...)
			d.AwaitRun("endpoint to container", host+"/c1", "ping", "-c", "1", "-W", "1", addr)
			v6 := d.docker(other, "inspect", "-f", "{{.NetworkSettings.GlobalIPv6Address}}", "web")
			d.AwaitRun("container to container, IPv6", host, ping(v6)...)
		}
		d.AwaitRun("endpoint to container of its host", host+"/c1", "ping", "-c", "1", "-W", "1", addrs[host])
		d.AwaitRun("container to endpoint of its host", host, ping(d.Endpoint(host + "/c1").IPs[0].String())...)
	}
	d.bulk("host1", "web", "host2", "web", addrs["host2"])
	d.bulk("host2", "web", "host1", "web", addrs["host1"])

	t.Run("broadcast arrives once", func(t *testing.T) {
		d := d.in(t)
		sockets := map[string]*testkit.Socket{}
		for host := range addrs {
			sockets[host] = d.insideWeb(host)
		}
		endpoint := d.Inside(d.Endpoint("host3/c1"))
		src := testkit.MAC(t, d.docker("host1", "inspect", "-f", "{{.NetworkSettings.MacAddress}}", "web"))
		send := func(text string) {
			sockets["host1"].Send(t, testkit.Frame(testkit.Broadcast, src, testkit.Experimental, []byte(text)))
		}
		counts := func(text string) [3]int {
			return [3]int{
				sockets["host2"].Count([]byte(text)),
				sockets["host3"].Count([]byte(text)),
				endpoint.Count([]byte(text)),
			}
		}
		for i := range 5 {
			send(fmt.Sprint("once and not twice ", i))
		}
		// A marker behind them: what was to come a second time has come by then. A
		// busy machine may lose a single frame.
		d.Await("the marker on every other", func() (bool, string) {
			send("marker")
			saw := counts("marker")
			return !slices.Contains(saw[:], 0), fmt.Sprint(saw)
		})
		whole := 0
		for i := range 5 {
			saw := counts(fmt.Sprint("once and not twice ", i))
			for _, n := range saw {
				assert.LessOrEqual(t, n, 1, "%v", saw)
			}
			if saw == [3]int{1, 1, 1} {
				whole++
			}
		}
		assert.GreaterOrEqual(t, whole, 3, "of 5 broadcasts that reached all")
	})

	t.Run("the plugin beside docker0, on every host", func(t *testing.T) {
		p := plugin{d.in(t)}
		for _, host := range []string{"host1", "host2"} {
			// docker0 is in the subnet: Docker does not choose it by itself.
			p.refused(
				host, []string{"--subnet 10.1.0.0/16"}, "network", "create", "-d", "baize", "--ipam-driver", "baize",
				"--ipam-opt", "baize.network=blue", "blue",
			)
			p.network(host, "blue", "--subnet", "10.1.0.0/16")
			p.container(host, "member", "--network", "blue")
		}
		for _, host := range []string{"host1", "host2"} {
			for other, addr := range addrs {
				p.reach(host, "member", netip.MustParseAddr(addr))
				p.reach(other, "web", p.addr(host, "member", "blue"))
			}
		}
		p.reach("host1", "member", p.addr("host2", "member", "blue"))
		p.bulk("host1", "member", "host2", "web", addrs["host2"])
		p.bulk("host2", "web", "host1", "member", p.addr("host1", "member", "blue").String())
	})

	t.Run("a spoofed address stays here", func(t *testing.T) {
		d := d.in(t)
		src, from := testkit.MAC(
			t,
			d.docker("host1", "inspect", "-f", "{{.NetworkSettings.MacAddress}}", "web"),
		), d.insideWeb(
			"host1",
		)
		before := d.AgentStatus("host1").Drops["spoofed address"]
		from.Send(
			t,
			testkit.IPv4(
				topology.MACOf(netip.MustParseAddr(addrs["host2"])),
				src,
				netip.MustParseAddr("10.1.250.9"),
				netip.MustParseAddr(addrs["host2"]),
				"a lie",
			),
		)
		d.Await("the drop to be counted", func() (bool, string) {
			drops := d.AgentStatus("host1").Drops
			return drops["spoofed address"] > before, fmt.Sprint(drops)
		})
	})

	t.Run("the agent is restarted, etcd is down", func(t *testing.T) {
		d := d.in(t)
		stream := d.pingingFrom("host1", "web", netip.MustParseAddr(addrs["host3"]))
		require.NoError(t, d.Host("host1").Kill(t.Context(), lab.ServiceAgent, unix.SIGKILL))
		require.NoError(t, d.Host("host1").AwaitService(t.Context(), lab.ServiceAgent))
		// Single packets a userspace datapath loses on a busy machine.
		stream.Goes(200)
		assert.Less(t, stream.Ends().Row(), 5, "packets lost in a row, 20 ms apart")
		require.NoError(t, d.Host("fabric").StopService(t.Context(), lab.ServiceEtcd))
		late := d.plain("host2", "late")
		d.AwaitRun("a container started while etcd is down", "host1", ping(late)...)
		require.NoError(t, d.Host("fabric").StartService(t.Context(), lab.ServiceEtcd))
	})

	t.Run("docker0 is deleted, dockerd restarts", func(t *testing.T) {
		d := d.in(t)
		env := d.subnetEnv("host2")
		d.Must("host2", "ip", "link", "delete", "docker0")
		d.Await("the problem to be named", func() (bool, string) {
			saw := fmt.Sprint(d.AgentStatus("host2").Problems)
			return strings.Contains(saw, "it is not there"), saw
		})
		require.NoError(t, d.Host("host2").StopService(t.Context(), lab.ServiceDockerd))
		require.NoError(t, d.Host("host2").StartService(t.Context(), lab.ServiceDockerd))
		d.docker("host2", "restart", "-t", "0", "web")
		addr := d.docker("host2", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web")
		assert.True(t, env.Subnet.Contains(netip.MustParseAddr(addr)))
		assert.Equal(t, env, d.subnetEnv("host2"), "nothing is renumbered")
		d.AwaitRun("a container after docker0 was made anew", "host1", ping(addr)...)
		d.Await("no problem to be left", func() (bool, string) {
			saw := fmt.Sprint(d.AgentStatus("host2").Problems)
			return saw == "[]", saw
		})
	})

	t.Run("ovs-vswitchd is killed", func(t *testing.T) {
		d := d.in(t)
		require.NoError(t, d.Host("host1").Kill(t.Context(), lab.ServiceVswitchd, unix.SIGKILL))
		require.NoError(t, d.Host("host1").AwaitService(t.Context(), lab.ServiceVswitchd))
		d.AwaitRun("another host after a restart of ovs-vswitchd", "host1", ping(addrs["host3"])...)
	})

	t.Run("what somebody changed is named", func(t *testing.T) {
		d := d.in(t)
		named := func(part string) {
			d.T.Helper()
			d.Await("the problem to be named", func() (bool, string) {
				saw := fmt.Sprint(d.AgentStatus("host3").Problems)
				return strings.Contains(saw, part), saw
			})
		}
		bip := netip.PrefixFrom(topology.NodeAddr(d.subnetEnv("host3").Subnet), 16).String()
		d.Must("host3", "ip", "addr", "del", bip, "dev", "docker0")
		named("its containers are cut off")
		d.Must("host3", "ip", "addr", "add", bip, "dev", "docker0")
		d.Must("host3", "iptables", "-P", "FORWARD", "DROP")
		d.Must("host3", "iptables", "-F", "FORWARD")
		d.Must("host3", "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
		named("Docker's own rules are gone")
		d.Must("host3", "iptables", "-A", "FORWARD", "-i", "docker0", "-o", "docker0", "-j", "DROP")
		named("--icc=false")
	})

	t.Run("an address of docker0 is no endpoint's", func(t *testing.T) {
		d := d.in(t)
		d.Must("host1", "ip", "netns", "add", "x")
		out, err := d.Run("host1", "baize", "endpoint", "add", "--network", "blue", "--netns", "x", "--ip", addrs["host2"])
		require.Error(t, err)
		assert.Contains(t, out+err.Error(), "docker0 of node host2")
	})
}

// insideWeb opens a socket in the container web of a host.
func (d *domain) insideWeb(host string) *testkit.Socket {
	d.T.Helper()
	return d.Listen(d.containerNetns(host, "web"), "eth0")
}

// containerNetns is the path of a container's network namespace as seen from
// outside.
func (d *domain) containerNetns(host, name string) string {
	d.T.Helper()
	pid, err := d.Host(host).PID()
	require.NoError(d.T, err)
	return fmt.Sprintf("/proc/%d/root/proc/%s/ns/net", pid, d.docker(host, "inspect", "-f", "{{.State.Pid}}", name))
}

// pingingFrom pings from a container every 20 ms.
func (d *domain) pingingFrom(host, name string, to netip.Addr) labkit.Pings {
	d.T.Helper()
	return d.Ping(d.containerNetns(host, name), to, 20*time.Millisecond)
}
