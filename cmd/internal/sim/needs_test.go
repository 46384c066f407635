package sim_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/membership"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/fault"
)

// leases are the networks that a node has subnets in.
func leases(w *sim.World, node string) map[string]bool {
	out := map[string]bool{}
	for _, sub := range w.Snapshot().SortedSubnets() {
		if sub.Node == node {
			out[sub.Network] = true
		}
	}
	return out
}

// Of a hundred networks a node leases subnets in those that it uses, and has the flows
// of those: as many as where there are no others.
func TestHundredNetworks(t *testing.T) {
	flows := map[int]int{}
	for _, networks := range []int{3, 100} {
		scenario(t, fmt.Sprint(networks), func(t *testing.T) {
			w := sim.New(t, 1, 3)
			for i := range networks {
				require.NoError(t, w.CreateNetworkOf(fmt.Sprintf("net%d", i+1), topology.VXLAN))
			}
			w.StartAll()
			for i := range 3 {
				for _, n := range w.Nodes {
					require.NoError(t, n.Add(fmt.Sprintf("net%d", i+1), "c"))
				}
			}
			w.Settle()
			for _, n := range w.Nodes {
				require.True(t, n.Ready())
				require.Equal(t, map[string]bool{"net1": true, "net2": true, "net3": true}, leases(w, n.Name))
				require.Len(t, n.Agent().Hub().Records().Get().View().Networks, 3)
			}
			flows[networks] = len(outcome(t, w.Nodes[0]).Bound)
			require.Empty(t, w.CheckSilence(time.Hour))
		})
	}
	require.NotZero(t, flows[3])
	require.Equal(t, flows[3], flows[100])
}

// A network is carried by those who use it, from their first endpoint to a grace after
// their last.
func TestLeaseFollowsUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 3)
		w.LeaseGrace = 5 * time.Minute
		require.NoError(t, w.CreateNetworkOf("blue", topology.VXLAN))
		w.Nodes[2].Ahead = []string{"blue"}
		w.StartAll()
		w.Pass(time.Minute)
		n := w.Nodes[0]
		require.Empty(t, leases(w, "host1"))
		require.NotEmpty(t, leases(w, "host3"), "it leases ahead")
		require.True(t, n.Ready())

		require.NoError(t, n.Add("blue", "c"))
		w.Settle()
		had := prefixes(w.Snapshot().NodeSubnets("blue", "host1"))
		require.Len(t, had, 2)
		require.Empty(t, leases(w, "host2"))
		require.Empty(t, w.Nodes[1].Traces("blue"))

		// A container that is started again has its address.
		before := n.Wanted["blue/c"].IPs
		require.NoError(t, n.Remove("blue/c"))
		w.Pass(4 * time.Minute)
		require.NoError(t, n.Add("blue", "c"))
		require.Equal(t, before, n.Wanted["blue/c"].IPs)

		// An agent that is started counts from then on.
		require.NoError(t, n.Remove("blue/c"))
		w.Pass(4 * time.Minute)
		n.Kill()
		n.Start()
		w.Pass(4 * time.Minute)
		require.NotEmpty(t, leases(w, "host1"))
		w.Pass(2 * time.Minute)
		require.Empty(t, leases(w, "host1"))
		require.Empty(t, n.Traces("blue"))
		require.NotEmpty(t, leases(w, "host3"))
		require.Empty(t, w.CheckSilence(time.Hour))

		require.NoError(t, n.Add("blue", "again"))
		require.Equal(t, had, prefixes(w.Snapshot().NodeSubnets("blue", "host1")), "the place that its name has")
		w.Settle()
	})
}

