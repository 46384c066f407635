package sim_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/fault"
)

// The scenarios of this file are about an address that a node wants and another
// node leases.

// home is the IPv4 address of a node's first endpoint.
func home(n *sim.Node) netip.Addr { return n.Wanted["blue/c-"+n.Name].IPs[0] }

// beside is an address of a node's subnet that no endpoint has.
func beside(n *sim.Node, i byte) netip.Addr {
	a := home(n).As4()
	a[3] = 100 + i
	return netip.AddrFrom4(a)
}

// took runs f, and requires that it ends within a time.
func took(t *testing.T, limit time.Duration, f func()) {
	t.Helper()
	began := time.Now()
	f()
	require.LessOrEqual(t, time.Since(began), limit)
}

func conflict(t *testing.T, err error, words ...string) {
	t.Helper()
	require.ErrorIs(t, err, topology.ErrConflict)
	for _, w := range words {
		require.ErrorContains(t, err, w)
	}
}

// hasFault requires that a node reports a fault of a code that says certain words.
func hasFault(t *testing.T, n *sim.Node, code fault.Code, words ...string) {
	t.Helper()
	for _, f := range n.Faults() {
		if f.Code != code {
			continue
		}
		for _, w := range words {
			require.Contains(t, f.String(), w)
		}
		return
	}
	require.Fail(t, "no such fault", "%s reports %v", n.Name, n.Faults())
}

// unclaimed requires that nothing is left of claims.
func unclaimed(t *testing.T, w *sim.World) {
	t.Helper()
	require.Empty(t, w.Snapshot().Claims)
}

// reserve is what an engine asks of a node.
func reserve(t *testing.T, n *sim.Node, a netip.Addr) error {
	_, err := n.Attach().Reserve(t.Context(), attach.Reservation{Network: "blue", Family: topology.IPv4, Addr: a})
	return err
}

func promise(t *testing.T, n *sim.Node, a netip.Addr) error {
	return n.Attach().Promise(t.Context(), ovs.Endpoint{
		Name: "docker-1", Network: "blue", IPs: []netip.Addr{a}, MAC: topology.MACOf(a),
	})
}

// U2: an address that another node leases is asked for.
func TestAddressIsNotStolen(t *testing.T) {
	scenario(t, "of an endpoint", func(t *testing.T) {
		w := world(t, 3)
		a := home(w.Nodes[0])
		conflict(t, w.Nodes[1].Add("blue", "thief", a), a.String(), "node host1", "endpoint c-host1")
		conflict(t, reserve(t, w.Nodes[1], a), a.String(), "node host1", "endpoint c-host1")
		require.Empty(t, w.Snapshot().Pins)
		unclaimed(t, w)
		w.Settle()
		for _, n := range w.Nodes {
			require.Empty(t, n.Faults(), n.Name)
		}
		require.Empty(t, w.CheckSilence(time.Hour))
	})
	scenario(t, "of an endpoint that took it by itself", func(t *testing.T) {
		w := world(t, 2)
		a := beside(w.Nodes[0], 1)
		n := w.Nodes[0]
		n.Take(n.Attach().Endpoints()[0].Port, a)
		conflict(t, w.Nodes[1].Add("blue", "thief", a), a.String(), "node host1", "endpoint c-host1", "02:00:00:00:00:01")
		conflict(t, reserve(t, w.Nodes[1], a), a.String(), "node host1", "endpoint c-host1", "02:00:00:00:00:01")
		require.Empty(t, w.Snapshot().Pins)
		unclaimed(t, w)
		require.Empty(t, n.Attach().Lent())
		// It gives it back.
		n.Take(n.Attach().Endpoints()[0].Port, netip.MustParseAddr("192.0.2.1"))
		require.NoError(t, w.Nodes[1].Add("blue", "heir", a))
		w.Settle()
		for _, n := range w.Nodes {
			require.Empty(t, n.Faults(), n.Name)
		}
	})
	scenario(t, "of a container that is being started", func(t *testing.T) {
		w := world(t, 2)
		a := beside(w.Nodes[0], 1)
		require.NoError(t, reserve(t, w.Nodes[0], a))
		unclaimed(t, w)
		conflict(t, w.Nodes[1].Add("blue", "thief", a), "node host1", "being started")
		w.Nodes[0].Attach().Release("blue", a)
		require.NoError(t, w.Nodes[1].Add("blue", "heir", a))
		w.Settle()
	})
	scenario(t, "of the node", func(t *testing.T) {
		w := world(t, 2)
		sub := w.Snapshot().NodeSubnets("blue", "host1")[0].Prefix
		conflict(t, w.Nodes[1].Add("blue", "thief", sub.Addr().Next()), "node host1", "the node itself")
	})
	scenario(t, "that was just given away", func(t *testing.T) {
		w := world(t, 2)
		n, away := w.Nodes[0], w.Nodes[1]
		a := beside(n, 1)
		require.NoError(t, reserve(t, away, a))
		conflict(t, n.Add("blue", "late", a), "node host2")
		n.Kill()
		n.Start()
		w.Pass(10 * time.Second)
		conflict(t, n.Add("blue", "late", a), "node host2")
		require.NoError(t, promise(t, away, a))
		unclaimed(t, w)
		conflict(t, n.Add("blue", "late", a), "node host2", "docker-1")
		require.Empty(t, n.Attach().Lent())
	})
}

