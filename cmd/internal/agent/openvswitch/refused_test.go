package openvswitch

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// A flow that the switch refuses, whichever record it is of, is left out and named; all
// others are installed, at every pass, and it is when its record is put right.
func TestRefusedFlow(t *testing.T) {
	w := &world{keys: map[string]topology.KV{}, endpoints: map[string]ovs.Endpoint{}}
	n := walkNetworks[1]
	w.put(n)
	for i, host := range []string{"host1", "host2"} {
		w.put(topology.Node{
			Name: host, ID: host, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 9, byte(i + 1)})},
			Encapsulations: topology.Encapsulations(),
		})
		w.put(topology.Subnet{Network: n.Name, Prefix: topology.SubnetAt(n, topology.IPv4, uint64(i+1)), Node: host})
	}
	want := w.want()
	good := ovsfake.New()
	step(t, good, want)

	for i := range want.Flows {
		bad := want
		bad.Flows = slices.Clone(want.Flows)
		bad.Flows[i].Match += ",eth_dst=02-42-0a-01-05-02"
		f := ovsfake.New()
		c := newConverger(f.Database(), f.Flows(), &flowWatch{})
		for range 2 {
			observed, err := f.Database().Observe(t.Context())
			require.NoError(t, err)
			out, err := c.converge(t.Context(), bad, observed, true)
			require.NoError(t, err)
			require.Len(t, out.Problems, 1)
			require.Equal(t, fault.FlowRefused, out.Problems[0].Code)
			require.Contains(t, out.Problems[0].Item, "eth_dst=02-42-0a-01-05-02")
		}
		require.Len(t, f.FlowTexts(), len(want.Flows)-1)
		for _, text := range f.FlowTexts() {
			require.Contains(t, good.FlowTexts(), text)
		}
		observed, err := f.Database().Observe(t.Context())
		require.NoError(t, err)
		out, err := c.converge(t.Context(), want, observed, true)
		require.NoError(t, err)
		require.Empty(t, out.Problems)
		require.Equal(t, good.FlowTexts(), f.FlowTexts())
	}
}
