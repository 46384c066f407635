package trace_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// fast gives a host's programs what an agent gives them.
func (w *world) fast(t *testing.T, host, why string) {
	t.Helper()
	f := w.facts[host]
	n, _ := f.View.Find("blue")
	in := fastpath.Input{
		View: f.View, HostPorts: map[string]string{"blue": "bn-blue"}, Endpoints: f.Endpoints, Switch: why,
		OnLink:   topology.OnLink{},
		Direct:   map[topology.SubnetID]bool{},
		NextHops: topology.NextHops{},
		Devices:  map[string]fastpath.Device{"eth0": {Ethernet: true}, "bzc1": {Ethernet: true, Away: true}},
	}
	for _, p := range n.Peers {
		in.OnLink[p.VTEPs[0]] = "eth0"
		for _, s := range p.Subnets {
			in.Direct[topology.SubnetID{Network: "blue", Prefix: s}] = true
		}
	}
	state, networks := fastpath.Wanted(in)
	require.True(t, networks[0].Used, networks[0].Why)
	f.Observed.FastPath = state
	f.Observed.Up["bzc1"] = true
}

// What takes the fast path is seen neither by the switch nor by the firewall, and its
// faults do no harm to it.
func TestFastPath(t *testing.T) {
	stages := func(r trace.Result) (out []string) {
		for _, h := range r.Phases[len(r.Phases)-1].Hops {
			for _, s := range h.Steps {
				out = append(out, h.Node+" "+s.Stage)
			}
		}
		return out
	}
	w := newWorld(t, topology.Route)
	w.fast(t, "host1", "")
	w.fast(t, "host2", "")
	drops := filter(rule("c", `{"drop":null}`))
	for _, f := range w.facts {
		f.Observed.Filter = drops
		f.Observed.Kernel.Sysctls["net/ipv4/ip_forward"] = "1"
	}
	foreign(w.facts["host1"], 20, "ip", "drop")
	out := w.walk(t, trace.Request{})
	require.Equal(t, trace.Delivered, out.Verdict.Outcome, out.Verdict.Text)
	require.Equal(t, []string{"host1 fast path", "host2 fast path"}, stages(out))
	require.Contains(t, trace.Count(out, out).Verdict.Live, "counts by endpoint and peer")

	// A packet that it leaves alone goes the plain way.
	out = w.walk(t, trace.Request{Source: party(1), Destination: party(2), TTL: 2})
	require.Equal(t, trace.Dropped, out.Verdict.Outcome)
	require.Equal(t, "steer", out.Verdict.Stage, out.Verdict.Text)

	w.facts["host2"].Observed.Up["bzc1"] = false
	out = w.walk(t, trace.Request{})
	require.Contains(t, out.Verdict.Text, "the link of endpoint c1 is down (port bzc1)")

	// With the userspace datapath it has what endpoints receive only.
	w = newWorld(t, topology.Route)
	w.fast(t, "host1", "the datapath is netdev")
	w.fast(t, "host2", "the datapath is netdev")
	w.facts["host2"].Observed.Filter = drops
	out = w.walk(t, trace.Request{})
	require.Equal(t, trace.Delivered, out.Verdict.Outcome, out.Verdict.Text)
	require.Equal(t, "host2 fast path", stages(out)[len(stages(out))-1])
	require.Contains(t, stages(out), "host1 steer")
	w.facts["host1"].Observed.Filter = drops
	out = w.walk(t, trace.Request{})
	require.Equal(t, trace.StageFirewall, out.Verdict.Stage, out.Verdict.Text)

	// An entry of a device that is no endpoint's any more.
	w.facts["host1"].Observed.Filter = trace.Filter{}
	w.facts["host2"].Endpoints = []ovs.Endpoint{}
	out = w.walk(t, trace.Request{Source: party(1), Destination: other("10.1.2.2", "host2")})
	require.Contains(t, out.Verdict.Text, "no endpoint's")
}

// What the model of the programs leaves to the plain way.
func TestFastPathLeaves(t *testing.T) {
	w := newWorld(t, topology.Route)
	w.fast(t, "host1", "")
	w.facts["host1"].Observed.Up["eth0"] = false
	out := w.walk(t, trace.Request{})
	require.Equal(t, trace.StageUnderlay, out.Verdict.Stage, out.Verdict.Text)
	w.facts["host1"].Observed.Kernel.Sysctls["net/ipv4/ip_forward"] = "0"
	out = w.walk(t, trace.Request{})
	require.Equal(t, trace.StageKernel, out.Verdict.Stage, out.Verdict.Text)
	clear(w.facts["host1"].Observed.FastPath.Hops)
	w.facts["host1"].Observed.FastPath.Hops[netip.MustParsePrefix("10.1.2.0/24")] = fastpath.Hop{}
	out = w.walk(t, trace.Request{})
	require.Equal(t, trace.StageKernel, out.Verdict.Stage, out.Verdict.Text)
}
