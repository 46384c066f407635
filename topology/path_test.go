package topology_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// routedNetwork returns what host1 sees of a network of three nodes: host2 is
// dual stack, host3 has IPv4 alone and a pin.
func routedNetwork(t *testing.T, transport topology.Transport, gateway string) topology.NetworkView {
	t.Helper()
	n := blue
	n.Transport = transport
	if gateway != "" {
		n.GatewayIPv4 = netip.MustParseAddr(gateway)
	}
	host2 := host(2)
	host2.VTEPs = append(host2.VTEPs, netip.MustParseAddr("fd77::12"))
	s := snapshot(n, host(1), host2, host(3),
		lease("blue", "10.1.5.0/24", "host1"), lease("blue", "fd00:10:1:5::/64", "host1"),
		lease("blue", "10.1.6.0/24", "host2"), lease("blue", "fd00:10:1:6::/64", "host2"),
		lease("blue", "10.1.7.0/24", "host3"), lease("blue", "fd00:10:1:7::/64", "host3"),
		topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.5.9"), Node: "host3", MAC: "02:42:0a:01:05:09"})
	v := s.View("host1")
	require.Empty(t, v.Problems)
	view, ok := v.Find("blue")
	require.True(t, ok)
	return view
}

func TestPaths(t *testing.T) {
	both := topology.OnLink{netip.MustParseAddr("192.168.77.12"): "eth0", netip.MustParseAddr("fd77::12"): "eth0"}
	cases := map[string]struct {
		transport topology.Transport
		reach     topology.OnLink
		want      string
	}{
		"tunnel":            {topology.GRE, both, "tunnel gre,tunnel gre,tunnel gre,tunnel gre,tunnel gre"},
		"auto, one on-link": {topology.Auto, both, "route ,route ,tunnel vxlan,tunnel vxlan,tunnel vxlan"},
		"auto, nobody":      {topology.Auto, nil, "tunnel vxlan,tunnel vxlan,tunnel vxlan,tunnel vxlan,tunnel vxlan"},
		"auto, IPv6 only": {
			topology.Auto,
			topology.OnLink{netip.MustParseAddr("fd77::12"): "eth0"},
			"tunnel vxlan,route ,tunnel vxlan,tunnel vxlan,tunnel vxlan",
		},
		"route, one on-link": {topology.Route, both, "route ,route ,none ,none ,none "},
		"pins go their own": {
			topology.Route,
			topology.OnLink{netip.MustParseAddr("192.168.77.13"): "eth0"},
			"none ,none ,route ,none ,route ",
		},
		"asked, but no on-link": {
			topology.Route,
			topology.OnLink{netip.MustParseAddr("192.168.77.13"): ""},
			"none ,none ,none ,none ,none ",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			n := routedNetwork(t, c.transport, "")
			got := ""
			for i, p := range n.Paths(c.reach, nil) {
				if i > 0 {
					got += ","
				}
				got += string(p.Kind) + " " + string(p.Encap)
				require.NotEmpty(t, p.Why())
				require.Equal(t, p.Kind == topology.PathRoute, p.Via.IsValid())
			}
			require.Equal(t, c.want, got)
		})
	}
}

// Each reason has its words.
func TestWhy(t *testing.T) {
	link := topology.OnLink{netip.MustParseAddr("192.168.77.12"): "eth0"}
	hops := topology.NextHops{netip.MustParsePrefix("10.1.7.0/24"): {
		Via: netip.MustParseAddr("192.168.77.1"), Dev: "eth0", Why: "learned by BGP from 192.168.77.1",
	}}
	var got []string
	for _, p := range routedNetwork(t, topology.Auto, "").Paths(link, hops) {
		got = append(got, p.Why())
	}
	require.Equal(t, []string{
		"192.168.77.12 is on-link on eth0", "fd77::12 is behind a router", "learned by BGP from 192.168.77.1",
		"host3 has no IPv6 underlay address that could be a next hop", "192.168.77.13 is behind a router",
	}, got)
	require.Equal(t, "the network's transport is gre", routedNetwork(t, topology.GRE, "").Paths(link, nil)[0].Why())
}

