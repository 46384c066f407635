// Package drift says in what a host differs from its node's plan: its Open vSwitch,
// and its kernel. It changes nothing.
package drift

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Drift is what differs between the plan and this host, in JSON and YAML.
type Drift struct {
	Node string `json:"node"`
	Same bool   `json:"same"`
	// CreateBridge: there is none; UpdateBridge: its settings differ.
	CreateBridge bool     `json:"createBridge"`
	UpdateBridge bool     `json:"updateBridge"`
	AddPorts     []string `json:"addPorts"`
	UpdatePorts  []string `json:"updatePorts"`
	RemovePorts  []string `json:"removePorts"`
	// MissingFlows should be there and are not; UnwantedFlows are there with
	// Baize's mark and should not be, or were changed by hand.
	MissingFlows  []string `json:"missingFlows"`
	UnwantedFlows []string `json:"unwantedFlows"`
	// Meters are the numbers of meters that are missing, wrong or not needed.
	Meters []string `json:"meters"`
	// Collectors are the numbers of collector sets that are missing, wrong or not needed.
	Collectors []string `json:"collectors"`
	// Kernel are the commands that would put the kernel right.
	Kernel []string `json:"kernel"`
	// Foreign ports and flows are not Baize's: they are left alone and are no
	// difference.
	ForeignPorts []string      `json:"foreignPorts"`
	ForeignFlows []string      `json:"foreignFlows"`
	Problems     []fault.Fault `json:"problems"`
}

// Database and FlowTables are what Compare reads.
type Database interface {
	Observe(ctx context.Context) (ovs.Observed, error)
}

// FlowTables are the flows of a bridge.
type FlowTables interface {
	Observe(ctx context.Context) (openflow.Observed, error)
	Audit(ctx context.Context, wanted []ovs.BoundFlow) (openflow.Audit, error)
	Meters(ctx context.Context) ([]ovs.BoundMeter, error)
}

// Observer is the reading half of a kernel.Host.
type Observer interface {
	Observe(ctx context.Context, q kernel.Query) (kernel.Observed, error)
}

// Host is what is compared with the plan.
type Host struct {
	DB     Database
	Flows  FlowTables
	Kernel Observer
	// Endpoints are known although their ports may be gone.
	Endpoints []ovs.Endpoint
}

// Compare reads the host and compares it with the plan. routes are the agent's
// paths to other nodes.
func (h Host) Compare(
	ctx context.Context,
	view topology.View,
	opt pipeline.Options,
	routes []api.Route,
) (Drift, error) {
	item := Drift{
		Node:          view.Node.Name,
		AddPorts:      []string{},
		UpdatePorts:   []string{},
		RemovePorts:   []string{},
		MissingFlows:  []string{},
		UnwantedFlows: []string{},
		Meters:        []string{},
		Collectors:    []string{},
		Kernel:        []string{},
		ForeignPorts:  []string{},
		ForeignFlows:  []string{},
		Problems:      append([]fault.Fault{}, view.Problems...),
	}
	have, err := h.DB.Observe(ctx)
	if err != nil {
		return item, err
	}
	endpoints, problems := have.Endpoints()
	item.Problems = append(item.Problems, problems...)
	for _, e := range h.Endpoints {
		if !slices.ContainsFunc(endpoints, func(x ovs.Endpoint) bool { return x.Port == e.Port }) {
			endpoints = append(endpoints, e)
		}
	}
	slices.SortFunc(endpoints, ovs.CompareEndpoints)
	opt.Segments = have.Segments()
	if s := have.SFlow; s != nil && s.Owned {
		opt.SFlow = &s.SFlow // a setting of the agent
	}
	want := pipeline.Build(view, endpoints, opt)
	change, stale, problems := ovs.DiffDB(want, have)
	item.Problems = append(item.Problems, problems...)
	item.ports(change, stale, have)
	if err := h.compareKernel(ctx, &item, KernelInput(view, have, opt), routes); err != nil {
		return item, err
	}
	if have.Bridge == nil {
		item.MissingFlows = append(item.MissingFlows, flowTexts(want.Flows)...)
		return item, nil
	}
	if want, err = h.compareMeters(ctx, &item, want, have); err != nil {
		return item, err
	}
	if err := h.compareFlows(ctx, &item, want, have); err != nil {
		return item, err
	}
	item.Same = !item.UpdateBridge && len(item.AddPorts)+len(item.UpdatePorts)+len(item.RemovePorts)+
		len(item.MissingFlows)+len(item.UnwantedFlows)+len(item.Meters)+len(item.Collectors)+len(item.Kernel) == 0
	return item, nil
}

