package vswitch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/vswitch/internal/vswitchd"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// applyTries is how often a transaction is built anew when somebody changed the
// rows it relies on between reading and writing.
const applyTries = 4

// Apply makes a change in one transaction: all of it happens or none. It is
// level-based: a port to add that is there already is brought up to date, a
// port to remove that is gone is no error.
//
// Whatever is not marked with ovs.KeyOwner is refused with a *topology.Error of
// kind ErrConflict naming it, also when it lost its mark just now: the
// transaction itself checks that. Keys of others in external_ids and
// other_config stay. The types of ports and tunnels' options are set whole.
//
// Apply returns once the database has the change. Forwarding follows when
// ovs-vswitchd took it over: see WaitApplied.
func (c *Client) Apply(ctx context.Context, change ovs.DBChange) error {
	if change.Empty() {
		return nil
	}
	var (
		err    error
		raced  *ovsdb.TimedOut            // a guard failed
		taken  *ovsdb.ConstraintViolation // perhaps a name in use since a moment
		failed ovsdb.OperationError
	)
	for range applyTries {
		err = c.applyOnce(ctx, change)
		if !errors.As(err, &raced) && !errors.As(err, &taken) {
			break
		}
	}
	switch {
	case errors.As(err, &raced):
		return &topology.Error{
			Kind: topology.ErrConflict, Code: fault.SwitchContended, Item: "bridge " + c.cfg.Bridge,
			What:   "somebody else keeps changing the same bridge and ports",
			Remedy: "look for it with 'ovsdb-tool show-log' or 'ovsdb-client monitor Port'",
		}
	case errors.As(err, &failed):
		return &topology.Error{
			Kind: topology.ErrInvalid, Code: fault.ChangeRefused, Item: "bridge " + c.cfg.Bridge,
			What: "the Open vSwitch database refused the change: " + err.Error(),
		}
	}
	return err
}

func (c *Client) applyOnce(ctx context.Context, change ovs.DBChange) error {
	r, err := c.rows(ctx)
	if err != nil {
		return err
	}
	t := &txn{r: r, index: r.byName()}
	if err := t.build(c.cfg.Bridge, change); err != nil {
		return err
	}
	if len(t.ops) == 0 {
		return nil
	}
	return c.commit(ctx, t.ops)
}

// commit runs operations in a transaction that ovs-vswitchd is to take over.
func (c *Client) commit(ctx context.Context, ops []ovsdb.Operation) error {
	comment := "baize"
	ops = append(ops,
		ovsdb.Operation{Op: ovsdb.OperationComment, Comment: &comment},
		ovsdb.Operation{
			Op: ovsdb.OperationMutate, Table: vswitchd.OpenvSwitchTable,
			// The one row that there is.
			Where:     []ovsdb.Condition{{Column: "next_cfg", Function: ovsdb.ConditionGreaterThanOrEqual, Value: 0}},
			Mutations: []ovsdb.Mutation{{Column: "next_cfg", Mutator: ovsdb.MutateOperationAdd, Value: 1}},
		})
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	_, err = c.transact(ctx, s, ops...)
	return err
}

// WaitApplied waits until ovs-vswitchd has taken over what the database says, at
// most for Config.Timeout. A port that was added has its ofport, or its error,
// afterwards.
//
// An ovs-vswitchd that is to remove a tunnel and to make one of the same ends and
// key still finds the old one when it makes the new ("File exists", seen with
// 3.1), and makes it the next time it looks at its database. So where a port was
// not made, a change follows that only makes it look, once.
func (c *Client) WaitApplied(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if err := c.waitApplied(ctx); err != nil {
		return err
	}
	r, err := c.rows(ctx)
	if err != nil {
		return err
	}
	if len(c.observed(r).Unmade()) == 0 {
		return nil
	}
	if err := c.commit(ctx, nil); err != nil {
		return err
	}
	return c.waitApplied(ctx)
}