// The owner agrees, is restarted, and cannot reach etcd: it knows of neither the
// claim nor the pin.
func TestLoanWithoutEtcd(t *testing.T) {
	scenario(t, "", func(t *testing.T) {
		w := world(t, 2)
		n, away := w.Nodes[0], w.Nodes[1]
		a := beside(n, 1)
		require.NoError(t, reserve(t, away, a))
		n.Kill()
		n.Start()
		n.Etcd.Set(etcdfake.Faults{Refused: true})
		w.Pass(time.Minute)
		require.NoError(t, away.Add("blue", "other", beside(n, 2)), "its agent is not alive any more")
		conflict(t, n.Add("blue", "late", a), "node host2")
		n.Etcd.Set(etcdfake.Faults{})
		w.Pass(time.Minute)
		require.NoError(t, n.Add("blue", "late", a), "the claim expired")
	})
}

// A container is stopped and started elsewhere with its address, and comes back.
func TestAddressMovesAndComesHome(t *testing.T) {
	scenario(t, "", func(t *testing.T) {
		w := world(t, 3)
		n, away, third := w.Nodes[0], w.Nodes[1], w.Nodes[2]
		a := home(n)
		require.NoError(t, n.Remove("blue/c-host1"))
		require.NoError(t, away.Add("blue", "moved", a))
		unclaimed(t, w)
		w.Settle()
		pin := w.Snapshot().Pins[topology.PinID{Network: "blue", Addr: a}]
		require.Equal(t, "host2", pin.Node)
		require.Equal(t, "moved", pin.Endpoint)
		require.False(t, pin.Unconfirmed)

		conflict(t, n.Add("blue", "c-host1", a), "node host2", "endpoint moved")
		conflict(t, third.Add("blue", "thief", a), "node host2", "endpoint moved")
		require.NoError(t, n.Add("blue", "next"), "any other address")
		require.NotContains(t, n.Wanted["blue/next"].IPs, a)

		require.NoError(t, away.Remove("blue/moved"))
		w.Pass(time.Second)
		require.Empty(t, w.Snapshot().Pins)
		before := w.Etcd.Revision()
		require.NoError(t, n.Add("blue", "c-host1", a))
		require.Equal(t, before, w.Etcd.Revision(), "an address of the node's own needs nothing of etcd")
		w.Settle()
	})
}

