//go:build system

package domaintest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// routedLab has a routed network beside one of the same prefix in tunnels.
func routedLab() lab.Config {
	v4, v6 := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")
	return lab.Config{Networks: []lab.NetworkSpec{
		{Name: "blue", Prefixes: []netip.Prefix{v4, v6}},
		{Name: "red", Prefixes: []netip.Prefix{v4}, Transport: topology.VXLAN},
	}}
}

func TestRouted(t *testing.T) {
	t.Parallel()
	type test struct {
		name string
		test func(*domain)
	}
	common := []test{
		{"not encapsulated, once", testPlainOnTheWire},
		{"UDP with checksums", testDatagrams},
		{"networks are apart", testApart},
		{"spoofing", testSpoofingRouted},
		{"exactly the MTU", testMTU},
		{"an address away from home", testPin},
		{"routes are put back, foreign ones left", testRoutes},
		{"the fast path", testFastPath},
		{"overlapping networks", testOverlap},
	}
	last := []test{
		{"a restart of the agent loses no packet", testAgentRestart},
		{"a host joins and leaves", testRoutesOfAHost},
		{"cleanup removes our routes", testRouteCleanup},
	}
	for transport, own := range map[topology.Transport][]test{
		topology.Route: nil,
		topology.Auto: {
			{"flooded once", testFlood}, {"any EtherType", testEtherType}, {"ARP is not flooded", testARPOnTheWire},
			{"TTL", testTTL}, {"a peer moves off the link and back", testMove},
		},
	} {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			d := up(t, transport, routedLab())
			// Bulk TCP with SHA-256 on every path, both ways, IPv4 and IPv6.
			require.Empty(t, d.Proof.Failed())
			require.Len(t, d.Proof.Paths, 18)
			for _, c := range slices.Concat(common, own, last) {
				if !t.Run(c.name, func(t *testing.T) { c.test(d.in(t)) }) {
					d.Explain()
				}
			}
		})
	}
}

func (d *domain) transport(network string) topology.Transport {
	d.T.Helper()
	for _, n := range d.AgentStatus("host1").Networks {
		if n.Name == network {
			return n.Transport
		}
	}
	return ""
}

// neighbour is the MAC by which an endpoint sends to another node's.
func (d *domain) neighbour(to lab.EndpointStatus) string {
	if d.transport("blue") == topology.Auto {
		return to.MAC
	}
	return "02:42:0a:01:00:01"
}

// A datagram is on the receiver's wire once, as plain IP, and on no other.
func testPlainOnTheWire(d *domain) {
	const each = 20
	for _, pair := range [][2]string{{"host1/c1", "host2/c1"}, {"host2/c1", "host1/c1"}} {
		from, to := d.Endpoint(pair[0]), d.Endpoint(pair[1])
		d.Reaches(pair[0], to) // ARP is behind us
		a, b := d.Inside(from), d.Inside(to)
		wires := map[string]*testkit.Socket{}
		for _, h := range []string{"host1", "host2", "host3"} {
			wires[h] = d.Wire(h)
		}
		text := []byte("plain " + from.Node)
		for range each {
			a.Send(
				d.T,
				testkit.IPv4(testkit.MAC(d.T, d.neighbour(to)), testkit.MAC(d.T, from.MAC), from.IPs[0], to.IPs[0], string(text)),
			)
		}
		fence := "fence " + from.Node
		a.Send(
			d.T,
			testkit.IPv4(testkit.MAC(d.T, d.neighbour(to)), testkit.MAC(d.T, from.MAC), from.IPs[0], to.IPs[0], fence),
		)
		arrives := func(s *testkit.Socket) func() (bool, string) {
			return func() (bool, string) { n := datagrams(s, to.IPs[0], []byte(fence)); return n > 0, fmt.Sprint(n) }
		}
		d.Await("the fence arrives", arrives(b))
		d.Await("the fence is on the wire", arrives(wires[to.Node]))
		require.Equal(d.T, each, datagrams(b, to.IPs[0], text))
		for _, h := range []string{from.Node, to.Node} {
			require.Equal(d.T, each, datagrams(wires[h], to.IPs[0], text), "plain IP on the wire of %s", h)
			// The answers, "port unreachable", quote the datagram.
			for _, f := range wires[h].Frames(text) {
				require.NotEqual(d.T, []byte{0x12, 0xb5}, f[36:38], "UDP to VXLAN's port: encapsulated")
			}
		}
		require.Zero(d.T, wires["host3"].Count(text))
	}
}

