package openvswitch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Database is the OVSDB of one Open vSwitch, as ovs/vswitch serves it.
type Database interface {
	ports
	restoreDB
	// Run calls changed whenever an Observe is due, until ctx ends.
	Run(ctx context.Context, changed func()) error
}

// ports is what is observed and changed of a Database.
type ports interface {
	Observe(ctx context.Context) (ovs.Observed, error)
	// Apply does the change in one transaction.
	Apply(ctx context.Context, c ovs.DBChange) error
	// WaitApplied waits until vswitchd has caught up with the database, and makes
	// it look again where a port was not made.
	WaitApplied(ctx context.Context) error
}

// FlowTables are the OpenFlow tables of one bridge, as ovs/openflow serves
// them.
type FlowTables interface {
	tables
	// MeterDrops returns how many frames each meter has dropped, by its number.
	MeterDrops(ctx context.Context) (map[uint32]uint64, error)
	// Monitor holds a connection and reports what happens to it and to the
	// flows. It returns when the connection ends.
	Monitor(ctx context.Context, report func(openflow.Event)) error
	// PurgeDatapath makes the userspace datapath forget its cached flows.
	PurgeDatapath(ctx context.Context) error
	// NeighSet gives the userspace datapath a neighbour's link address.
	NeighSet(ctx context.Context, bridge string, a netip.Addr, mac net.HardwareAddr) error
}

// tables is what is observed and changed of FlowTables.
type tables interface {
	Observe(ctx context.Context) (openflow.Observed, error)
	// Apply does all or nothing.
	Apply(ctx context.Context, add []ovs.BoundFlow, del []ovs.FlowID) error
	// Meters reads the meters; SetMeters and DeleteMeters change them. No bundle has
	// them.
	Meters(ctx context.Context) ([]ovs.BoundMeter, error)
	SetMeters(ctx context.Context, add, change []ovs.BoundMeter) error
	DeleteMeters(ctx context.Context, ids []uint32) error
	// Audit compares whole texts, not cookies alone.
	Audit(ctx context.Context, want []ovs.BoundFlow) (openflow.Audit, error)
	// Fingerprint stands for all that the tables have.
	Fingerprint(ctx context.Context) (openflow.Fingerprint, error)
}

// staleChunk is how many ports are removed at once: vswitchd forwards
// nothing while it removes them (0.4 s for 1000).
const staleChunk = 50

// outcome is what one comparison found and did.
type outcome struct {
	Observed ovs.Observed
	Want     ovs.State
	// Bound are the wanted flows as they were installed.
	Bound    []ovs.BoundFlow
	Changes  int
	Did      Changes
	Problems []fault.Fault
}

// converger brings one Open vSwitch to a wanted state.
type converger struct {
	db    ports
	flows tables
	watch *flowWatch
	// installed are the flows that the last pass left in the tables.
	installed installed
	// refused are the flows that Open vSwitch would not take. They are tried again
	// at audits only.
	refused map[ovs.FlowID]fault.Fault
	// unmade are the ports that Open vSwitch did not make at the last look either.
	// They are looked for again at audits only.
	unmade []string
	// meters are what Open vSwitch has, or refuses, of them.
	meters meters
	// bound are the flows that were bound last.
	bound  bound
	binder ovs.Binder
	// placed is what the last pass that succeeded left.
	placed placed
	// audited are tables that an audit found to be what is wanted.
	audited audited
	// inPlace are flows that were found to be what is wanted.
	inPlace struct {
		want []ovs.BoundFlow
		have []ovs.FlowID
	}
}

// bound are flows bound to the numbers of ports, with what they were made of.
type bound struct {
	flows   []ovs.Flow
	ofports map[string]int
	bound   []ovs.BoundFlow
}

// installed are flows, and the view of the flow watch at which they were.
type installed struct {
	flows []ovs.BoundFlow
	view  flowView
}

// audited are flows, and the fingerprint of the tables that have them, text by text.
type audited struct {
	flows  []ovs.BoundFlow
	tables openflow.Fingerprint
}

