package agent

import (
	"context"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/mesh"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
)

const (
	// meshTimeout bounds how long other nodes are waited for.
	meshTimeout = 10 * time.Second
	// pingTimeout is how long an answer is waited for, and pingMost the longest.
	pingTimeout = time.Second
	pingMost    = 30 * time.Second
)

// noProbes is the answer where the agent sends no probes.
func noProbes() error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Item: "probes", What: "are turned off on this node (--probe-interval 0)",
		Remedy: "start the agent with another --probe-interval",
	}
}

// Mesh implements api.Service.
func (a *Agent) Mesh(ctx context.Context) ([]api.Way, error) {
	if a.rooms.mesh == nil {
		return nil, noProbes()
	}
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	out := []api.Way{}
	for _, row := range a.rooms.mesh.Rows(ctx) {
		out = append(out, waysOf(row.Node, row.Results)...)
	}
	return out, nil
}

// waysOf are the ways from a node.
func waysOf(from string, results []mesh.Result) []api.Way {
	out := make([]api.Way, len(results))
	for i, r := range results {
		out[i] = api.Way{From: from, To: r.Node, Encap: r.Encap, Probed: probedOf(r)}
	}
	return out
}

// Ping implements api.Service.
func (a *Agent) Ping(ctx context.Context, req api.PingRequest) (api.Pong, error) {
	if a.rooms.mesh == nil {
		return api.Pong{}, noProbes()
	}
	timeout := pingTimeout
	if req.Timeout > 0 {
		timeout = min(time.Duration(req.Timeout), pingMost)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p, err := a.rooms.mesh.Ping(ctx, req.Node, req.Encap, req.Size)
	return api.Pong{Node: p.Node, Encap: p.Encap, Size: p.Size, RTT: api.Duration(p.RTT), There: p.There}, err
}

// states are those of verdicts in the API.
var states = map[mesh.Verdict]string{
	mesh.Good: api.StateOK, mesh.Silent: api.StateSilent, mesh.Deaf: api.StateDeaf, mesh.Lossy: api.StateLossy,
	mesh.Narrow: api.StateNarrow, mesh.Slow: api.StateSlow, mesh.Unasked: api.StateUnasked, mesh.Down: api.StateDown,
	mesh.Misled: api.StateMisled,
}

func stateOf(v mesh.Verdict) string {
	if s, known := states[v]; known {
		return s
	}
	return api.StateUnknown
}

func probedOf(r mesh.Result) api.Probed {
	percent := func(n int) *int {
		if n < 0 {
			return nil
		}
		return &n
	}
	return api.Probed{
		State: stateOf(r.Verdict), Since: r.Since, LossOut: percent(r.LossOut), LossIn: percent(r.LossIn),
		RTT: api.Duration(r.RTT), RTTMax: api.Duration(r.RTTMax), Passes: r.Passes, Needed: r.Needed,
	}
}

// addProbed adds to peers what probes told of their tunnels.
func (a *Agent) addProbed(peers []api.Peer) {
	if a.rooms.mesh == nil {
		return
	}
	probed := map[mesh.Key]api.Probed{}
	for _, r := range a.rooms.mesh.Results() {
		probed[r.Key] = probedOf(r)
	}
	for i := range peers {
		if p, known := probed[mesh.Key{Node: peers[i].Node, Encap: peers[i].Encap}]; known {
			peers[i].Probed = &p
		}
	}
}