// The owner is dead: its addresses are to be had, and it is said that it was not
// asked. It comes back with the endpoint, or without.
func TestOwnerIsDead(t *testing.T) {
	for name, still := range map[string]bool{"and comes back with the endpoint": true, "and comes back without": false} {
		scenario(t, name, func(t *testing.T) {
			w := world(t, 3)
			n, away := w.Nodes[0], w.Nodes[1]
			a := home(n)
			n.Kill()
			w.Pass(20 * time.Second)
			require.NoError(t, away.Add("blue", "heir", a))
			w.Pass(time.Second)
			unclaimed(t, w)
			require.True(t, w.Snapshot().Pins[topology.PinID{Network: "blue", Addr: a}].Unconfirmed)
			hasFault(t, away, fault.AddressUnconfirmed, a.String(), "heir", "node host1", "baize node remove host1")
			require.NoError(t, away.Add("blue", "next"))

			if !still {
				n.Forget("blue/c-host1")
			}
			n.Start()
			w.Pass(2 * time.Minute)
			require.False(t, away.HasFault(fault.AddressUnconfirmed), away.Faults())
			pin := w.Snapshot().Pins[topology.PinID{Network: "blue", Addr: a}]
			require.Equal(t, "host2", pin.Node, "the pin wins")
			require.Equal(t, still, pin.Unconfirmed)
			require.Equal(t, still, n.HasFault(fault.AddressTaken), n.Faults())
			require.Equal(t, still, away.HasFault(fault.AddressTaken), away.Faults())
			if !still {
				w.Settle()
				w.Pass(15 * time.Minute) // what nothing needs any more is given back
				require.Empty(t, w.CheckSilence(time.Hour))
				return
			}
			hasFault(t, n, fault.AddressTaken, "c-host1", "node host2")
			hasFault(t, away, fault.AddressTaken, a.String(), "node host1", "endpoint c-host1")
			require.NoError(t, n.Remove("blue/c-host1"))
			w.Pass(3 * time.Minute)
			require.False(t, away.HasFault(fault.AddressTaken), away.Faults())
			require.False(t, w.Snapshot().Pins[topology.PinID{Network: "blue", Addr: a}].Unconfirmed)
			w.Settle()
			w.Pass(15 * time.Minute)
			require.Empty(t, w.CheckSilence(time.Hour))
		})
	}
	// Its switch forwards all the same (U2).
	scenario(t, "and its endpoint lives", func(t *testing.T) {
		w := world(t, 3)
		n, away := w.Nodes[0], w.Nodes[1]
		a := home(n)
		n.Behind = map[netip.Addr]net.HardwareAddr{a: topology.MACOf(a)}
		n.Kill()
		w.Pass(20 * time.Second)
		words := []string{a.String(), "node host1 has it", topology.MACOf(a).String() + " answers for it", "no agent runs"}
		conflict(t, away.Add("blue", "thief", a), words...)
		conflict(t, reserve(t, away, a), words...)
		require.Empty(t, w.Snapshot().Pins)
		unclaimed(t, w)
		require.NoError(t, away.Add("blue", "other", beside(n, 1)), "nobody answers for that")
		n.Start()
		w.Settle()
		require.Empty(t, n.Faults())
		require.Empty(t, away.Faults())
	})
	scenario(t, "and an endpoint here took the address by itself", func(t *testing.T) {
		w := world(t, 2)
		n, away := w.Nodes[0], w.Nodes[1]
		a := beside(n, 1)
		n.Kill()
		w.Pass(20 * time.Second)
		away.Take(away.Attach().Endpoints()[0].Port, a)
		conflict(t, away.Add("blue", "thief", a), a.String(), "node host2", "endpoint c-host2", "answers for it")
		unclaimed(t, w)
	})
	scenario(t, "and is removed", func(t *testing.T) {
		w := world(t, 3)
		n, away := w.Nodes[0], w.Nodes[1]
		a := home(n)
		n.Kill()
		n.Switch.Wipe()
		w.Pass(20 * time.Second)
		require.NoError(t, away.Add("blue", "heir", a))
		_, err := w.Operator.RemoveNode(t.Context(), "host1", false)
		require.NoError(t, err)
		w.Pass(2 * time.Minute)
		require.False(t, w.Snapshot().Pins[topology.PinID{Network: "blue", Addr: a}].Unconfirmed)
		require.Empty(t, away.Faults())
	})
	scenario(t, "while it is asked", func(t *testing.T) {
		w := world(t, 2)
		n, away := w.Nodes[0], w.Nodes[1]
		a := beside(n, 1)
		n.Freeze()
		w.Pass(6 * time.Second) // its liveness key lasts for a few seconds more
		took(t, 11*time.Second, func() { require.NoError(t, away.Add("blue", "heir", a)) })
		n.Thaw()
		w.Settle()
	})
}

