package ovsfake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// applyTimeout bounds WaitApplied, as in ovs/vswitch.
const applyTimeout = 5 * time.Second

// Database is the OVSDB side of a Switch, with the methods and the errors of
// ovs/vswitch.Client.
type Database struct{ f *Switch }

// begin returns with the switch locked unless there is an error.
func (d Database) begin(ctx context.Context) error {
	if err := d.f.pause(ctx); err != nil {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return unavailable("Open vSwitch database", "does not answer")
	}
	d.f.mu.Lock()
	if !d.f.ovsdb {
		d.f.mu.Unlock()
		return unavailable("Open vSwitch database", "nobody listens: Open vSwitch is not running")
	}
	return nil
}

// Observe returns the bridge and its ports.
func (d Database) Observe(ctx context.Context) (ovs.Observed, error) {
	if err := d.begin(ctx); err != nil {
		return ovs.Observed{}, err
	}
	defer d.f.mu.Unlock()
	o := ovs.Observed{
		Ports: maps.Clone(d.f.Ports), Foreign: maps.Clone(d.f.Foreign), Version: "fake",
		IfaceTypes: []string{"geneve", "gre", "vxlan"}, DatapathTypes: []string{"netdev"},
		RestoreWait: d.f.restore.set, RestoreWaitOwned: d.f.restore.owned,
		Collectors: maps.Clone(d.f.Collectors), SFlow: d.f.SFlow,
	}
	if d.f.Bridge != nil {
		b := *d.f.Bridge
		b.OtherConfig, b.ExternalIDs = maps.Clone(b.OtherConfig), maps.Clone(b.ExternalIDs)
		o.Bridge, o.DatapathID, o.LocalOFPort = &b, "0000000000000001", localPort
	}
	return o, nil
}

// ObserveAll is Observe.
func (d Database) ObserveAll(ctx context.Context) (ovs.Observed, error) { return d.Observe(ctx) }

