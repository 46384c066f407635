package vswitch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ovn-org/libovsdb/cache"
	"github.com/ovn-org/libovsdb/mapper"
	"github.com/ovn-org/libovsdb/model"
	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/vswitch/internal/vswitchd"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Observe returns what the database says now, but for the ports' Statistics. What did not
// change is shared with what it returned before: it is not to be changed. The error is a
// *topology.Error of kind ErrUnavailable when the server does not answer.
func (c *Client) Observe(ctx context.Context) (ovs.Observed, error) {
	r, err := c.rows(ctx)
	if err != nil {
		return ovs.Observed{}, err
	}
	return c.observed(r), nil
}

// observed is what libovsdb's copy of the rows says.
func (c *Client) observed(r *rows) ovs.Observed {
	c.seen.Lock()
	defer c.seen.Unlock()
	return r.observed(c.cfg.Bridge, &c.seen.ports)
}

// ObserveAll is Observe with Statistics. It asks the server for every row in one
// select transaction, which takes 70 ms with 1000 ports against 3 ms, and is
// right even if libovsdb's copy should not be.
func (c *Client) ObserveAll(ctx context.Context) (ovs.Observed, error) {
	r, err := c.selectRows(ctx)
	if err != nil {
		return ovs.Observed{}, err
	}
	return r.observed(c.cfg.Bridge, &portsSeen{}), nil
}

// portsSeen are the ports as they were observed last, with the rows that they were made
// of: libovsdb replaces a row that changes, so that rows that are the same say the same.
type portsSeen struct {
	rows  map[string]portRows // by the UUID of the port
	ports map[string]ovs.ObservedPort
}

type portRows struct {
	port *vswitchd.Port
	ifc  *vswitchd.Interface
}

// rows is the database at one moment, by UUID. Its models are shared: they are
// read only.
type rows struct {
	root       vswitchd.OpenvSwitch
	bridges    map[string]*vswitchd.Bridge
	ports      table[vswitchd.Port]
	interfaces table[vswitchd.Interface]
	sets       map[string]*vswitchd.FlowSampleCollectorSet
	ipfix      map[string]*vswitchd.IPFIX
	sflow      map[string]*vswitchd.SFlow
}

// table is the rows of a large table as libovsdb has them, by UUID.
type table[T any] map[string]model.Model

func (t table[T]) get(id string) *T {
	row, _ := t[id].(*T)
	return row
}

func tableOf[T any](in map[string]*T) table[T] {
	out := make(table[T], len(in))
	for id, row := range in {
		out[id] = row
	}
	return out
}

// rows returns libovsdb's copy of the rows, made sure to be up to date.
func (c *Client) rows(ctx context.Context) (*rows, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.monitor(ctx); err != nil {
		return nil, c.failed(s, err)
	}
	// The order matters: the answer comes after all updates made before it.
	if _, err := c.transact(ctx, s, selectOp(vswitchd.OpenvSwitchTable, "cur_cfg")); err != nil {
		return nil, err
	}
	copied := s.cl.Cache()
	if copied == nil {
		return nil, c.failed(s, errLost)
	}
	r := &rows{
		bridges:    shallow[vswitchd.Bridge](copied, vswitchd.BridgeTable),
		ports:      copied.Table(vswitchd.PortTable).RowsShallow(),
		interfaces: copied.Table(vswitchd.InterfaceTable).RowsShallow(),
		sets:       shallow[vswitchd.FlowSampleCollectorSet](copied, vswitchd.FlowSampleCollectorSetTable),
		ipfix:      shallow[vswitchd.IPFIX](copied, vswitchd.IPFIXTable),
		sflow:      shallow[vswitchd.SFlow](copied, vswitchd.SFlowTable),
	}
	err = c.setRoot(r, shallow[vswitchd.OpenvSwitch](copied, vswitchd.OpenvSwitchTable))
	r.forgetUnused()
	return r, err
}

// forgetUnused takes out bridges that are in use no more, with their ports: a row of
// Flow_Sample_Collector_Set keeps its bridge's row after 'ovs-vsctl del-br'.
func (r *rows) forgetUnused() {
	for id, b := range r.bridges {
		if slices.Contains(r.root.Bridges, id) {
			continue
		}
		delete(r.bridges, id)
		for _, port := range b.Ports {
			if p := r.ports.get(port); p != nil {
				for _, ifc := range p.Interfaces {
					delete(r.interfaces, ifc)
				}
			}
			delete(r.ports, port)
		}
	}
}

func shallow[T any](c *cache.TableCache, table string) map[string]*T {
	in := c.Table(table).RowsShallow()
	out := make(map[string]*T, len(in))
	for id, m := range in {
		if row, ok := m.(*T); ok {
			out[id] = row
		}
	}
	return out
}

