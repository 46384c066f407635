package sim

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/topology"
)

// gate is what an agent's calls to its host pass: closed while the agent is
// frozen, broken once it was killed.
type gate struct {
	mu     sync.Mutex
	opened chan struct{} // closed: open
	broken chan struct{}
	bugs   map[Door]bool
}

func newGate() *gate {
	g := &gate{opened: make(chan struct{}), broken: make(chan struct{}), bugs: map[Door]bool{}}
	close(g.opened)
	return g
}

func (g *gate) state() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opened
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
		g.opened = make(chan struct{})
	default:
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

func (g *gate) breakOff() { close(g.broken) }

// Door is where one part of an agent calls its host.
type Door string

// The doors.
const (
	SwitchDoor     Door = "the pass of the switch"
	KernelDoor     Door = "the pass of the kernel"
	MembershipDoor Door = "the pass of the membership"
	AttachDoor     Door = "the pass of the endpoints"
	LinksDoor      Door = "a watcher of links"
)

// bug panics where the agent is to have a bug.
func (g *gate) bug(d Door) {
	g.mu.Lock()
	has := g.bugs[d]
	g.mu.Unlock()
	if has {
		panic("a bug in " + string(d))
	}
}

func (g *gate) setBug(d Door, has bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bugs[d] = has
}

var errKilled = &topology.Error{Kind: topology.ErrUnavailable, Item: "simulation", What: "the agent was killed"}

// pass waits until a call may go on.
func (g *gate) pass(ctx context.Context) error {
	select {
	case <-g.broken:
		return errKilled
	default:
	}
	select {
	case <-g.state():
		return nil
	case <-g.broken:
		return errKilled
	case <-ctx.Done():
		return ctx.Err()
	}
}

// database is the OVSDB side of a switch behind a gate.
type database struct {
	ovsfake.Database
	gate *gate
}

func (d database) Observe(ctx context.Context) (ovs.Observed, error) {
	d.gate.bug(SwitchDoor)
	if err := d.gate.pass(ctx); err != nil {
		return ovs.Observed{}, err
	}
	return d.Database.Observe(ctx)
}

func (d database) Apply(ctx context.Context, c ovs.DBChange) error {
	if err := d.gate.pass(ctx); err != nil {
		return err
	}
	return d.Database.Apply(ctx, c)
}

func (d database) WaitApplied(ctx context.Context) error {
	if err := d.gate.pass(ctx); err != nil {
		return err
	}
	return d.Database.WaitApplied(ctx)
}

func (d database) SetRestoreWait(ctx context.Context) error {
	if err := d.gate.pass(ctx); err != nil {
		return err
	}
	return d.Database.SetRestoreWait(ctx)
}

func (d database) ClearRestoreWait(ctx context.Context) (bool, error) {
	if err := d.gate.pass(ctx); err != nil {
		return false, err
	}
	return d.Database.ClearRestoreWait(ctx)
}

// flows is the OpenFlow side.
type flows struct {
	ovsfake.FlowTables
	gate *gate
}

func (f flows) Observe(ctx context.Context) (openflow.Observed, error) {
	if err := f.gate.pass(ctx); err != nil {
		return openflow.Observed{}, err
	}
	return f.FlowTables.Observe(ctx)
}

func (f flows) Apply(ctx context.Context, add []ovs.BoundFlow, del []ovs.FlowID) error {
	if err := f.gate.pass(ctx); err != nil {
		return err
	}
	return f.FlowTables.Apply(ctx, add, del)
}

func (f flows) Audit(ctx context.Context, want []ovs.BoundFlow) (openflow.Audit, error) {
	if err := f.gate.pass(ctx); err != nil {
		return openflow.Audit{}, err
	}
	return f.FlowTables.Audit(ctx, want)
}

func (f flows) Fingerprint(ctx context.Context) (openflow.Fingerprint, error) {
	if err := f.gate.pass(ctx); err != nil {
		return openflow.Fingerprint{}, err
	}
	return f.FlowTables.Fingerprint(ctx)
}

func (f flows) NeighSet(ctx context.Context, bridge string, a netip.Addr, mac net.HardwareAddr) error {
	if err := f.gate.pass(ctx); err != nil {
		return err
	}
	return f.FlowTables.NeighSet(ctx, bridge, a, mac)
}
