package sim_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
)

// A dry run tells what an endpoint would be, and leaves nothing anywhere.
func TestEndpointRehearsed(t *testing.T) {
	scenario(t, "and made afterwards", func(t *testing.T) {
		w := world(t, 2)
		n := w.Nodes[0]
		devices, revision := n.Devices(), w.Snapshot().Revision
		away := beside(w.Nodes[1], 7)
		req := api.EndpointRequest{Name: "web", Network: "blue", Netns: "/run/netns/web", DryRun: true}
		ask := func(ips ...netip.Addr) (api.Endpoint, error) {
			req.IPs = ips
			return n.Agent().AddEndpoint(t.Context(), req)
		}
		pinned, err := ask(away)
		require.NoError(t, err)
		require.Contains(t, pinned.IPs, away)
		first, err := ask()
		require.NoError(t, err)
		require.Equal(t, "host1", first.Node)
		require.Len(t, first.IPs, 2)
		_, err = ask(home(n))
		conflict(t, err, home(n).String(), "c-host1")
		w.Settle()
		require.Equal(t, devices, n.Devices())
		require.Empty(t, n.Attach().Pending())
		require.Equal(t, revision, w.Snapshot().Revision)

		req.DryRun = false
		made, err := ask()
		require.NoError(t, err)
		require.Equal(t, first.IPs, made.IPs)
		require.Equal(t, first.MAC, made.MAC)
		req.DryRun = true
		_, err = ask()
		require.ErrorIs(t, err, topology.ErrExists)
	})
	scenario(t, "in a network that the node has no subnet in", func(t *testing.T) {
		w := world(t, 1)
		require.NoError(t, w.CreateNetwork("red"))
		w.Settle()
		revision := w.Snapshot().Revision
		e, err := w.Nodes[0].Agent().AddEndpoint(t.Context(), api.EndpointRequest{
			Name: "web", Network: "red", Netns: "/run/netns/web", DryRun: true,
		})
		require.NoError(t, err)
		require.Empty(t, e.IPs)
		_, err = w.Nodes[0].Agent().AddEndpoint(t.Context(), api.EndpointRequest{
			Name: "web", Network: "green", Netns: "/run/netns/web", DryRun: true,
		})
		require.ErrorIs(t, err, topology.ErrNotFound)
		w.Settle()
		require.Equal(t, revision, w.Snapshot().Revision)
	})
}
