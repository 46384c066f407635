// Package ovsfake is an Open vSwitch in memory.
package ovsfake

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
)

// Switch is an Open vSwitch in memory, for tests of what only needs to see
// states change. It is strict where the real one is: a transaction happens
// whole or not at all, a port has a number only once it is on a bridge, a
// number is not used again, and removing a port leaves its flows behind.
type Switch struct {
	Bridge  *ovs.Bridge
	Ports   map[string]ovs.ObservedPort
	Table   map[ovs.FlowID]ovs.BoundFlow
	Foreign map[string]string
	next    int
}

// New returns an Open vSwitch without a bridge.
func New() *Switch {
	return &Switch{Ports: map[string]ovs.ObservedPort{}, Table: map[ovs.FlowID]ovs.BoundFlow{}, Foreign: map[string]string{}}
}

// Database returns its OVSDB side.
func (f *Switch) Database() Database { return Database{f} }

// Flows returns its OpenFlow side.
func (f *Switch) Flows() FlowTables { return FlowTables{f} }

// Database is the OVSDB side of a Switch.
type Database struct{ f *Switch }

// Observe returns the bridge and its ports.
func (d Database) Observe(context.Context) (ovs.Observed, error) {
	o := ovs.Observed{
		Ports: maps.Clone(d.f.Ports), Foreign: maps.Clone(d.f.Foreign), Version: "fake",
		IfaceTypes: []string{"vxlan", "gre", "geneve"}, DatapathTypes: []string{"netdev"},
	}
	if d.f.Bridge != nil {
		b := *d.f.Bridge
		o.Bridge, o.DatapathID, o.LocalOFPort = &b, "0000000000000001", 65534
	}
	return o, nil
}

// Apply does all of a change or nothing.
func (d Database) Apply(_ context.Context, c ovs.DBChange) error {
	if c.CreateBridge != (d.f.Bridge == nil) && (c.CreateBridge || len(c.AddPorts) > 0) {
		return fmt.Errorf("fake: bridge exists: %v, to be created: %v", d.f.Bridge != nil, c.CreateBridge)
	}
	ports := maps.Clone(d.f.Ports)
	next := d.f.next
	for _, p := range c.AddPorts {
		if _, there := ports[p.Name]; there {
			return fmt.Errorf("fake: port %s is there already", p.Name)
		}
		next++
		ports[p.Name] = ovs.ObservedPort{Port: p, OFPort: next, Up: true}
	}
	for _, p := range c.UpdatePorts {
		old, there := ports[p.Name]
		if !there {
			return fmt.Errorf("fake: no port %s", p.Name)
		}
		old.Port = p
		ports[p.Name] = old
	}
	for _, name := range c.RemovePorts {
		if _, there := ports[name]; !there {
			return fmt.Errorf("fake: no port %s", name)
		}
		delete(ports, name)
	}
	if c.SetBridge != nil {
		b := *c.SetBridge
		d.f.Bridge = &b
	}
	d.f.Ports, d.f.next = ports, next
	return nil
}

// WaitApplied returns at once: nothing lags behind.
func (d Database) WaitApplied(context.Context) error { return nil }

// FlowTables is the OpenFlow side of a Switch.
type FlowTables struct{ f *Switch }

// Observe returns the identities of the flows.
func (t FlowTables) Observe(context.Context) (openflow.Observed, error) {
	var o openflow.Observed
	for id := range t.f.Table {
		o.Flows = append(o.Flows, openflow.FlowStats{FlowID: id})
	}
	return o, nil
}

// Apply deletes and adds. As in OpenFlow, a flow with the match and priority
// of another replaces it.
func (t FlowTables) Apply(_ context.Context, add []ovs.BoundFlow, del []ovs.FlowID) error {
	if t.f.Bridge == nil {
		return fmt.Errorf("fake: no bridge")
	}
	for _, id := range del {
		if _, there := t.f.Table[id]; !there {
			return fmt.Errorf("fake: no flow %x in table %d", id.Cookie, id.Table)
		}
		delete(t.f.Table, id)
	}
	type place struct {
		table, priority int
		match           string
	}
	at := map[place]ovs.FlowID{}
	for id, f := range t.f.Table {
		at[place{f.Table, f.Priority, f.Match}] = id
	}
	for _, f := range add {
		p := place{f.Table, f.Priority, f.Match}
		if old, there := at[p]; there {
			delete(t.f.Table, old)
		}
		t.f.Table[f.ID()], at[p] = f, f.ID()
	}
	return nil
}

// Audit compares whole texts.
func (t FlowTables) Audit(_ context.Context, want []ovs.BoundFlow) (openflow.Audit, error) {
	var a openflow.Audit
	for _, f := range want {
		if t.f.Table[f.ID()] != f {
			a.Add = append(a.Add, f)
		}
	}
	return a, nil
}

// FlowTexts returns the flows as text with port names in place of numbers,
// sorted: two switches that went different ways can be compared.
func (f *Switch) FlowTexts() []ovs.Flow {
	names := map[int]string{}
	for _, p := range f.Ports {
		names[p.OFPort] = p.Name
	}
	out := make([]ovs.Flow, 0, len(f.Table))
	for _, b := range f.Table {
		out = append(out, ovs.Unbind(b, names))
	}
	slices.SortFunc(out, ovs.CompareFlows)
	return out
}
