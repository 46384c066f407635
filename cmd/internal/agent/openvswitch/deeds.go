package openvswitch

import (
	"reflect"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
)

// Deed is what happened at the switch, for the journal of events.
type Deed struct {
	At   time.Time
	What DeedKind
	// Changes are those of a pass; empty unless What is Passed.
	Changes Changes
	// Revision is that of the topology that the pass was made for.
	Revision int64
	// Err is why the connection ended; nil unless What is Lost.
	Err error
}

// DeedKind is what a Deed is.
type DeedKind int

// What happens at a switch.
const (
	// Passed: a pass changed something.
	Passed DeedKind = iota
	// Lost: the OpenFlow connection ended, as it does with ovs-vswitchd.
	Lost
	// Back: there is one again.
	Back
)

// Changes are what a pass changed. Repaired is what was in place after a pass before,
// is still wanted, and was not there or not the same any more: somebody else did that.
type Changes struct {
	// First: it was the first pass of this agent that put all in place.
	First bool
	// Bridge: the bridge was made, or its settings.
	Bridge, BridgeRepaired bool
	// Ports by name. Added were not there, Updated were different.
	AddedPorts, UpdatedPorts, RemovedPorts, RepairedPorts []string
	// Flows, counted.
	AddedFlows, RemovedFlows, RepairedFlows int
	// Example is one of the repaired flows.
	Example ovs.Flow
	// Wiped: none of the flows that were in place was left.
	Wiped bool
	// Cause is the newest record that an added flow stems from.
	Cause ovs.Reason
	// Own: it was done for endpoints of the node that came or went.
	Own bool
}

// Planned reports whether there are changes beside repairs.
func (c Changes) Planned() bool {
	return c.Bridge && !c.BridgeRepaired || c.RemovedFlows+len(c.RemovedPorts) > 0 ||
		c.AddedFlows > c.RepairedFlows || len(c.AddedPorts)+len(c.UpdatedPorts) > len(c.RepairedPorts)
}

// Repaired reports whether there are repairs.
func (c Changes) Repaired() bool {
	return c.BridgeRepaired || len(c.RepairedPorts)+c.RepairedFlows > 0
}

// Totals count what the passes did since the agent started.
type Totals struct {
	Changes, RepairedFlows, RepairedPorts uint64
	// Lost counts how often ovs-vswitchd, or the connection to it, ended.
	Lost uint64
}

// maxDeeds is how many deeds wait until somebody takes them.
const maxDeeds = 1024

// Deeds is what happened at the switch, in order.
func (p *Part) Deeds() *part.Queue[Deed] { return p.deeds }

// Totals are those since the agent started.
func (p *Part) Totals() Totals {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.totals
}

// note counts a pass, and tells of it where it changed something.
func (p *Part) note(o Outcome) {
	p.mu.Lock()
	t := &p.totals
	t.Changes += uint64(o.Changes)
	t.RepairedFlows += uint64(o.did.RepairedFlows)
	t.RepairedPorts += uint64(len(o.did.RepairedPorts))
	p.mu.Unlock()
	if o.did.Planned() || o.did.Repaired() {
		p.deeds.Put(Deed{At: o.At.Add(o.Took), What: Passed, Changes: o.did, Revision: o.revision})
	}
}

// placed is what the last pass that succeeded left in place.
type placed struct {
	bridge ovs.Bridge
	ports  []ovs.Port
	flows  []ovs.Flow
	bound  []ovs.BoundFlow
}

// portChanges enters what was changed in the database.
func (c *Changes) portChanges(change ovs.DBChange, before placed) {
	c.Bridge = change.SetBridge != nil
	c.BridgeRepaired = c.Bridge && before.bridge.Name != "" && reflect.DeepEqual(before.bridge, *change.SetBridge)
	had := make(map[string]ovs.Port, len(before.ports))
	for _, p := range before.ports {
		had[p.Name] = p
	}
	for _, p := range change.AddPorts {
		c.AddedPorts = append(c.AddedPorts, p.Name)
		c.repairedPort(p, had)
	}
	for _, p := range change.UpdatePorts {
		c.UpdatedPorts = append(c.UpdatedPorts, p.Name)
		c.repairedPort(p, had)
	}
	c.RemovedPorts = append(c.RemovedPorts, change.RemovePorts...)
}

func (c *Changes) repairedPort(p ovs.Port, had map[string]ovs.Port) {
	if old, ok := had[p.Name]; ok && reflect.DeepEqual(old, p) {
		c.RepairedPorts = append(c.RepairedPorts, p.Name)
	}
}

// forEndpoints reports whether all that changed in the database are ports of endpoints.
func (c *Changes) forEndpoints(want ovs.State, had ovs.Observed) bool {
	if c.Bridge || len(c.UpdatedPorts) > 0 || len(c.AddedPorts)+len(c.RemovedPorts) == 0 {
		return false
	}
	endpoint := func(p ovs.Port) bool { return p.Role() == ovs.RoleEndpoint }
	for _, p := range want.Ports {
		if slices.Contains(c.AddedPorts, p.Name) && !endpoint(p) {
			return false
		}
	}
	return !slices.ContainsFunc(c.RemovedPorts, func(name string) bool { return !endpoint(had.Ports[name].Port) })
}

// flowChanges enters what was changed in the flow tables, which had have, to come to
// what is wanted.
func (c *Changes) flowChanges(want []ovs.Flow, add []ovs.BoundFlow, del []ovs.FlowID, before placed, have int) {
	adding := make(map[ovs.FlowID]bool, len(add))
	for _, f := range add {
		adding[f.ID()] = true
		if f.Reason.Revision > c.Cause.Revision || c.Cause.Key == "" {
			c.Cause = f.Reason
		}
	}
	deleting := make(map[ovs.FlowID]bool, len(del))
	for _, id := range del {
		if !adding[id] { // else it was there, but not as it is to be
			deleting[id] = true
		}
	}
	c.Wiped = len(before.bound) > 0 && have == 0
	if slices.Equal(want, before.flows) {
		// Nothing else is wanted, though ports may have other numbers now.
		if c.RepairedFlows = max(len(add), len(deleting)); len(add) > 0 {
			c.Example = add[0].Flow
		}
		c.AddedFlows = c.RepairedFlows
		return
	}
	for _, f := range before.bound {
		if adding[f.ID()] {
			c.RepairedFlows++
			c.Example = f.Flow
		}
	}
	c.AddedFlows, c.RemovedFlows = len(add), len(deleting)
}
