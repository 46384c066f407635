package topology_test

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func host(i int) topology.Node {
	return topology.Node{
		Name: fmt.Sprintf("host%d", i), ID: fmt.Sprint(i),
		VTEPs:          []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 77, byte(10 + i)})},
		Encapsulations: topology.Encapsulations(), UnderlayMTU: 1500,
	}
}

func lease(network, prefix, node string) topology.Subnet {
	return topology.Subnet{Network: network, Prefix: netip.MustParsePrefix(prefix), Node: node}
}

// snapshot stores records one after the other, so that earlier ones are older.
func snapshot(records ...topology.Record) *topology.Snapshot {
	var kvs []topology.KV
	for i, r := range records {
		kvs = append(
			kvs,
			topology.KV{
				Key:   r.Key(),
				Value: topology.Encode(r),
				Meta:  topology.Meta{CreateRevision: int64(i + 1), ModRevision: int64(i + 1)},
			},
		)
	}
	return topology.NewSnapshot(int64(len(records)), kvs)
}

func TestViewOfThreeNodes(t *testing.T) {
	s := snapshot(blue, host(1), host(2), host(3), host(10),
		lease("blue", "10.1.5.0/24", "host1"), lease("blue", "fd00:10:1:5::/64", "host1"),
		lease("blue", "10.1.7.0/24", "host10"), lease("blue", "10.1.6.0/24", "host2"), lease("blue", "10.1.8.0/24", "host2"),
		topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.5.9"), Node: "host3", MAC: "02:42:0a:01:05:09"})
	v := s.View("host1")
	require.Empty(t, v.Problems)
	require.Len(t, v.Networks, 1)
	n := v.Networks[0]
	require.Equal(
		t,
		[]netip.Prefix{netip.MustParsePrefix("10.1.5.0/24"), netip.MustParsePrefix("fd00:10:1:5::/64")},
		n.Subnets,
	)
	require.Len(t, n.Peers, 3, "host3 carries the network by its pin")
	require.Equal(t, []string{"host10", "host2", "host3"}, []string{n.Peers[0].Node, n.Peers[1].Node, n.Peers[2].Node})
	require.Len(t, n.Peers[1].Subnets, 2)
	require.Len(t, n.Pins, 1)
	require.Equal(t, netip.MustParseAddr("192.168.77.12"), n.Peers[1].Remote)
	require.Equal(t, netip.MustParseAddr("192.168.77.11"), n.Peers[1].Local)

	require.Empty(t, s.View("stranger").Networks)
}

func TestSegmentsAreApart(t *testing.T) {
	docker := func(p, node string) topology.Subnet {
		s := lease("blue", p, node)
		s.Segment = "docker0"
		return s
	}
	s := snapshot(blue, host(1), host(2), lease("blue", "10.1.9.0/24", "host1"), docker("10.1.5.0/24", "host1"),
		docker("fd00:10:1:5::/64", "host1"), docker("10.1.7.0/24", "host2"))
	v := s.View("host1")
	require.Empty(t, v.Problems)
	n := v.Networks[0]
	prefixes := func(ps ...string) (out []netip.Prefix) {
		for _, p := range ps {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	require.Equal(t, prefixes("10.1.9.0/24"), n.Subnets, "endpoints get addresses of these only")
	require.Equal(
		t,
		[]topology.Segment{{Name: "docker0", Subnets: prefixes("10.1.5.0/24", "fd00:10:1:5::/64")}},
		n.Segments,
	)
	require.Equal(t, prefixes("10.1.5.0/24", "10.1.9.0/24", "fd00:10:1:5::/64"), n.OwnSubnets())
	require.Equal(t, prefixes("10.1.7.0/24"), n.Peers[0].Subnets, "others steer to them like to any")
}

func TestContradictionsAreReportedAndTheOlderWins(t *testing.T) {
	red := blue
	red.Name = "red"
	noVTEP, sameVTEP, weak, v6only := host(7), host(7), host(7), host(7)
	noVTEP.VTEPs = nil
	sameVTEP.VTEPs = host(1).VTEPs
	weak.Encapsulations = []topology.Transport{topology.GRE}
	v6only.VTEPs = []netip.Addr{netip.MustParseAddr("fd77::7")}
	loop := host(7)
	loop.VTEPs = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	small := host(1)
	small.UnderlayMTU = 1450
	base := []topology.Record{
		blue,
		host(1),
		host(2),
		lease("blue", "10.1.5.0/24", "host1"),
		lease("blue", "10.1.6.0/24", "host2"),
	}
	for name, c := range map[string]struct {
		records []topology.Record
		says    string
		peers   int
	}{
		"VNI used twice":             {[]topology.Record{red}, "VNI 100 is used by network blue", 1},
		"subnet outside its network": {[]topology.Record{lease("blue", "10.2.0.0/24", "host2")}, "outside network blue", 1},
		"subnet larger than network": {[]topology.Record{lease("blue", "10.0.0.0/8", "host2")}, "outside network blue", 1},
		"subnet leased twice": {
			[]topology.Record{host(7), lease("blue", "10.1.5.0/25", "host7")}, "overlaps 10.1.5.0/24 of node host1", 1,
		},
		"larger one over a lease": {
			[]topology.Record{host(7), lease("blue", "10.1.4.0/23", "host7")}, "overlaps 10.1.5.0/24 of node host1", 1,
		},
		"subnet of no network": {
			[]topology.Record{lease("green", "10.1.5.0/24", "host2")}, "network that does not exist", 1,
		},
		"owner not registered": {
			[]topology.Record{lease("blue", "10.1.9.0/24", "host9")}, "host9 is not registered", 1,
		},
		"node without address": {
			[]topology.Record{noVTEP, lease("blue", "10.1.9.0/24", "host7")}, "no underlay address", 1,
		},
		"two nodes with one address": {
			[]topology.Record{sameVTEP, lease("blue", "10.1.9.0/24", "host7")}, "is that of node host1", 1,
		},
		"loopback address": {[]topology.Record{loop, lease("blue", "10.1.9.0/24", "host7")}, "127.0.0.1", 1},
		"peer cannot do the transport": {
			[]topology.Record{weak, lease("blue", "10.1.9.0/24", "host7")}, "cannot do vxlan", 1,
		},
		"no family in common": {
			[]topology.Record{v6only, lease("blue", "10.1.9.0/24", "host7")}, "no underlay address family", 1,
		},
		"pin of no network": {
			[]topology.Record{topology.Pin{Network: "green", Addr: netip.MustParseAddr("10.1.5.9"), Node: "host2", MAC: "02:42:0a:01:05:09"}},
			"network that does not exist", 1,
		},
		"pin outside": {
			[]topology.Record{topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.2.5.9"), Node: "host2", MAC: "02:42:0a:01:05:09"}},
			"outside network blue", 1,
		},
		"pin of no node": {
			[]topology.Record{topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.5.9"), Node: "host9", MAC: "02:42:0a:01:05:09"}},
			"host9 is not registered", 1,
		},
		"MAC pinned twice": {[]topology.Record{
			topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.5.8"), Node: "host1", MAC: "02:42:0a:01:05:09"},
			topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.5.9"), Node: "host2", MAC: "02:42:0a:01:05:09"}}, "pin on node host1 already", 1},
		"underlay MTU": {[]topology.Record{small}, "need an underlay MTU of 1500", 1},
	} {
		t.Run(name, func(t *testing.T) {
			v := snapshot(append(append([]topology.Record{}, base...), c.records...)...).View("host1")
			require.Len(t, v.Problems, 1, "%v", v.Problems)
			require.Contains(t, v.Problems[0].String(), c.says)
			require.NotEmpty(t, v.Problems[0].Item)
			require.NotEmpty(t, v.Problems[0].Remedy)
			require.Len(t, v.Networks, 1)
			require.Len(t, v.Networks[0].Peers, c.peers, "the rest goes on working")
			require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24")}, v.Networks[0].Subnets)
		})
	}
}

func TestCandidates(t *testing.T) {
	seen := map[netip.Prefix]bool{}
	for p := range topology.Candidates(blue, topology.IPv4, "host1") {
		require.False(t, seen[p])
		require.True(t, blue.IPv4.Contains(p.Addr()) && p.Bits() == 24 && p == p.Masked())
		seen[p] = true
	}
	require.Len(t, seen, 255)
	require.False(t, seen[netip.MustParsePrefix("10.1.0.0/24")], "the first subnet is never leased")

	starts := map[netip.Prefix]bool{}
	for i := range 100 {
		for p := range topology.Candidates(blue, topology.IPv6, fmt.Sprintf("host%d", i)) {
			require.Equal(t, 64, p.Bits())
			require.True(t, blue.IPv6.Contains(p.Addr()))
			starts[p] = true
			break
		}
	}
	require.Greater(t, len(starts), 70, "the starts are spread: 100 over 255")
}

func TestFreeSubnet(t *testing.T) {
	n := topology.Network{Name: "small", IPv4: netip.MustParsePrefix("10.9.0.0/28"), SubnetLenIPv4: 30, VNI: 9}.Defaults()
	require.NoError(t, n.Check())
	s := snapshot(n,
		topology.Subnet{Network: "small", Prefix: netip.MustParsePrefix("10.9.0.8/29"), Reserved: true})
	p, err := s.FreeSubnet(n, topology.IPv4, "a", nil)
	require.NoError(t, err)
	require.Equal(t, "10.9.0.4/30", p.String(), "the reservation covers the other two")
	s = s.With(2, []topology.KV{{Key: "subnets/small/10.9.0.4-30", Value: []byte(`{"node":"dead"}`)}}, nil)
	_, err = s.FreeSubnet(n, topology.IPv4, "b", nil)
	require.ErrorIs(t, err, topology.ErrFull)
	require.ErrorContains(t, err, "dead")
	require.ErrorContains(t, err, "all 3 IPv4 subnets")
}

func TestEndpointAddrs(t *testing.T) {
	n := topology.Network{
		Name:          "n",
		IPv4:          netip.MustParsePrefix("10.9.0.0/24"),
		SubnetLenIPv4: 28,
		VNI:           9,
		GatewayIPv4:   netip.MustParseAddr("10.9.0.243"),
	}.Defaults()
	var got []string
	for a := range topology.EndpointAddrs(n, netip.MustParsePrefix("10.9.0.240/28")) {
		got = append(got, a.String())
	}
	require.Equal(t, "10.9.0.242 10.9.0.244", strings.Join(got[:2], " "), "not the node's address, not the gateway")
	require.Equal(t, "10.9.0.254", got[len(got)-1], "not the broadcast address")
	for a, says := range map[string]string{
		"10.9.0.0": "own address", "10.9.0.255": "broadcast", "10.8.0.1": "outside", "fd00::1": "no IPv6 prefix",
	} {
		require.ErrorContains(t, n.CheckEndpointAddr(netip.MustParseAddr(a)), says)
	}
	require.NoError(t, n.CheckEndpointAddr(netip.MustParseAddr("10.9.0.243")), "an endpoint may be the gateway")
}

func TestMACOf(t *testing.T) {
	require.Equal(t, "02:42:0a:01:05:02", topology.MACOf(netip.MustParseAddr("10.1.5.2")).String())
	a, m := topology.MACRange(netip.MustParsePrefix("10.1.5.0/24"))
	require.Equal(t, "02:42:0a:01:05:00/ff:ff:ff:ff:ff:00", a.String()+"/"+m.String())
	require.NotEqual(t, topology.MACOf(netip.MustParseAddr("fd00::1")), topology.MACOf(netip.MustParseAddr("fd00::2")))
}

func TestMTU(t *testing.T) {
	for _, c := range []struct {
		t    topology.Transport
		f    topology.Family
		want int
	}{
		{topology.VXLAN, topology.IPv4, 1450}, {topology.VXLAN, topology.IPv6, 1430},
		{topology.GRE, topology.IPv4, 1458}, {topology.GRE, topology.IPv6, 1438},
		{topology.Geneve, topology.IPv4, 1450}, {topology.Geneve, topology.IPv6, 1430},
	} {
		require.Equal(t, c.want, topology.MTU(c.t, c.f, 1500), "%s over %s", c.t, c.f)
	}
}

func TestCompareNames(t *testing.T) {
	for _, c := range [][2]string{{"host2", "host10"}, {"a", "b"}, {"host", "host1"}, {"r1h2", "r1h10"}, {"h01", "h2"}} {
		require.Negative(t, topology.CompareNames(c[0], c[1]), c)
		require.Positive(t, topology.CompareNames(c[1], c[0]), c)
	}
	require.Zero(t, topology.CompareNames("host1", "host1"))
}

// Peers are equal only where every field is.
func TestPeersAreEqualFieldByField(t *testing.T) {
	whole := func() topology.Peer {
		return topology.Peer{
			Node: "host1", Encap: topology.VXLAN, Local: netip.MustParseAddr("192.0.2.1"),
			Remote: netip.MustParseAddr("192.0.2.2"), RemoteMAC: "02:00:00:00:00:01",
			VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24")},
			Bridged: []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24")}, Router: &topology.RouterHost{Port: 8472},
			LocalIPv6: netip.MustParseAddr("2001:db8::1"), RouterMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, Revision: 7,
			Revisions: []int64{8},
		}
	}
	a, same := whole(), whole()
	require.True(t, a.Equal(&same))
	for i := range reflect.TypeFor[topology.Peer]().NumField() {
		b := whole()
		f := reflect.ValueOf(&b).Elem().Field(i)
		require.False(t, f.IsZero(), "the test is to set every field")
		f.SetZero()
		require.False(t, a.Equal(&b), reflect.TypeFor[topology.Peer]().Field(i).Name)
	}
	b := whole()
	b.Router.Port++
	require.False(t, a.Equal(&b))
}
