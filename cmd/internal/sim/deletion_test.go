package sim_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// dying is a world with a second network, in which some nodes have an endpoint,
// and that is marked then.
func dying(t *testing.T, how topology.Deletion, users ...int) *sim.World {
	t.Helper()
	w := world(t, 3)
	require.NoError(t, w.CreateNetworkOf("junk", topology.VXLAN))
	leased(t, w)
	require.Len(t, holders(w), 3)
	for _, i := range users {
		require.NoError(t, w.Nodes[i].Add("junk", "j-"+w.Nodes[i].Name))
	}
	w.Settle()
	mark(t, w, how)
	return w
}

// leased has every node lease subnets in junk, which nothing needs any more.
func leased(t *testing.T, w *sim.World) {
	t.Helper()
	w.Pass(time.Second)
	for _, n := range w.Nodes {
		require.NoError(t, n.Add("junk", "once"))
		require.NoError(t, n.Remove("junk/once"))
	}
	w.Settle()
	w.Pass(time.Minute)
}

func mark(t *testing.T, w *sim.World, how topology.Deletion) {
	t.Helper()
	_, err := w.Operator.MarkNetwork(t.Context(), "junk", how)
	require.NoError(t, err)
}

// holders are the nodes that have a part of junk, and why.
func holders(w *sim.World) map[string]string {
	out := map[string]string{}
	for _, h := range w.Snapshot().Holders("junk") {
		out[h.Node] = h.Why()
	}
	return out
}

// gone requires that nothing of junk is left: not in etcd, and not on any host.
func gone(t *testing.T, w *sim.World) {
	t.Helper()
	s := w.Snapshot()
	require.NotContains(t, s.Networks, "junk")
	for id := range s.Subnets {
		require.NotEqual(t, "junk", id.Network)
	}
	for id := range s.Pins {
		require.NotEqual(t, "junk", id.Network)
	}
	for _, n := range w.Nodes {
		require.Empty(t, n.Traces("junk"), n.Name)
		require.Empty(t, n.Faults(), n.Name)
	}
	require.Empty(t, w.Check())
	require.Empty(t, w.CheckSilence(time.Hour))
}

// Agents that do not use a network let go of it, and the last one deletes it.
func TestDeletionWhileAgentsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := dying(t, topology.DeleteUnused)
		w.Pass(5 * time.Second)
		gone(t, w)

		// The name and the number are free again.
		require.NoError(t, w.CreateNetworkOf("junk", topology.GRE))
		w.Settle()
		w.Pass(time.Minute)
		require.NoError(t, w.Nodes[0].Add("junk", "again"))
		w.Settle()
	})
}

// Those who use it keep all that they have, say what it is, and take nothing new.
func TestDeletionOfANetworkInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := dying(t, topology.DeleteUnused, 0, 1)
		w.Pass(5 * time.Second)
		require.Equal(t, map[string]string{"host1": "endpoint j-host1", "host2": "endpoint j-host2"}, holders(w))
		require.Empty(t, w.Check())
		require.Empty(t, w.Nodes[2].Traces("junk"))
		for _, n := range w.Nodes {
			err := n.Add("junk", "new")
			require.ErrorIs(t, err, topology.ErrConflict, n.Name)
			require.Equal(t, fault.NetworkDeleting, fault.Of(err).Code)
			_, err = n.Attach().Reserve(t.Context(), attach.Reservation{Network: "junk", Family: topology.IPv4})
			require.ErrorIs(t, err, topology.ErrConflict, n.Name)
		}
		require.Empty(t, w.CheckSilence(time.Hour))

		// A restart, a lost switch, a lost lease change nothing of it.
		n := w.Nodes[0]
		n.Kill()
		n.Switch.Wipe()
		n.Start()
		w.Settle()
		w.Pass(time.Minute)
		require.True(t, n.Ready())
		require.Equal(t, "endpoint j-host1", holders(w)["host1"])

		require.NoError(t, n.Remove("junk/j-host1"))
		w.Pass(5 * time.Second)
		require.Equal(t, map[string]string{"host2": "endpoint j-host2"}, holders(w))
		require.NoError(t, w.Nodes[1].Remove("junk/j-host2"))
		w.Pass(5 * time.Second)
		gone(t, w)
	})
}