// Numbered datagrams of the kernel's own, whose checksums it verifies, both
// ways, IPv4 and IPv6: each arrives, and none twice.
func testDatagrams(d *domain) {
	for _, pair := range [][2]string{{"host1", "host2"}, {"host2", "host1"}} {
		stop, _ := d.Start(pair[1]+"/c1", "baize", "probe", "serve")
		for _, ip := range d.Endpoint(pair[1] + "/c1").IPs {
			d.Await("the server answers", func() (bool, string) {
				out, err := d.Run(pair[0]+"/c1", "baize", "probe", "send", "--to", ip.String(), "--datagrams", "1")
				return err == nil, fmt.Sprint(out, err)
			})
			out := d.Must(
				pair[0]+"/c1",
				"baize",
				"probe",
				"send",
				"--to",
				ip.String(),
				"--datagrams",
				"300",
				"--interval",
				"1ms",
			)
			require.Contains(d.T, out, `"received":300`)
			require.Contains(d.T, out, `"duplicates":0`)
		}
		stop()
	}
}

// datagrams counts UDP in IPv4 in Ethernet to an address.
func datagrams(s *testkit.Socket, to netip.Addr, text []byte) int {
	n := 0
	for _, f := range s.Frames(text) {
		if bytes.Equal(f[12:14], []byte{8, 0}) && f[23] == 17 && bytes.Equal(f[30:34], to.AsSlice()) {
			n++
		}
	}
	return n
}

// The guard is before the kernel: a lie never reaches it.
func testSpoofingRouted(d *domain) {
	if d.transport("blue") == topology.Auto {
		testSpoofing(d)
		return
	}
	from, to := d.Endpoint("host1/c1"), d.Endpoint("host2/c1")
	a, b := d.Inside(from), d.Inside(to)
	gateway := testkit.MAC(d.T, d.neighbour(to))
	for range 3 {
		a.Send(d.T, testkit.IPv4(gateway, testkit.MAC(d.T, from.MAC), netip.MustParseAddr("10.1.7.7"), to.IPs[0], "spoofed"))
	}
	a.Send(d.T, testkit.IPv4(gateway, testkit.MAC(d.T, from.MAC), from.IPs[0], to.IPs[0], "an honest datagram"))
	d.Await("the honest datagram arrives", func() (bool, string) {
		n := datagrams(b, to.IPs[0], []byte("an honest datagram"))
		return n == 1, fmt.Sprint(n)
	})
	require.Zero(d.T, b.Count([]byte("spoofed")))
}

// routes returns a host's routes: ours, and those of others.
func (d *domain) routes(host string) (own, foreign string) {
	d.T.Helper()
	for line := range strings.Lines(d.Must(host, "ip", "-4", "route") + d.Must(host, "ip", "-6", "route")) {
		if strings.Contains(line, "proto 173") {
			own += line
		} else if !strings.Contains(line, "proto kernel") {
			foreign += line
		}
	}
	return own, foreign
}

func testRoutes(d *domain) {
	d.Must("host1", "ip", "route", "add", "10.1.250.0/24", "via", "192.168.77.1")
	want, foreign := d.routes("host1")
	require.Contains(d.T, want, "via 192.168.77.12")
	require.Contains(d.T, want, "via fd77::12")
	same := func() (bool, string) { got, _ := d.routes("host1"); return got == want, got }
	for _, damage := range [][]string{
		{"ip", "-4", "route", "flush", "proto", "173"},
		{"ip", "-6", "route", "flush", "proto", "173"},
		{"ip", "link", "set", "bn-blue", "down"},
		{"ip", "address", "flush", "dev", "bn-blue"},
	} {
		d.Must("host1", damage...)
		d.Await(fmt.Sprint(damage)+" is repaired", same)
		// It is no neighbour of old that hides what is missing.
		d.Must("host1", "ip", "-4", "neigh", "flush", "dev", "bn-blue")
		d.Must("host1", "ip", "-6", "neigh", "flush", "dev", "bn-blue")
		d.Reaches("host1/c1", d.Endpoint("host2/c1"))
	}
	_, now := d.routes("host1")
	require.Equal(d.T, foreign, now)
	d.Must("host1", "ip", "route", "del", "10.1.250.0/24")
	out := d.Must("host1", "baize", "route", "list", "--network", "blue")
	require.Equal(d.T, 4, strings.Count(out, "route via"), out)
}

