package sim_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Row B9: a node whose link carries less joins. The default MTU follows, for endpoints to
// come and for those that are there; one that somebody chose is reported everywhere.
func TestSmallerLinkJoins(t *testing.T) {
	scenario(t, "the default", func(t *testing.T) {
		w := world(t, 2)
		requireMTU(t, 1458, w.Nodes...)
		small := w.AddNode("host9")
		small.SetUnderlayMTU(1400)
		small.Start()
		w.Settle()
		requireMTU(t, 1358, w.Nodes[:2]...)
		require.NoError(t, w.Nodes[0].Add("blue", "late"))
		require.NoError(t, small.Add("blue", "c-host9"))
		w.Settle()
		requireMTU(t, 1358, w.Nodes...)
		for _, n := range w.Nodes {
			require.Empty(t, n.Faults(), n.Name)
		}

		// Its link is made larger: what runs keeps what it has.
		small.SetUnderlayMTU(1500)
		w.Settle()
		requireMTU(t, 1358, w.Nodes...)
		require.NoError(t, small.Add("blue", "later"))
		require.Equal(t, 1458, small.MTU(small.Wanted["blue/later"]))
		require.Empty(t, w.CheckSilence(time.Hour))
	})
	scenario(t, "one that loses IPv6", func(t *testing.T) {
		w := world(t, 2)
		_, err := w.Operator.CreateNetwork(t.Context(), topology.Network{
			Name: "four", IPv4: netip.MustParsePrefix("10.99.0.0/16"),
		})
		require.NoError(t, err)
		w.Settle()
		for _, n := range w.Nodes {
			require.NoError(t, n.Add("four", "four-"+n.Name))
		}
		w.Nodes[1].SetUnderlayMTU(1300)
		w.Settle()
		for _, n := range w.Nodes {
			hasFault(t, n, fault.EndpointMTU, "endpoint four-"+n.Name, "its MTU is 1450", "have 1250 at most", "restart")
			require.Equal(t, 1450, n.MTU(n.Wanted["four/four-"+n.Name]))
		}
		w.Nodes[1].SetUnderlayMTU(1500)
		w.Settle()
		for _, n := range w.Nodes {
			require.False(t, n.HasFault(fault.EndpointMTU), n.Name)
		}
	})
	scenario(t, "one that was chosen", func(t *testing.T) {
		w := world(t, 2)
		_, err := w.Operator.CreateNetwork(t.Context(), topology.Network{
			Name: "large", IPv4: netip.MustParsePrefix("10.99.0.0/16"), MTU: 8950,
		})
		require.NoError(t, err)
		w.Settle()
		for _, n := range w.Nodes {
			require.NoError(t, n.Add("large", "large-"+n.Name))
		}
		w.Settle()
		for _, n := range w.Nodes {
			hasFault(t, n, fault.UnderlayMTU, "network large", "node host1", "--mtu 1450")
		}
	})
}

func requireMTU(t *testing.T, want int, nodes ...*sim.Node) {
	t.Helper()
	for _, n := range nodes {
		for name, e := range n.Wanted {
			require.Equal(t, want, n.MTU(e), "%s of %s", name, n.Name)
		}
	}
}