// A network that is created a moment later than an endpoint in it is asked for, or whose
// record is on its way, is waited for; one that is not there is refused soon.
func TestNetworkOfThisMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 1)
		w.StartAll()
		w.Pass(time.Minute)
		time.AfterFunc(time.Second, func() { _ = w.CreateNetworkOf("blue", topology.VXLAN) })
		require.NoError(t, w.Nodes[0].Add("blue", "c"))
		begin := time.Now()
		require.ErrorIs(t, w.Nodes[0].Add("green", "c"), topology.ErrNotFound)
		require.Less(t, time.Since(begin), 5*time.Second)
		w.Settle()
	})
}

// A network gets a prefix of the other family while endpoints run in it: its nodes
// lease subnets of that as well, and endpoints that come have addresses of both.
func TestFamilyIsAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 3)
		require.NoError(t, w.CreateNetworkOf("blue", topology.VXLAN))
		require.NoError(t, w.CreateNetworkOf("red", topology.VXLAN))
		w.StartAll()
		for _, n := range w.Nodes {
			require.NoError(t, n.Add("red", "c"))
		}
		w.Settle()
		n := w.Nodes[0]
		require.Len(t, n.Wanted["red/c"].IPs, 1)
		_, err := w.Operator.UpdateNetwork(t.Context(), "red", func(n *topology.Network) error {
			n.IPv6, n.SubnetLenIPv6 = netip.MustParsePrefix("fd00:2::/48"), 64
			return nil
		})
		require.NoError(t, err)
		w.Settle()
		for _, n := range w.Nodes {
			require.Len(t, w.Snapshot().NodeSubnets("red", n.Name), 2)
			require.NoError(t, n.Add("red", "both"))
			require.Len(t, n.Wanted["red/both"].IPs, 2)
		}
		w.Settle()
		require.Len(t, n.Wanted["red/c"].IPs, 1)
		require.Empty(t, w.CheckSilence(time.Hour))
	})
}

// What is reserved for a node, promised to an engine or pinned elsewhere is a use.
func TestOtherUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 3)
		w.LeaseGrace = 20 * time.Second
		require.NoError(t, w.CreateNetworkOf("blue", topology.VXLAN))
		w.StartAll()
		n := w.Nodes[0]
		_, err := w.Operator.ReserveSubnet(t.Context(), topology.Subnet{
			Network: "blue", Prefix: netip.MustParsePrefix("10.1.77.0/24"), Node: "host1",
		})
		require.NoError(t, err)
		w.Pass(5 * time.Minute)
		require.Len(t, w.Snapshot().NodeSubnets("blue", "host1"), 2, "what is reserved, and one of the other family")

		promised, err := w.Nodes[1].Attach().Reserve(t.Context(), attach.Reservation{Network: "blue", Family: topology.IPv4})
		require.NoError(t, err)
		w.Pass(3 * time.Minute)
		require.NotEmpty(t, leases(w, "host2"))
		w.Nodes[1].Attach().Release("blue", promised)

		pinned := netip.MustParseAddr("10.1.250.9")
		require.NoError(t, w.Nodes[2].Add("blue", "pinned", pinned))
		w.Pass(3 * time.Minute)
		require.Empty(t, leases(w, "host2"))
		require.NotEmpty(t, leases(w, "host3"))
		require.NoError(t, n.Add("blue", "c"))
		w.Settle()

		require.NoError(t, w.Operator.ReleaseSubnet(t.Context(), "blue", netip.MustParsePrefix("10.1.77.0/24"), true))
		require.NoError(t, n.Remove("blue/c"))
		w.Pass(3 * time.Minute)
		require.Empty(t, leases(w, "host1"))
		require.NoError(t, w.Nodes[2].Remove("blue/pinned"))
		w.Pass(3 * time.Minute)
		require.Empty(t, w.Snapshot().Subnets)
		require.Empty(t, w.Snapshot().Pins)
		require.Empty(t, w.CheckSilence(time.Hour))
	})
}

