package topology_test

import (
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// Row B9: the MTU that nobody chose is what the links of all nodes carry, by
// transport and family.
func TestDefaultMTU(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.168.77.1"), netip.MustParseAddr("fd77::1")
	node := func(name string, mtu int, vteps ...netip.Addr) topology.Node {
		return topology.Node{Name: name, UnderlayMTU: mtu, VTEPs: vteps}
	}
	for name, c := range map[string]struct {
		transport topology.Transport
		nodes     []topology.Node
		want      int
		node      string
	}{
		"nobody yet":       {topology.VXLAN, nil, 1450, ""},
		"Ethernet":         {topology.VXLAN, []topology.Node{node("a", 1500, v4), node("b", 1500, v4)}, 1450, ""},
		"a smaller one":    {topology.VXLAN, []topology.Node{node("a", 1500, v4), node("b", 1400, v4)}, 1350, "b"},
		"two smaller ones": {topology.GRE, []topology.Node{node("b10", 1400, v4), node("b9", 1400, v4)}, 1358, "b9"},
		"routed":           {topology.Route, []topology.Node{node("a", 1500, v4), node("b", 1400, v4)}, 1400, "b"},
		"in part":          {topology.Auto, []topology.Node{node("a", 1500, v4), node("b", 1400, v4)}, 1350, "b"},
		"larger ones":      {topology.VXLAN, []topology.Node{node("a", 9000, v4), node("b", 9000, v4)}, 1450, ""},
		"not known":        {topology.VXLAN, []topology.Node{node("a", 0, v4), node("b", 9000, v4)}, 1450, ""},
		"IPv6 alone":       {topology.VXLAN, []topology.Node{node("a", 1500, v6), node("b", 1500, v6)}, 1430, "a"},
		"the first one":    {topology.VXLAN, []topology.Node{node("a", 1500, v6)}, 1430, "a"},
		"both families":    {topology.VXLAN, []topology.Node{node("a", 1500, v4, v6), node("b", 1500, v4, v6)}, 1450, ""},
		"IPv6 with one of them": {
			topology.VXLAN, []topology.Node{node("a", 1500, v4, v6), node("b", 9000, v6), node("c", 1500, v4)}, 1430, "a",
		},
		"IPv6 with nobody": {topology.VXLAN, []topology.Node{node("a", 1500, v4), node("b", 1500, v6)}, 1450, ""},
		"the smaller link in the larger family": {
			topology.VXLAN, []topology.Node{node("a", 9000, v4, v6), node("b", 9000, v6), node("c", 1400, v4)}, 1350, "c",
		},
		"less than IPv6 needs": {topology.VXLAN, []topology.Node{node("a", 1280, v4)}, 1280, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			n := topology.Network{
				Name: "blue", Transport: c.transport, MTU: 1111, MTUDefault: true,
				IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48"),
			}
			for _, nodes := range [][]topology.Node{c.nodes, reversed(c.nodes)} {
				got, least := n.WithMTU(topology.UnderlayOf(slices.Values(nodes), topology.DefaultUnderlayMTU))
				require.Equal(t, c.want, got.MTU)
				require.Equal(t, c.node, least)
			}
			n.MTUDefault = false
			got, least := n.WithMTU(topology.UnderlayOf(slices.Values(c.nodes), topology.DefaultUnderlayMTU))
			require.Equal(t, n, got, "whoever chose it has it")
			require.Empty(t, least)
		})
	}
	mtu, _, _ := topology.UnderlayOf(slices.Values([]topology.Node{node("a", 0, v4)}), 0).Carries(topology.VXLAN)
	require.Equal(t, math.MaxInt, mtu, "what is not known limits nothing")
}

func reversed(nodes []topology.Node) []topology.Node {
	out := slices.Clone(nodes)
	slices.Reverse(out)
	return out
}

// Row B9: every node says which node's link is too small for an MTU that somebody
// chose; the default follows what is known.
func TestMTUOfAView(t *testing.T) {
	small := host(3)
	small.UnderlayMTU = 1400
	records := []topology.Record{
		blue, host(1), host(2), lease("blue", "10.1.5.0/24", "host1"), lease("blue", "10.1.6.0/24", "host2"), small,
	}
	v := snapshot(records...).View("host1")
	require.Empty(t, v.Problems, "host3 does not carry it")

	joined := append(slices.Clone(records), lease("blue", "10.1.7.0/24", "host3"))
	for _, node := range []string{"host1", "host2", "host3"} {
		v := snapshot(joined...).View(node)
		require.Len(t, v.Problems, 1, node)
		require.Contains(t, v.Problems[0].String(), "node host3, network blue: packets of the network's MTU 1450 need an "+
			"underlay MTU of 1500 over IPv4, its link has 1400")
		require.Contains(t, v.Problems[0].Remedy, "--mtu 1350")
	}

	small.UnderlayMTU = 1300
	v = snapshot(append([]topology.Record{blue, small, lease("blue", "10.1.7.0/24", "host3")}, joined[1:5]...)...).View("host1")
	require.Len(t, v.Problems, 1)
	require.Equal(t, "raise the link's MTU", v.Problems[0].Remedy, "IPv6 needs more than it carries")

	open := blue
	open.MTUDefault = true
	joined[0] = open
	v = snapshot(joined...).View("host1")
	require.Empty(t, v.Problems)
	require.Equal(t, 1350, v.Networks[0].MTU)
	records[0] = open
	require.Equal(t, 1350, snapshot(records...).View("host1").Networks[0].MTU, "host3 may carry it any day")
}