// waitApplied waits until ovs-vswitchd has taken over what is in the database now.
func (c *Client) waitApplied(ctx context.Context) error {
	late := func() error {
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "ovs-vswitchd",
			What:   "has not taken over a change of its database in time: it hangs or is not running",
			Remedy: "systemctl restart openvswitch-switch",
		}
	}
	// The server could wait for us, but then the call would hold locks of
	// libovsdb that others need.
	want, answered := 0, false
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		s, err := c.session(ctx)
		if err != nil {
			return err
		}
		res, err := c.transact(ctx, s, selectOp(vswitchd.OpenvSwitchTable, "cur_cfg", "next_cfg"))
		switch {
		case err != nil && answered && ctx.Err() != nil:
			return late()
		case err != nil:
			return err
		}
		if len(res[0].Rows) == 1 {
			done, _ := res[0].Rows[0]["cur_cfg"].(float64)
			next, _ := res[0].Rows[0]["next_cfg"].(float64)
			if !answered {
				want = int(next) // what others change later is not waited for
			}
			if int(done) >= want {
				return nil
			}
		}
		answered = true
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return late()
		}
	}
}

// index finds rows by name.
type index struct {
	ports      map[string]*vswitchd.Port
	bridgeOf   map[string]string // port's UUID → its bridge's name
	interfaces map[string]string // interface's name → its port's name
}

func (r *rows) byName() index {
	n := len(r.ports)
	x := index{make(map[string]*vswitchd.Port, n), make(map[string]string, n), make(map[string]string, n)}
	for _, b := range r.bridges {
		for _, id := range b.Ports {
			x.bridgeOf[id] = b.Name
		}
	}
	for id := range r.ports {
		p := r.ports.get(id)
		x.ports[p.Name] = p
		for _, id := range p.Interfaces {
			if ifc := r.interfaces.get(id); ifc != nil {
				x.interfaces[ifc.Name] = p.Name
			}
		}
	}
	return x
}

// txn collects the operations of one transaction.
type txn struct {
	r     *rows
	index index
	ops   []ovsdb.Operation
	named int
}

// build adds the operations of a change.
func (t *txn) build(bridge string, change ovs.DBChange) error {
	if change.DeleteBridge != "" {
		if err := t.deleteBridge(change.DeleteBridge); err != nil {
			return err
		}
	}
	if change.SetBridge != nil {
		bridge = change.SetBridge.Name
	}
	br := t.r.bridge(bridge)
	if err := mayChange(br, change); err != nil {
		return err
	}
	added, removed, err := t.ports(bridge, change)
	if err != nil {
		return err
	}
	switch {
	case br == nil && change.SetBridge != nil:
		id, err := t.insertBridge(*change.SetBridge, added)
		t.sampling(id, &vswitchd.Bridge{}, change)
		return err
	case br == nil && len(added)+len(change.SetCollectors) > 0:
		return &topology.Error{
			Kind: topology.ErrNotFound, Code: fault.BridgeMissing, Item: "bridge " + bridge, What: "is not there",
		}
	case br == nil:
		return nil
	}
	if change.SetBridge != nil {
		t.updateBridge(br, *change.SetBridge)
	}
	t.membership(br, added, removed)
	t.sampling(br.UUID, br, change)
	return nil
}

// mayChange refuses what would add to a bridge of somebody else's.
func mayChange(br *vswitchd.Bridge, change ovs.DBChange) error {
	adds := change.SetBridge != nil || change.SetSFlow != nil ||
		len(change.AddPorts)+len(change.UpdatePorts)+len(change.SetCollectors) > 0
	if br == nil || owned(br.ExternalIDs) || !adds {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrConflict, Code: fault.BridgeForeign, Item: "bridge " + br.Name, What: "exists and is not Baize's",
		Remedy: "name another with --bridge, or remove it with 'ovs-vsctl del-br " + br.Name + "'",
	}
}