func (c *Client) setRoot(r *rows, roots map[string]*vswitchd.OpenvSwitch) error {
	for _, root := range roots {
		r.root = *root
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "Open vSwitch database " + c.cfg.Endpoint,
		What: "it is empty: Open vSwitch never ran on it", Remedy: "ovs-vsctl --no-wait init",
	}
}

// selectRows reads all rows from the server.
func (c *Client) selectRows(ctx context.Context) (*rows, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	res, err := c.transact(ctx, s,
		selectOp(vswitchd.OpenvSwitchTable, "_uuid", "bridges", "ovs_version", "datapath_types", "iface_types",
			"other_config", "external_ids"),
		selectOp(vswitchd.BridgeTable, "_uuid", "name", "datapath_type", "datapath_id", "fail_mode", "protocols",
			"other_config", "external_ids", "ports", "sflow"),
		selectOp(vswitchd.PortTable, "_uuid", "name", "interfaces", "external_ids"),
		selectOp(vswitchd.InterfaceTable, "_uuid", "name", "type", "options", "ofport", "error", "link_state",
			"status", "statistics"),
		selectOp(vswitchd.FlowSampleCollectorSetTable, "_uuid", "id", "bridge", "ipfix", "external_ids"),
		selectOp(vswitchd.IPFIXTable, "_uuid", "targets", "cache_active_timeout", "cache_max_flows", "other_config"),
		selectOp(vswitchd.SFlowTable, "_uuid", "targets", "sampling", "header", "polling", "external_ids"))
	if err != nil {
		return nil, err
	}
	schema := s.cl.Schema()
	roots, err := decode(
		schema,
		vswitchd.OpenvSwitchTable,
		res[0],
		func(r *vswitchd.OpenvSwitch, id string) { r.UUID = id },
	)
	if err != nil {
		return nil, err
	}
	r := &rows{}
	if err := c.setRoot(r, roots); err != nil {
		return nil, err
	}
	r.bridges, err = decode(schema, vswitchd.BridgeTable, res[1], func(r *vswitchd.Bridge, id string) { r.UUID = id })
	if err != nil {
		return nil, err
	}
	ports, err := decode(schema, vswitchd.PortTable, res[2], func(r *vswitchd.Port, id string) { r.UUID = id })
	if err != nil {
		return nil, err
	}
	interfaces, err := decode(
		schema,
		vswitchd.InterfaceTable,
		res[3],
		func(r *vswitchd.Interface, id string) { r.UUID = id },
	)
	if err != nil {
		return nil, err
	}
	r.ports, r.interfaces = tableOf(ports), tableOf(interfaces)
	r.forgetUnused()
	err = r.selectSampling(schema, res[4:])
	return r, err
}

// transact runs a transaction, and gives up the connection when the server did
// not answer within Config.Timeout. That the caller had less time says nothing
// about the connection.
func (c *Client) transact(ctx context.Context, s *session, ops ...ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	res, err := s.transact(ctx, ops...)
	var failed ovsdb.OperationError
	switch {
	case err == nil:
		return res, nil
	case errors.As(err, &failed):
		return nil, err
	case ctx.Err() != nil:
		return nil, c.explain(ctx.Err())
	default:
		return nil, c.failed(s, err)
	}
}

// decode turns selected rows into the generated types, by UUID.
func decode[T any](
	schema ovsdb.DatabaseSchema, table string, result ovsdb.OperationResult, setID func(*T, string),
) (map[string]*T, error) {
	in := result.Rows
	t := schema.Table(table)
	if t == nil {
		return nil, fmt.Errorf("the server's schema has no table %s", table)
	}
	out := make(map[string]*T, len(in))
	m := mapper.NewMapper(schema)
	for i := range in {
		row := new(T)
		info, err := mapper.NewInfo(table, t, row)
		if err != nil {
			return nil, err
		}
		if err := m.GetRowData(&in[i], info); err != nil {
			return nil, err
		}
		id, _ := in[i]["_uuid"].(ovsdb.UUID)
		setID(row, id.GoUUID)
		out[id.GoUUID] = row
	}
	return out, nil
}

// bridge finds a bridge that is in use, by name.
func (r *rows) bridge(name string) *vswitchd.Bridge {
	for _, id := range r.root.Bridges {
		if b := r.bridges[id]; b != nil && b.Name == name {
			return b
		}
	}
	return nil
}