// The owner's agent runs and does not answer.
func TestOwnerDoesNotAnswer(t *testing.T) {
	scenario(t, "", func(t *testing.T) {
		w := world(t, 3)
		// As an older version would be.
		w.Etcd.Put(key("alive/host9"), `{"id":"id-host9"}`)
		w.Etcd.Put(key("nodes/host9"), `{"id":"id-host9","vteps":["192.168.9.9"],"encapsulations":[],"version":"v0.0.1"}`)
		w.Etcd.Put(key("subnets/blue/10.1.99.0-24"), `{"node":"host9"}`)
		w.Pass(time.Second)
		a := netip.MustParseAddr("10.1.99.9")
		took(t, 12*time.Second, func() {
			err := w.Nodes[0].Add("blue", "hopeful", a)
			require.ErrorIs(t, err, topology.ErrUnavailable)
			require.ErrorContains(t, err, "node host9")
			require.ErrorContains(t, err, "v0.0.1")
		})
		took(t, 12*time.Second, func() { require.ErrorContains(t, reserve(t, w.Nodes[0], a), "node host9") })
		unclaimed(t, w)
		require.Empty(t, w.Snapshot().Pins)
	})
}

// Nobody leases the address's subnet: nobody has to agree, and somebody may have taken it
// all the same (U2).
func TestNobodyLeasesTheSubnet(t *testing.T) {
	scenario(t, "", func(t *testing.T) {
		w := world(t, 2)
		n := w.Nodes[0]
		a := netip.MustParseAddr("10.1.0.77")
		n.Take(n.Attach().Endpoints()[0].Port, a)
		for range 2 {
			conflict(t, n.Add("blue", "thief", a), a.String(), "node host1 has it", "endpoint c-host1", "02:00:00:00:00:01")
			conflict(t, reserve(t, n, a), a.String(), "endpoint c-host1")
		}
		require.Empty(t, w.Snapshot().Pins)
		unclaimed(t, w)
		n.Take(n.Attach().Endpoints()[0].Port, netip.MustParseAddr("192.0.2.1"))
		require.NoError(t, reserve(t, n, a))
		require.NoError(t, promise(t, n, a))
		require.Equal(t, "host1", w.Snapshot().Pins[topology.PinID{Network: "blue", Addr: a}].Node)
		unclaimed(t, w)
		// What is pinned here is not asked for again: its own endpoint would answer.
		n.Take(n.Attach().Endpoints()[0].Port, a)
		n.Attach().Forget(ovs.Endpoint{Name: "docker-1", Network: "blue"})
		require.NoError(t, promise(t, n, a))
	})
}

// Whoever asks dies, and nothing stays blocked.
func TestRequesterDies(t *testing.T) {
	for name, mine := range map[string]bool{"and the owner wants it": true, "and another node wants it": false} {
		scenario(t, name, func(t *testing.T) {
			w := world(t, 3)
			a := beside(w.Nodes[0], 1)
			require.NoError(t, reserve(t, w.Nodes[1], a))
			require.Len(t, w.Snapshot().Claims, 1)
			w.Nodes[1].Kill()
			next := w.Nodes[2]
			if mine {
				next = w.Nodes[0]
			}
			conflict(t, next.Add("blue", "next", a), "node host2")
			w.Pass(31 * time.Second)
			require.NoError(t, next.Add("blue", "next", a))
			w.Nodes[1].Start()
			w.Settle()
		})
	}
	scenario(t, "and comes back", func(t *testing.T) {
		w := world(t, 3)
		a := beside(w.Nodes[0], 1)
		require.NoError(t, reserve(t, w.Nodes[1], a))
		w.Nodes[1].Kill()
		w.Nodes[1].Start()
		w.Pass(10 * time.Second)
		w.Nodes[1].Attach().Release("blue", a) // the engine has heard of no address
		require.NoError(t, w.Nodes[1].Add("blue", "again", a))
		unclaimed(t, w)
		w.Settle()
	})
}