func newConverger(db ports, flows tables, watch *flowWatch) converger {
	return converger{db: db, flows: flows, watch: watch, refused: map[ovs.FlowID]fault.Fault{}}
}

// converge makes before it breaks: first the bridge and the ports, then all
// flows in one bundle, at last the ports that no flow uses any more. It reads
// what is, every time.
func (c *converger) converge(ctx context.Context, want ovs.State, observed ovs.Observed, audit bool) (outcome, error) {
	out := outcome{Observed: observed, Want: want, Did: Changes{First: c.placed.bridge.Name == ""}}
	change, stale, problems := ovs.DiffDB(want, observed)
	out.Problems = problems
	if foreignBridge(observed) {
		return out, nil // reported; nothing of it is ours
	}
	switch {
	case !change.Empty():
		if err := c.applyPorts(ctx, change, &out); err != nil {
			return out, err
		}
	case c.lookAgain(observed, audit):
		if err := c.settle(ctx, &out); err != nil {
			return out, err
		}
	}
	c.unmade = out.Observed.Unmade()
	if err := c.convergeFlows(ctx, audit, &out); err != nil {
		return out, err
	}
	for names := range slices.Chunk(stale.RemovePorts, staleChunk) {
		if err := c.db.Apply(ctx, ovs.DBChange{RemovePorts: names}); err != nil {
			return out, fmt.Errorf("remove ports %v: %w", names, err)
		}
		out.Changes += len(names)
		out.Did.RemovedPorts = append(out.Did.RemovedPorts, names...)
		out.Observed.Ports = maps.Clone(out.Observed.Ports)
		for _, name := range names {
			delete(out.Observed.Ports, name)
		}
	}
	if ids := stale.RemoveCollectors; len(ids) > 0 {
		if err := c.db.Apply(ctx, ovs.DBChange{RemoveCollectors: ids}); err != nil {
			return out, fmt.Errorf("remove the collector sets %v: %w", ids, err)
		}
		out.Changes += len(ids)
	}
	out.Did.Own = out.Did.forEndpoints(want, observed)
	c.placed = placed{want.Bridge, want.Ports, want.Flows, out.Bound}
	return out, nil
}

// convergeFlows makes the flow tables what they are to be, in one bundle.
func (c *converger) convergeFlows(ctx context.Context, audit bool, out *outcome) error {
	ofports := out.Observed.OFPorts()
	view := c.watch.view()
	want, stale, err := c.setMeters(ctx, out.Want, ofports, view, audit)
	if err != nil {
		return fmt.Errorf("set the meters: %w", err)
	}
	bound := c.bind(want, ofports)
	if audit {
		clear(c.refused)
	}
	out.Bound = c.withoutRefused(bound)
	add, del, had, err := c.compare(ctx, out.Bound, view, audit)
	if err != nil {
		return err
	}
	if len(add)+len(del) > 0 {
		c.installed = installed{}
		if err := c.applyFlows(ctx, add, del); err != nil {
			return fmt.Errorf("install %d and delete %d flows: %w", len(add), len(del), err)
		}
		out.Changes += len(add) + len(del)
		out.Did.flowChanges(out.Want.Flows, add, del, c.placed, had)
		out.Bound = c.withoutRefused(out.Bound)
	}
	c.installed = installed{out.Bound, view}
	for _, f := range c.refused {
		out.Problems = append(out.Problems, f)
	}
	if c.meters.refused != nil {
		out.Problems = append(out.Problems, *c.meters.refused)
	}
	if len(stale) > 0 {
		if err := c.flows.DeleteMeters(ctx, stale); err != nil {
			return fmt.Errorf("delete meters: %w", err)
		}
		out.Changes += len(stale)
	}
	return nil
}

