package kernel_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/topology"
)

// Which tunnels the kernel hears follows from the networks, whatever ports they use.
func TestTunnels(t *testing.T) {
	tunnels := func(change func(*kernel.Input)) []kernel.TunnelPort {
		in := input(t)
		change(&in)
		s, _ := kernel.Wanted(in)
		return s.Firewall.Tunnels
	}
	assert.Equal(t, []kernel.TunnelPort{{UDP: 4789}}, tunnels(func(*kernel.Input) {}))
	assert.Equal(t, []kernel.TunnelPort{{}, {UDP: 4790}, {UDP: 6081}, {UDP: 8472}}, tunnels(func(in *kernel.Input) {
		in.TunnelPorts = map[topology.Transport]int{topology.VXLAN: 4790, topology.Geneve: 0}
		in.View.Networks[0].Peers[1].Encap = topology.GRE
		in.View.Networks[2].Peers[0].Encap = topology.Geneve
		in.View.Networks[2].Peers[1].Router = &topology.RouterHost{Port: 8472}
	}))
	assert.Empty(t, tunnels(func(in *kernel.Input) { in.Userspace = true }))
	assert.Empty(t, tunnels(func(in *kernel.Input) {
		for i := range in.View.Networks {
			in.View.Networks[i].Peers = nil
		}
	}))
}
