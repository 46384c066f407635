package sim_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// R14: a disk that takes a minute for each file delays the answer to who wants something
// kept, and no flow.
func TestSlowDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 2)
		require.NoError(t, w.CreateNetworkOf("red", topology.VXLAN))
		w.Settle()
		n := w.Nodes[0]
		n.SetDisk(time.Minute)
		var all sync.WaitGroup
		for _, network := range []string{"blue", "red"} { // of red the node leases subnets first, which are kept, too
			all.Go(func() { assert.NoError(t, n.Add(network, "slow")) })
		}
		w.Pass(2 * time.Second)
		forwards := map[string]bool{}
		ports, _ := n.Switch.State()
		for _, e := range n.Attach().Endpoints() {
			if e.Name == "slow" && ports[e.Port].Live() {
				forwards[e.Network] = true
			}
		}
		require.Equal(t, map[string]bool{"blue": true, "red": true}, forwards)

		// What changes elsewhere is followed meanwhile.
		require.NoError(t, w.Nodes[1].Add("blue", "pinned", netip.MustParseAddr("10.1.250.9")))
		w.Pass(2 * time.Second)
		require.Empty(t, w.CheckForwarding())
		require.NoError(t, w.Nodes[1].Remove("blue/pinned"))
		all.Wait()
		n.SetDisk(0)
		w.Settle()
		require.Empty(t, w.CheckSilence(time.Hour))
	})
}

// R15: the undoing of what failed ends also where the switch never answers, and leaves
// nothing. An agent that is stopped then ends soon.
func TestSwitchNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 2)
		n := w.Nodes[0]
		devices := n.Devices()
		n.Switch.Mute(true)
		began := time.Now()
		require.Error(t, n.Add("blue", "late"))
		require.LessOrEqual(t, time.Since(began), 40*time.Second)
		require.Equal(t, devices, n.Devices(), "no device is left")
		require.Empty(t, n.Attach().Pending())
		_, err := plugIn(t, n, "late", 1)
		require.Error(t, err)
		require.Equal(t, devices, n.Devices())

		// Nor is an endpoint's, which was to go.
		require.Error(t, n.Remove("blue/c-host1"))
		require.Empty(t, n.Devices())

		done := make(chan error, 1)
		go func() { done <- n.Add("blue", "stopped") }()
		w.Pass(time.Second)
		began = time.Now()
		n.Stop()
		require.LessOrEqual(t, time.Since(began), 15*time.Second)
		require.Error(t, <-done)
		require.Empty(t, n.Devices())

		n.Switch.Mute(false)
		n.Start()
		w.Settle()
		require.Empty(t, n.Attach().Endpoints())
		require.NoError(t, n.Add("blue", "late"))
		w.Settle()
		require.Empty(t, w.CheckSilence(time.Hour))
	})
}

// B14: what an endpoint costs does not grow with those that are there: as many calls of
// the switch, each of which takes a millisecond, and as many flows and ports written.
func TestTwoHundredEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 2)
		n := w.Nodes[0]
		type cost struct {
			took             time.Duration
			changes, written int
		}
		add := func(i int) cost {
			w.Pass(2 * time.Second) // nothing of the one before is under way
			began, changes, written := time.Now(), n.Switch.Changes(), n.Switch.Written()
			require.NoError(t, n.Add("blue", fmt.Sprintf("e%d", i)))
			return cost{time.Since(began), n.Switch.Changes() - changes, n.Switch.Written() - written}
		}
		// What the agent does every so often, such as an audit, falls together with some of
		// them, which wait for it: the least of a few counts.
		least := func(from, to int) cost {
			out := add(from)
			for i := from + 1; i <= to; i++ {
				c := add(i)
				out = cost{min(out.took, c.took), min(out.changes, c.changes), min(out.written, c.written)}
			}
			return out
		}
		count := testkit.Fewer(200, 4)
		first := least(1, 10)
		least(11, count-10)
		last := least(count-9, count)
		t.Logf("the first: %+v, the last: %+v", first, last)
		require.Equal(t, first.changes, last.changes)
		require.LessOrEqual(t, last.took, first.took+2*time.Millisecond)
		require.LessOrEqual(t, last.written, first.written+2)
	})
}
