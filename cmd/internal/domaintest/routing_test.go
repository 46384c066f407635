//go:build system

package domaintest

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
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
			d := up(t, transport, routedLab())
			// Bulk TCP with SHA-256 on every path, both ways, IPv4 and IPv6.
			require.Empty(t, d.Proof.Failed())
			require.Len(t, d.Proof.Paths, 18)
			for _, c := range slices.Concat(common, own, last) {
				if !t.Run(c.name, func(t *testing.T) { c.test(&domain{d.Lab, t}) }) {
					d.explain(t)
				}
			}
		})
	}
}

func (d *domain) transport(network string) topology.Transport {
	d.t.Helper()
	for _, n := range d.status("host1").Networks {
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
		from, to := d.endpoint(pair[0]), d.endpoint(pair[1])
		d.reaches(pair[0], to) // ARP is behind us
		a, b := d.inside(from), d.inside(to)
		wires := map[string]*socket{}
		for _, h := range []string{"host1", "host2", "host3"} {
			wires[h] = d.wire(h)
		}
		text := []byte("plain " + from.Node)
		for range each {
			a.send(d.t, ipv4(mac(d.t, d.neighbour(to)), mac(d.t, from.MAC), from.IPs[0], to.IPs[0], string(text)))
		}
		fence := "fence " + from.Node
		a.send(d.t, ipv4(mac(d.t, d.neighbour(to)), mac(d.t, from.MAC), from.IPs[0], to.IPs[0], fence))
		arrives := func(s *socket) func() (bool, string) {
			return func() (bool, string) { n := s.datagrams(to.IPs[0], []byte(fence)); return n > 0, fmt.Sprint(n) }
		}
		d.eventually("the fence arrives", arrives(b))
		d.eventually("the fence is on the wire", arrives(wires[to.Node]))
		require.Equal(d.t, each, b.datagrams(to.IPs[0], text))
		for _, h := range []string{from.Node, to.Node} {
			require.Equal(d.t, each, wires[h].datagrams(to.IPs[0], text), "plain IP on the wire of %s", h)
			// The answers, "port unreachable", quote the datagram.
			for _, f := range wires[h].frames(text) {
				require.NotEqual(d.t, []byte{0x12, 0xb5}, f[36:38], "UDP to VXLAN's port: encapsulated")
			}
		}
		require.Zero(d.t, wires["host3"].count(text))
	}
}

// Numbered datagrams of the kernel's own, whose checksums it verifies, both
// ways, IPv4 and IPv6: each arrives, and none twice.
func testDatagrams(d *domain) {
	for _, pair := range [][2]string{{"host1", "host2"}, {"host2", "host1"}} {
		stop, err := d.Host(pair[1]).Endpoint("c1").Start(d.t.Context(), os.Stderr, "baize", "probe", "serve")
		require.NoError(d.t, err)
		for _, ip := range d.endpoint(pair[1] + "/c1").IPs {
			d.eventually("the server answers", func() (bool, string) {
				out, err := d.run(pair[0]+"/c1", "baize", "probe", "send", "--to", ip.String(), "--datagrams", "1")
				return err == nil, fmt.Sprint(out, err)
			})
			out := d.must(pair[0]+"/c1", "baize", "probe", "send", "--to", ip.String(), "--datagrams", "300", "--interval", "1ms")
			require.Contains(d.t, out, `"received":300`)
			require.Contains(d.t, out, `"duplicates":0`)
		}
		stop()
	}
}

// frames returns the frames that contain text.
func (s *socket) frames(text []byte) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out [][]byte
	for _, f := range s.seen {
		if bytes.Contains(f, text) {
			out = append(out, f)
		}
	}
	return out
}

