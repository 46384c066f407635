package etcdstore_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
)

// All addresses of an endpoint move in one transaction, also where its answer is lost, and
// only from the node that has them.
func TestMovePins(t *testing.T) {
	withClaims(t, func(t *testing.T, c *claims) {
		ctx := t.Context()
		sub, err := c.s.LeaseSubnet(ctx, "blue", "owner", topology.IPv6, false)
		require.NoError(t, err)
		six, ok := topology.AddrAt(sub.Prefix, 9)
		require.True(t, ok)
		mac := topology.MACOf(c.addr(9)).String()
		to := func(node string) []topology.Pin {
			var out []topology.Pin
			for _, a := range []netip.Addr{c.addr(9), six} {
				out = append(out, topology.Pin{Network: "blue", Addr: a, Node: node, MAC: mac, Endpoint: "web"})
			}
			return out
		}
		before := c.Revision()
		refused(t, c.s.MovePins(ctx, "y", to("x")), topology.ErrConflict, "node y does not have it")
		require.Equal(t, before, c.Revision())

		h := c.Host("a")
		h.Set(etcdfake.Faults{LoseAnswers: true})
		time.AfterFunc(4*time.Second, func() { h.Set(etcdfake.Faults{}) })
		require.NoError(t, c.s.MovePins(ctx, "owner", to("x")))
		require.Equal(t, before+1, c.Revision(), "one transaction, done once")
		for _, p := range to("x") {
			have := c.snapshot().Pins[topology.PinID{Network: "blue", Addr: p.Addr}]
			require.Equal(t, "x", have.Node)
			require.Equal(t, "owner", have.MovedFrom)
		}
		_, err = c.s.PutPin(ctx, to("x")[0])
		require.NoError(t, err)
		require.Equal(t, before+1, c.Revision(), "the same pin, which the agent wants, changes nothing")

		refused(t, c.s.MovePins(ctx, "owner", to("y")), topology.ErrConflict, "pinned to node x")
		refused(t, c.s.MovePins(ctx, "x", to("y")), topology.ErrConflict, "node x", "does not run")
		other := to("owner")
		other[0].MAC = "02:00:00:00:00:01"
		refused(t, c.s.MovePins(ctx, "x", other), topology.ErrConflict, mac)
	})
}
