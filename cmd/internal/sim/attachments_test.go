package sim_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology"
)

// of is an attachment of a container.
func of(container string) api.Attachment {
	return api.Attachment{Engine: api.EngineCNI, Network: "net", Container: container, Ifname: "eth0"}
}

// plugIn asks for a container's endpoint, by a request that began at a moment.
func plugIn(t *testing.T, n *sim.Node, container string, began int64) (api.Endpoint, error) {
	t.Helper()
	a := of(container)
	return n.Agent().AddEndpoint(t.Context(), api.EndpointRequest{
		Network: "blue", Netns: "/run/netns/" + container, Attachment: &a, Began: began, Container: "shop/" + container,
	})
}

func unplug(t *testing.T, n *sim.Node, container string, began int64) {
	t.Helper()
	require.NoError(t, n.Agent().Detach(t.Context(), api.Detachment{Attachment: of(container), Baize: "blue", Began: began}))
}

// count is how many endpoints of attachments a node has.
func count(t *testing.T, n *sim.Node) (out int) {
	t.Helper()
	list, err := n.Agent().Endpoints(t.Context())
	require.NoError(t, err)
	for _, e := range list {
		if e.Engine == api.EngineCNI {
			out++
		}
	}
	return out
}

// Requests of engines have the order in which they began, not that in which they arrive.
func TestAttachments(t *testing.T) {
	now := hostnet.SinceBoot()
	scenario(t, "one container", func(t *testing.T) {
		n := world(t, 1).Nodes[0]
		e, err := plugIn(t, n, "c1", now)
		require.NoError(t, err)
		assert.Equal(t, "shop/c1", e.Container)
		assert.Equal(t, of("c1").EndpointName(), e.Name)
		_, err = plugIn(t, n, "c1", now)
		require.ErrorIs(t, err, topology.ErrExists)
		found, err := n.Agent().CheckAttachment(t.Context(), of("c1"))
		require.NoError(t, err)
		assert.Equal(t, e, found)
		unplug(t, n, "c1", now+1)
		unplug(t, n, "c1", now+2)
		assert.Zero(t, count(t, n))
		_, err = n.Agent().CheckAttachment(t.Context(), of("c1"))
		require.ErrorIs(t, err, topology.ErrNotFound)
		again, err := plugIn(t, n, "c1", now+3)
		require.NoError(t, err)
		assert.Equal(t, e.IPs, again.IPs, "its address is free again")
	})
	scenario(t, "overtaken", func(t *testing.T) {
		w := world(t, 1)
		n := w.Nodes[0]
		unplug(t, n, "c1", now)
		_, err := plugIn(t, n, "c1", now-1)
		require.ErrorIs(t, err, topology.ErrConflict)
		n.Stop()
		n.Start()
		w.Settle()
		_, err = plugIn(t, n, "c1", now-1)
		require.ErrorIs(t, err, topology.ErrConflict, "the next agent knows it, too")
		_, err = plugIn(t, n, "c1", now+1)
		require.NoError(t, err)
		unplug(t, n, "c1", now)
		assert.Equal(t, 1, count(t, n), "a late request for the end of what was before does not end it")
		_, err = plugIn(t, n, "c2", now-1)
		require.NoError(t, err, "another container")
	})
	scenario(t, "at a time", func(t *testing.T) {
		n := world(t, 1).Nodes[0]
		var g sync.WaitGroup
		for i := range int64(8) {
			g.Go(func() { _, _ = plugIn(t, n, "c1", now+i) }) // some are refused
			g.Go(func() {
				d := api.Detachment{Attachment: of("c1"), Baize: "blue", Began: now + i}
				assert.NoError(t, n.Agent().Detach(context.Background(), d))
			})
		}
		g.Wait()
		unplug(t, n, "c1", now+100)
		assert.Zero(t, count(t, n))
		assert.Empty(t, n.Attach().Pending())
	})
	scenario(t, "what is left", func(t *testing.T) {
		n := world(t, 1).Nodes[0]
		for _, c := range []string{"c1", "c2", "c3"} {
			_, err := plugIn(t, n, c, now)
			require.NoError(t, err)
		}
		keep := api.Retention{Engine: api.EngineCNI, Network: "net", Attachments: []api.Attachment{of("c2")}}
		other := keep
		other.Network = "other"
		require.NoError(t, n.Agent().Retain(t.Context(), other))
		assert.Equal(t, 3, count(t, n))
		require.NoError(t, n.Agent().Retain(t.Context(), keep))
		assert.Equal(t, 1, count(t, n))
		_, err := n.Agent().CheckAttachment(t.Context(), of("c2"))
		require.NoError(t, err)
	})
	scenario(t, "available", func(t *testing.T) {
		n := world(t, 1).Nodes[0]
		a, err := n.Agent().Availability(t.Context(), "blue")
		require.NoError(t, err)
		assert.True(t, a.Attach && a.Forward, a.Why)
		assert.Contains(t, a.Prefixes, netip.MustParsePrefix("10.1.0.0/16"))
		a, err = n.Agent().Availability(t.Context(), "nowhere")
		require.NoError(t, err)
		assert.False(t, a.Attach)
		assert.Contains(t, a.Why, "does not exist")
	})
}
