package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Database is the OVSDB of one Open vSwitch, as ovs/vswitch serves it.
type Database interface {
	Observe(ctx context.Context) (ovs.Observed, error)
	// Apply does the change in one transaction.
	Apply(ctx context.Context, c ovs.DBChange) error
	// WaitApplied waits until vswitchd has caught up with the database.
	WaitApplied(ctx context.Context) error
}

// FlowTables are the OpenFlow tables of one bridge, as ovs/openflow serves
// them.
type FlowTables interface {
	Observe(ctx context.Context) (openflow.Observed, error)
	// Apply does all or nothing.
	Apply(ctx context.Context, add []ovs.BoundFlow, del []ovs.FlowID) error
	// Audit compares whole texts, not cookies alone.
	Audit(ctx context.Context, want []ovs.BoundFlow) (openflow.Audit, error)
}

// staleChunk is how many ports are removed at once: vswitchd forwards
// nothing while it removes them (0.4 s for 1000).
const staleChunk = 50

// outcome is what one pass found and did.
type outcome struct {
	Observed ovs.Observed
	Want     ovs.State
	// Bound are the wanted flows as they were installed.
	Bound []ovs.BoundFlow
	// Flows are the flow tables as they were before the pass.
	Flows    openflow.Observed
	Changes  int
	Problems []fault.Fault
}

// converge brings one Open vSwitch to the wanted state: make before break.
// First the bridge and the ports, then all flows in one bundle, at last the
// ports that no flow uses any more. It reads what is, every time.
func converge(ctx context.Context, db Database, flows FlowTables, want ovs.State, observed ovs.Observed, audit bool) (outcome, error) {
	out := outcome{Observed: observed, Want: want}
	change, stale, problems := ovs.DiffDB(want, observed)
	out.Problems = problems
	if foreignBridge(observed) {
		return out, nil // reported; nothing of it is ours
	}
	if !change.Empty() {
		if err := applyPorts(ctx, db, change, &out); err != nil {
			return out, err
		}
	}

	bound, _ := want.Bind(out.Observed.OFPorts())
	out.Bound = bound
	var err error
	if out.Flows, err = flows.Observe(ctx); err != nil {
		return out, fmt.Errorf("read the flows: %w", err)
	}
	add, del := ovs.DiffFlows(bound, out.Flows.IDs())
	if audit && len(add)+len(del) == 0 {
		a, err := flows.Audit(ctx, bound)
		if err != nil {
			return out, fmt.Errorf("audit the flows: %w", err)
		}
		add, del = a.Add, a.Del
	}
	if len(add)+len(del) > 0 {
		if err := flows.Apply(ctx, add, del); err != nil {
			return out, fmt.Errorf("install %d and delete %d flows: %w", len(add), len(del), err)
		}
		out.Changes += len(add) + len(del)
	}

	for names := range slices.Chunk(stale.RemovePorts, staleChunk) {
		if err := db.Apply(ctx, ovs.DBChange{RemovePorts: names}); err != nil {
			return out, fmt.Errorf("remove ports %v: %w", names, err)
		}
		out.Changes += len(names)
	}
	return out, nil
}

func foreignBridge(o ovs.Observed) bool {
	return o.Bridge != nil && o.Bridge.ExternalIDs[ovs.KeyOwner] == ""
}

// applyPorts changes bridge and ports and reads the result. Where the whole
// transaction is refused, it tries port by port, so that one bad port costs
// only itself.
func applyPorts(ctx context.Context, db Database, change ovs.DBChange, out *outcome) error {
	if err := db.Apply(ctx, change); err != nil {
		if errors.Is(err, topology.ErrUnavailable) || ctx.Err() != nil || len(change.AddPorts)+len(change.UpdatePorts) < 2 {
			return fmt.Errorf("change the bridge: %w", err)
		}
		for _, part := range change.Split(out.Observed) {
			err := db.Apply(ctx, part)
			if err != nil && part.SetBridge != nil {
				return fmt.Errorf("change the bridge: %w", err)
			}
			out.report(err)
		}
	}
	out.Changes += 1 + len(change.AddPorts) + len(change.UpdatePorts) + len(change.RemovePorts)
	if err := db.WaitApplied(ctx); err != nil {
		return fmt.Errorf("wait for ovs-vswitchd: %w", err)
	}
	var err error
	if out.Observed, err = db.Observe(ctx); err != nil {
		return fmt.Errorf("read the ports: %w", err)
	}
	return nil
}

func (o *outcome) report(err error) {
	if err != nil {
		o.Problems = append(o.Problems, fault.Of(err))
	}
}

// portProblems reports wanted ports that OVS cannot forward through.
func portProblems(o outcome) []fault.Fault {
	var out []fault.Fault
	for _, p := range o.Want.Ports {
		have, there := o.Observed.Ports[p.Name]
		if !there || have.Live() {
			continue // a port that could not be added has been reported
		}
		what := "Open vSwitch has not made it yet"
		if have.Error != "" {
			what = have.Error
		}
		remedy := "look into ovs-vswitchd's log"
		switch {
		case p.Role() == ovs.RoleEndpoint:
			what = fmt.Sprintf("endpoint %s of network %s: %s", p.ExternalIDs[ovs.KeyEndpoint], p.ExternalIDs[ovs.KeyNetwork], what)
			remedy = "its network device is gone; 'baize endpoint remove' it and add it again"
		case p.Role() == ovs.RoleHost:
			what = fmt.Sprintf("the host's own port in network %s: %s", p.ExternalIDs[ovs.KeyNetwork], what)
		case p.Role() == ovs.RoleTunnel:
			remedy = fmt.Sprintf("look for another %s port to %s on this machine: 'ovs-vsctl show'", p.Type, p.Options["remote_ip"])
		}
		out = append(out, fault.Fault{Item: "port " + p.Name, What: what, Remedy: remedy})
	}
	return out
}

// tunnelProblems reports the black hole of the userspace datapath: there a
// tunnel works only when the VTEP address is on a bridge of Open vSwitch, and
// nothing says so when it is not.
func tunnelProblems(o outcome) []fault.Fault {
	if o.Want.Bridge.Datapath != "netdev" {
		return nil
	}
	for _, p := range o.Want.Ports {
		have, there := o.Observed.Ports[p.Name]
		if p.Role() != ovs.RoleTunnel || !there || !have.Live() {
			continue
		}
		egress := have.Status["tunnel_egress_iface"]
		if _, ok := o.Observed.Foreign[egress]; egress != "" && !ok {
			return []fault.Fault{{
				Item:   fmt.Sprintf("VTEP %s on %s", p.Options["local_ip"], egress),
				What:   "the userspace datapath sends tunnelled packets only through a bridge of Open vSwitch, and this is not one: nothing reaches the peers",
				Remedy: fmt.Sprintf("load the openvswitch kernel module, or put %s on a bridge (datapath_type=netdev) and move the address there", egress),
			}}
		}
	}
	return nil
}

// pass is the report of the last reconciliation.
type pass struct {
	at       time.Time
	took     time.Duration
	err      error
	problems []fault.Fault
	outcome  outcome
	view     topology.View
	routes   routes
}