// Without etcd a network that was never leased in cannot be used, and that is said at
// once; what was leased ahead can, also by an agent that starts then.
func TestFirstEndpointWithoutEtcd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 2)
		require.NoError(t, w.CreateNetworkOf("blue", topology.VXLAN))
		w.Nodes[1].Ahead = []string{"blue"}
		w.StartAll()
		for _, n := range w.Nodes {
			n.Etcd.Set(etcdfake.Faults{Refused: true})
		}
		w.Pass(time.Minute)
		began := time.Now()
		err := w.Nodes[0].Add("blue", "c")
		require.ErrorContains(t, err, "no subnet is leased here yet and etcd does not answer")
		require.ErrorContains(t, err, "--network blue")
		require.Equal(t, fault.StoreUnavailable, fault.Of(err).Code)
		require.Zero(t, time.Since(began))
		require.NoError(t, w.Nodes[1].Add("blue", "c"))
		w.Nodes[1].Kill()
		w.Nodes[1].Start()
		w.Nodes[1].Etcd.Set(etcdfake.Faults{Refused: true})
		w.Pass(time.Minute)
		require.True(t, w.Nodes[1].Ready())
		require.NoError(t, w.Nodes[1].Add("blue", "d"))
		for _, n := range w.Nodes {
			n.Etcd.Set(etcdfake.Faults{})
		}
		w.Settle()
		require.NoError(t, w.Nodes[0].Add("blue", "c"))
		w.Settle()
	})
}

// An endpoint that is added at the moment when the network is given back waits, and is
// in a subnet that the node has. Whether etcd did what it does not answer to is found
// out first.
func TestAddWhileGivenBack(t *testing.T) {
	for name, f := range map[string]etcdfake.Faults{
		"": {}, "slow": {Delay: 700 * time.Millisecond}, "answers lost": {LoseAnswers: true},
		"watches stalled": {StallWatches: true},
	} {
		for _, ms := range []time.Duration{-1000, 0, 500, 3000, 8000} {
			after := ms * time.Millisecond
			scenario(t, fmt.Sprintf("%s %s", name, after), func(t *testing.T) {
				w := sim.New(t, 1, 2)
				w.LeaseGrace = 20 * time.Second
				require.NoError(t, w.CreateNetworkOf("blue", topology.VXLAN))
				w.StartAll()
				n := w.Nodes[0]
				require.NoError(t, n.Add("blue", "once"))
				w.Settle()
				require.NoError(t, n.Remove("blue/once"))
				n.Etcd.Set(f)
				w.Pass(20*time.Second + after)
				if err := n.Add("blue", "c"); !f.LoseAnswers && !f.StallWatches {
					require.NoError(t, err)
				} else if err != nil {
					require.ErrorIs(t, err, topology.ErrUnavailable)
				}
				for _, ip := range n.Wanted["blue/c"].IPs {
					home, _ := w.Snapshot().Home("blue", ip)
					require.Equal(t, "host1", home.Node, ip)
				}
				n.Etcd.Set(etcdfake.Faults{})
				w.Settle()
				require.NoError(t, n.Add("blue", "d"))
				require.NoError(t, w.Nodes[1].Add("blue", "d"))
				w.Settle()
			})
		}
	}
}

// The first lease is on disk before its first endpoint: an agent that is killed then,
// and starts without etcd, does not cut it off.
func TestKilledAfterTheFirstEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 1)
		require.NoError(t, w.CreateNetworkOf("blue", topology.VXLAN))
		w.StartAll()
		n := w.Nodes[0]
		require.NoError(t, n.Add("blue", "a"))
		require.NoError(t, n.Add("blue", "b"))
		n.Kill()
		n.Start()
		n.Etcd.Set(etcdfake.Faults{Refused: true})
		n.Switch.Wipe()
		w.Pass(time.Minute)
		require.Empty(t, w.CheckForwarding())
	})
}