// ports takes over what differs in the database.
func (d *Drift) ports(change, stale ovs.DBChange, have ovs.Observed) {
	d.CreateBridge, d.UpdateBridge = change.CreateBridge, change.SetBridge != nil && !change.CreateBridge
	for _, p := range change.AddPorts {
		d.AddPorts = append(d.AddPorts, p.Name)
	}
	for _, p := range change.UpdatePorts {
		d.UpdatePorts = append(d.UpdatePorts, p.Name)
	}
	d.RemovePorts = append(d.RemovePorts, stale.RemovePorts...)
	for _, c := range change.SetCollectors {
		d.Collectors = append(d.Collectors, strconv.FormatUint(uint64(c.ID), 10))
	}
	for _, id := range stale.RemoveCollectors {
		d.Collectors = append(d.Collectors, strconv.FormatUint(uint64(id), 10))
	}
	d.ForeignPorts = append(d.ForeignPorts, have.ForeignPorts()...)
}

// compareMeters returns the state as this switch can have it: one that has none of the
// meters has flows without them.
func (h Host) compareMeters(ctx context.Context, item *Drift, want ovs.State, have ovs.Observed) (ovs.State, error) {
	there, err := h.Flows.Meters(ctx)
	if errors.Is(err, topology.ErrNotFound) {
		return want, nil // so are the flows
	}
	if err != nil {
		return want, err
	}
	if !slices.ContainsFunc(there, func(m ovs.BoundMeter) bool { return ovs.OwnMeter(m.ID) }) {
		return want.Unmetered(), nil
	}
	add, change, stale := ovs.DiffMeters(want.BindMeters(have.OFPorts()), there)
	for _, m := range slices.Concat(add, change) {
		item.Meters = append(item.Meters, fmt.Sprintf("%d: %d frames a second", m.ID, m.Rate))
	}
	for _, id := range stale {
		item.Meters = append(item.Meters, fmt.Sprintf("%d: not needed", id))
	}
	return want, nil
}

func (h Host) compareFlows(ctx context.Context, item *Drift, want ovs.State, have ovs.Observed) error {
	bound, missing := want.Bind(have.OFPorts())
	for _, name := range missing {
		if _, there := have.Ports[name]; there {
			item.Problems = append(item.Problems, fault.Fault{
				Code:     fault.PortDead,
				Severity: fault.Error,
				Item:     "port " + name,
				What:     cmp.Or(have.Ports[name].Error, "unknown") + ": Open vSwitch cannot use it",
				Remedy:   "'ovs-vsctl list interface " + name + "' shows what it says",
			})
		}
	}
	audit, err := h.Flows.Audit(ctx, bound)
	if err != nil {
		return err
	}
	for _, l := range audit.Lines {
		text := strings.TrimSpace(l[1:])
		if strings.HasPrefix(l, "-") {
			item.MissingFlows = append(item.MissingFlows, text)
		} else {
			item.UnwantedFlows = append(item.UnwantedFlows, text)
		}
	}
	seen, err := h.Flows.Observe(ctx)
	if err != nil && !errors.Is(err, topology.ErrNotFound) {
		return err
	}
	item.ForeignFlows = append(item.ForeignFlows, seen.Foreign...)
	return nil
}

