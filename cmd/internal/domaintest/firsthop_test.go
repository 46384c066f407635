//go:build system

package domaintest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// special is a frame that only infrastructure sends.
type special struct {
	kind  topology.Traffic
	class string // of its drop
	frame []byte
	mark  []byte
}

// specials are frames of all kinds from an endpoint to another.
func specials(d *domain, from, to lab.EndpointStatus) []special {
	src, dst := testkit.MAC(d.T, from.MAC), testkit.MAC(d.T, to.MAC)
	local := ovs.LinkLocal(src).AsSlice()
	v4, v6 := from.IPs[0].AsSlice(), from.IPs[1].AsSlice()
	allNodes := net.ParseIP("ff02::1").To16()
	group6 := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	var out []special
	add := func(kind topology.Traffic, class string, frame func(mark []byte) []byte) {
		mark := fmt.Appendf(nil, "special %d from %s.", len(out), from)
		out = append(out, special{kind, class, frame(mark), mark})
	}
	add(topology.RouterAdvertisement, pipeline.DropRA, func(m []byte) []byte {
		return testkit.IPv6(group6, src, local, allNodes, 58, append([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, m...))
	})
	add(topology.RouterAdvertisement, pipeline.DropRA, func(m []byte) []byte { // to one, from a global address
		return testkit.IPv6(dst, src, v6, to.IPs[1].AsSlice(), 58, append([]byte{134, 0, 0, 0, 64, 0, 7, 8}, m...))
	})
	add(topology.Redirect, pipeline.DropRedirect, func(m []byte) []byte {
		return testkit.IPv6(dst, src, local, to.IPs[1].AsSlice(), 58, append(make([]byte, 0, 80), append([]byte{137, 0, 0, 0}, m...)...))
	})
	add(topology.Redirect, pipeline.DropRedirect, func(m []byte) []byte {
		return testkit.IPv4Of(dst, src, v4, to.IPs[0].AsSlice(), 1, append([]byte{5, 1, 0, 0}, m...))
	})
	add(topology.DHCPServer, pipeline.DropDHCPServer, func(m []byte) []byte { // an offer
		return testkit.IPv4Of(testkit.Broadcast, src, v4, []byte{255, 255, 255, 255}, 17, testkit.UDP(67, 68, m))
	})
	add(topology.DHCPServer, pipeline.DropDHCPServer, func(m []byte) []byte {
		return testkit.IPv6(dst, src, local, to.IPs[1].AsSlice(), 17, testkit.UDP(547, 546, m))
	})
	for _, group := range []net.HardwareAddr{{1, 0x80, 0xc2, 0, 0, 0}, {1, 0x80, 0xc2, 0, 0, 0x0f}} { // STP; the last of them
		add(topology.BPDU, pipeline.DropBPDU, func(m []byte) []byte {
			return testkit.Frame(group, src, uint16(len(m)+3), append([]byte{0x42, 0x42, 3}, m...))
		})
	}
	for etherType, to := range map[uint16]net.HardwareAddr{0x88cc: {1, 0x80, 0xc2, 0, 0, 0x0e}, 0x8808: dst} { // LLDP, PAUSE
		add(topology.BPDU, pipeline.DropBPDU, func(m []byte) []byte { return testkit.Frame(to, src, etherType, m) })
	}
	for _, tag := range []uint16{0x8100, 0x88a8, 0x9100} {
		add(topology.VLAN, pipeline.DropVLAN, func(m []byte) []byte {
			inner := binary.BigEndian.AppendUint16([]byte{0, 7}, testkit.OtherExperimental)
			return testkit.Frame(testkit.Broadcast, src, tag, append(inner, m...))
		})
	}
	return out
}

// Finding S2, S9: what only routers, DHCP servers and bridges send does not pass, and
// is counted by its kind, unless the network or the endpoint is allowed it.
func testFirstHop(d *domain) {
	from, to := d.Endpoint("host1/c1"), d.Endpoint("host2/c1")
	a := d.Inside(from)
	sockets := []*testkit.Socket{d.Inside(to), d.Inside(d.Endpoint("host3/c1"))}
	src, dst := testkit.MAC(d.T, from.MAC), testkit.MAC(d.T, to.MAC)
	fences := 0
	fence := func() {
		d.T.Helper()
		fences++
		mark := fmt.Appendf(nil, "fence %d of what is special.", fences)
		a.Send(d.T, testkit.Frame(testkit.Broadcast, src, testkit.OtherExperimental, mark))
		for _, s := range sockets {
			d.Await("the fence arrives", func() (bool, string) { n := s.Count(mark); return n > 0, fmt.Sprint(n) })
		}
	}
	list := specials(d, from, to)
	dropped := func(when string) {
		d.T.Helper()
		before, want := d.AgentStatus("host1").Drops, map[string]uint64{}
		had := sockets[0].Count([]byte("special ")) + sockets[1].Count([]byte("special "))
		for _, x := range list {
			a.Send(d.T, x.frame)
			want[x.class]++
		}
		fence()
		require.Equal(d.T, had, sockets[0].Count([]byte("special "))+sockets[1].Count([]byte("special ")), when)
		d.Await("each is counted by its kind", func() (bool, string) {
			now := d.AgentStatus("host1").Drops
			for class, n := range want {
				if now[class] < before[class]+n {
					return false, fmt.Sprint(class, ": ", now)
				}
			}
			return true, ""
		})
	}
	dropped("by default")

	// What clients and hosts send passes.
	for i, f := range [][]byte{
		testkit.IPv4Of(testkit.Broadcast, src, from.IPs[0].AsSlice(), []byte{255, 255, 255, 255}, 17, testkit.UDP(68, 67, []byte("ordinary 0"))),
		testkit.IPv6(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}, src, ovs.LinkLocal(src).AsSlice(), net.ParseIP("ff02::2").To16(), 58,
			append([]byte{133, 0, 0, 0, 0, 0, 0, 0}, []byte("ordinary 1")...)),
		testkit.IPv4Of(dst, src, from.IPs[0].AsSlice(), to.IPs[0].AsSlice(), 1, append([]byte{3, 4, 0, 0, 0, 0, 5, 0}, []byte("ordinary 2")...)),
		testkit.IPv4Of(dst, src, from.IPs[0].AsSlice(), to.IPs[0].AsSlice(), 17, testkit.UDP(67, 69, []byte("ordinary 3"))),
	} {
		a.Send(d.T, f)
		mark := fmt.Appendf(nil, "ordinary %d", i)
		d.Await(string(mark)+" arrives", func() (bool, string) { n := sockets[0].Count(mark); return n > 0, fmt.Sprint(n) })
	}

	// A network that allows all kinds.
	d.Must("host1", "baize", "network", "update", "blue", "--allow", "ra,redirect,dhcp-server,bpdu,vlan")
	for _, x := range list {
		d.Await(fmt.Sprintf("%s arrives where it is allowed", x.mark), func() (bool, string) {
			a.Send(d.T, x.frame)
			n := sockets[0].Count(x.mark)
			return n > 0, fmt.Sprint(x.kind, n)
		})
	}
	d.Must("host1", "baize", "network", "update", "blue", "--no-allow")
	d.Await("the flows are gone", func() (bool, string) {
		out := d.Must("host1", "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", "br-baize", "table=8")
		return !strings.Contains(out, "in_port"), out
	})
	dropped("after the network allowed it no more")
	testAllowedEndpoint(d)
}

