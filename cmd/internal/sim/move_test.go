package sim_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/fault"
)

// quiet requires that no agent reports that an address is had twice.
func quiet(t *testing.T, w *sim.World) {
	t.Helper()
	everywhere(t, w, fault.AddressTaken, false)
	everywhere(t, w, fault.AddressUnconfirmed, false)
}

// An endpoint goes from host to host with its address and MAC, and comes home.
func TestEndpointMoves(t *testing.T) {
	scenario(t, "and comes home", func(t *testing.T) {
		w := world(t, 4)
		first, second, third, last := w.Nodes[0], w.Nodes[1], w.Nodes[2], w.Nodes[3]
		a, mac := home(first), first.Wanted["blue/c-host1"].MAC
		for _, step := range []struct{ from, to *sim.Node }{
			{first, second}, {second, third}, {third, first}, {first, second}, {second, first},
		} {
			require.NoError(t, step.to.Move(step.from, "blue/c-host1"))
			w.Pass(3 * time.Second)
			pin := w.Snapshot().Pins[topology.PinID{Network: "blue", Addr: a}]
			require.Equal(t, step.to.Name, pin.Node)
			require.Equal(t, step.from.Name, pin.MovedFrom)
			require.Equal(t, mac, pin.MAC)
			list, err := step.from.Agent().Endpoints(t.Context())
			require.NoError(t, err)
			require.Empty(t, named(list, "c-host1"), "the node that had it has let go of it")
			require.Empty(t, w.CheckForwarding())
			quiet(t, w)
			w.Settle()
			conflict(t, last.Add("blue", "thief", a), "c-host1")
		}
		require.NoError(t, first.Remove("blue/c-host1"))
		w.Settle()
		require.Empty(t, w.Snapshot().Pins)
		w.Pass(15 * time.Minute) // what nothing needs any more is given back
		require.Empty(t, w.CheckSilence(time.Hour))
	})
	scenario(t, "not without the agent that has it", func(t *testing.T) {
		w := world(t, 3)
		first, second := w.Nodes[0], w.Nodes[1]
		first.Kill()
		w.Pass(20 * time.Second)
		conflict(t, second.Move(first, "blue/c-host1"), "node host1", "does not run")
		first.Start()
		w.Settle()
		require.Empty(t, w.Snapshot().Pins, "nothing of it is left")
		require.Empty(t, w.CheckForwarding())
	})
	scenario(t, "and its agent dies at that moment", func(t *testing.T) {
		w := world(t, 3)
		first, second := w.Nodes[0], w.Nodes[1]
		first.Freeze()
		require.NoError(t, second.Move(first, "blue/c-host1"))
		first.Thaw()
		first.Kill()
		w.Pass(time.Minute)
		first.Start()
		w.Settle()
		quiet(t, w)
		require.Empty(t, w.CheckForwarding())
	})
	for name, done := range map[string]bool{
		"done, and its answer is lost": true, "not done, for etcd was out of reach": false,
	} {
		scenario(t, name, func(t *testing.T) {
			w := world(t, 3)
			first, second := w.Nodes[0], w.Nodes[1]
			// A second each way: first it reads, then it writes, which is on its way then.
			second.Etcd.Set(etcdfake.Faults{Delay: 2 * time.Second})
			f := etcdfake.Faults{Cut: !done, LoseAnswers: done}
			time.AfterFunc(2500*time.Millisecond, func() { second.Etcd.Set(f) })
			require.ErrorIs(t, second.Move(first, "blue/c-host1"), topology.ErrUnavailable)
			second.Etcd.Set(etcdfake.Faults{})
			if done {
				second.Wanted["blue/c-host1"] = first.Wanted["blue/c-host1"]
				delete(first.Wanted, "blue/c-host1")
			}
			w.Pass(2 * time.Minute)
			for _, n := range w.Nodes {
				list, err := n.Agent().Endpoints(t.Context())
				require.NoError(t, err)
				_, wanted := n.Wanted["blue/c-host1"]
				require.Equal(t, wanted, len(named(list, "c-host1")) == 1, n.Name)
			}
			quiet(t, w)
			require.Empty(t, w.CheckForwarding())
			w.Settle()
		})
	}
	scenario(t, "not what another node has", func(t *testing.T) {
		w := world(t, 3)
		first, second, third := w.Nodes[0], w.Nodes[1], w.Nodes[2]
		require.NoError(t, second.Move(first, "blue/c-host1"))
		w.Settle()
		e := second.Wanted["blue/c-host1"]
		_, err := third.Agent().AddEndpoint(t.Context(), api.EndpointRequest{
			Name: e.Name, Network: "blue", Netns: "/run/netns/x", IPs: e.IPs, MAC: e.MAC, MoveFrom: "host1",
		})
		conflict(t, err, "host2")
		_, err = second.Agent().AddEndpoint(t.Context(), api.EndpointRequest{
			Name: e.Name, Network: "blue", Netns: "/run/netns/x", IPs: e.IPs, MAC: e.MAC, MoveFrom: "host2",
		})
		require.ErrorContains(t, err, "on this node already")
		w.Settle()
		require.Empty(t, w.CheckForwarding())
	})
}

// named are the endpoints of a name.
func named(list []api.Endpoint, name string) (out []api.Endpoint) {
	for _, e := range list {
		if e.Is(name) {
			out = append(out, e)
		}
	}
	return out
}
