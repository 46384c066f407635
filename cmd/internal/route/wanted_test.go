package route

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/topology"
)

func network(transport topology.Transport) Network {
	n := topology.Network{
		Name:      "blue",
		IPv4:      netip.MustParsePrefix("10.1.0.0/16"),
		IPv6:      netip.MustParsePrefix("fd00:1::/48"),
		VNI:       100,
		Transport: transport,
	}
	peer := func(name, v4, v6, subnet, subnet6 string) topology.Peer {
		return topology.Peer{
			Node: name, Encap: transport.Tunnel(), VTEPs: []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)},
			Subnets: []netip.Prefix{netip.MustParsePrefix(subnet), netip.MustParsePrefix(subnet6)},
		}
	}
	return Network{Port: "bn-blue", NetworkView: topology.NetworkView{
		Network: n.Defaults(),
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24"), netip.MustParsePrefix("fd00:1:5::/64")},
		Peers: []topology.Peer{
			peer("near", "192.0.2.6", "2001:db8::6", "10.1.6.0/24", "fd00:1:6::/64"),
			peer("far", "198.51.100.7", "2001:db8:1::7", "10.1.7.0/24", "fd00:1:7::/64"),
		},
		Pins: []topology.Pin{
			{Addr: netip.MustParseAddr("10.1.5.9"), Node: "near", MAC: "02:42:0a:01:05:09"},
			{Addr: netip.MustParseAddr("10.1.6.9"), Node: "far", MAC: "02:42:0a:01:06:09"},
			{Addr: netip.MustParseAddr("10.1.7.9"), Node: "self", MAC: "02:42:0a:01:07:09"},
		},
	}}
}

func TestWanted(t *testing.T) {
	reach := topology.OnLink{netip.MustParseAddr("192.0.2.6"): "eth0", netip.MustParseAddr("2001:db8::6"): "eth0"}
	own := []string{
		"10.1.5.0/24 dev bn-blue src 10.1.5.1",
		"fd00:1:5::/64 dev bn-blue src fd00:1:5::1 metric 1024",
		"10.1.6.0/24 via 192.0.2.6 dev eth0 src 10.1.5.1",
		"fd00:1:6::/64 via 2001:db8::6 dev eth0 src fd00:1:5::1 metric 1024",
		"10.1.5.9/32 via 192.0.2.6 dev eth0 src 10.1.5.1",
		"10.1.7.9/32 dev bn-blue src 10.1.5.1",
	}
	cases := map[topology.Transport][]string{
		topology.Route: append([]string{"unreachable 10.1.0.0/16", "unreachable fd00:1::/48 metric 1024"}, own...),
		topology.Auto: append([]string{
			"10.1.0.0/16 dev bn-blue src 10.1.5.1", "fd00:1::/48 dev bn-blue src fd00:1:5::1 metric 1024",
			"10.1.6.9/32 dev bn-blue src 10.1.5.1 metric 1", // on the Ethernet, though its subnet is not
		}, own...),
	}
	for transport, want := range cases {
		t.Run(string(transport), func(t *testing.T) {
			var got []string
			for _, r := range Wanted([]Network{network(transport)}, reach, nil) {
				got = append(got, r.String())
			}
			assert.ElementsMatch(t, want, got, strings.Join(got, "\n"))
		})
	}
	assert.Empty(t, Wanted(nil, reach, nil))
}

// With Router the nodes route for one another: one next hop for all that does
// not go by the underlay, and docker0's route goes before the port's.
func TestWantedRouter(t *testing.T) {
	reach := topology.OnLink{netip.MustParseAddr("192.0.2.6"): "eth0", netip.MustParseAddr("2001:db8::6"): "eth0"}
	own := []string{
		"10.1.5.0/24 dev bn-blue src 10.1.5.0 metric 17300", "fd00:1:5::/64 dev bn-blue src fd00:1:5:: metric 17300",
		"10.1.5.2/32 dev bn-blue src 10.1.5.0", "10.1.7.9/32 dev bn-blue src 10.1.5.0",
	}
	hop := []string{
		"169.254.186.1/32 dev bn-blue", "10.1.0.0/16 via 169.254.186.1 dev bn-blue src 10.1.5.0",
		"fd00:1::/48 via fe80::ba:1 dev bn-blue src fd00:1:5:: metric 1024", "10.1.6.9/32 dev bn-blue src 10.1.5.0 metric 1",
	}
	near := []string{
		"10.1.6.0/24 via 192.0.2.6 dev eth0 src 10.1.5.0",
		"fd00:1:6::/64 via 2001:db8::6 dev eth0 src fd00:1:5:: metric 1024",
		"10.1.5.9/32 via 192.0.2.6 dev eth0 src 10.1.5.0",
	}
	for transport, want := range map[topology.Transport][]string{
		topology.VXLAN: append(hop, "10.1.5.9/32 dev bn-blue src 10.1.5.0 metric 1"),
		topology.Auto:  append(hop, near...),
		topology.Route: append([]string{"unreachable 10.1.0.0/16", "unreachable fd00:1::/48 metric 1024"}, near...),
	} {
		t.Run(string(transport), func(t *testing.T) {
			n := network(transport)
			n.Router, n.Endpoints = true, []netip.Addr{netip.MustParseAddr("10.1.5.2")}
			var got []string
			for _, r := range Wanted([]Network{n}, reach, nil) {
				got = append(got, r.String())
			}
			assert.ElementsMatch(t, append(want, own...), got, strings.Join(got, "\n"))
		})
	}

	// docker0 goes before, and nobody need be told.
	r := Route{Prefix: netip.MustParsePrefix("10.1.5.0/24"), Dev: "bn-blue", Metric: MetricYield}
	c, problems := Diff(
		[]Route{r},
		Observed{Foreign: []Foreign{{Route: Route{Prefix: r.Prefix, Dev: "docker0"}, Protocol: 2}}},
	)
	assert.Equal(t, []Route{r}, c.Add)
	assert.Empty(t, problems)
}

func TestInPlace(t *testing.T) {
	a, b, c := via("10.1.5.0/24", "192.0.2.5"), via("10.1.6.0/24", "192.0.2.6"), via("fd00:1:5::/64", "2001:db8::5")
	preferred := c
	preferred.Metric = 10
	got := InPlace(
		[]Route{a, b, c},
		Observed{Own: []Route{a, c.normal()}, Foreign: []Foreign{{Route: preferred, Protocol: 4}}},
	)
	assert.Equal(t, map[netip.Prefix]bool{a.Prefix: true}, got)
}
