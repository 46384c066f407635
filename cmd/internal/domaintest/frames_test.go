//go:build system

package domaintest

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

func TestDomain(t *testing.T) {
	t.Parallel()
	for _, transport := range topology.Encapsulations() {
		t.Run(string(transport), func(t *testing.T) {
			t.Parallel()
			d := up(t, transport, lab.Config{})
			// Up has sent pings and bulk TCP, whose SHA-256 it compared, on
			// every path: 6 pairs over IPv4 and IPv6 in blue, 6 over IPv4 in red.
			require.Empty(t, d.Proof.Failed())
			require.Len(t, d.Proof.Paths, 18)
			for name, test := range map[string]func(*domain){
				"flooded once":       testFlood,
				"any EtherType":      testEtherType,
				"ARP is not flooded": testARPOnTheWire,
				"networks are apart": testApart,
				"spoofing":           testSpoofing,
				"exactly the MTU":    testMTU,
				"a router":           testRouter,
				"only if allowed":    testFirstHop,
			} {
				t.Run(name, func(t *testing.T) { test(d.in(t)) })
			}
			if transport == topology.VXLAN { // which tunnel carries it makes no difference
				t.Run("a storm", func(t *testing.T) { testStorm(d.in(t)) })
				t.Run("a forged tunnel", func(t *testing.T) { testForgedTunnel(d.in(t)) })
			}
		})
	}
}

// A broadcast and a multicast reach every endpoint of the network exactly
// once, and nobody else.
func testFlood(d *domain) {
	const each = 5
	blue, red := d.Endpoints("blue"), d.Endpoints("red")
	sockets := map[string]*testkit.Socket{}
	for _, e := range append(blue, red...) {
		sockets[e.String()] = d.Inside(e)
	}
	for _, dst := range []net.HardwareAddr{
		testkit.Broadcast, {0x01, 0x00, 0x5e, 0x01, 0x02, 0x03}, {0x33, 0x33, 0, 0, 0, 0x99},
	} {
		for _, from := range blue {
			flood := []byte(fmt.Sprintf("flood %s %s.", dst, from))
			fence := []byte(fmt.Sprintf("fence %s %s.", dst, from))
			for range each {
				sockets[from.String()].Send(d.T, testkit.Frame(dst, testkit.MAC(d.T, from.MAC), testkit.Experimental, flood))
			}
			// What comes after has to arrive after: a second copy would have
			// been seen by then.
			sockets[from.String()].Send(d.T, testkit.Frame(dst, testkit.MAC(d.T, from.MAC), testkit.Experimental, fence))
			for _, to := range blue {
				if to.String() == from.String() {
					continue
				}
				d.Await("the fence arrives at "+to.String(), func() (bool, string) {
					n := sockets[to.String()].Count(fence)
					return n >= 1, fmt.Sprint(n)
				})
				require.Equal(d.T, each, sockets[to.String()].Count(flood), "%s from %s at %s", dst, from, to)
				require.Equal(d.T, 1, sockets[to.String()].Count(fence))
			}
			require.Zero(d.T, sockets[from.String()].Count(flood), "the sender's own frame comes back")
			for _, to := range red {
				require.Zero(d.T, sockets[to.String()].Count(flood), "blue's flood is seen in red")
			}
		}
	}
}

// It is an Ethernet: a frame that is neither IP nor ARP crosses.
func testEtherType(d *domain) {
	from, to, other := d.Endpoint("host1/c1"), d.Endpoint("host2/c1"), d.Endpoint("host3/c1")
	a, b, c := d.Inside(from), d.Inside(to), d.Inside(other)
	text := []byte("not IP, not ARP")
	a.Send(d.T, testkit.Frame(testkit.MAC(d.T, to.MAC), testkit.MAC(d.T, from.MAC), testkit.OtherExperimental, text))
	d.Await("the frame arrives", func() (bool, string) { n := b.Count(text); return n == 1, fmt.Sprint(n) })
	require.Zero(d.T, c.Count(text))
}

