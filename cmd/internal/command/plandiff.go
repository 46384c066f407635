package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/linux"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// diffItem is what differs between the plan and this host, in JSON and YAML.
type diffItem struct {
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
	// Kernel are the commands that would put the kernel right.
	Kernel []string `json:"kernel"`
	// Foreign ports and flows are not Baize's: they are left alone and are no
	// difference.
	ForeignPorts []string      `json:"foreignPorts"`
	ForeignFlows []string      `json:"foreignFlows"`
	Problems     []fault.Fault `json:"problems"`
}

// planDiff compares the node's plan with this host.
func (r *runner) planDiff(
	c *ucli.Context,
	format string,
	view topology.View,
	opt pipeline.Options,
	routes []api.Route,
) error {
	db, err := vswitch.New(vswitch.Config{Endpoint: c.String("ovsdb"), Bridge: opt.Bridge})
	if err != nil {
		return err
	}
	defer db.Close()
	if os.Geteuid() != 0 {
		return &topology.Error{
			Kind:   topology.ErrInvalid,
			Item:   "baize plan --diff",
			What:   "reading Open vSwitch needs root",
			Remedy: "run it with sudo; the plan alone needs none",
		}
	}
	item, err := waiting(r, c, "reading Open vSwitch and the kernel", func(ctx context.Context) (diffItem, error) {
		host := thisHost{
			db:     db,
			flows:  openflow.New(openflow.Config{Bridge: opt.Bridge, RunDir: runDir(c.String("ovs-rundir"), c.String("ovsdb"))}),
			kernel: linux.Host{},
		}
		return host.compare(ctx, view, opt, routes)
	})
	if err != nil {
		return err
	}
	if format == "text" {
		err = item.write(r.Out)
	} else {
		err = r.data(format, item)
	}
	if err == nil && !item.Same {
		err = &cli.ExitStatus{Code: exitProblems}
	}
	return err
}

// runDir is where ovs-vswitchd has its sockets unless told: beside the
// database's.
func runDir(set, ovsdb string) string {
	if sock, ok := strings.CutPrefix(ovsdb, "unix:"); ok && set == "" {
		return path.Dir(sock)
	}
	return set
}

// database and flowTables are what compare reads.
type database interface {
	Observe(ctx context.Context) (ovs.Observed, error)
}

type flowTables interface {
	Observe(ctx context.Context) (openflow.Observed, error)
	Audit(ctx context.Context, wanted []ovs.BoundFlow) (openflow.Audit, error)
	Meters(ctx context.Context) ([]ovs.BoundMeter, error)
}

// observer is the reading half of a kernel.Host.
type observer interface {
	Observe(ctx context.Context, q kernel.Query) (kernel.Observed, error)
}

// thisHost is what is compared with the plan.
type thisHost struct {
	db     database
	flows  flowTables
	kernel observer
}

