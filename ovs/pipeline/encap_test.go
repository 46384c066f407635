package pipeline_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// One row, and there are tunnels, direct delivery over them, and MTUs. What the
// command line makes of a row is tested in cmd/internal/command.
func TestMadeUpEncapsulation(t *testing.T) {
	const stt, auto topology.Transport = "stt", "auto-stt"
	t.Cleanup(topology.RegisterEncapsulation(topology.Encapsulation{
		Name: stt, PortPrefix: "st-", OverheadIPv4: 76, OverheadIPv6: 96, Port: 7471, ChecksumIPv6: true,
	}))
	require.Contains(t, topology.Transports(), stt)
	require.Equal(t, topology.Choice{Encap: stt, Direct: topology.DirectOnLink}, auto.Choice())
	require.Equal(t, 1424, topology.MTU(stt, topology.IPv4, 1500))
	require.Equal(t, 1404, topology.MTU(auto, topology.IPv6, 1500))

	for _, tr := range []topology.Transport{stt, auto} {
		require.NoError(t, network("blue", 100, tr, "10.1.0.0/16").Check())
		s := threeHosts(tr).put(dualNode(2))
		require.Equal(t, 1424, s.s.Networks["blue"].MTU)
		state := pipeline.Build(s.s.View("host1"), nil, pipeline.Options{
			Direct: direct("blue", "10.1.7.0/24"), Ports: map[topology.Transport]int{stt: 7472},
		})
		p := state.Tunnels()[ovs.TunnelID{Node: "host2", Encap: stt}]
		require.Equal(t, "st-host2", p.Name)
		require.Equal(t, "stt", p.Type)
		require.Equal(t, "7472", p.Options["dst_port"])
		_, kernel := state.HostPort("blue")
		require.Equal(t, tr == auto, kernel)
	}

	// Over IPv6 it has a checksum, and GRE, whose row says so, none.
	six := node(2)
	six.VTEPs = dualNode(2).VTEPs[1:]
	one := node(1)
	one.VTEPs = dualNode(1).VTEPs[1:]
	for tr, want := range map[topology.Transport]string{stt: "true", topology.GRE: ""} {
		s := newCluster().put(network("blue", 100, tr, "10.1.0.0/16"), one, six, subnet("blue", "10.1.5.0/24", 1), subnet("blue", "10.1.7.0/24", 2))
		state := pipeline.Build(s.s.View("host1"), nil, pipeline.Options{})
		require.Equal(t, want, state.Tunnels()[ovs.TunnelID{Node: "host2", Encap: tr}].Options["csum"])
	}
}

// What people write and what stands in records is as it was.
func TestTransports(t *testing.T) {
	require.Equal(t, map[topology.Transport]topology.Choice{
		"vxlan": {Encap: "vxlan"}, "gre": {Encap: "gre"}, "geneve": {Encap: "geneve"},
		"route":       {Direct: topology.DirectAlways, Gateway: topology.GatewayNode},
		"auto":        {Encap: "vxlan", Direct: topology.DirectOnLink},
		"auto-gre":    {Encap: "gre", Direct: topology.DirectOnLink},
		"auto-geneve": {Encap: "geneve", Direct: topology.DirectOnLink},
	}, func() map[topology.Transport]topology.Choice {
		out := map[topology.Transport]topology.Choice{}
		for _, tr := range topology.Transports() {
			out[tr] = tr.Choice()
		}
		return out
	}())
	require.False(t, topology.Transport("auto-vxlan").Valid(), "there is one name for it")
	require.False(t, topology.Transport("").Valid())
	for _, e := range topology.Encapsulations() {
		row, ok := topology.EncapsulationOf(e)
		require.True(t, ok)
		require.Regexp(t, `^[a-z]{2}-$`, row.PortPrefix)
		require.NotContains(t, []string{"bn-", "bz-"}, row.PortPrefix)
	}
}