// An address promised to an engine, and a pin, hold a network too.
func TestDeletionWaitsForPromises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := dying(t, topology.DeleteUnused)
		w.Pass(5 * time.Second)
		gone(t, w)
		require.NoError(t, w.CreateNetworkOf("junk", topology.VXLAN))
		w.Settle()
		w.Pass(time.Minute)
		n, other := w.Nodes[0], w.Nodes[1]
		promised, err := n.Attach().Reserve(t.Context(), attach.Reservation{Network: "junk", Family: topology.IPv4})
		require.NoError(t, err)
		p := w.Snapshot().Networks["junk"].IPv4.Addr().As4()
		require.NoError(t, other.Add("junk", "pinned", netip.AddrFrom4([4]byte{p[0], p[1], 250, 9})))
		mark(t, w, topology.DeleteUnused)
		w.Pass(5 * time.Second)
		require.Equal(t, map[string]string{
			"host1": "a container that is being started", "host2": "endpoint pinned",
		}, holders(w))
		n.Attach().Release("junk", promised)
		require.NoError(t, other.Remove("junk/pinned"))
		w.Pass(5 * time.Second)
		gone(t, w)
	})
}

// The leases of an agent that does not run hold the network until its node is
// removed, or it comes back.
func TestDeletionWithAnAgentDown(t *testing.T) {
	down := func(t *testing.T) *sim.World {
		w := world(t, 3)
		require.NoError(t, w.CreateNetworkOf("junk", topology.VXLAN))
		leased(t, w)
		w.Nodes[2].Stop()
		w.Pass(time.Minute)
		mark(t, w, topology.DeleteUnused)
		w.Pass(time.Minute)
		require.Equal(t, map[string]string{"host3": "its agent does not run"}, holders(w))
		return w
	}
	scenario(t, "node removed", func(t *testing.T) {
		w := down(t)
		_, err := w.Operator.RemoveNode(t.Context(), "host3", false)
		require.NoError(t, err)
		w.Pass(5 * time.Second)
		require.NotContains(t, w.Snapshot().Networks, "junk", "somebody saw that nothing is left")
	})
	scenario(t, "it comes back", func(t *testing.T) {
		w := down(t)
		w.Nodes[2].Start()
		w.Settle()
		w.Pass(time.Minute)
		gone(t, w)
	})
	scenario(t, "its part is taken away", func(t *testing.T) {
		w := down(t)
		mark(t, w, topology.DeleteNow)
		require.NoError(t, w.Operator.LetGo(t.Context(), "junk", "host3"))
		w.Pass(5 * time.Second)
		require.NotContains(t, w.Snapshot().Networks, "junk")
		w.Nodes[2].Start()
		w.Settle()
		w.Pass(time.Minute)
		gone(t, w)
	})
}

// Etcd is lost right after the mark, and when the last user goes.
func TestDeletionWhileEtcdIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := dying(t, topology.DeleteUnused, 0)
		w.Etcd.Stop()
		w.Pass(time.Minute)
		require.Empty(t, w.CheckForwarding())
		w.Etcd.Start()
		w.Settle()
		w.Pass(time.Minute)
		require.Equal(t, map[string]string{"host1": "endpoint j-host1"}, holders(w))

		w.Etcd.Stop()
		w.Pass(time.Minute)
		require.NoError(t, w.Nodes[0].Remove("junk/j-host1"))
		w.Nodes[0].Kill()
		w.Nodes[0].Start()
		w.Pass(time.Minute)
		w.Etcd.Start()
		w.Settle()
		w.Pass(time.Minute)
		gone(t, w)
	})
}

// A network in use whose record vanishes while it is marked was not deleted: only
// its users could have let go of it.
func TestMarkedNetworkVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := dying(t, topology.DeleteUnused, 0, 1)
		w.Pass(5 * time.Second)
		w.Etcd.Delete(key("networks/junk"), false)
		w.Pass(time.Minute)
		require.Empty(t, w.CheckForwarding())
		require.True(t, w.Nodes[0].HasFault(fault.RecordVanished))
	})
}