// compare reads the host and compares it with the plan. routes are the agent's
// paths to other nodes.
func (h thisHost) compare(
	ctx context.Context,
	view topology.View,
	opt pipeline.Options,
	routes []api.Route,
) (diffItem, error) {
	item := diffItem{
		Node:          view.Node.Name,
		AddPorts:      []string{},
		UpdatePorts:   []string{},
		RemovePorts:   []string{},
		MissingFlows:  []string{},
		UnwantedFlows: []string{},
		Meters:        []string{},
		Kernel:        []string{},
		ForeignPorts:  []string{},
		ForeignFlows:  []string{},
		Problems:      append([]fault.Fault{}, view.Problems...),
	}
	have, err := h.db.Observe(ctx)
	if err != nil {
		return item, err
	}
	endpoints, problems := have.Endpoints()
	item.Problems = append(item.Problems, problems...)
	opt.Segments = have.Segments()
	want := pipeline.Build(view, endpoints, opt)
	change, stale, problems := ovs.DiffDB(want, have)
	item.Problems = append(item.Problems, problems...)
	item.ports(change, stale, have)
	if err := h.compareKernel(ctx, &item, kernelInput(view, have, opt), routes); err != nil {
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
		len(item.MissingFlows)+len(item.UnwantedFlows)+len(item.Meters)+len(item.Kernel) == 0
	return item, nil
}

// ports takes over what differs in the database.
func (d *diffItem) ports(change, stale ovs.DBChange, have ovs.Observed) {
	d.CreateBridge, d.UpdateBridge = change.CreateBridge, change.SetBridge != nil && !change.CreateBridge
	for _, p := range change.AddPorts {
		d.AddPorts = append(d.AddPorts, p.Name)
	}
	for _, p := range change.UpdatePorts {
		d.UpdatePorts = append(d.UpdatePorts, p.Name)
	}
	d.RemovePorts = append(d.RemovePorts, stale.RemovePorts...)
	d.ForeignPorts = append(d.ForeignPorts, have.ForeignPorts()...)
}

// compareMeters returns the state as this switch can have it: one that has none of the
// meters has flows without them.
func (h thisHost) compareMeters(ctx context.Context, item *diffItem, want ovs.State, have ovs.Observed) (
	ovs.State, error,
) {
	there, err := h.flows.Meters(ctx)
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

func (h thisHost) compareFlows(ctx context.Context, item *diffItem, want ovs.State, have ovs.Observed) error {
	bound, missing := want.Bind(have.OFPorts())
	for _, name := range missing {
		if _, there := have.Ports[name]; there {
			item.Problems = append(item.Problems, fault.Fault{
				Code:     fault.PortDead,
				Severity: fault.Error,
				Item:     "port " + name,
				What:     orUnknown(have.Ports[name].Error) + ": Open vSwitch cannot use it",
				Remedy:   "'ovs-vsctl list interface " + name + "' shows what it says",
			})
		}
	}
	audit, err := h.flows.Audit(ctx, bound)
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
	seen, err := h.flows.Observe(ctx)
	if err != nil && !errors.Is(err, topology.ErrNotFound) {
		return err
	}
	item.ForeignFlows = append(item.ForeignFlows, seen.Foreign...)
	return nil
}

// kernelInput is what the kernel's state is computed from, as far as the switch
// knows it.
func kernelInput(view topology.View, have ovs.Observed, opt pipeline.Options) kernel.Input {
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

func (h thisHost) compareKernel(ctx context.Context, item *diffItem, in kernel.Input, routes []api.Route) error {
	have, err := h.kernel.Observe(ctx, kernel.Ask(in.View, nil))
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

// write shows the difference for people: + is missing, - should not be there,
// ~ is there and differs.
func (d diffItem) write(w io.Writer) error {
	var b strings.Builder
	section := func(mark, what string, list []string) {
		for _, s := range list {
			fmt.Fprintf(&b, "%s %s %s\n", mark, what, s)
		}
	}
	if d.CreateBridge {
		b.WriteString("+ bridge\n")
	}
	if d.UpdateBridge {
		b.WriteString("~ bridge\n")
	}
	section("+", "port", d.AddPorts)
	section("~", "port", d.UpdatePorts)
	section("-", "port", d.RemovePorts)
	section("-", "flow", d.UnwantedFlows)
	section("+", "flow", d.MissingFlows)
	section("~", "meter", d.Meters)
	section("~", "kernel", d.Kernel)
	if d.Same {
		fmt.Fprintf(&b, "Open vSwitch is as node %s should be, and so is the kernel\n", d.Node)
	} else {
		b.WriteString("\n+ is missing, - should not be there, ~ differs: 'baize agent' puts it right\n")
	}
	section(" ", "not ours, left alone: port", d.ForeignPorts)
	section(" ", "not ours, left alone: flow", d.ForeignFlows)
	for _, p := range d.Problems {
		fmt.Fprintf(&b, "  problem: %s\n", p)
	}
	_, err := io.WriteString(w, fault.Printable(b.String()))
	return err
}