// compare returns what is to be added to our flows in the tables and deleted from them,
// and how many there are. An audit compares whole texts, unless the tables are those in
// which the last one found nothing.
func (c *converger) compare(
	ctx context.Context, want []ovs.BoundFlow, view flowView, audit bool,
) (add []ovs.BoundFlow, del []ovs.FlowID, had int, err error) {
	var now openflow.Fingerprint
	if audit {
		if now, err = c.flows.Fingerprint(ctx); err != nil {
			return nil, nil, 0, fmt.Errorf("read the flows: %w", err)
		}
		if now == c.audited.tables && sameSlice(want, c.audited.flows) {
			return nil, nil, len(want), nil
		}
	}
	have, err := c.have(ctx, view, audit)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("read the flows: %w", err)
	}
	add, del = c.diff(want, have)
	if !audit || len(add)+len(del) > 0 {
		return add, del, len(have), nil
	}
	found, err := c.flows.Audit(ctx, want)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("audit the flows: %w", err)
	}
	if len(found.Add)+len(found.Del) == 0 {
		// Only if nobody changed them meanwhile are they the tables that were audited.
		if again, err := c.flows.Fingerprint(ctx); err == nil && again == now {
			c.audited = audited{want, now}
		}
	}
	return found.Add, found.Del, len(have), nil
}

// have are our flows in the tables. They are not read where the last pass left them so
// and the watch has seen nobody else change one since: to read them costs in proportion
// to all endpoints and peers.
func (c *converger) have(ctx context.Context, view flowView, audit bool) ([]ovs.FlowID, error) {
	if !audit && view.watched && view == c.installed.view && len(c.installed.flows) > 0 {
		out := make([]ovs.FlowID, len(c.installed.flows))
		for i, f := range c.installed.flows {
			out[i] = f.ID()
		}
		return out, nil
	}
	observed, err := c.flows.Observe(ctx)
	return observed.IDs(), err
}

// bind returns the wanted flows as a switch takes them: those of the pass before
// where it is the same state on the same ports.
func (c *converger) bind(want ovs.State, ofports map[string]int) []ovs.BoundFlow {
	if !sameSlice(want.Flows, c.bound.flows) || !maps.Equal(ofports, c.bound.ofports) {
		c.bound = bound{want.Flows, ofports, c.binder.Bind(want, ofports)}
	}
	return c.bound.bound
}

// diff is ovs.DiffFlows, which says the same of the same.
func (c *converger) diff(want []ovs.BoundFlow, have []ovs.FlowID) (add []ovs.BoundFlow, del []ovs.FlowID) {
	if sameSlice(want, c.inPlace.want) && slices.Equal(have, c.inPlace.have) {
		return nil, nil
	}
	if add, del = ovs.DiffFlows(want, have); len(add)+len(del) == 0 {
		c.inPlace.want, c.inPlace.have = want, have
	}
	return add, del
}

// sameSlice reports whether two slices are one.
func sameSlice[T any](a, b []T) bool { return len(a) > 0 && len(a) == len(b) && &a[0] == &b[0] }

func (c *converger) withoutRefused(flows []ovs.BoundFlow) []ovs.BoundFlow {
	if len(c.refused) == 0 {
		return flows
	}
	return slices.DeleteFunc(slices.Clone(flows), func(f ovs.BoundFlow) bool { _, bad := c.refused[f.ID()]; return bad })
}

// applyFlows installs all in one bundle. Where Open vSwitch refuses it, the
// flow that it refuses is looked for, left out and reported, and the others are
// installed: one bad flow costs only itself.
func (c *converger) applyFlows(ctx context.Context, add []ovs.BoundFlow, del []ovs.FlowID) error {
	err := c.flows.Apply(ctx, add, del)
	if !refusal(ctx, err) || len(add) == 0 {
		return err
	}
	if err := c.search(ctx, add); err != nil {
		return err
	}
	if len(del) == 0 {
		return nil
	}
	return c.flows.Apply(ctx, nil, del)
}

