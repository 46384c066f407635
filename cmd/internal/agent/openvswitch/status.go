package openvswitch

import (
	"context"
	"errors"
	"maps"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
)

// Status is what the switch says now, beside what the last pass left.
type Status struct {
	Outcome  Outcome
	Observed ovs.Observed
	// Flows and Ports count Baize's own.
	Flows, Ports int
	// Drops are packets dropped on purpose, by reason.
	Drops map[string]uint64
	// Foreign are ports and flows of others on the bridge: "port eth1".
	Foreign []string
}

// Status asks Open vSwitch. On an error it has what was learned before it.
func (p *Part) Status(ctx context.Context) (Status, error) {
	st := Status{Outcome: p.outcome.Get()}
	var err error
	if st.Observed, err = p.db.Observe(ctx); err != nil {
		return st, err
	}
	for _, port := range st.Observed.ForeignPorts() {
		st.Foreign = append(st.Foreign, "port "+port)
	}
	for _, port := range st.Observed.Ports {
		if port.Owned() {
			st.Ports++
		}
	}
	flows, err := p.flows.Observe(ctx)
	if err != nil {
		return st, err
	}
	st.Flows = len(flows.Flows)
	for _, f := range flows.Foreign {
		st.Foreign = append(st.Foreign, "flow "+f)
	}
	st.Drops = drops(st.Outcome.Bound, flows)
	limited, err := p.flows.MeterDrops(ctx)
	if err != nil {
		return st, err
	}
	for id, n := range limited {
		if class := pipeline.MeterClass(id); class != "" && n > 0 {
			st.Drops[class] += n
		}
	}
	return st, nil
}

// drops adds up the packets of flows that drop, by reason.
func drops(bound []ovs.BoundFlow, flows openflow.Observed) map[string]uint64 {
	packets := make(map[ovs.FlowID]uint64, len(flows.Flows))
	for _, f := range flows.Flows {
		packets[f.FlowID] = f.Packets
	}
	out := map[string]uint64{}
	for _, f := range bound {
		if why := pipeline.DropReason(f.Flow); why != "" {
			out[why] += packets[f.ID()]
		}
	}
	maps.DeleteFunc(out, func(_ string, n uint64) bool { return n == 0 })
	return out
}

// Counters are what Open vSwitch counts, beside flows.
type Counters struct {
	// Tunnels are the tunnel ports with their statistics, by name; nil where that is not
	// known.
	Tunnels map[string]ovs.ObservedPort
	// Datapaths are those of ovs-vswitchd.
	Datapaths []openflow.Datapath
}

// Counters asks Open vSwitch: for every port's statistics, which takes it a moment where
// there are many, and for those of the datapath. What does not answer is left out, and
// the error says why.
func (p *Part) Counters(ctx context.Context) (c Counters, err error) {
	if db, ok := p.db.(interface {
		ObserveAll(ctx context.Context) (ovs.Observed, error)
	}); ok {
		observed, oerr := db.ObserveAll(ctx)
		if err = oerr; err == nil {
			c.Tunnels = tunnels(observed)
		}
	}
	if flows, ok := p.flows.(interface {
		Datapaths(ctx context.Context) ([]openflow.Datapath, error)
	}); ok {
		var derr error
		c.Datapaths, derr = flows.Datapaths(ctx)
		err = errors.Join(err, derr)
	}
	return c, err
}

func tunnels(observed ovs.Observed) map[string]ovs.ObservedPort {
	out := map[string]ovs.ObservedPort{}
	for name, port := range observed.Ports {
		if port.Owned() && port.Role() == ovs.RoleTunnel {
			out[name] = port
		}
	}
	return out
}
