package sim_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology/fault"
)

// journal is what a node's running agent answers.
func journal(t *testing.T, n *sim.Node) (events []event.Event) {
	t.Helper()
	err := n.Agent().Events(t.Context(), event.Query{}, false, func(e event.Event) error {
		events = append(events, e)
		return nil
	})
	require.NoError(t, err)
	return events
}

// The journal has what happened, in order and with causes, through outages and from one
// agent to the next.
func TestJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 3)
		require.NoError(t, w.CreateNetwork("blue"))
		w.StartAll()
		n, other := w.Nodes[0], w.Nodes[1]
		require.NoError(t, n.Add("blue", "c1"))
		n.Switch.DelFlow(40)
		w.Settle()
		n.Switch.StopVswitchd()
		w.Pass(time.Second)
		n.Switch.StartVswitchd()
		w.Settle()
		w.Etcd.Stop()
		w.Pass(time.Minute)
		w.Etcd.Start()
		w.Settle()
		other.Kill()
		w.Pass(time.Minute)
		n.Stop()
		n.Start()
		w.Pass(time.Minute)
		n.Kill()
		require.NoError(t, w.CreateNetwork("red"))
		w.Pass(time.Minute)
		n.Start()
		other.Start()
		w.Settle()
		require.NoError(t, n.Remove("blue/c1"))
		w.Pass(time.Second)

		find := func(events []event.Event, want event.Event) int {
			i := slices.IndexFunc(events, func(e event.Event) bool {
				return e.Kind == want.Kind && strings.Contains(e.Subject, want.Subject) &&
					strings.Contains(e.Text, want.Text) && strings.Contains(e.Cause, want.Cause)
			})
			require.GreaterOrEqual(t, i, 0, "no %+v in %+v", want, events)
			return i
		}
		events := journal(t, n)
		for _, want := range []event.Event{
			{Kind: event.AgentStarted},
			{Kind: event.NodeJoined, Subject: "node " + other.Name, Cause: "nodes/" + other.Name + " at revision "},
			{Kind: event.EndpointAttached, Subject: "endpoint c1", Network: "blue"},
			{Kind: event.SwitchRepaired, Subject: "flow"},
			{Kind: event.SwitchLost},
			{Kind: event.SwitchBack},
			{Kind: event.EtcdLost},
			{Kind: event.EtcdBack, Text: "after "},
			{Kind: event.NodeLost, Subject: "node " + other.Name},
			{Kind: event.AgentStopped},
			{Kind: event.AgentStarted},
			{Kind: event.AgentStarted, Cause: "it was killed, or failed"},
			{Kind: event.NetworkCreated, Subject: "network red", Cause: "while no agent ran here"},
			{Kind: event.NodeBack, Subject: "node " + other.Name},
			{Kind: event.EndpointDetached, Subject: "endpoint c1"},
		} {
			if want.Kind == event.SwitchLost { // what follows may be seen before the connection is back
				find(events, event.Event{Kind: event.SwitchRepaired, Subject: "flows", Text: "none was left"})
			}
			events = events[find(events, want)+1:]
		}
		for _, e := range journal(t, n) {
			require.False(t, e.Kind == event.FaultFound && e.Code == fault.StoreUnavailable, "%+v", e)
		}
		require.Empty(t, w.CheckSilence(time.Minute))
	})
}