// Two nodes ask at once: one of them gets the address, in a node's subnet and outside
// of all.
func TestTwoAskAtOnce(t *testing.T) {
	for name, of := range map[string]func(w *sim.World) netip.Addr{
		"the address of a third": func(w *sim.World) netip.Addr { return beside(w.Nodes[2], 1) },
		"an address of nobody":   func(*sim.World) netip.Addr { return netip.MustParseAddr("10.1.0.77") },
	} {
		for how, ask := range map[string]func(t *testing.T, n *sim.Node, a netip.Addr) error{
			"endpoint add": func(_ *testing.T, n *sim.Node, a netip.Addr) error { return n.Add("blue", "x", a) },
			"engine":       reserve,
		} {
			scenario(t, name+", "+how, func(t *testing.T) {
				w := world(t, 3)
				a := of(w)
				errs := make(chan error, 2)
				for _, n := range w.Nodes[:2] {
					go func() { errs <- ask(t, n, a) }()
				}
				first, second := <-errs, <-errs
				if first != nil {
					first, second = second, first
				}
				require.NoError(t, first)
				conflict(t, second, "node host")
				w.Settle()
			})
		}
	}
}

// Etcd is lost between the claim and the pin.
func TestEtcdIsLostInBetween(t *testing.T) {
	scenario(t, "", func(t *testing.T) {
		w := world(t, 3)
		n, away := w.Nodes[0], w.Nodes[1]
		a := beside(n, 1)
		require.NoError(t, reserve(t, away, a))
		w.Etcd.Stop()
		w.Pass(time.Second)
		require.Error(t, promise(t, away, a))
		conflict(t, n.Add("blue", "late", a), "node host2")
		require.NoError(t, n.Add("blue", "other"))
		w.Etcd.Start()
		w.Pass(time.Minute)
		unclaimed(t, w)
		require.NoError(t, n.Add("blue", "late", a))
		w.Settle()
	})
	scenario(t, "and comes back in time", func(t *testing.T) {
		w := world(t, 3)
		n, away := w.Nodes[0], w.Nodes[1]
		a := beside(n, 1)
		require.NoError(t, reserve(t, away, a))
		w.Etcd.Stop()
		w.Pass(time.Second)
		w.Etcd.Start()
		require.NoError(t, promise(t, away, a))
		unclaimed(t, w)
	})
}

// Pins vanish from etcd, and the addresses' owners have used them since.
func TestVanishedPinIsAskedFor(t *testing.T) {
	scenario(t, "the owner has it free", func(t *testing.T) {
		w := world(t, 3)
		n, away := w.Nodes[0], w.Nodes[1]
		a := beside(n, 1)
		require.NoError(t, away.Add("blue", "moved", a))
		w.Settle()
		w.Etcd.Delete(key("pins/blue/"+a.String()), false)
		w.Settle()
		require.Equal(t, "host2", w.Snapshot().Pins[topology.PinID{Network: "blue", Addr: a}].Node)
		unclaimed(t, w)
		require.Empty(t, w.CheckSilence(time.Hour))
	})
	scenario(t, "the owner has used it", func(t *testing.T) {
		w := world(t, 3)
		n, away := w.Nodes[0], w.Nodes[1]
		a := beside(n, 1)
		require.NoError(t, away.Add("blue", "moved", a))
		away.Stop()
		w.Etcd.Delete(key("pins/blue/"+a.String()), false)
		w.Pass(time.Second)
		require.NoError(t, n.Add("blue", "home", a))
		away.Start()
		w.Pass(time.Minute)
		require.Empty(t, w.Snapshot().Pins)
		hasFault(t, away, fault.AddressTaken, a.String(), "node host1", "endpoint home")
		require.NoError(t, away.Remove("blue/moved"))
		w.Settle()
		require.False(t, away.HasFault(fault.AddressTaken))
	})
}

// A node leases the subnet that another one has pinned an address in, and does not
// know of the pin yet.
func TestLeaseAroundAPin(t *testing.T) {
	scenario(t, "", func(t *testing.T) {
		w := world(t, 2)
		a := netip.MustParseAddr("10.1.200.2")
		late := w.Nodes[1]
		late.Etcd.Set(etcdfake.Faults{StallWatches: true})
		require.NoError(t, w.Nodes[0].Add("blue", "first", a))
		time.AfterFunc(5*time.Second, func() { late.Etcd.Set(etcdfake.Faults{}) })
		got, err := late.Attach().Reserve(t.Context(), attach.Reservation{
			Network: "blue", Family: topology.IPv4, Range: netip.MustParsePrefix("10.1.200.0/24"),
		})
		require.NoError(t, err)
		require.NotEqual(t, a, got)
	})
}