// datagrams counts UDP in IPv4 in Ethernet to an address.
func (s *socket) datagrams(to netip.Addr, text []byte) int {
	n := 0
	for _, f := range s.frames(text) {
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
	from, to := d.endpoint("host1/c1"), d.endpoint("host2/c1")
	a, b := d.inside(from), d.inside(to)
	gateway := mac(d.t, d.neighbour(to))
	for range 3 {
		a.send(d.t, ipv4(gateway, mac(d.t, from.MAC), netip.MustParseAddr("10.1.7.7"), to.IPs[0], "spoofed"))
	}
	a.send(d.t, ipv4(gateway, mac(d.t, from.MAC), from.IPs[0], to.IPs[0], "an honest datagram"))
	d.eventually("the honest datagram arrives", func() (bool, string) {
		n := b.datagrams(to.IPs[0], []byte("an honest datagram"))
		return n == 1, fmt.Sprint(n)
	})
	require.Zero(d.t, b.count([]byte("spoofed")))
}

// routes returns a host's routes: ours, and those of others.
func (d *domain) routes(host string) (own, foreign string) {
	d.t.Helper()
	for line := range strings.Lines(d.must(host, "ip", "-4", "route") + d.must(host, "ip", "-6", "route")) {
		if strings.Contains(line, "proto 173") {
			own += line
		} else if !strings.Contains(line, "proto kernel") {
			foreign += line
		}
	}
	return own, foreign
}

func testRoutes(d *domain) {
	d.must("host1", "ip", "route", "add", "10.1.250.0/24", "via", "192.168.77.1")
	want, foreign := d.routes("host1")
	require.Contains(d.t, want, "via 192.168.77.12")
	require.Contains(d.t, want, "via fd77::12")
	same := func() (bool, string) { got, _ := d.routes("host1"); return got == want, got }
	for _, damage := range [][]string{
		{"ip", "-4", "route", "flush", "proto", "173"},
		{"ip", "-6", "route", "flush", "proto", "173"},
		{"ip", "link", "set", "bn-blue", "down"},
		{"ip", "address", "flush", "dev", "bn-blue"},
	} {
		d.must("host1", damage...)
		d.eventually(fmt.Sprint(damage)+" is repaired", same)
		// It is no neighbour of old that hides what is missing.
		d.must("host1", "ip", "-4", "neigh", "flush", "dev", "bn-blue")
		d.must("host1", "ip", "-6", "neigh", "flush", "dev", "bn-blue")
		d.reaches("host1/c1", d.endpoint("host2/c1"))
	}
	_, now := d.routes("host1")
	require.Equal(d.t, foreign, now)
	d.must("host1", "ip", "route", "del", "10.1.250.0/24")
	out := d.must("host1", "baize", "route", "list", "--network", "blue")
	require.Equal(d.t, 4, strings.Count(out, "route via"), out)
}

func testOverlap(d *domain) {
	_, err := d.run("host1", "baize", "network", "create", "third", "--subnet", "10.1.128.0/17", "--transport", "route")
	require.ErrorContains(d.t, err, "network blue")
	_, err = d.run("host1", "baize", "network", "update", "red", "--transport", "auto")
	require.ErrorContains(d.t, err, "network blue")
}

// What would not survive two routers takes the tunnel.
func testTTL(d *domain) {
	for _, ip := range d.endpoint("host2/c1").IPs {
		for _, ttl := range []string{"1", "2", "3", "64", "255"} {
			d.must("host1/c1", "ping", "-c", "2", "-i", "0.1", "-W", "2", "-t", ttl, ip.String())
		}
	}
}

// The fabric's bridge becomes the router to host2, and is none again.
func testMove(d *domain) {
	d.must("fabric", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects; for f in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $f; done")
	subnet := ""
	for _, n := range d.status("host2").Networks {
		if n.Name == "blue" {
			subnet = n.Subnets[0].String()
		}
	}
	path := func(want string) {
		d.eventually("the path is "+want, func() (bool, string) {
			out := d.must("host1", "baize", "route", "list", "--network", "blue")
			for line := range strings.Lines(out) {
				if strings.Contains(line, subnet) {
					return strings.Contains(line, want), line
				}
			}
			return false, out
		})
	}
	path("route via 192.168.77.12")
	require.Zero(d.t, d.lost("host1/c1", "host2/c1", func() {
		for range 5 {
			d.must("host1", "ip", "route", "add", "192.168.77.12/32", "via", "192.168.77.1")
			path("tunnel vxlan")
			d.must("host1", "ip", "route", "del", "192.168.77.12/32")
			path("route via 192.168.77.12")
		}
	}), "off the link and onto it")
}

func testRoutesOfAHost(d *domain) {
	before, _ := d.routes("host1")
	h, err := d.AddHost(d.t.Context())
	require.NoError(d.t, err)
	d.reaches("host1/c1", d.endpoint(h.Name()+"/c1"))
	with, _ := d.routes("host1")
	require.NotEqual(d.t, before, with)
	require.NoError(d.t, d.RemoveHost(d.t.Context(), h.Name()))
	d.eventually("its routes are gone", func() (bool, string) { now, _ := d.routes("host1"); return now == before, now })
}

func testRouteCleanup(d *domain) {
	c1 := d.endpoint("host3/c1")
	require.NoError(d.t, d.Host("host3").StopService(d.t.Context(), lab.ServiceAgent))
	d.reaches("host1/c1", c1) // a stopped agent takes nothing down
	d.must("host3", "ip", "route", "add", "10.99.0.0/24", "via", "192.168.77.1")
	d.must("host3", "baize", "agent", "cleanup")
	own, foreign := d.routes("host3")
	require.Empty(d.t, own)
	require.Contains(d.t, foreign, "10.99.0.0/24")
	require.NoError(d.t, d.Host("host3").StartService(context.Background(), lab.ServiceAgent))
}
