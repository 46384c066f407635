package panels

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// The console's matrix has each pair in its place, and tells what is not known from none.
func TestLatencyPanel(t *testing.T) {
	loss, at := 25, time.Unix(1, 0)
	got := latencyOf([]api.Way{
		{From: "host2", To: "host10", Probed: api.Probed{RTT: api.Duration(1500 * time.Microsecond), LossOut: &loss}},
		{From: "host10", To: "host1"},
	}, at)
	require.Equal(t, console.Latency{
		Hosts: []string{"host1", "host2", "host10"},
		RTT:   [][]float64{{-1, -1, -1}, {-1, -1, 1.5}, {-1, -1, -1}},
		Loss:  [][]float64{{-1, -1, -1}, {-1, -1, 0.25}, {-1, -1, -1}},
		At:    at,
	}, got)
	require.Empty(t, latencyOf(nil, at).Hosts)
	none := 0
	got = latencyOf([]api.Way{
		{From: "a", To: "b", Encap: topology.GRE, Probed: api.Probed{RTT: api.Duration(2 * time.Millisecond), LossOut: &loss}},
		{From: "a", To: "b", Encap: topology.VXLAN, Probed: api.Probed{RTT: api.Duration(time.Millisecond), LossOut: &none}},
	}, at)
	assert.Equal(t, 2.0, got.RTT[0][1], "the worst of several tunnels")
	assert.Equal(t, 0.25, got.Loss[0][1])
}

// A check that found nothing is on the page with what is in order, or why it was not made.
func TestFindingsPanel(t *testing.T) {
	got := findingsOf(doctor.Report{Results: []doctor.Result{
		{Section: "store", Check: "etcd", State: doctor.OK, Text: "answers"},
		{Section: "mesh", State: doctor.Unchecked, Text: "nobody probes"},
		{Section: "switch", Check: "flows", State: doctor.Failed, Findings: []doctor.Finding{
			{Code: fault.FlowMissing, Node: "host1", Item: "flow", What: "is missing", Remedy: "wait", Commands: []string{"true"}},
			{Code: fault.FlowForeign, Severity: fault.Warning, What: "is there"},
		}},
	}})
	require.Len(t, got, 4)
	assert.Equal(t, console.Finding{Outcome: console.Passed, Check: "store, etcd", What: "answers"}, got[0])
	assert.Equal(t, console.Finding{Outcome: console.NotSeen, Check: "mesh", What: "nobody probes"}, got[1])
	assert.Equal(t, console.Failed, got[2].Outcome)
	assert.Equal(t, "wait\ntrue", got[2].Remedy)
	assert.Equal(t, console.Warned, got[3].Outcome)
}

func TestTraceAndEventPanels(t *testing.T) {
	got := TraceOf(trace.Result{
		Phases: []trace.Phase{{Name: "question"}, {About: "icmp", Hops: []trace.Hop{{Node: "host1", Steps: []trace.Step{
			{Stage: "steer", State: trace.Good, Text: "to the node", Key: "subnets/x"},
			{Stage: trace.StageTunnel, State: trace.Good, Text: "into vx-host2"},
			{Stage: "local", State: trace.Broken, Text: "missing"},
		}}}}},
		Verdict: trace.Verdict{Outcome: trace.Dropped, Text: "dropped", Remedy: "look"},
	})
	require.Len(t, got.Hops, 1)
	assert.Equal(t, "into vx-host2", got.Hops[0].Wire)
	assert.Equal(t, "to the node (because of subnets/x)", got.Hops[0].Steps[0].What)
	assert.Equal(t, console.Failed, got.Hops[0].Steps[2].Outcome)
	assert.False(t, got.Delivered)
	assert.NotNil(t, TraceOf(trace.Result{}).Hops)

	e := shownEvent(event.Event{Subject: "node host2", Text: "left", Cause: "nodes/host2", Code: fault.NodeDown})
	assert.Equal(t, "left (nodes/host2)", e.What)
	assert.Equal(t, fault.Warning, e.Severity)
}

// The rates of a link are what arrived at its ends, or else what left; what nobody counts,
// or began anew, is not known.
func TestRatesPanel(t *testing.T) {
	at := time.Unix(1, 0)
	node := func(seconds int, links ...api.Link) *api.Traffic {
		return &api.Traffic{At: api.Duration(time.Duration(seconds) * time.Second), Links: links}
	}
	link := func(to string, sent, received uint64) api.Link {
		return api.Link{Node: to, Encap: topology.VXLAN, Counted: &api.LinkCounters{SentBytes: sent, ReceivedBytes: received}}
	}
	a := Answered{
		Before: map[string]*api.Traffic{"host1": node(10, link("host2", 0, 0), link("host3", 500, 0)), "host2": node(50, link("host1", 0, 0))},
		Now: map[string]*api.Traffic{
			"host1": node(12, link("host2", 2000, 250), link("host3", 100, 0), link("host4", 1, 1)),
			"host2": node(52, link("host1", 700, 1000)), "host3": nil,
		},
	}
	require.Equal(t, console.Rates{At: at, Links: []console.LinkRate{
		{A: "host1", B: "host2", Encap: topology.VXLAN, AB: 4000, BA: 1000},
		{A: "host1", B: "host3", Encap: topology.VXLAN, AB: -1, BA: 0},
	}}, ratesOf(a, at))
	delete(a.Now, "host2")
	require.Equal(t, 8000.0, ratesOf(a, at).Links[0].AB, "what left, where the other end does not answer")
	require.Empty(t, ratesOf(Answered{Now: a.Now}, at).Links, "the first answer")
}
