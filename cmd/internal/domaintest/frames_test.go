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
	"github.com/baize-net/baize/topology"
)

func TestDomain(t *testing.T) {
	for _, transport := range topology.Encapsulations() {
		t.Run(string(transport), func(t *testing.T) {
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
			} {
				t.Run(name, func(t *testing.T) { test(&domain{d.Lab, t}) })
			}
		})
	}
}

// A broadcast and a multicast reach every endpoint of the network exactly
// once, and nobody else.
func testFlood(d *domain) {
	const each = 5
	blue, red := d.endpoints("blue"), d.endpoints("red")
	sockets := map[string]*socket{}
	for _, e := range append(blue, red...) {
		sockets[e.String()] = d.inside(e)
	}
	for _, dst := range []net.HardwareAddr{broadcast, {0x01, 0x00, 0x5e, 0x01, 0x02, 0x03}, {0x33, 0x33, 0, 0, 0, 0x99}} {
		for _, from := range blue {
			flood := []byte(fmt.Sprintf("flood %s %s.", dst, from))
			fence := []byte(fmt.Sprintf("fence %s %s.", dst, from))
			for range each {
				sockets[from.String()].send(d.t, frame(dst, mac(d.t, from.MAC), 0x88b5, flood))
			}
			// What comes after has to arrive after: a second copy would have
			// been seen by then.
			sockets[from.String()].send(d.t, frame(dst, mac(d.t, from.MAC), 0x88b5, fence))
			for _, to := range blue {
				if to.String() == from.String() {
					continue
				}
				d.eventually("the fence arrives at "+to.String(), func() (bool, string) {
					n := sockets[to.String()].count(fence)
					return n >= 1, fmt.Sprint(n)
				})
				require.Equal(d.t, each, sockets[to.String()].count(flood), "%s from %s at %s", dst, from, to)
				require.Equal(d.t, 1, sockets[to.String()].count(fence))
			}
			require.Zero(d.t, sockets[from.String()].count(flood), "the sender's own frame comes back")
			for _, to := range red {
				require.Zero(d.t, sockets[to.String()].count(flood), "blue's flood is seen in red")
			}
		}
	}
}

// It is an Ethernet: a frame that is neither IP nor ARP crosses.
func testEtherType(d *domain) {
	from, to, other := d.endpoint("host1/c1"), d.endpoint("host2/c1"), d.endpoint("host3/c1")
	a, b, c := d.inside(from), d.inside(to), d.inside(other)
	text := []byte("not IP, not ARP")
	a.send(d.t, frame(mac(d.t, to.MAC), mac(d.t, from.MAC), 0x88b6, text))
	d.eventually("the frame arrives", func() (bool, string) { n := b.count(text); return n == 1, fmt.Sprint(n) })
	require.Zero(d.t, c.count(text))
}

// An ARP request for an address on host2 is on host2's wire and on no other;
// so is a neighbour solicitation.
func testARPOnTheWire(d *domain) {
	from, to := d.endpoint("host1/c1"), d.endpoint("host2/c1")
	wire2, wire3 := d.wire("host2"), d.wire("host3")
	a := d.inside(from)
	src := mac(d.t, from.MAC)
	// Nobody has this address, so nobody answers: only requests are counted.
	next := to.IPs[0]
	for range 100 {
		next = next.Next()
	}
	request := arpRequest(src, src, from.IPs[0], next)
	const each = 10
	for range each {
		a.send(d.t, request)
	}
	d.eventually("ARP arrives at host2", func() (bool, string) {
		n := wire2.count(request[14:42])
		return n == each, fmt.Sprint(n)
	})
	// What is flooded shows that the wire of host3 is really watched.
	fence := []byte("fence after ARP")
	a.send(d.t, frame(broadcast, src, 0x88b5, fence))
	d.eventually("the fence is on host3's wire", func() (bool, string) { n := wire3.count(fence); return n == 1, fmt.Sprint(n) })
	require.Zero(d.t, wire3.count(request[14:42]), "ARP was flooded to host3")
	require.Equal(d.t, each, wire2.count(request[14:42]))

	// Neighbour discovery by the kernel itself, for an address never asked for.
	target := to.IPs[1]
	for range 100 {
		target = target.Next()
	}
	_, _ = d.run("host1/c1", "ping", "-6", "-c", "1", "-W", "1", target.String())
	icmp := append([]byte{0x86, 0xdd}, 0x60)
	raw := target.As16()
	require.Positive(d.t, wire2.count(icmp, raw[:]))
	require.Zero(d.t, wire3.count(icmp, raw[:]), "a neighbour solicitation was flooded to host3")
}