// A deletion that is cancelled leaves everything as it was.
func TestDeletionCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := dying(t, topology.DeleteUnused, 0)
		w.Pass(5 * time.Second)
		_, err := w.Operator.CancelDeletion(t.Context(), "junk")
		require.NoError(t, err)
		p := w.Snapshot().Networks["junk"].IPv4.Addr().As4()
		_, err = w.Operator.ReserveSubnet(t.Context(), topology.Subnet{
			Network: "junk", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{p[0], p[1], 77, 0}), 24), Node: "host3",
		})
		require.NoError(t, err)
		w.Settle()
		w.Pass(time.Minute)
		before := w.Snapshot()
		require.NotEmpty(t, before.NodeSubnets("junk", "host3"))

		mark(t, w, topology.DeleteUnused)
		w.Pass(5 * time.Second)
		require.Equal(t, map[string]string{"host1": "endpoint j-host1"}, holders(w))
		require.Empty(t, w.Nodes[2].Traces("junk"), "also of what is reserved for it")
		_, err = w.Operator.CancelDeletion(t.Context(), "junk")
		require.NoError(t, err)
		w.Pass(time.Minute)
		after := w.Snapshot()
		for _, n := range w.Nodes {
			require.Equal(t, prefixes(before.NodeSubnets("junk", n.Name)), prefixes(after.NodeSubnets("junk", n.Name)))
			for _, sub := range after.NodeSubnets("junk", n.Name) {
				require.Empty(t, sub.UsedBy)
				require.False(t, sub.LetGo)
			}
		}
		require.NoError(t, w.Nodes[2].Add("junk", "new"))
		require.NoError(t, w.Nodes[1].Add("junk", "new"))
		w.Settle()
		require.Empty(t, w.CheckSilence(time.Hour))
	})
}

// Taken away from its users, a network is gone with its endpoints; a node that
// did not see the mark forwards until somebody decides.
func TestDeletionForced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		require.NoError(t, w.CreateNetworkOf("junk", topology.VXLAN))
		w.Settle()
		w.Pass(time.Minute)
		for _, n := range w.Nodes {
			require.NoError(t, n.Add("junk", "j"))
		}
		w.Settle()
		n := w.Nodes[2]
		n.Stop()
		w.Pass(time.Minute)
		mark(t, w, topology.DeleteNow)
		require.NoError(t, w.Operator.LetGo(t.Context(), "junk", "host3"))
		w.Pass(10 * time.Second)
		require.NotContains(t, w.Snapshot().Networks, "junk")
		for _, n := range w.Nodes[:2] {
			require.Empty(t, n.Traces("junk"), n.Name)
			n.TakenAway("junk/j")
		}
		n.Start()
		w.Pass(time.Minute)
		require.True(t, n.HasFault(fault.RecordVanished))
		require.NotEmpty(t, n.Traces("junk"))
		require.NoError(t, n.Remove("junk/j"))
		w.Pass(time.Minute)
		gone(t, w)
	})
}

// A request that read the topology before the mark finds the network closed: no
// endpoint is attached in subnets that the node gives back at that moment.
func TestNetworkIsClosedBeforeItsSubnetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 2)
		require.NoError(t, w.CreateNetworkOf("junk", topology.VXLAN))
		leased(t, w)
		n := w.Nodes[0]
		uses, err := n.Attach().CloseUnused(w.Snapshot().Networks["junk"], nil, nil)
		require.NoError(t, err)
		require.Empty(t, uses)
		err = n.Add("junk", "late")
		require.Equal(t, fault.NetworkDeleting, fault.Of(err).Code, "the topology says nothing of it yet")
		require.Empty(t, n.Traces("junk")[1:], "nothing is left of the attempt")

		w.Pass(2 * time.Minute) // the mark never came
		require.NoError(t, n.Add("junk", "later"))
		w.Settle()
	})
}
