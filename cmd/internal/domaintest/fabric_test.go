//go:build system

package domaintest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// Timers of the agents: a host's end is to be noticed long before bgpRestart.
const (
	bgpHold    = 3 * time.Second
	bgpRestart = 3 * time.Minute
)

// TestFabric has a real FRR as the router between two segments: host1 and
// host3 are in one, host2 in the other.
func TestFabric(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		transport topology.Transport
		frr       bool
	}{
		{"the agents speak BGP, auto", topology.Auto, false},
		{"FRR on the hosts, route", topology.Route, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := lab.Config{
				Segments: 2, FRR: c.frr,
				Networks: []lab.NetworkSpec{
					{
						Name:     "blue",
						Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")},
					},
				},
			}
			why := "learned by BGP from 192.168.7"
			if c.frr {
				why = "kernel route of protocol bgp"
			} else {
				config.AgentArgs = []string{
					"--bgp-hold-time", bgpHold.String(), "--bgp-restart-time", bgpRestart.String(), "--metrics", metricsAt,
				}
			}
			d := up(t, c.transport, config)
			require.Empty(t, d.Proof.Failed())
			f := &fabricTest{d, why, c.frr}
			for _, x := range []struct {
				name string
				test func(*fabricTest)
			}{
				{"paths and why", testFabricPaths},
				{"not encapsulated", testFabricWire},
				{"sessions as they were asked for", testFabricSessions},
				{"an address away from home", testFabricPin},
				{"a stream survives restarts", testFabricRestarts},
				{"a session that is down is said", testFabricDown},
				{"a host joins, leaves, joins, dies", testFabricHosts},
			} {
				if !t.Run(x.name, func(t *testing.T) {
					x.test(&fabricTest{d.in(t), f.why, f.frr})
				}) {
					d.Explain()
				}
			}
		})
	}
}

type fabricTest struct {
	*domain
	why string
	frr bool // on the hosts
}

// subnets are those of a host in blue.
func (f *fabricTest) subnets(host string) []string {
	f.T.Helper()
	for _, n := range f.AgentStatus(host).Networks {
		if n.Name == "blue" {
			require.Len(f.T, n.Subnets, 2)
			return []string{n.Subnets[0].String(), n.Subnets[1].String()}
		}
	}
	require.Fail(f.T, "no network blue on "+host)
	return nil
}

// path is the line of 'baize route list' about a prefix.
func (f *fabricTest) path(host, prefix string) string {
	f.T.Helper()
	for line := range strings.Lines(f.Must(host, "baize", "route", "list")) {
		if strings.Contains(line, " "+prefix+" ") {
			return line
		}
	}
	return ""
}

// throughFabric waits until host reaches the prefixes through the router.
func (f *fabricTest) throughFabric(host string, prefixes []string) {
	f.T.Helper()
	for _, p := range prefixes {
		f.Await("the fabric leads to "+p, func() (bool, string) {
			line := f.path(host, p)
			return strings.Contains(line, "route via ") && strings.Contains(line, f.why), line
		})
	}
}

// routerKnows reports whether the router has a route.
func (f *fabricTest) routerKnows(prefix string) (bool, string) {
	f.T.Helper()
	family := "ip"
	if strings.Contains(prefix, ":") {
		family = "ipv6"
	}
	out := f.Must("router", "vtysh", "-c", "show "+family+" route bgp")
	return strings.Contains(out, " "+prefix+" "), out
}

func testFabricPaths(f *fabricTest) {
	near, far := f.subnets("host3"), f.subnets("host2")
	f.throughFabric("host1", far)
	f.throughFabric("host2", f.subnets("host1"))
	for _, p := range near {
		line := f.path("host1", p)
		require.True(f.T, strings.Contains(line, "is on-link") || (f.frr && strings.Contains(line, f.why)), line)
	}
	// A subnet or pin, and nothing else, is announced by its owner.
	for _, p := range []string{"10.1.0.0/16", "fd00:10:1::/48", "0.0.0.0/0"} {
		known, out := f.routerKnows(p)
		require.False(f.T, known, out)
	}
	out := f.Must("router", "vtysh", "-c", "show ip bgp")
	for _, host := range []string{"host1", "host2", "host3"} {
		require.Equal(f.T, 1, strings.Count(out, f.subnets(host)[0]), "one owner:\n%s", out)
	}
	require.Contains(f.T, f.Must("host1", "baize", "status"), "No problems.")
}

