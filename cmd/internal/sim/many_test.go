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

	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// Two hundred agents start at once, each with an endpoint that comes at once: each node has
// a subnet of its own, none has two, and etcd is quiet afterwards.
func TestTwoHundredAgentsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := testkit.Fewer(testkit.Some(200, 5), 2)
		w := sim.New(t, 1, count)
		require.NoError(t, w.CreateNetworkOf("blue", topology.VXLAN))
		var all sync.WaitGroup
		for _, n := range w.Nodes {
			n.Start()
			all.Go(func() {
				for n.Add("blue", "c") != nil {
					time.Sleep(time.Second)
				}
			})
		}
		all.Wait()
		w.Settle()
		owners, subnets := map[netip.Prefix]string{}, map[string]int{}
		for _, s := range w.Snapshot().SortedSubnets() {
			require.Empty(t, owners[s.Prefix], s.Prefix)
			owners[s.Prefix] = s.Node
			subnets[s.Node]++
		}
		require.Len(t, subnets, count)
		for node, n := range subnets {
			require.Equal(t, 2, n, "%s: one of each family", node)
		}
		require.Empty(t, w.CheckSilence(15*time.Minute))
	})
}

// A thousand endpoints come and go on each of three hosts, many at a time: no address is
// given twice while it is in use, none leaks, and etcd hears nothing of it.
func TestEndpointsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		revision := w.Snapshot().Revision
		const atOnce = 50
		rounds := testkit.Fewer(testkit.Some(1000, 4), 5) / atOnce
		for round := range rounds {
			var all sync.WaitGroup
			for _, n := range w.Nodes {
				for i := range atOnce {
					all.Go(func() { assert.NoError(t, n.Add("blue", fmt.Sprintf("e%d-%d", round, i))) })
				}
			}
			all.Wait()
			seen := map[netip.Addr]string{}
			for _, n := range w.Nodes {
				for _, e := range n.Attach().Endpoints() {
					for _, ip := range e.IPs {
						require.Empty(t, seen[ip], "%s: %s", n.Name, ip)
						seen[ip] = n.Name + "/" + e.Name
					}
				}
			}
			require.GreaterOrEqual(t, len(seen), len(w.Nodes)*atOnce)
			for _, n := range w.Nodes {
				for i := range atOnce {
					all.Go(func() { assert.NoError(t, n.Remove(fmt.Sprintf("blue/e%d-%d", round, i))) })
				}
			}
			all.Wait()
		}
		w.Settle()
		require.Equal(t, revision, w.Snapshot().Revision, "etcd was written")
		for _, n := range w.Nodes {
			require.Len(t, n.Attach().Endpoints(), 1, n.Name)
		}
		require.Empty(t, w.CheckSilence(time.Hour))
	})
}