// An endpoint that is allowed one kind may send that, and no other.
func testAllowedEndpoint(d *domain) {
	d.Must("host1", "ip", "netns", "add", "rt")
	out := d.Must("host1", "baize", "endpoint", "add", "rt", "--network", "blue", "--netns", "rt", "--allow", "ra", "-o", "json")
	d.T.Cleanup(func() { _, _ = d.Run("host1", "baize", "endpoint", "remove", "rt") })
	var e api.Endpoint
	require.NoError(d.T, json.Unmarshal([]byte(out), &e))
	require.Equal(d.T, []topology.Traffic{topology.RouterAdvertisement}, e.AllowTraffic)
	require.Contains(d.T, d.Must("host1", "baize", "endpoint", "list", "-o", "wide"), "ra")
	to := d.Endpoint("host2/c1")
	from := lab.EndpointStatus{}
	from.Name, from.MAC, from.IPs = "rt", e.MAC, e.IPs
	a, b := d.Listen(d.Netns("host1/rt"), "eth0"), d.Inside(to)
	var ra, others int
	for _, x := range specials(d, from, to) {
		if x.kind == topology.RouterAdvertisement {
			d.Await("the advertisement arrives", func() (bool, string) {
				a.Send(d.T, x.frame)
				n := b.Count(x.mark)
				return n > 0, fmt.Sprint(n)
			})
			ra++
		} else {
			a.Send(d.T, x.frame)
			others++
		}
	}
	mark := []byte("fence of the allowed endpoint")
	a.Send(d.T, testkit.Frame(testkit.Broadcast, testkit.MAC(d.T, e.MAC), testkit.OtherExperimental, mark))
	d.Await("the fence arrives", func() (bool, string) { n := b.Count(mark); return n > 0, fmt.Sprint(n) })
	for _, x := range specials(d, from, to) {
		require.Equal(d.T, x.kind == topology.RouterAdvertisement, b.Count(x.mark) > 0, "%s", x.mark)
	}
	require.Positive(d.T, ra*others)
}

// Finding S1: an endpoint that floods as fast as it can costs others nothing: no
// packet is lost between endpoints of its network, of another network on its host, or
// between other hosts, and what it floods arrives at the rate of its network.
func testStorm(d *domain) {
	d.Storm("blue", [2]string{"host2/c1", "host3/c1"}, [2]string{"host3/c1", "host1/quiet"}, [2]string{"host1/red-c1", "host2/red-c1"})
}
