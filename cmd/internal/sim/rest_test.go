package sim_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/sim"
)

// outcome is what the node's last pass of the switch made.
func outcome(t *testing.T, n *sim.Node) openvswitch.Outcome {
	t.Helper()
	for _, p := range n.Agent().Parts() {
		if s, ok := p.(*openvswitch.Part); ok {
			return s.Outcome().Get()
		}
	}
	require.Fail(t, "no part for the switch")
	return openvswitch.Outcome{}
}

// An agent looks at its switch now and then, and at all of etcd. Where nothing
// changed that flows are made of, it makes none anew.
func TestRestCostsNoFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t, 3)
		w.Pass(time.Minute)
		before := outcome(t, w.Nodes[0])
		w.Pass(20 * time.Minute)
		w.Nodes[1].Stop()
		w.Pass(time.Minute)
		w.Nodes[1].Start()
		w.Settle()
		w.Pass(20 * time.Minute)
		after := outcome(t, w.Nodes[0])
		require.True(t, after.At.After(before.At))
		require.NotEmpty(t, after.Bound)
		require.Same(t, &before.Want.Flows[0], &after.Want.Flows[0])
		require.Same(t, &before.Bound[0], &after.Bound[0])

		require.NoError(t, w.Nodes[0].Add("blue", "new"))
		w.Settle()
		require.Greater(t, len(outcome(t, w.Nodes[0]).Bound), len(after.Bound))
	})
}