// KernelInput is what the kernel's state is computed from, as far as the switch
// knows it.
func KernelInput(view topology.View, have ovs.Observed, opt pipeline.Options) kernel.Input {
	in := kernel.Input{
		View:      view,
		Ports:     map[string]string{},
		Endpoints: map[string][]netip.Addr{},
		Bridges:   map[string]string{},
	}
	names := pipeline.NamesOf(view)
	for _, n := range view.Networks {
		port := names.Host(n.Name)
		if p, there := have.Ports[port]; there && p.Live() && p.Owned() {
			in.Ports[n.Name] = port
		}
	}
	in.Drops.Use = opt.Datapath != "system"
	in.Userspace, in.TunnelPorts = in.Drops.Use, opt.Ports
	endpoints, _ := have.Endpoints()
	for _, e := range endpoints {
		in.Endpoints[e.Network] = append(in.Endpoints[e.Network], e.IPs...)
		in.Drops.Devices = append(in.Drops.Devices, e.Port)
	}
	for _, s := range opt.Segments {
		in.Bridges[s.Network] = s.Name
		in.Drops.Devices = append(in.Drops.Devices, s.Port)
	}
	if !in.Drops.Use {
		in.Drops.Devices = nil
	}
	return in
}

func (h Host) compareKernel(ctx context.Context, item *Drift, in kernel.Input, routes []api.Route) error {
	have, err := h.Kernel.Observe(ctx, kernel.Ask(in.View, nil))
	if err != nil {
		return err
	}
	item.Problems = append(item.Problems, have.Faults()...)
	in.OnLink, in.NextHops = have.OnLink(), kernelHops(in.View, have, routes)
	in.Protected = kernel.Protect(in.View, have)
	for _, n := range in.View.Networks {
		// Whether packets are masqueraded is a flag of the agent.
		if n.Router && have.NAT != "" {
			in.Masquerade = append(in.Masquerade, n.Name)
		}
		if have.AcceptsPods(n.Network) { // so is this
			in.Pods = append(in.Pods, n.Name)
		}
		if !slices.ContainsFunc(have.Addresses, func(a kernel.Address) bool {
			return a.Dev == in.Bridges[n.Name] && n.IPv6.IsValid() && n.IPv6.Contains(a.Prefix.Addr())
		}) {
			delete(in.Bridges, n.Name)
		}
	}
	want, faults := kernel.Wanted(in)
	item.Problems = fault.Merge(item.Problems, faults...)
	change, faults := kernel.Diff(want, have, nil)
	item.Problems = fault.Merge(item.Problems, faults...)
	for _, s := range change.Steps {
		item.Kernel = append(item.Kernel, s.String())
	}
	return nil
}

// kernelHops returns the next hops that the agent has: its BGP sessions are its
// own, and those of a routing daemon are in the kernel.
func kernelHops(view topology.View, have kernel.Observed, routes []api.Route) topology.NextHops {
	out := kernel.NextHops(view.Networks, have, nil, true)
	for _, x := range routes {
		via, err := netip.ParseAddr(x.Via)
		if _, known := out[x.Prefix.Masked()]; !known && err == nil && x.Kind == string(topology.PathRoute) {
			out[x.Prefix.Masked()] = topology.NextHop{Via: via, Dev: x.Device, Why: x.Why}
		}
	}
	return out
}

func flowTexts(flows []ovs.Flow) []string {
	out := make([]string, len(flows))
	for i, f := range flows {
		out[i] = fmt.Sprintf("table=%d %s", f.Table, pipeline.FormatFlow(f))
	}
	return out
}

// RunDir is where ovs-vswitchd has its sockets unless told: beside the
// database's.
func RunDir(set, ovsdb string) string {
	if sock, ok := strings.CutPrefix(ovsdb, "unix:"); ok && set == "" {
		return path.Dir(sock)
	}
	return set
}

// DirectOf returns the subnets that the kernel routes.
func DirectOf(routes []api.Route) map[topology.SubnetID]bool {
	out := map[topology.SubnetID]bool{}
	for _, x := range routes {
		if x.Kind == string(topology.PathRoute) {
			out[topology.SubnetID{Network: x.Network, Prefix: x.Prefix}] = true
		}
	}
	return out
}