// search installs flows by halves, and keeps those that are refused.
func (c *converger) search(ctx context.Context, add []ovs.BoundFlow) error {
	err := c.flows.Apply(ctx, add, nil)
	if !refusal(ctx, err) {
		return err
	}
	if len(add) == 1 {
		f := add[0]
		c.refused[f.ID()] = fault.Fault{
			Code: fault.FlowRefused, Severity: fault.Error,
			Item:   fmt.Sprintf("flow table=%d,priority=%d,%s", f.Table, f.Priority, f.Match),
			What:   "Open vSwitch refuses it, and it is left out: " + err.Error(),
			Remedy: "look for the record in etcd that has such a value, and correct it",
		}
		return nil
	}
	return errors.Join(c.search(ctx, add[:len(add)/2]), c.search(ctx, add[len(add)/2:]))
}

// refusal reports whether Open vSwitch answered and said no.
func refusal(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && !errors.Is(err, topology.ErrUnavailable) &&
		!errors.Is(err, topology.ErrNotFound)
}

func foreignBridge(o ovs.Observed) bool {
	return o.Bridge != nil && o.Bridge.ExternalIDs[ovs.KeyOwner] == ""
}

// applyPorts changes bridge and ports and reads the result. Where the whole
// transaction is refused, it tries port by port, so that one bad port costs
// only itself.
func (c *converger) applyPorts(ctx context.Context, change ovs.DBChange, out *outcome) error {
	if err := c.db.Apply(ctx, change); err != nil {
		if errors.Is(err, topology.ErrUnavailable) || ctx.Err() != nil || len(change.Split(out.Observed)) < 2 {
			return fmt.Errorf("change the bridge: %w", err)
		}
		for _, one := range change.Split(out.Observed) {
			err := c.db.Apply(ctx, one)
			if err != nil && one.SetBridge != nil {
				return fmt.Errorf("change the bridge: %w", err)
			}
			out.report(err)
		}
	}
	out.Changes += 1 + len(change.AddPorts) + len(change.UpdatePorts) + len(change.RemovePorts)
	out.Did.portChanges(change, c.placed)
	return c.settle(ctx, out)
}

// lookAgain reports whether a port waits for Open vSwitch to look again, as
// tunnels do when the one that replaced them was killed before it saw them made.
func (c *converger) lookAgain(observed ovs.Observed, audit bool) bool {
	return slices.ContainsFunc(observed.Unmade(), func(name string) bool {
		return audit || !slices.Contains(c.unmade, name)
	})
}

// settle waits until ovs-vswitchd has the ports, and reads them.
func (c *converger) settle(ctx context.Context, out *outcome) error {
	if err := c.db.WaitApplied(ctx); err != nil {
		return fmt.Errorf("wait for ovs-vswitchd: %w", err)
	}
	var err error
	if out.Observed, err = c.db.Observe(ctx); err != nil {
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
		code, remedy := fault.PortDead, "look into ovs-vswitchd's log"
		switch {
		case p.Role() == ovs.RoleEndpoint:
			code = fault.EndpointGone
			what = fmt.Sprintf(
				"endpoint %s of network %s: %s",
				p.ExternalIDs[ovs.KeyEndpoint],
				p.ExternalIDs[ovs.KeyNetwork],
				what,
			)
			remedy = "its network device is gone; 'baize endpoint remove' it and add it again"
		case p.Role() == ovs.RoleHost:
			what = fmt.Sprintf("the host's own port in network %s: %s", p.ExternalIDs[ovs.KeyNetwork], what)
		case p.Role() == ovs.RoleTunnel:
			remedy = fmt.Sprintf(
				"look for another %s port to %s on this machine: 'ovs-vsctl show'",
				p.Type,
				p.Options["remote_ip"],
			)
		}
		out = append(out, fault.Fault{Code: code, Severity: fault.Error, Item: "port " + p.Name, What: what, Remedy: remedy})
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
				Code: fault.EgressForeign, Severity: fault.Error,
				Item: fmt.Sprintf("VTEP %s on %s", p.Options["local_ip"], egress),
				What: "the userspace datapath sends tunnelled packets only through a bridge of Open vSwitch, and this is not " +
					"one: nothing reaches the peers",
				Remedy: fmt.Sprintf(
					"load the openvswitch kernel module, or put %s on a bridge (datapath_type=netdev) and move the address there",
					egress,
				),
			}}
		}
	}
	return nil
}