func testOverlap(d *domain) {
	_, err := d.Run("host1", "baize", "network", "create", "third", "--subnet", "10.1.128.0/17", "--transport", "route")
	require.ErrorContains(d.T, err, "network blue")
	_, err = d.Run("host1", "baize", "network", "update", "red", "--transport", "auto")
	require.ErrorContains(d.T, err, "network blue")
}

// What would not survive two routers takes the tunnel.
func testTTL(d *domain) {
	for _, ip := range d.Endpoint("host2/c1").IPs {
		for _, ttl := range []string{"1", "2", "3", "64", "255"} {
			d.Must("host1/c1", "ping", "-c", "2", "-i", "0.1", "-W", "2", "-t", ttl, ip.String())
		}
	}
}

// The fabric's bridge becomes the router to host2, and is none again.
func testMove(d *domain) {
	d.Must(
		"fabric",
		"sh",
		"-c",
		"echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects; for f in "+
			"/proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $f; done",
	)
	subnet := ""
	for _, n := range d.AgentStatus("host2").Networks {
		if n.Name == "blue" {
			subnet = n.Subnets[0].String()
		}
	}
	path := func(want string) {
		d.Await("the path is "+want, func() (bool, string) {
			out := d.Must("host1", "baize", "route", "list", "--network", "blue")
			for line := range strings.Lines(out) {
				if strings.Contains(line, subnet) {
					return strings.Contains(line, want), line
				}
			}
			return false, out
		})
	}
	path("route via 192.168.77.12")
	require.Zero(d.T, d.Lost("host1/c1", "host2/c1", func() {
		for range 5 {
			d.Must("host1", "ip", "route", "add", "192.168.77.12/32", "via", "192.168.77.1")
			path("tunnel vxlan")
			d.Must("host1", "ip", "route", "del", "192.168.77.12/32")
			path("route via 192.168.77.12")
		}
	}), "off the link and onto it")
}

func testRoutesOfAHost(d *domain) {
	before, _ := d.routes("host1")
	h, err := d.AddHost(d.T.Context())
	require.NoError(d.T, err)
	d.Reaches("host1/c1", d.Endpoint(h.Name()+"/c1"))
	with, _ := d.routes("host1")
	require.NotEqual(d.T, before, with)
	require.NoError(d.T, d.RemoveHost(d.T.Context(), h.Name()))
	d.Await("its routes are gone", func() (bool, string) { now, _ := d.routes("host1"); return now == before, now })
}

func testRouteCleanup(d *domain) {
	c1 := d.Endpoint("host3/c1")
	require.NoError(d.T, d.Host("host3").StopService(d.T.Context(), lab.ServiceAgent))
	d.Reaches("host1/c1", c1) // a stopped agent takes nothing down
	answer := c1.MAC + " answers for it"
	if d.transport("blue") == topology.Route { // no ARP goes from node to node
		answer = "it answers to a ping"
	}
	ownerIsAway(d, c1, answer)
	d.Must("host3", "ip", "route", "add", "10.99.0.0/24", "via", "192.168.77.1")
	require.Contains(d.T, d.Must("host3", "tc", "filter", "show", "dev", "br-phy", "ingress"), "baize_to")
	d.Must("host3", "baize", "agent", "cleanup")
	require.NotContains(d.T, d.Must("host3", "tc", "qdisc", "show"), "clsact")
	own, foreign := d.routes("host3")
	require.Empty(d.T, own)
	require.Contains(d.T, foreign, "10.99.0.0/24")
	require.NoError(d.T, d.Host("host3").StartService(context.Background(), lab.ServiceAgent))
}