// ports adds the operations on ports and returns which are to come to the bridge
// and to go from it.
func (t *txn) ports(bridge string, change ovs.DBChange) (added, removed []ovsdb.UUID, err error) {
	seen := map[string]bool{}
	for _, p := range slices.Concat(change.AddPorts, change.UpdatePorts) {
		if seen[p.Name] || p.Name == bridge {
			return nil, nil, &topology.Error{
				Kind: topology.ErrConflict, Code: fault.ChangeRefused, Item: "port " + p.Name,
				What: "is given twice, or has the bridge's name",
			}
		}
		seen[p.Name] = true
		id, err := t.ensurePort(bridge, p)
		if err != nil {
			return nil, nil, err
		}
		if id != "" {
			added = append(added, ovsdb.UUID{GoUUID: id})
		}
	}
	for _, name := range change.RemovePorts {
		id, err := t.removablePort(bridge, name)
		if err != nil {
			return nil, nil, err
		}
		if id != "" {
			removed = append(removed, ovsdb.UUID{GoUUID: id})
		}
	}
	return added, removed, nil
}

// membership changes which ports a bridge has.
func (t *txn) membership(br *vswitchd.Bridge, added, removed []ovsdb.UUID) {
	var m []ovsdb.Mutation
	if len(removed) > 0 {
		m = append(m, ovsdb.Mutation{Column: "ports", Mutator: ovsdb.MutateOperationDelete, Value: set(removed)})
	}
	if len(added) > 0 {
		m = append(m, ovsdb.Mutation{Column: "ports", Mutator: ovsdb.MutateOperationInsert, Value: set(added)})
	}
	if len(m) == 0 {
		return
	}
	if owned(br.ExternalIDs) { // our ports may go from a bridge that lost its mark
		t.guard(vswitchd.BridgeTable, br.Name, br.ExternalIDs)
	}
	t.mutate(vswitchd.BridgeTable, br.UUID, m)
}

func (t *txn) deleteBridge(name string) error {
	b := t.r.bridge(name)
	if b == nil {
		return nil
	}
	if !owned(b.ExternalIDs) {
		return &topology.Error{
			Kind: topology.ErrConflict, Code: fault.BridgeForeign, Item: "bridge " + name,
			What:   "is not Baize's: it is left alone",
			Remedy: "if it is to go, 'ovs-vsctl del-br " + name + "'",
		}
	}
	t.guard(vswitchd.BridgeTable, name, b.ExternalIDs)
	t.removeSets(func(s *vswitchd.FlowSampleCollectorSet) bool { return s.Bridge == b.UUID })
	t.mutate(vswitchd.OpenvSwitchTable, t.r.root.UUID, []ovsdb.Mutation{{
		Column: "bridges", Mutator: ovsdb.MutateOperationDelete, Value: set([]ovsdb.UUID{{GoUUID: b.UUID}}),
	}})
	return nil
}

// insertBridge creates a bridge with its local port. That it fails secure is
// part of its first transaction: with the tunnels of a full mesh, a moment of
// standalone mode is a loop.
func (t *txn) insertBridge(b ovs.Bridge, ports []ovsdb.UUID) (id string, err error) {
	if p := t.index.ports[b.Name]; p != nil {
		other := t.index.bridgeOf[p.UUID]
		return "", &topology.Error{
			Kind: topology.ErrConflict, Code: fault.BridgeForeign, Item: "bridge " + b.Name,
			What:   "a port of bridge " + other + " has this name",
			Remedy: fmt.Sprintf("name another with --bridge, or 'ovs-vsctl del-port %s %s'", other, b.Name),
		}
	}
	port := t.insertPort(ovs.Port{Name: b.Name, Type: "internal"})
	// A set of collectors keeps its bridge's row, also one that is in use no more.
	t.removeSets(func(s *vswitchd.FlowSampleCollectorSet) bool { return !slices.Contains(t.r.root.Bridges, s.Bridge) })
	id = t.insert(vswitchd.BridgeTable, ovsdb.Row{
		"name": b.Name, "datapath_type": b.Datapath, "fail_mode": optional(b.FailMode), "protocols": set(b.Protocols),
		"other_config": dict(b.OtherConfig), "external_ids": dict(b.ExternalIDs),
		"ports": set(append(ports, ovsdb.UUID{GoUUID: port})),
	})
	t.mutate(vswitchd.OpenvSwitchTable, t.r.root.UUID, []ovsdb.Mutation{{
		Column: "bridges", Mutator: ovsdb.MutateOperationInsert, Value: set([]ovsdb.UUID{{GoUUID: id}}),
	}})
	return id, nil
}