// The same prefix in two networks: nothing of one is seen in the other.
func testApart(d *domain) {
	blue, red := d.endpoint("host1/c1"), d.endpoint("host2/red-c1")
	sockets := d.inside(red)
	_, err := d.run("host1/c1", "ping", "-c", "2", "-i", "0.2", "-W", "1", red.IPs[0].String())
	require.Error(d.t, err, "blue reaches an address of red")
	text := []byte("blue to a MAC of red")
	d.inside(blue).send(d.t, frame(mac(d.t, red.MAC), mac(d.t, blue.MAC), 0x88b5, text))
	d.must("host3/red-c1", "ping", "-c", "1", "-W", "2", red.IPs[0].String())
	require.Zero(d.t, sockets.count(text))
	from := blue.IPs[0].As4()
	require.Zero(d.t, sockets.count([]byte{8, 6}, from[:]), "ARP of blue in red")
}

// What lies about its sender is dropped, and counted by name.
func testSpoofing(d *domain) {
	from, to := d.endpoint("host1/c1"), d.endpoint("host2/c1")
	a, b := d.inside(from), d.inside(to)
	src, dst, lie := mac(d.t, from.MAC), mac(d.t, to.MAC), mac(d.t, "02:42:0a:01:07:07")
	other := netip.MustParseAddr("10.1.7.7")
	before := d.status("host1").Drops
	const each = 3
	for range each {
		a.send(d.t, ipv4(dst, src, other, to.IPs[0], "spoofed source address"))
		a.send(d.t, frame(dst, lie, 0x88b5, []byte("spoofed MAC")))
		a.send(d.t, arpRequest(src, src, other, to.IPs[0]))
	}
	a.send(d.t, ipv4(dst, src, from.IPs[0], to.IPs[0], "an honest datagram"))
	d.eventually("the honest datagram arrives", func() (bool, string) {
		n := b.count([]byte("an honest datagram"))
		return n >= 1, fmt.Sprint(n) // the answer "port unreachable" quotes it
	})
	require.Zero(d.t, b.count([]byte("spoofed")))
	raw := other.As4()
	require.Zero(d.t, b.count([]byte{8, 6}, raw[:]), "spoofed ARP")
	d.eventually("the drops are counted", func() (bool, string) {
		now := d.status("host1").Drops
		return now["spoofed address"] >= before["spoofed address"]+2*each && now["spoofed MAC"] >= before["spoofed MAC"]+each, fmt.Sprint(now)
	})
}

// Packets of exactly the MTU pass unfragmented, larger ones are refused at
// the sender.
func testMTU(d *domain) {
	to := d.endpoint("host2/c1")
	for _, ip := range to.IPs {
		headers := 28
		if ip.Is6() {
			headers = 48
		}
		d.must("host1/c1", "ping", "-M", "do", "-c", "3", "-i", "0.2", "-W", "2", "-s", fmt.Sprint(to.MTU-headers), ip.String())
		out, err := d.run("host1/c1", "ping", "-M", "do", "-c", "1", "-W", "1", "-s", fmt.Sprint(to.MTU-headers+1), ip.String())
		require.Error(d.t, err)
		require.True(d.t, strings.Contains(fmt.Sprint(out, err), "too long") || strings.Contains(fmt.Sprint(out, err), "oo large"), "%s %v", out, err)
	}
}
