package openvswitch

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
)

// Elsewhere are the ports of other bridges, and which.
func (p *Part) Elsewhere(ctx context.Context) (map[string]string, error) {
	o, err := p.db.Observe(ctx)
	return o.Foreign, err
}

// Cleanup implements part.Part: ports and flows go, and the bridge unless a
// foreign port is on it.
func (p *Part) Cleanup(ctx context.Context, undo part.Undo) (report []string, err error) {
	observed, err := p.db.Observe(ctx)
	if err != nil {
		return nil, err
	}
	var cleared bool
	err = undo.Do(func() (err error) { cleared, err = p.db.ClearRestoreWait(ctx); return err })
	if err != nil {
		return nil, err
	}
	if cleared {
		report = append(report, "removed other_config:"+ovs.RestoreWait)
	}
	if observed.Bridge == nil || foreignBridge(observed) {
		return report, nil
	}
	foreign := observed.ForeignPorts()
	if len(foreign) == 0 {
		if err := undo.Do(func() error { return p.db.Apply(ctx, ovs.DBChange{DeleteBridge: p.cfg.Bridge}) }); err != nil {
			return report, err
		}
		return append(report, fmt.Sprintf("removed bridge %s with %d ports", p.cfg.Bridge, len(observed.Ports))), nil
	}
	have, err := p.flows.Observe(ctx)
	if err != nil {
		return report, err
	}
	if err := undo.Do(func() error { return p.flows.Apply(ctx, nil, have.IDs()) }); err != nil {
		return report, err
	}
	var own []string
	for name, port := range observed.Ports {
		if port.Owned() {
			own = append(own, name)
		}
	}
	slices.Sort(own)
	sets := slices.Sorted(maps.Keys(observed.Collectors))
	change := ovs.DBChange{RemovePorts: own, RemoveCollectors: sets, RemoveSFlow: observed.SFlow != nil}
	if err := undo.Do(func() error { return p.db.Apply(ctx, change) }); err != nil {
		return report, err
	}
	return append(report,
		fmt.Sprintf("removed %d ports and %d flows of bridge %s", len(own), len(have.Flows), p.cfg.Bridge),
		fmt.Sprintf("left bridge %s: foreign ports are on it: %v", p.cfg.Bridge, foreign)), nil
}