func (t *txn) updateBridge(old *vswitchd.Bridge, b ovs.Bridge) {
	t.guard(vswitchd.BridgeTable, b.Name, old.ExternalIDs)
	t.update(vswitchd.BridgeTable, old.UUID, ovsdb.Row{
		"datapath_type": b.Datapath, "fail_mode": optional(b.FailMode), "protocols": set(b.Protocols),
	})
	m := setKeys("other_config", nil, b.OtherConfig)
	m = append(m, setKeys("external_ids", nil, b.ExternalIDs)...)
	if len(m) > 0 {
		t.mutate(vswitchd.BridgeTable, old.UUID, m)
	}
}

// ensurePort creates a port, returning its UUID, or updates it, returning "".
func (t *txn) ensurePort(bridge string, p ovs.Port) (string, error) {
	old := t.index.ports[p.Name]
	if old == nil {
		if holder, taken := t.index.interfaces[p.Name]; taken {
			return "", conflict(p.Name, "an interface of port "+holder+" has this name", "")
		}
		return t.insertPort(p), nil
	}
	if err := t.mayTouch(bridge, old); err != nil {
		return "", err
	}
	t.guard(vswitchd.PortTable, p.Name, old.ExternalIDs)
	ifc := t.r.interfaceOf(old)
	t.update(vswitchd.InterfaceTable, ifc.UUID, interfaceRow(p))
	if m := setKeys("external_ids", old.ExternalIDs, p.ExternalIDs); len(m) > 0 {
		t.mutate(vswitchd.PortTable, old.UUID, m)
	}
	return "", nil
}

// interfaceRow is what a port says of its interface. Of a host's port Open
// vSwitch sets MAC and MTU as well: left alone, it would choose both.
func interfaceRow(p ovs.Port) ovsdb.Row {
	row := ovsdb.Row{"type": p.Type, "options": dict(p.Options)}
	if p.Role() != ovs.RoleHost {
		return row
	}
	row["mac"] = optional(p.ExternalIDs[ovs.KeyMAC])
	if mtu, err := strconv.Atoi(p.ExternalIDs[ovs.KeyMTU]); err == nil {
		row["mtu_request"] = mtu
	}
	return row
}

func (t *txn) insertPort(p ovs.Port) string {
	row := interfaceRow(p)
	row["name"] = p.Name
	ifc := t.insert(vswitchd.InterfaceTable, row)
	return t.insert(vswitchd.PortTable, ovsdb.Row{
		"name": p.Name, "interfaces": ovsdb.UUID{GoUUID: ifc}, "external_ids": dict(p.ExternalIDs),
	})
}

// removablePort returns the UUID of a port to remove, "" if it is gone.
func (t *txn) removablePort(bridge, name string) (string, error) {
	old := t.index.ports[name]
	if old == nil {
		return "", nil
	}
	if err := t.mayTouch(bridge, old); err != nil {
		return "", err
	}
	t.guard(vswitchd.PortTable, name, old.ExternalIDs)
	return old.UUID, nil
}

// mayTouch refuses ports of others.
func (t *txn) mayTouch(bridge string, p *vswitchd.Port) error {
	on := t.index.bridgeOf[p.UUID]
	remedy := fmt.Sprintf("remove it with 'ovs-vsctl del-port %s %s'", on, p.Name)
	switch {
	case on != bridge:
		return conflict(p.Name, "the name is in use on bridge "+on, remedy)
	case !owned(p.ExternalIDs):
		return conflict(p.Name, "a foreign port of this name is on the bridge", remedy)
	}
	return nil
}

// conflict refuses a port whose name is somebody else's.
func conflict(port, what, remedy string) error {
	return &topology.Error{
		Kind: topology.ErrConflict, Code: fault.PortForeign, Item: "port " + port, What: what, Remedy: remedy,
	}
}

func owned(externalIDs map[string]string) bool { return externalIDs[ovs.KeyOwner] != "" }
