package sim_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology/fault"
)

// An agent that was paused for longer than its liveness lasts wakes up, as after SIGSTOP or
// a virtual machine's pause; so does one whose host was set back to what it was earlier.
func TestWhoWakesLate(t *testing.T) {
	scenario(t, "nobody took its place", func(t *testing.T) {
		w := world(t, 3)
		n := w.Nodes[0]
		n.Freeze()
		w.Pass(10 * time.Minute)
		require.Empty(t, w.CheckForwarding(), "forwarding needs no agent")
		require.NoError(t, w.Nodes[1].Add("blue", "later", netip.MustParseAddr("10.1.250.9")))
		n.Thaw()
		w.Settle()
		require.Empty(t, n.Faults())
		require.Empty(t, w.CheckSilence(time.Hour))
	})
	scenario(t, "another machine took its place", func(t *testing.T) {
		w := world(t, 3)
		n := w.Nodes[0]
		subnets := prefixes(w.Snapshot().NodeSubnets("blue", "host1"))
		n.Freeze()
		w.Pass(time.Minute)
		require.NoError(t, w.Operator.HandOverNode(t.Context(), "host1", ""))
		other := w.AddNode("host1")
		other.ID, other.Hostname = "id-other", "other"
		other.Start()
		w.Pass(time.Minute)
		require.NoError(t, other.Ended())
		require.NoError(t, other.Add("blue", "c"))
		n.Thaw()
		w.Pass(2 * time.Minute)
		// It says so, writes nothing, and its endpoints are nobody else's trouble.
		require.True(t, n.HasFault(fault.NodeDuplicate), n.Faults())
		require.Contains(t, n.Faults()[0].String(), "host other runs under this name")
		require.Empty(t, w.CheckSilence(time.Hour))
		require.Equal(t, "id-other", w.Snapshot().Nodes["host1"].ID)
		for _, o := range []*sim.Node{w.Nodes[1], w.Nodes[2], other} {
			require.Empty(t, o.Faults(), o.Name)
		}
		n.Stop()
		w.Nodes = []*sim.Node{w.Nodes[1], w.Nodes[2], other}
		w.Settle()
		require.Equal(t, subnets, prefixes(w.Snapshot().NodeSubnets("blue", "host1")))
		require.Empty(t, w.CheckSilence(time.Hour))
	})
	scenario(t, "set back to an earlier state", func(t *testing.T) {
		w := world(t, 3)
		n := w.Nodes[0]
		earlier := n.Clone(77) // its disk now
		w.Nodes = w.Nodes[:3]
		require.NoError(t, n.Add("blue", "later", netip.MustParseAddr("10.1.250.9")))
		require.NoError(t, n.Remove("blue/c-host1"))
		w.Settle()
		n.Kill()
		w.Pass(time.Minute)
		w.Nodes[0] = earlier
		earlier.Start()
		w.Settle()
		require.NoError(t, earlier.Add("blue", "after"))
		w.Settle()
		require.Empty(t, w.CheckSilence(time.Hour))
	})
}
