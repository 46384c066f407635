//go:build system

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// The cost of a large cluster, in numbers that do not depend on the machine:
// two real agents with a real Open vSwitch each among a thousand nodes.
func TestScale(t *testing.T) {
	c := newCluster(t)
	// Audits come when the test asks: each is seconds of work with the race detector.
	const audit = time.Hour
	h := c.start(t, 1, ovstest.Start(t), audit)
	local := len(c.converged(t, h).Flows)

	for _, n := range []int{10, 100, 1000} {
		t.Run(fmt.Sprintf("flows among %d nodes", n), func(t *testing.T) {
			c.grow(t, n)
			want := c.converged(t, h)
			require.Len(t, want.Ports, n)
			// One family costs three flows, the other two, the port one, the network
			// that may come out of it one; and replication one for every 900 peers.
			require.LessOrEqual(t, h.flowCount(), local+7*n+(n+899)/900)
			await(t, "all ports are there", func() bool { return len(h.interfaces(t)) == n+1 })
			for name, row := range h.interfaces(t) {
				require.NotContains(t, row, "could not", name)
			}
		})
	}
	t.Run("status", func(t *testing.T) {
		s, err := h.api.Status(t.Context())
		require.NoError(t, err)
		require.True(t, s.Ready)
		require.Len(t, s.Peers, 1000)
		require.Equal(t, 1000, s.Ports)
		require.Equal(t, h.flowCount(), s.Flows)
		require.Empty(t, s.Problems)
		require.Empty(t, s.Foreign)
	})
	t.Run("an idle agent writes nothing", func(t *testing.T) { idle(t, c, h) })
	t.Run("the address of one node", func(t *testing.T) { oneAddress(t, c, h) })
	t.Run("endpoints are nobody else's business", func(t *testing.T) {
		other := c.start(t, 2, ovstest.Start(t), audit)
		c.converged(t, other)
		endpoints(t, c, h, other)
		other.stop(t)
	})
}

// idle has some audits made.
func idle(t *testing.T, c *cluster, h *rigHost) {
	revision, writes, flows, ports := c.snapshot(t).Revision, h.dbWrites(), h.flowAges(t), h.interfaces(t)
	var last time.Time
	for range 3 {
		require.NoError(t, h.api.Reconcile(t.Context(), true))
		s, err := h.api.Status(t.Context())
		require.NoError(t, err)
		require.Zero(t, s.LastReconcile.Changes)
		require.NotEqual(t, last, s.LastReconcile.At, "no audit was made")
		last = s.LastReconcile.At
	}
	require.Equal(t, revision, c.snapshot(t).Revision, "etcd was written")
	require.Equal(t, writes, h.dbWrites(), "OVSDB was written")
	require.Equal(t, ports, h.interfaces(t))
	requireUntouched(t, flows, h.flowAges(t))
}

// requireUntouched compares flows, and sees that none was taken out and put
// back: its age would begin anew.
func requireUntouched(t *testing.T, before, after map[string]float64) {
	t.Helper()
	require.Equal(t, len(before), len(after))
	for text, age := range before {
		now, there := after[text]
		require.True(t, there, "gone: %s", text)
		require.GreaterOrEqual(t, now, age, "installed anew: %s", text)
	}
}

// oneAddress moves one node's VTEP.
func oneAddress(t *testing.T, c *cluster, h *rigHost) {
	n := node(firstNode + 500)
	n.VTEPs = []netip.Addr{netip.MustParseAddr("172.17.0.1")}
	port := pipeline.TunnelName(topology.VXLAN, n.Name)
	writes, flows, before := h.dbWrites(), h.flowAges(t), h.interfaces(t)
	_, err := c.store.RegisterNode(t.Context(), n)
	require.NoError(t, err)
	await(
		t,
		"the tunnel has its new end",
		func() bool { return strings.Contains(h.Appctl("ofproto/list-tunnels"), "172.17.0.1") },
	)

	var next int
	_, err = fmt.Sscan(writes, &next)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(next+1), h.dbWrites(), "one transaction")
	after := h.interfaces(t)
	require.Contains(t, after[port], "172.17.0.1")
	require.NotEqual(t, before[port], after[port])
	before[port] = after[port]
	require.Equal(t, before, after, "another port was touched")
	requireUntouched(t, flows, h.flowAges(t))
}

// endpoints attaches namespaces to a node: neither etcd nor another node must
// notice.
func endpoints(t *testing.T, c *cluster, h, other *rigHost) {
	await(t, "both know each other", func() bool {
		return h.flowCount() == len(c.want(t, h.name).Flows) && !strings.Contains(h.interfaces(t)["vx-host2"], "could not")
	})
	s := c.snapshot(t)
	writes, flows, ports := h.dbWrites(), h.flowAges(t), h.interfaces(t)
	own := other.flowCount()
	var attached []ovs.Endpoint
	for i := range 3 {
		ns := fmt.Sprintf("bzt-%d-c%d", os.Getpid(), i)
		require.NoError(t, ip("netns add "+ns))
		t.Cleanup(func() { require.NoError(t, ip("netns delete "+ns)) })
		ctx, cancel := context.WithTimeout(t.Context(), awaitLimit)
		defer cancel()
		e, err := other.api.AddEndpoint(ctx, api.EndpointRequest{Name: fmt.Sprintf("c%d", i), Network: blue, Netns: ns})
		require.NoError(t, err)
		require.Len(t, e.IPs, 2)
		mac, err := topology.ParseMAC(e.MAC)
		require.NoError(t, err)
		attached = append(attached, ovs.Endpoint{Name: e.Name, Network: blue, Port: e.Port, IPs: e.IPs, MAC: mac})
	}
	// The node itself has its flows by now: adding waits for them.
	require.Equal(t, len(c.want(t, other.name, attached...).Flows), other.flowCount())
	require.Greater(t, other.flowCount(), own)
	require.Equal(t, s.Revision, c.snapshot(t).Revision, "etcd was written")

	// Another node's state is what it was, and has seen every key there is.
	require.NoError(t, h.api.Reconcile(t.Context(), true))
	require.Equal(t, writes, h.dbWrites(), "OVSDB of another node was written")
	require.Equal(t, ports, h.interfaces(t))
	requireUntouched(t, flows, h.flowAges(t))
	for i := range 3 {
		require.NoError(t, other.api.RemoveEndpoint(t.Context(), fmt.Sprintf("c%d", i)))
	}
	require.Equal(t, own, other.flowCount())
	require.Equal(t, s.Revision, c.snapshot(t).Revision, "etcd was written")
}
