package openvswitch

import (
	"reflect"
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
	// Cause is the newest record that an added flow stems from, Own says that all
	// changes stem from the node's endpoints.
	Cause ovs.Reason
	Own   bool
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
	Passes, Failures, Changes, RepairedFlows, RepairedPorts uint64
	// Took is the time of all passes together, Last when one succeeded last.
	Took time.Duration
	Last time.Time
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
	t.Passes++
	t.Took += o.Took
	t.Changes += uint64(o.Changes)
	t.RepairedFlows += uint64(o.did.RepairedFlows)
	t.RepairedPorts += uint64(len(o.did.RepairedPorts))
	if o.Err != nil {
		t.Failures++
	} else {
		t.Last = o.At
	}
	p.mu.Unlock()
	if o.did.Planned() || o.did.Repaired() {
		p.deeds.Put(Deed{At: o.At, What: Passed, Changes: o.did, Revision: o.revision})
	}
}

// placed is what the last pass that succeeded left in place.
type placed struct {
	bridge ovs.Bridge
	ports  []ovs.Port
	flows  []ovs.BoundFlow
}

// portChanges enters what was changed in the database.
func (c *Changes) portChanges(change ovs.DBChange, before placed, observed ovs.Observed) {
	c.Bridge = change.SetBridge != nil
	c.BridgeRepaired = c.Bridge && before.bridge.Name != "" && reflect.DeepEqual(before.bridge, *change.SetBridge)
	had := make(map[string]ovs.Port, len(before.ports))
	for _, p := range before.ports {
		had[p.Name] = p
	}
	for _, p := range change.AddPorts {
		c.AddedPorts = append(c.AddedPorts, p.Name)
		c.Own = c.Own && p.Role() == ovs.RoleEndpoint
		c.repairedPort(p, had)
	}
	for _, p := range change.UpdatePorts {
		c.UpdatedPorts = append(c.UpdatedPorts, p.Name)
		c.Own = false
		c.repairedPort(p, had)
	}
	c.removedPorts(change.RemovePorts, observed)
	c.Own = c.Own && !c.Bridge
}

func (c *Changes) repairedPort(p ovs.Port, had map[string]ovs.Port) {
	if old, ok := had[p.Name]; ok && reflect.DeepEqual(old, p) {
		c.RepairedPorts = append(c.RepairedPorts, p.Name)
	}
}

func (c *Changes) removedPorts(names []string, observed ovs.Observed) {
	for _, name := range names {
		c.RemovedPorts = append(c.RemovedPorts, name)
		c.Own = c.Own && observed.Ports[name].Role() == ovs.RoleEndpoint
	}
}

// flowChanges enters what was changed in the flow tables, which had have.
func (c *Changes) flowChanges(add []ovs.BoundFlow, del []ovs.FlowID, before placed, have int) {
	adding := make(map[ovs.FlowID]bool, len(add))
	for _, f := range add {
		adding[f.ID()] = true
		if f.Reason.Revision > c.Cause.Revision || c.Cause.Key == "" {
			c.Cause = f.Reason
		}
		c.Own = c.Own && f.Reason.Revision == 0 && f.Reason.Key != ""
	}
	deleting := make(map[ovs.FlowID]bool, len(del))
	for _, id := range del {
		deleting[id] = true
	}
	for _, f := range before.flows {
		id := f.ID()
		if deleting[id] && !adding[id] {
			c.Own = c.Own && f.Reason.Revision == 0 && f.Reason.Key != ""
		}
		if adding[id] {
			c.RepairedFlows++
			c.Example = f.Flow
			delete(deleting, id) // it was there, but not as it is to be
		}
	}
	c.AddedFlows, c.RemovedFlows = len(add), len(deleting)
	c.Wiped = len(before.flows) > 0 && have == 0
}