// Bulk TCP crosses the fabric as plain IP, in both families and directions.
func testFabricWire(f *fabricTest) {
	for _, pair := range [][2]string{{"host1/c1", "host2/c1"}, {"host2/c1", "host1/c1"}} {
		from, to := f.Endpoint(pair[0]), f.Endpoint(pair[1])
		wires := map[string]*testkit.Socket{}
		for _, port := range []string{from.Node, "router0", "router1", to.Node} {
			wires[port] = f.Wire(port)
		}
		for _, ip := range to.IPs {
			f.Stream(from, to, ip)(func() {})
		}
		for port, w := range wires {
			f.Await("plain IP on the wire of "+port, func() (bool, string) {
				plain, tunnelled := bulk(w, from, to)
				return plain[topology.IPv4] > 10 && plain[topology.IPv6] > 10, fmt.Sprint(plain, tunnelled)
			})
			_, tunnelled := bulk(w, from, to)
			require.Zero(f.T, tunnelled, port)
		}
	}
}

// bulk counts full TCP segments from one endpoint to another, and datagrams to
// VXLAN's port that hold one.
func bulk(s *testkit.Socket, from, to lab.EndpointStatus) (plain map[topology.Family]int, tunnelled int) {
	plain = map[topology.Family]int{}
	for _, f := range s.Frames() {
		for _, a := range from.IPs {
			for _, b := range to.IPs {
				family := topology.FamilyOf(a)
				addrs := append(a.AsSlice(), b.AsSlice()...)
				at := map[topology.Family]int{topology.IPv4: 26, topology.IPv6: 22}[family]
				switch i := bytes.Index(f, addrs); {
				case family != topology.FamilyOf(b) || i < 0 || len(f) < 1000:
				case i == at:
					plain[family]++
				default:
					tunnelled++
				}
			}
		}
	}
	return plain, tunnelled
}

// Sessions have the timers that were given, and every segment of theirs a
// signature; nobody listens but FRR.
func testFabricSessions(f *fabricTest) {
	out := f.Must("host1", "ss", "-Hltn", "sport = :179")
	require.Equal(f.T, f.frr, strings.Contains(out, ":179"), out)
	hold, restart := bgpHold, bgpRestart
	if f.frr {
		hold, restart = 9*time.Second, 2*time.Minute // of FRR's profile, and FRR's own
	}
	var peers map[string]struct {
		Hold    int64 `json:"bgpTimerHoldTimeMsecs"`
		Restart struct {
			Timers struct {
				Received int64 `json:"receivedRestartTimer"`
			} `json:"timers"`
		} `json:"gracefulRestartInfo"`
	}
	text := f.Must("router", "vtysh", "-c", "show bgp neighbors json")
	require.NoError(f.T, json.Unmarshal([]byte(text), &peers), text)
	for _, addr := range []string{"192.168.77.11", "192.168.78.12", "192.168.77.13"} {
		require.Equal(f.T, hold.Milliseconds(), peers[addr].Hold, text)
		require.Equal(f.T, int64(restart.Seconds()), peers[addr].Restart.Timers.Received, text)
	}
	w := f.Wire("host1")
	f.Await("keepalives", func() (bool, string) {
		signed, bare := bgpSegments(w)
		require.Zero(f.T, bare, "segments without a signature")
		return signed > 2, fmt.Sprint(signed)
	})
	if !f.frr {
		f.Await("the session is up, in metrics too", func() (bool, string) {
			text := f.metrics("host1")
			return value(text, `baize_bgp_session_up{neighbor="192.168.77.2"}`) == 1, text
		})
	}
}

// bgpSegments counts the segments of BGP over IPv4 with the option of RFC 2385,
// and those without.
func bgpSegments(s *testkit.Socket) (signed, bare int) {
	for _, f := range s.Frames() {
		if len(f) < 54 || f[12] != 8 || f[13] != 0 || f[23] != unix.IPPROTO_TCP {
			continue
		}
		tcp := f[14+int(f[14]&15)*4:]
		if binary.BigEndian.Uint16(tcp) != 179 && binary.BigEndian.Uint16(tcp[2:]) != 179 {
			continue
		}
		// Kind 19, length 18.
		if bytes.Contains(tcp[20:int(tcp[12]>>4)*4], []byte{19, 18}) {
			signed++
		} else {
			bare++
		}
	}
	return signed, bare
}

// A pin is announced by the node where it is, and only there.
func testFabricPin(f *fabricTest) {
	home := netip.MustParsePrefix(f.subnets("host1")[0]).Addr().As4()
	home[3] = 200
	addr := netip.AddrFrom4(home).String()
	f.Must("host2", "ip", "netns", "add", "pinned")
	f.Must("host2", "baize", "endpoint", "add", "--network", "blue", "--netns", "pinned", "--ip", addr)
	f.throughFabric("host1", []string{addr + "/32"})
	f.Await("the router has one way to it", func() (bool, string) {
		out := f.Must("router", "vtysh", "-c", "show ip bgp "+addr+"/32")
		return strings.Contains(out, "(1 available") && strings.Contains(out, "from host2(192.168.78.12)"), out
	})
	f.Must("host1/c1", "ping", "-c", "2", "-i", "0.2", "-W", "2", addr)
	f.Must("host3/c1", "ping", "-c", "2", "-i", "0.2", "-W", "2", addr)
	f.Must("host2", "baize", "endpoint", "remove", "blue/pinned")
	f.Await(
		"the router has forgotten it",
		func() (bool, string) { known, out := f.routerKnows(addr + "/32"); return !known, out },
	)
}

