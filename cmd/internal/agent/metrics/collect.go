package metrics

import (
	"context"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Sources are what the metrics are taken from when they are asked for. None of them
// waits for a part.
type Sources struct {
	Version string
	Started time.Time
	Ready   func() bool
	// Topology is what the agent acts on, Known its endpoints.
	Topology *part.Cell[hub.Topology]
	Known    *part.Cell[attach.Known]
	Faults   func() []fault.Fault
	// Failures count how often parts were started again, by name; Passes what
	// reconcilers did.
	Failures func() map[string]uint64
	Passes   func() map[string]part.Passes
	Switch   Switch
	// Sessions says which routers there is a session with.
	Sessions func() map[string]bool
	// Events are those of the journal, by kind, and how many were lost.
	Events func() (map[event.Kind]uint64, uint64)
	// Ways are those from this node, as probes tell of them; nil: there are no probes.
	Ways func() []api.Way
}

// Switch is the node's Open vSwitch.
type Switch interface {
	Status(ctx context.Context) (openvswitch.Status, error)
	Counters(ctx context.Context) (openvswitch.Counters, error)
	Totals() openvswitch.Totals
}

// collectTimeout bounds what Open vSwitch is waited for.
const collectTimeout = 5 * time.Second

// collector is a prometheus.Collector.
type collector struct{ sources Sources }

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range Metrics() {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	e := exporter{out}
	s := c.sources
	e.agent(s)
	t := s.Topology.Get()
	e.put(etcdConnected, yes(t.Err == nil && t.Known()))
	if t.Known() {
		e.topology(t.Snapshot)
		e.own(t.View(), t.Snapshot.Alive, s.Known.Get().Endpoints)
	}
	e.reconcilers(s)
	if s.Ways != nil {
		e.ways(s.Ways())
	}
	st, err := s.Switch.Status(ctx)
	e.put(source, yes(err == nil), "flows")
	e.flows(st, err)
	counters, err := s.Switch.Counters(ctx)
	e.put(source, yes(err == nil), "counters")
	e.tunnels(st.Outcome, counters)
	for _, d := range counters.Datapaths {
		e.put(lookups, float64(d.Hit), d.Name, "hit")
		e.put(lookups, float64(d.Missed), d.Name, "missed")
		e.put(lookups, float64(d.Lost), d.Name, "lost")
		e.put(datapathFlows, float64(d.Flows), d.Name)
		e.put(datapathLimit, float64(d.FlowLimit), d.Name)
	}
}

// exporter writes metrics.
type exporter struct{ out chan<- prometheus.Metric }

func (e exporter) put(m *Metric, value float64, labels ...string) {
	kind := prometheus.GaugeValue
	if m.Type == "counter" {
		kind = prometheus.CounterValue
	}
	e.out <- prometheus.MustNewConstMetric(m.desc, kind, value, labels...)
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func (e exporter) agent(s Sources) {
	e.put(buildInfo, 1, s.Version)
	e.put(startTime, seconds(s.Started))
	e.put(ready, yes(s.Ready()))
	for name, n := range s.Failures() {
		e.put(partFailures, float64(n), name)
	}
	type kind struct{ code, severity string }
	counts := map[kind]int{}
	for _, f := range s.Faults() {
		severity := f.Severity
		if severity == "" {
			severity = f.Code.Severity()
		}
		counts[kind{string(f.Code), string(severity)}]++
	}
	for k, n := range counts {
		e.put(faults, float64(n), k.code, k.severity)
	}
	for neighbor, up := range s.Sessions() {
		e.put(bgpUp, yes(up), neighbor)
	}
	counted, lost := s.Events()
	for _, m := range event.Kinds() {
		e.put(events, float64(counted[m.Kind]), string(m.Kind))
	}
	e.put(eventsLost, float64(lost))
}

// topology is what etcd has.
func (e exporter) topology(s *topology.Snapshot) {
	e.put(etcdRevision, float64(s.Revision))
	e.put(networks, float64(len(s.Networks)))
	alive := 0
	for name := range s.Nodes {
		if _, ok := s.Alive[name]; ok {
			alive++
		}
	}
	e.put(nodes, float64(alive), "alive")
	e.put(nodes, float64(len(s.Nodes)-alive), "down")
	pinned, leased := map[string]int{}, map[string]map[topology.Family]int{}
	for id := range s.Pins {
		pinned[id.Network]++
	}
	for id := range s.Subnets {
		if leased[id.Network] == nil {
			leased[id.Network] = map[topology.Family]int{}
		}
		leased[id.Network][topology.FamilyOf(id.Prefix.Addr())]++
	}
	for _, n := range s.Networks {
		e.put(pins, float64(pinned[n.Name]), n.Name)
		for _, f := range n.Families() {
			// The first subnet is not leased.
			e.put(networkSubnets, float64(max(topology.SubnetCount(n, f), 1)-1), n.Name, f.String())
			e.put(networkLeased, float64(leased[n.Name][f]), n.Name, f.String())
		}
	}
}

// own is what this node has in its networks. running has the nodes whose agents run.
func (e exporter) own(v topology.View, running map[string]topology.Liveness, list []ovs.Endpoint) {
	alive := map[string]bool{}
	for _, n := range v.Networks {
		e.put(networkPeers, float64(len(n.Peers)), n.Name)
		for _, p := range n.Peers {
			_, alive[p.Node] = running[p.Node]
		}
		count, used := 0, map[topology.Family]int{}
		for _, x := range list {
			if x.Network != n.Name {
				continue
			}
			count++
			for _, a := range x.IPs {
				if slices.ContainsFunc(n.Subnets, func(s netip.Prefix) bool { return s.Contains(a) }) {
					used[topology.FamilyOf(a)]++
				}
			}
		}
		e.put(endpoints, float64(count), n.Name)
		for _, f := range n.Families() {
			total := 0.0
			for _, s := range n.Subnets {
				if topology.FamilyOf(s.Addr()) == f {
					total += capacity(s)
				}
			}
			e.put(subnetAddresses, total, n.Name, f.String())
			e.put(subnetUsed, float64(used[f]), n.Name, f.String())
		}
	}
	for peer, runs := range alive {
		e.put(peerAlive, yes(runs), peer)
	}
}

// capacity is how many addresses for endpoints a subnet has: neither its own nor the
// node's are.
func capacity(s netip.Prefix) float64 {
	return max(0, math.Exp2(float64(s.Addr().BitLen()-s.Bits()))-2)
}

// ways are what probes tell; what they do not know is not there.
func (e exporter) ways(list []api.Way) {
	counts := map[string]int{}
	for _, w := range list {
		counts[w.State]++
		peer, encap := w.To, string(w.Encap)
		if !slices.Contains(api.StatesUnknown(), w.State) {
			e.put(meshOK, yes(w.State == api.StateOK), peer, encap)
		}
		for direction, percent := range map[string]*int{"transmit": w.LossOut, "receive": w.LossIn} {
			if percent != nil {
				e.put(meshLoss, float64(*percent)/100, peer, encap, direction)
			}
		}
		for m, rtt := range map[*Metric]api.Duration{meshRTT: w.RTT, meshRTTMax: w.RTTMax} {
			if rtt > 0 {
				e.put(m, time.Duration(rtt).Seconds(), peer, encap)
			}
		}
		for m, size := range map[*Metric]int{meshMTU: w.Passes, meshMTUWanted: w.Needed} {
			if size > 0 {
				e.put(m, float64(size), peer, encap)
			}
		}
	}
	for _, state := range api.States() {
		e.put(meshWays, float64(counts[state]), state)
	}
}

func (e exporter) reconcilers(s Sources) {
	for name, p := range s.Passes() {
		e.put(passes, float64(p.Done), name, "ok")
		e.put(passes, float64(p.Failed), name, "failed")
		e.out <- prometheus.MustNewConstSummary(passSeconds.desc, p.Done+p.Failed, p.Took.Seconds(), nil, name)
		if !p.LastSuccess.IsZero() {
			e.put(passSuccess, seconds(p.LastSuccess), name)
		}
	}
	t := s.Switch.Totals()
	e.put(changes, float64(t.Changes))
	e.put(repairs, float64(t.RepairedFlows), "flow")
	e.put(repairs, float64(t.RepairedPorts), "port")
	e.put(vswitchdLost, float64(t.Lost))
}

// flows is what the bridge has; err says that it does not answer.
func (e exporter) flows(st openvswitch.Status, err error) {
	e.put(flowsWanted, float64(len(st.Outcome.Want.Flows)))
	e.put(portsWanted, float64(len(st.Outcome.Want.Ports)))
	if err != nil {
		return // nothing is not none
	}
	e.put(flowsPresent, float64(st.Flows))
	e.put(portsPresent, float64(st.Ports))
	e.put(foreign, float64(len(st.Foreign)))
	counts := map[string]uint64{dropPortDown: 0}
	for _, class := range pipeline.DropClasses() {
		counts[class] = 0
	}
	for why, n := range st.Drops {
		if _, known := counts[why]; !known {
			why = dropPortDown // such a class has the port's name
		}
		counts[why] += n
	}
	for why, n := range counts {
		e.put(dropped, float64(n), why)
	}
}

// dropPortDown is the reason of flows whose output port is down.
const dropPortDown = "the output port is down"

// tunnels are those that the last pass asked for, where Open vSwitch said what it has.
func (e exporter) tunnels(o openvswitch.Outcome, c openvswitch.Counters) {
	if c.Tunnels == nil {
		return
	}
	seen := map[string]bool{}
	for _, p := range o.Want.Ports {
		if p.Role() != ovs.RoleTunnel || p.ExternalIDs[ovs.KeySecond] != "" {
			continue
		}
		peer, encap := p.ExternalIDs[ovs.KeyNode], p.ExternalIDs[ovs.KeyEncap]
		if seen[peer+" "+encap] {
			continue // two metrics of one name would cost all others
		}
		seen[peer+" "+encap] = true
		have, there := c.Tunnels[p.Name]
		e.put(tunnelUp, yes(there && have.Live()), peer, encap)
		if !there {
			continue
		}
		for direction, key := range map[string]string{"receive": "rx", "transmit": "tx"} {
			e.put(tunnelBytes, float64(have.Statistics[key+"_bytes"]), peer, encap, direction)
			e.put(tunnelPackets, float64(have.Statistics[key+"_packets"]), peer, encap, direction)
		}
	}
}
