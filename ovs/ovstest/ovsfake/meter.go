package ovsfake

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
)

// meters refuses a rule with a meter that is not there. Nothing is limited: time is
// virtual.
func (f *Switch) meters(r *forward.Rule) error {
	if id, metered := r.Meter(); metered {
		if _, there := f.Meters[id]; !there {
			return errors.New("OFPT_ERROR: OFPMMFC_INVALID_METER")
		}
	}
	return nil
}

// Meters returns the meters.
func (t FlowTables) Meters(ctx context.Context) ([]ovs.BoundMeter, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	defer t.f.mu.Unlock()
	return slices.Collect(maps.Values(t.f.Meters)), nil
}

// MeterDrops returns that nothing was dropped.
func (t FlowTables) MeterDrops(ctx context.Context) (map[uint32]uint64, error) {
	return nil, t.only(ctx)
}

// SetMeters adds and changes.
func (t FlowTables) SetMeters(ctx context.Context, add, change []ovs.BoundMeter) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	defer t.f.mu.Unlock()
	for _, m := range slices.Concat(add, change) {
		t.f.Meters[m.ID] = m
	}
	t.f.changes++
	return nil
}

// DeleteMeters deletes meters, and the flows that use them.
func (t FlowTables) DeleteMeters(ctx context.Context, ids []uint32) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	defer t.f.mu.Unlock()
	for _, id := range ids {
		delete(t.f.Meters, id)
		for flow, r := range t.f.rules {
			if used, metered := r.Meter(); metered && used == id {
				t.f.dropFlow(flow)
			}
		}
	}
	t.f.changes++
	return nil
}