// BenchmarkPaths computes the paths to a thousand nodes.
func BenchmarkPaths(b *testing.B) {
	n := topology.NetworkView{Network: topology.Network{Name: "blue", Transport: topology.Auto}}
	onLink := topology.OnLink{}
	for i := range 1000 {
		vtep := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		n.Peers = append(n.Peers, topology.Peer{
			Node: fmt.Sprint("host", i), Encap: topology.VXLAN, VTEPs: []netip.Addr{vtep},
			Subnets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)},
		})
		if i%2 == 0 {
			onLink[vtep] = "eth0"
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		n.Paths(onLink, nil)
	}
}

// A bridge of another node is reached by frames, a Route network has none.
func TestSegmentsOfRoutedNetworks(t *testing.T) {
	n := blue
	for transport, want := range map[topology.Transport]topology.PathKind{
		topology.Auto: topology.PathTunnel, topology.Route: topology.PathRoute,
	} {
		n.Transport = transport
		far := lease("blue", "10.1.6.0/24", "host2")
		far.Segment = "docker0"
		s := snapshot(n, host(1), host(2), lease("blue", "10.1.5.0/24", "host1"), far, lease("blue", "10.1.7.0/24", "host2"))
		view, _ := s.View("host1").Find("blue")
		paths := view.Paths(topology.OnLink{netip.MustParseAddr("192.168.77.12"): "eth0"}, nil)
		require.Equal(t, want, paths[0].Kind, transport)
		require.Equal(t, topology.PathRoute, paths[1].Kind, transport)

		own := s.View("host2")
		view, _ = own.Find("blue")
		if transport == topology.Auto {
			require.Empty(t, own.Problems)
			require.Len(t, view.Segments, 1)
			continue
		}
		require.Len(t, own.Problems, 1)
		require.Contains(t, own.Problems[0].What, "no Ethernet that docker0")
		require.Empty(t, view.Segments)
		require.ErrorIs(t, n.CheckSegment("docker0"), topology.ErrInvalid)
	}
}

func TestHostPort(t *testing.T) {
	_, needed := routedNetwork(t, topology.VXLAN, "").Host()
	require.False(t, needed)
	h, _ := routedNetwork(t, topology.Route, "10.1.0.254").Host()
	require.Equal(t, "02:42:0a:01:00:fe", h.MAC.String(), "the gateway's, the same everywhere")
	require.Equal(
		t,
		[]netip.Addr{
			netip.MustParseAddr("10.1.5.1"),
			netip.MustParseAddr("fd00:10:1:5::1"),
			netip.MustParseAddr("10.1.0.254"),
		},
		h.Addrs,
	)
	h, _ = routedNetwork(t, topology.Auto, "10.1.0.254").Host()
	require.Equal(t, "02:42:0a:01:05:01", h.MAC.String(), "its own: the network is an Ethernet")
	require.Len(t, h.Addrs, 2, "the gateway is whoever has the address")
}

// One kernel cannot route two networks with one address; tunnels can.
func TestRoutedNetworksDoNotOverlap(t *testing.T) {
	a, b := blue, blue
	a.Transport, b.Transport = topology.Route, topology.Auto
	b.Name, b.VNI = "red", 200
	b.IPv6 = netip.Prefix{}
	err := topology.CheckRouted(b, map[string]topology.Network{"blue": a})
	require.ErrorIs(t, err, topology.ErrConflict)
	require.ErrorContains(t, err, "network blue")
	require.NoError(t, topology.CheckRouted(a, map[string]topology.Network{"blue": a}), "itself")

	records := []topology.Record{
		a,
		b,
		host(1),
		host(2),
		lease("blue", "10.1.5.0/24", "host1"),
		lease("red", "10.1.5.0/24", "host1"),
	}
	v := snapshot(records...).View("host1")
	require.Len(t, v.Networks, 1)
	require.Equal(t, "blue", v.Networks[0].Name, "the older one")
	require.Len(t, v.Problems, 1)
	require.Contains(t, v.Problems[0].What, "network blue")

	b.Transport = topology.VXLAN
	require.NoError(t, topology.CheckRouted(b, map[string]topology.Network{"blue": a}))
	records[1] = b
	require.Len(t, snapshot(records...).View("host1").Networks, 2)
}

func TestRouteMTU(t *testing.T) {
	n := blue
	n.Transport, n.MTU = topology.Route, 0
	require.Equal(t, 1500, n.Defaults().MTU)
	n.Transport = topology.Auto
	require.Equal(t, 1450, n.Defaults().MTU, "some packets take the tunnel")
}
