package openvswitch

import (
	"context"
	"errors"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// meters is what a converger knows of an Open vSwitch's meters.
type meters struct {
	// refused is why there are none; nil where they work. They are tried again at
	// audits only.
	refused *fault.Fault
	// unmetered is the wanted state without them, made of the flows of from.
	from      []ovs.Flow
	unmetered ovs.State
	// installed are those that the last pass left there, at a view of the flow watch: who
	// deletes a meter deletes flows.
	installed []ovs.BoundMeter
	view      flowView
}

// setMeters adds and changes meters before the flows that use them are added. It
// returns the state whose flows can be installed, and the meters that are to be
// deleted once no flow uses them. An Open vSwitch without meters forwards all the
// same.
func (c *converger) setMeters(
	ctx context.Context, want ovs.State, ofports map[string]int, view flowView, audit bool,
) (_ ovs.State, stale []uint32, err error) {
	if audit {
		c.meters.refused = nil
	}
	if c.meters.refused != nil {
		return c.unmetered(want), nil, nil
	}
	bound := want.BindMeters(ofports)
	have := c.meters.installed
	if audit || !view.watched || view != c.meters.view || len(have) == 0 {
		have, err = c.flows.Meters(ctx)
	}
	c.meters.installed = nil
	var add, change []ovs.BoundMeter
	if err == nil {
		add, change, stale = ovs.DiffMeters(bound, have)
		if len(add)+len(change) > 0 {
			err = c.flows.SetMeters(ctx, add, change)
		}
	}
	if err == nil && len(stale) == 0 {
		c.meters.installed, c.meters.view = bound, view
	}
	var refusal *topology.Error
	switch {
	case err == nil:
		return want, stale, nil
	case !errors.As(err, &refusal) || refusal.Code != fault.NoMeters:
		return want, nil, err
	}
	f := fault.Of(err)
	f.Severity = fault.Warning
	f.What += ": nothing limits what endpoints broadcast"
	f.Remedy = "use Linux 4.18 or newer, or Open vSwitch's userspace datapath"
	c.meters.refused = &f
	return c.unmetered(want), nil, nil
}

// unmetered returns the state without meters, of the same flows the same.
func (c *converger) unmetered(want ovs.State) ovs.State {
	if !sameSlice(want.Flows, c.meters.from) {
		c.meters.from, c.meters.unmetered = want.Flows, want.Unmetered()
	}
	return c.meters.unmetered
}
