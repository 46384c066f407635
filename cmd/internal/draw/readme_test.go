package draw_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
)

// lab is what 'make lab' gives a newcomer: where its subnets lie is decided by
// the hosts' names.
func lab() (draw.Topology, []draw.Endpoint) {
	blue := topology.Network{Name: "blue", VNI: 100, Transport: topology.VXLAN,
		IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48")}.Defaults()
	records := []topology.Record{blue}
	var endpoints []draw.Endpoint
	for i := 1; i <= 3; i++ {
		name := fmt.Sprintf("host%d", i)
		records = append(records, topology.Liveness{Node: name, ID: name}, topology.Node{
			Name: name, ID: name, Encapsulations: topology.Encapsulations(), Datapath: "netdev",
			VTEPs: []netip.Addr{
				netip.AddrFrom4([4]byte{192, 168, 77, byte(10 + i)}), netip.MustParseAddr(fmt.Sprintf("fd77::1%d", i)),
			},
		})
		c1 := draw.Endpoint{Name: "c1", Node: name, Network: "blue"}
		for _, f := range blue.Families() {
			for p := range topology.Candidates(blue, f, name) {
				records = append(records, topology.Subnet{Network: "blue", Node: name, Prefix: p})
				for a := range topology.EndpointAddrs(blue, p) {
					c1.IPs = append(c1.IPs, a)
					break
				}
				break
			}
		}
		c1.MAC = topology.MACOf(c1.IPs[0]).String()
		endpoints = append(endpoints, c1)
	}
	return draw.New(snapshot(records...), endpoints), endpoints
}

// The README shows what a newcomer will see, to the letter.
func TestReadme(t *testing.T) {
	var tree, svg bytes.Buffer
	top, endpoints := lab()
	require.NoError(t, draw.Tree(&tree, top, false))
	readme, err := os.ReadFile("../../../README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), "```\n"+tree.String()+"```\n", "put this tree into the README")
	require.Contains(t, string(readme), "lab exec host1/c1 -- ping -c 3 "+endpoints[1].IPs[0].String())

	require.NoError(t, draw.SVG(&svg, top))
	const picture = "../../../docs/topology.svg"
	if *update {
		require.NoError(t, os.WriteFile(picture, svg.Bytes(), 0o644))
	}
	have, err := os.ReadFile(picture)
	require.NoError(t, err)
	require.Equal(t, svg.String(), string(have), "run 'make docs'")
}