// A version before this one leased in every network: what has endpoints stays, and so
// does what else was leased, for a grace.
func TestUpgradeKeepsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 2)
		require.NoError(t, w.CreateNetworkOf("blue", topology.VXLAN))
		require.NoError(t, w.CreateNetworkOf("red", topology.GRE))
		n := w.Nodes[0]
		n.Ahead = []string{"blue", "red"} // as it was
		w.StartAll()
		require.NoError(t, n.Add("blue", "c"))
		w.Settle()
		had := prefixes(w.Snapshot().NodeSubnets("blue", "host1"))
		n.Kill()
		n.Ahead = nil
		n.Start()
		w.Pass(9 * time.Minute)
		require.Equal(t, map[string]bool{"blue": true, "red": true}, leases(w, "host1"))
		w.Pass(5 * time.Minute)
		require.Equal(t, map[string]bool{"blue": true}, leases(w, "host1"))
		require.Equal(t, had, prefixes(w.Snapshot().NodeSubnets("blue", "host1")))
		require.Empty(t, w.Check())
	})
}

// member is the node's part that owns its leases.
func member(t *testing.T, n *sim.Node) *membership.Part {
	t.Helper()
	for _, p := range n.Agent().Parts() {
		if m, ok := p.(*membership.Part); ok {
			return m
		}
	}
	require.Fail(t, "no part for the leases")
	return nil
}

// U3: a network that was created for Docker goes when the last node does not need it any
// more, at once, and leaves nothing; two that are the last do not hinder each other, nor
// one that makes it anew at that moment. Where nobody ever used it, somebody removes it.
func TestNetworkOfDocker(t *testing.T) {
	blue := topology.Network{
		Name: "junk", IPv4: netip.MustParsePrefix("10.9.0.0/16"), CreatedBy: topology.CreatedByDocker,
	}
	used := func(t *testing.T) *sim.World {
		w := world(t, 3)
		_, err := w.Operator.CreateNetwork(t.Context(), blue)
		require.NoError(t, err)
		w.Pass(time.Second)
		for _, n := range w.Nodes[:2] {
			require.NoError(t, n.Add("junk", "j"))
		}
		w.Settle()
		return w
	}
	scenario(t, "one after the other", func(t *testing.T) {
		w := used(t)
		require.NoError(t, w.Nodes[0].Remove("junk/j"))
		w.Pass(5 * time.Second)
		require.Equal(t, map[string]string{"host2": "its agent has not answered"}, holders(w))
		w.Nodes[1].Kill()
		w.Pass(time.Hour)
		require.Len(t, holders(w), 1, "a node that is down has what it has")
		w.Nodes[1].Start()
		w.Settle()
		require.NoError(t, w.Nodes[1].Remove("junk/j"))
		w.Pass(5 * time.Second)
		gone(t, w)
	})
	scenario(t, "at once", func(t *testing.T) {
		w := used(t)
		for _, n := range w.Nodes[:2] {
			go func() { _ = n.Remove("junk/j") }()
		}
		w.Pass(5 * time.Second)
		gone(t, w)
	})
	scenario(t, "and is made anew", func(t *testing.T) {
		for _, after := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
			w := used(t)
			require.NoError(t, w.Nodes[0].Remove("junk/j"))
			w.Pass(5 * time.Second)
			go func() { _ = w.Nodes[1].Remove("junk/j") }()
			w.Pass(after)
			_, err := member(t, w.Nodes[2]).EnsureNetwork(t.Context(), blue, []topology.Family{topology.IPv4},
				func(topology.Network) error { return nil })
			require.NoError(t, err, after)
			require.Contains(t, holders(w), "host3")
		}
	})
	scenario(t, "never used", func(t *testing.T) {
		w := world(t, 3)
		_, err := w.Operator.CreateNetwork(t.Context(), blue)
		require.NoError(t, err)
		w.Pass(30 * time.Second)
		require.Contains(t, w.Snapshot().Networks, "junk", "its engine is about to use it")
		w.Pass(5 * time.Minute)
		gone(t, w)
	})
}