// Neither the restart of the agent nor that of the router's or the host's bgpd
// breaks a connection, and the agent's withdraws nothing.
func testFabricRestarts(f *fabricTest) {
	from, to := f.Endpoint("host1/c1"), f.Endpoint("host2/c1")
	var finish []func(func())
	for _, ip := range to.IPs {
		finish = append(finish, f.Stream(from, to, ip))
	}
	stop, changes := f.Start("router", "ip", "monitor", "route")
	lost := f.Lost("host1/c1", "host2/c1", func() {
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			require.NoError(f.T, f.Host("host2").Kill(f.T.Context(), lab.ServiceAgent, sig))
			require.NoError(f.T, f.Host("host2").AwaitService(f.T.Context(), lab.ServiceAgent))
		}
		f.throughFabric("host2", f.subnets("host1"))
	})
	stop()
	require.Zero(f.T, lost, "packets, during the agent's restarts")
	require.NotContains(f.T, changes.String(), "Deleted", "an agent's restart withdraws nothing")
	where := []string{"router"}
	if f.frr {
		where = append(where, "host2")
	}
	for _, host := range where {
		start := time.Now()
		lost := f.Lost("host1/c1", "host2/c1", func() {
			require.NoError(f.T, f.Host(host).Kill(f.T.Context(), lab.ServiceBGPD, unix.SIGKILL))
			require.NoError(f.T, f.Host(host).AwaitService(f.T.Context(), lab.ServiceBGPD))
		})
		f.Await("the router knows host2 anew", func() (bool, string) {
			out := f.Must("router", "vtysh", "-c", "show bgp ipv4 unicast summary established")
			return strings.Count(out, "192.168.7") == 4, out // three, and the router's own number
		})
		f.T.Logf("bgpd of %s killed: %d pings lost, sessions back after %v",
			host, lost, time.Since(start).Round(100*time.Millisecond))
		f.throughFabric("host1", f.subnets("host2"))
		f.throughFabric("host2", f.subnets("host1"))
	}
	for _, done := range finish {
		done(func() {})
	}
}

func testFabricDown(f *fabricTest) {
	if f.frr {
		return // FRR's own matter
	}
	require.NoError(f.T, f.Host("router").StopService(f.T.Context(), lab.ServiceBGPD))
	f.Await("the status names the session", func() (bool, string) {
		out, _ := f.Run("host1", "baize", "status")
		return strings.Contains(out, "BGP neighbour 192.168.77.2, AS 65000: the session is down") &&
			strings.Contains(out, "ping 192.168.77.2"), out
	})
	require.NoError(f.T, f.Host("router").StartService(f.T.Context(), lab.ServiceBGPD))
	f.Await("no problem is left", func() (bool, string) {
		out, _ := f.Run("host1", "baize", "status")
		return strings.Contains(out, "No problems."), out
	})
	f.throughFabric("host1", f.subnets("host2"))
}

// What joins is at the far side within seconds, and so is the end of what
// leaves or dies.
func testFabricHosts(f *fabricTest) {
	for _, end := range []string{"is removed", "dies"} {
		h, err := f.AddHost(f.T.Context())
		require.NoError(f.T, err)
		require.Equal(f.T, "host4", h.Name())
		start := time.Now()
		subnets := f.subnets("host4")
		f.throughFabric("host1", subnets)
		f.Reaches("host1/c1", f.Endpoint("host4/c1"))
		joined := time.Since(start)
		if end == "dies" {
			require.NoError(f.T, h.Crash(f.T.Context()))
		} else {
			require.NoError(f.T, f.RemoveHost(f.T.Context(), "host4"))
		}
		start = time.Now()
		for _, p := range subnets {
			f.Await("the router has forgotten "+p, func() (bool, string) { known, out := f.routerKnows(p); return !known, out })
			f.Await("the far side has forgotten "+p, func() (bool, string) {
				line := f.path("host1", p)
				return !strings.Contains(line, "route via"), line
			})
		}
		require.Less(f.T, time.Since(start), 20*time.Second)
		f.T.Logf(
			"host4 %s: at the far side %v after its start, gone %v later",
			end,
			joined.Round(100*time.Millisecond),
			time.Since(start).Round(100*time.Millisecond),
		)
	}
}