// An ARP request for an address on host2 is on host2's wire and on no other;
// so is a neighbour solicitation.
func testARPOnTheWire(d *domain) {
	from, to := d.Endpoint("host1/c1"), d.Endpoint("host2/c1")
	wire2, wire3 := d.Wire("host2"), d.Wire("host3")
	a := d.Inside(from)
	src := testkit.MAC(d.T, from.MAC)
	// Nobody has this address, so nobody answers: only requests are counted.
	next := to.IPs[0]
	for range 100 {
		next = next.Next()
	}
	request := testkit.ARPRequest(src, src, from.IPs[0], next)
	const each = 10
	for range each {
		a.Send(d.T, request)
	}
	d.Await("ARP arrives at host2", func() (bool, string) {
		n := wire2.Count(request[14:42])
		return n == each, fmt.Sprint(n)
	})
	// What is flooded shows that the wire of host3 is really watched.
	fence := []byte("fence after ARP")
	a.Send(d.T, testkit.Frame(testkit.Broadcast, src, testkit.Experimental, fence))
	d.Await(
		"the fence is on host3's wire",
		func() (bool, string) { n := wire3.Count(fence); return n == 1, fmt.Sprint(n) },
	)
	require.Zero(d.T, wire3.Count(request[14:42]), "ARP was flooded to host3")
	require.Equal(d.T, each, wire2.Count(request[14:42]))

	// Neighbour discovery by the kernel itself, for an address never asked for.
	target := to.IPs[1]
	for range 100 {
		target = target.Next()
	}
	_, _ = d.Run("host1/c1", "ping", "-6", "-c", "1", "-W", "1", target.String())
	icmp := append([]byte{0x86, 0xdd}, 0x60)
	raw := target.As16()
	require.Positive(d.T, wire2.Count(icmp, raw[:]))
	require.Zero(d.T, wire3.Count(icmp, raw[:]), "a neighbour solicitation was flooded to host3")
}

// The same prefix in two networks: nothing of one is seen in the other.
func testApart(d *domain) {
	blue, red := d.Endpoint("host1/c1"), d.Endpoint("host2/red-c1")
	sockets := d.Inside(red)
	_, err := d.Run("host1/c1", "ping", "-c", "2", "-i", "0.2", "-W", "1", red.IPs[0].String())
	require.Error(d.T, err, "blue reaches an address of red")
	text := []byte("blue to a MAC of red")
	d.Inside(blue).
		Send(d.T, testkit.Frame(testkit.MAC(d.T, red.MAC), testkit.MAC(d.T, blue.MAC), testkit.Experimental, text))
	d.Must("host3/red-c1", "ping", "-c", "1", "-W", "2", red.IPs[0].String())
	require.Zero(d.T, sockets.Count(text))
	from := blue.IPs[0].As4()
	require.Zero(d.T, sockets.Count([]byte{8, 6}, from[:]), "ARP of blue in red")
}

// What lies about its sender is dropped, and counted by name.
func testSpoofing(d *domain) {
	from, to := d.Endpoint("host1/c1"), d.Endpoint("host2/c1")
	a, b := d.Inside(from), d.Inside(to)
	src, dst, lie := testkit.MAC(d.T, from.MAC), testkit.MAC(d.T, to.MAC), testkit.MAC(d.T, "02:42:0a:01:07:07")
	other := netip.MustParseAddr("10.1.7.7")
	before := d.AgentStatus("host1").Drops
	const each = 3
	for range each {
		a.Send(d.T, testkit.IPv4(dst, src, other, to.IPs[0], "spoofed source address"))
		a.Send(d.T, testkit.Frame(dst, lie, testkit.Experimental, []byte("spoofed MAC")))
		a.Send(d.T, testkit.ARPRequest(src, src, other, to.IPs[0]))
	}
	a.Send(d.T, testkit.IPv4(dst, src, from.IPs[0], to.IPs[0], "an honest datagram"))
	d.Await("the honest datagram arrives", func() (bool, string) {
		n := b.Count([]byte("an honest datagram"))
		return n >= 1, fmt.Sprint(n) // the answer "port unreachable" quotes it
	})
	require.Zero(d.T, b.Count([]byte("spoofed")))
	raw := other.As4()
	require.Zero(d.T, b.Count([]byte{8, 6}, raw[:]), "spoofed ARP")
	d.Await("the drops are counted", func() (bool, string) {
		now := d.AgentStatus("host1").Drops
		return now["spoofed address"] >= before["spoofed address"]+2*each &&
				now["spoofed MAC"] >= before["spoofed MAC"]+each, fmt.Sprint(
				now,
			)
	})
}

// Packets of exactly the MTU pass unfragmented, larger ones are refused at
// the sender.
func testMTU(d *domain) {
	to := d.Endpoint("host2/c1")
	for _, ip := range to.IPs {
		headers := 28
		if ip.Is6() {
			headers = 48
		}
		d.Must(
			"host1/c1", "ping", "-M", "do", "-c", "3", "-i", "0.2", "-W", "2", "-s",
			fmt.Sprint(to.MTU-headers),
			ip.String(),
		)
		out, err := d.Run(
			"host1/c1", "ping", "-M", "do", "-c", "1", "-W", "1", "-s",
			fmt.Sprint(to.MTU-headers+1),
			ip.String(),
		)
		require.Error(d.T, err)
		require.True(
			d.T,
			strings.Contains(fmt.Sprint(out, err), "too long") || strings.Contains(fmt.Sprint(out, err), "oo large"),
			"%s %v",
			out,
			err,
		)
	}
}