// observe returns the ports of a bridge but the one of its own name, that of the last
// time where nothing changed. To make all anew costs more than any other part of a small
// change.
func (s *portsSeen) observe(r *rows, b *vswitchd.Bridge) map[string]ovs.ObservedPort {
	changed, there := map[string]portRows{}, 0
	for _, id := range b.Ports {
		if p := r.ports.get(id); p != nil && p.Name != b.Name {
			there++
			if is := (portRows{p, r.interfaceOf(p)}); s.rows[id] != is {
				changed[id] = is
			}
		}
	}
	if s.ports != nil && len(changed) == 0 && there == len(s.rows) {
		return s.ports
	}
	if s.rows == nil {
		s.rows, s.ports = make(map[string]portRows, there), make(map[string]ovs.ObservedPort, there)
	}
	ports := maps.Clone(s.ports)
	for id, is := range changed {
		delete(ports, s.name(id))
		s.rows[id] = is
	}
	if there < len(s.rows) {
		s.forget(ports, r, b)
	}
	for _, is := range changed { // a name may be another port's now
		ports[is.port.Name] = observedPort(is.port, is.ifc)
	}
	s.ports = ports
	return ports
}

// name is the name of a port that was there.
func (s *portsSeen) name(id string) string {
	if was, ok := s.rows[id]; ok {
		return was.port.Name
	}
	return ""
}

// forget takes out what a bridge has no more.
func (s *portsSeen) forget(ports map[string]ovs.ObservedPort, r *rows, b *vswitchd.Bridge) {
	left := make(map[string]bool, len(b.Ports))
	for _, id := range b.Ports {
		left[id] = true
	}
	for id, is := range s.rows {
		if !left[id] || r.ports.get(id) == nil {
			delete(ports, is.port.Name)
			delete(s.rows, id)
		}
	}
}

func (r *rows) observed(name string, seen *portsSeen) ovs.Observed {
	o := ovs.Observed{
		Ports:         map[string]ovs.ObservedPort{},
		Foreign:       map[string]string{},
		Version:       deref(r.root.OVSVersion),
		DatapathTypes: slices.Sorted(slices.Values(r.root.DatapathTypes)),
		IfaceTypes:    slices.Sorted(slices.Values(r.root.IfaceTypes)),

		RestoreWait:      r.root.OtherConfig[ovs.RestoreWait] == "true",
		RestoreWaitOwned: r.root.ExternalIDs[ovs.KeyRestoreWait] != "",
	}
	for _, b := range r.bridges {
		if b.Name == name {
			o.Ports = seen.observe(r, b)
		}
		for _, id := range b.Ports {
			p := r.ports.get(id)
			switch {
			case p == nil:
			case b.Name == name && p.Name == name:
				o.LocalOFPort = deref(r.interfaceOf(p).Ofport)
			case b.Name != name:
				// A bond's members have names of their own, just as taken.
				o.Foreign[p.Name] = b.Name
				for _, id := range p.Interfaces {
					if ifc := r.interfaces.get(id); ifc != nil {
						o.Foreign[ifc.Name] = b.Name
					}
				}
			}
		}
	}
	if b := r.bridge(name); b != nil {
		o.DatapathID = deref(b.DatapathID)
		o.Bridge = &ovs.Bridge{
			Name: b.Name, Datapath: b.DatapathType, FailMode: deref(b.FailMode),
			Protocols:   slices.Sorted(slices.Values(b.Protocols)),
			OtherConfig: clone(b.OtherConfig), ExternalIDs: clone(b.ExternalIDs),
		}
		r.observeSampling(b, &o)
	}
	return o
}

// interfaceOf returns the port's interface: of a bond the one of its own name,
// or the first. It is never nil.
func (r *rows) interfaceOf(p *vswitchd.Port) *vswitchd.Interface {
	var out *vswitchd.Interface
	for _, id := range p.Interfaces {
		if ifc := r.interfaces.get(id); ifc != nil && (out == nil || ifc.Name == p.Name) {
			out = ifc
		}
	}
	if out == nil {
		return &vswitchd.Interface{}
	}
	return out
}

func observedPort(p *vswitchd.Port, ifc *vswitchd.Interface) ovs.ObservedPort {
	o := ovs.ObservedPort{
		Port: ovs.Port{
			Name: p.Name, Type: ifc.Type, Options: clone(ifc.Options), ExternalIDs: clone(p.ExternalIDs),
		},
		OFPort: deref(ifc.Ofport),
		Error:  deref(ifc.Error),
		Status: clone(ifc.Status),
		Up:     deref(ifc.LinkState) == vswitchd.InterfaceLinkStateUp,
	}
	if ifc.Statistics != nil {
		o.Statistics = make(map[string]int64, len(ifc.Statistics))
		for k, v := range ifc.Statistics {
			o.Statistics[k] = int64(v)
		}
	}
	return o
}

// clone copies a map; an empty column is an empty map.
func clone(in map[string]string) map[string]string {
	out := make(map[string]string, len(in))
	maps.Copy(out, in)
	return out
}

// deref returns what p points to, or nothing: an empty optional column.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