// Apply does all of a change or nothing. A port to add that is there already is
// brought up to date, one to remove that is gone is no error.
func (d Database) Apply(ctx context.Context, c ovs.DBChange) error {
	if c.Empty() {
		return nil
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.f.mu.Unlock()
	f := d.f
	bridge, ports, err := f.changedBy(c)
	if err != nil {
		return err
	}
	switch {
	case bridge == nil && f.Bridge != nil:
		f.deleteBridge()
	case bridge != nil && f.Bridge == nil:
		f.connection++
	}
	f.Bridge, f.Ports = bridge, ports
	f.changeSampling(c)
	f.changes++
	f.written += len(c.AddPorts) + len(c.UpdatePorts) + len(c.RemovePorts)
	f.takeOver(false)
	f.wake()
	return nil
}

// changedBy returns bridge and ports as they are after a change.
func (f *Switch) changedBy(c ovs.DBChange) (*ovs.Bridge, map[string]ovs.ObservedPort, error) {
	bridge, ports := f.Bridge, maps.Clone(f.Ports)
	if c.DeleteBridge != "" && bridge != nil && bridge.Name == c.DeleteBridge {
		if bridge.ExternalIDs[ovs.KeyOwner] == "" {
			return nil, nil, refuse(fault.BridgeForeign, "bridge "+bridge.Name, "is not Baize's: it is left alone")
		}
		bridge, ports = nil, map[string]ovs.ObservedPort{}
	}
	touches := c.SetBridge != nil || len(c.AddPorts)+len(c.UpdatePorts) > 0
	if bridge != nil && bridge.ExternalIDs[ovs.KeyOwner] == "" && touches {
		return nil, nil, refuse(fault.BridgeForeign, "bridge "+bridge.Name, "exists and is not Baize's")
	}
	if c.SetBridge != nil {
		bridge = merged(bridge, *c.SetBridge)
	}
	if bridge == nil && len(c.AddPorts)+len(c.UpdatePorts) > 0 {
		return nil, nil, &topology.Error{
			Kind: topology.ErrNotFound, Code: fault.BridgeMissing, Item: "bridge", What: "is not there",
		}
	}
	return bridge, ports, f.changePorts(bridge, ports, c)
}

// changePorts changes ports as a transaction would.
func (f *Switch) changePorts(bridge *ovs.Bridge, ports map[string]ovs.ObservedPort, c ovs.DBChange) error {
	seen := map[string]bool{}
	for _, p := range slices.Concat(c.AddPorts, c.UpdatePorts) {
		if seen[p.Name] || p.Name == bridge.Name {
			return refuse(fault.ChangeRefused, "port "+p.Name, "is given twice, or has the bridge's name")
		}
		seen[p.Name] = true
		if err := f.mayTouch(ports, p.Name); err != nil {
			return err
		}
		ports[p.Name] = f.updated(ports[p.Name], p)
	}
	for _, name := range c.RemovePorts {
		if _, there := ports[name]; !there {
			continue
		}
		if err := f.mayTouch(ports, name); err != nil {
			return err
		}
		delete(ports, name)
	}
	return nil
}

// changeSampling changes who is told of the bridge's packets. What is not Baize's stays.
func (f *Switch) changeSampling(c ovs.DBChange) {
	for _, s := range c.SetCollectors {
		if old, there := f.Collectors[s.ID]; !there || old.Owned {
			f.Collectors[s.ID] = ovs.ObservedCollectorSet{CollectorSet: s, Owned: true}
		}
	}
	for _, id := range c.RemoveCollectors {
		if f.Collectors[id].Owned {
			delete(f.Collectors, id)
		}
	}
	switch own := f.SFlow == nil || f.SFlow.Owned; {
	case own && c.SetSFlow != nil:
		f.SFlow = &ovs.ObservedSFlow{SFlow: *c.SetSFlow, Owned: true}
	case own && c.RemoveSFlow:
		f.SFlow = nil
	}
}

// merged returns a bridge brought to a state; keys of others stay.
func merged(old *ovs.Bridge, want ovs.Bridge) *ovs.Bridge {
	out := want
	out.OtherConfig, out.ExternalIDs = map[string]string{}, map[string]string{}
	if old != nil {
		maps.Copy(out.OtherConfig, old.OtherConfig)
		maps.Copy(out.ExternalIDs, old.ExternalIDs)
	}
	maps.Copy(out.OtherConfig, want.OtherConfig)
	maps.Copy(out.ExternalIDs, want.ExternalIDs)
	return &out
}

// updated returns a port with a new configuration. What tells a tunnel's
// packets apart makes it another one.
func (f *Switch) updated(old ovs.ObservedPort, p ovs.Port) ovs.ObservedPort {
	out := old
	out.Port = p
	out.Options = maps.Clone(p.Options)
	out.ExternalIDs = map[string]string{}
	maps.Copy(out.ExternalIDs, old.ExternalIDs)
	maps.Copy(out.ExternalIDs, p.ExternalIDs)
	if old.Type != p.Type || !maps.Equal(tunnelConfig(old), tunnelConfig(out)) {
		out.OFPort, out.Error = 0, ""
	}
	return out
}

func (f *Switch) mayTouch(ports map[string]ovs.ObservedPort, name string) error {
	if other, elsewhere := f.Foreign[name]; elsewhere {
		return refuse(fault.PortForeign, "port "+name, "the name is in use on bridge "+other)
	}
	if p, there := ports[name]; there && !p.Owned() {
		return refuse(fault.PortForeign, "port "+name, "a foreign port of this name is on the bridge")
	}
	return nil
}

func refuse(code fault.Code, item, what string) error {
	return &topology.Error{Kind: topology.ErrConflict, Code: code, Item: item, What: what}
}

// WaitApplied waits until ovs-vswitchd has caught up, which it does at once
// unless it hangs or does not run.
func (d Database) WaitApplied(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	for {
		if err := d.begin(ctx); err != nil {
			return err
		}
		ready, changed := d.f.vswitchd && !d.f.hangs, d.f.changed
		d.f.mu.Unlock()
		if ready {
			return nil
		}
		if !d.f.until(ctx, changed) {
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return &topology.Error{
				Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "ovs-vswitchd",
				What:   "has not taken over a change of its database in time: it hangs or is not running",
				Remedy: "systemctl restart openvswitch-switch",
			}
		}
	}
}

// Run calls changed at the start and whenever something changes, until ctx ends.
func (d Database) Run(ctx context.Context, changed func()) error {
	for {
		d.f.mu.Lock()
		next := d.f.changed
		d.f.mu.Unlock()
		changed()
		if !d.f.until(ctx, next) {
			return nil
		}
	}
}

// Close does nothing.
func (d Database) Close() {}

// SetRestoreWait sets flow-restore-wait unless somebody set it already.
func (d Database) SetRestoreWait(ctx context.Context) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	defer d.f.mu.Unlock()
	if !d.f.restore.set {
		d.f.restore.set, d.f.restore.owned = true, true
		d.f.changes++
		d.f.wake()
	}
	return nil
}

// ClearRestoreWait clears it if it is Baize's.
func (d Database) ClearRestoreWait(ctx context.Context) (cleared bool, err error) {
	if err := d.begin(ctx); err != nil {
		return false, err
	}
	defer d.f.mu.Unlock()
	if !d.f.restore.owned {
		return false, nil
	}
	d.f.restore.set, d.f.restore.owned = false, false
	d.f.changes++
	d.f.wake()
	return true, nil
}

// String is for failed tests.
func (d Database) String() string { return fmt.Sprintf("ovsfake.Database{%d ports}", len(d.f.Ports)) }
