package ovsfake

import (
	"context"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// FlowTables is the OpenFlow side of a Switch, with the methods and the errors
// of ovs/openflow.Client.
type FlowTables struct{ f *Switch }

// begin returns with the switch locked unless there is an error.
func (t FlowTables) begin(ctx context.Context) error {
	if err := t.f.pause(ctx); err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return unavailable("ovs-vswitchd", "ovs-ofctl got no answer")
	}
	t.f.mu.Lock()
	var err error
	switch {
	case !t.f.vswitchd:
		err = unavailable("ovs-vswitchd", "is not running: fake: Connection refused")
	case t.f.Bridge == nil:
		err = &topology.Error{
			Kind: topology.ErrNotFound, Code: fault.BridgeMissing, Item: "bridge",
			What: "is not there, or ovs-vswitchd is not running: fake",
		}
	}
	if err != nil {
		t.f.mu.Unlock()
	}
	return err
}

// Observe returns the identities of the flows.
func (t FlowTables) Observe(ctx context.Context) (openflow.Observed, error) {
	if err := t.begin(ctx); err != nil {
		return openflow.Observed{}, err
	}
	defer t.f.mu.Unlock()
	if t.f.ids == nil {
		for id := range t.f.Table {
			t.f.ids = append(t.f.ids, openflow.FlowStats{FlowID: id})
		}
	}
	return openflow.Observed{Flows: slices.Clone(t.f.ids)}, nil
}

// Apply deletes and adds, all or nothing. As in OpenFlow, a flow with the match
// and priority of another replaces it; deleting what is not there is no error.
func (t FlowTables) Apply(ctx context.Context, add []ovs.BoundFlow, del []ovs.FlowID) error {
	if len(add)+len(del) == 0 {
		return nil
	}
	if err := t.begin(ctx); err != nil {
		return err
	}
	defer t.f.mu.Unlock()
	rules := make([]*forward.Rule, len(add))
	for i, flow := range add {
		r, err := forward.Parse(flow)
		if err == nil {
			err = t.f.meters(r)
		}
		if err != nil {
			return &topology.Error{
				Kind: topology.ErrInvalid, Code: fault.FlowRefused, Item: "flow " + r.String(),
				What: "the bundle was refused, nothing changed: ovs-ofctl: " + err.Error(),
			}
		}
		rules[i] = r
	}
	for _, id := range del {
		t.f.dropFlow(id)
	}
	type place struct {
		table, priority int
		match           string
	}
	at := make(map[place]ovs.FlowID, len(t.f.Table))
	for id, f := range t.f.Table {
		at[place{f.Table, f.Priority, f.Match}] = id
	}
	for i, flow := range add {
		p := place{flow.Table, flow.Priority, flow.Match}
		if old, there := at[p]; there {
			t.f.dropFlow(old)
		}
		t.f.Table[flow.ID()], t.f.rules[flow.ID()], at[p] = flow, rules[i], flow.ID()
	}
	t.f.touched()
	t.f.changes++
	t.f.written += len(add) + len(del)
	return nil
}

// Audit compares whole texts, in which a switch has neither class nor reason.
func (t FlowTables) Audit(ctx context.Context, want []ovs.BoundFlow) (openflow.Audit, error) {
	if err := t.begin(ctx); err != nil {
		return openflow.Audit{}, err
	}
	defer t.f.mu.Unlock()
	var a openflow.Audit
	for i := range want {
		if have, there := t.f.Table[want[i].ID()]; !there || !have.Same(&want[i].Flow) {
			a.Add = append(a.Add, want[i])
		}
	}
	return a, nil
}

// prints hashes flows.
var prints = maphash.MakeSeed()

// Fingerprint stands for what the tables have.
func (t FlowTables) Fingerprint(ctx context.Context) (openflow.Fingerprint, error) {
	if err := t.begin(ctx); err != nil {
		return openflow.Fingerprint{}, err
	}
	defer t.f.mu.Unlock()
	f := openflow.Fingerprint{Flows: len(t.f.Table)}
	for _, flow := range t.f.Table {
		flow.Flow = flow.Bare()
		f.Sum += maphash.Comparable(prints, flow)
	}
	return f, nil
}

// Monitor reports when the connection stands, and changes made by others, until
// ovs-vswitchd or the bridge is gone.
func (t FlowTables) Monitor(ctx context.Context, onEvent func(openflow.Event)) error {
	if err := t.begin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	connection, edits, changed := t.f.connection, t.f.edits, t.f.changed
	t.f.mu.Unlock()
	onEvent(openflow.Event{Kind: openflow.Connected})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		t.f.mu.Lock()
		changed = t.f.changed
		lost := t.f.connection != connection || !t.f.vswitchd || t.f.Bridge == nil
		edited := t.f.edits != edits
		edits = t.f.edits
		t.f.mu.Unlock()
		switch {
		case lost:
			return unavailable("bridge", "OpenFlow connection lost")
		case edited:
			onEvent(openflow.Event{Kind: openflow.Changed})
		}
	}
}

// NeighSet does nothing: the fake's tunnels need no neighbours.
func (t FlowTables) NeighSet(ctx context.Context, _ string, _ netip.Addr, _ net.HardwareAddr) error {
	return t.only(ctx)
}

// PurgeDatapath does nothing: the fake caches nothing.
func (t FlowTables) PurgeDatapath(ctx context.Context) error { return t.only(ctx) }

func (t FlowTables) only(ctx context.Context) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	t.f.mu.Unlock()
	return nil
}
