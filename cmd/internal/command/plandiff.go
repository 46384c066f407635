package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// diffItem is what differs between the plan and the real Open vSwitch, in JSON
// and YAML.
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
	// Foreign ports and flows are not Baize's: they are left alone and are no
	// difference.
	ForeignPorts []string      `json:"foreignPorts"`
	ForeignFlows []string      `json:"foreignFlows"`
	Problems     []fault.Fault `json:"problems"`
}

// planDiff compares the node's plan with the Open vSwitch of this host.
func (r *runner) planDiff(c *ucli.Context, format string, view topology.View, opt pipeline.Options) error {
	db, err := vswitch.New(vswitch.Config{Endpoint: c.String("ovsdb"), Bridge: opt.Bridge})
	if err != nil {
		return err
	}
	defer db.Close()
	if os.Geteuid() != 0 {
		return &topology.Error{Kind: topology.ErrInvalid, Item: "baize plan --diff", What: "reading Open vSwitch needs root", Remedy: "run it with sudo; the plan alone needs none"}
	}
	item, err := waiting(r, c, "reading Open vSwitch", func(ctx context.Context) (diffItem, error) {
		flows := openflow.New(openflow.Config{Bridge: opt.Bridge, RunDir: runDir(c.String("ovs-rundir"), c.String("ovsdb"))})
		return compare(ctx, db, flows, view, opt)
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
}

func compare(ctx context.Context, db database, flows flowTables, view topology.View, opt pipeline.Options) (diffItem, error) {
	item := diffItem{
		Node: view.Node.Name, AddPorts: []string{}, UpdatePorts: []string{}, RemovePorts: []string{}, MissingFlows: []string{},
		UnwantedFlows: []string{}, ForeignPorts: []string{}, ForeignFlows: []string{}, Problems: append([]fault.Fault{}, view.Problems...),
	}
	have, err := db.Observe(ctx)
	if err != nil {
		return item, err
	}
	endpoints, problems := have.Endpoints()
	item.Problems = append(item.Problems, problems...)
	opt.Segments = have.Segments()
	want := pipeline.Build(view, endpoints, opt)
	change, stale, problems := ovs.DiffDB(want, have)
	item.Problems = append(item.Problems, problems...)
	item.CreateBridge, item.UpdateBridge = change.CreateBridge, change.SetBridge != nil && !change.CreateBridge
	for _, p := range change.AddPorts {
		item.AddPorts = append(item.AddPorts, p.Name)
	}
	for _, p := range change.UpdatePorts {
		item.UpdatePorts = append(item.UpdatePorts, p.Name)
	}
	item.RemovePorts = append(item.RemovePorts, stale.RemovePorts...)
	item.ForeignPorts = append(item.ForeignPorts, have.ForeignPorts()...)

	bound, missing := ovs.Bind(want.Flows, have.OFPorts())
	for _, name := range missing {
		if _, there := have.Ports[name]; there {
			item.Problems = append(item.Problems, fault.Fault{
				Code: fault.PortDead,
				Item: "port " + name, What: orUnknown(have.Ports[name].Error) + ": Open vSwitch cannot use it",
				Remedy: "'ovs-vsctl list interface " + name + "' shows what it says",
			})
		}
	}
	if have.Bridge == nil {
		item.MissingFlows = append(item.MissingFlows, flowTexts(want.Flows)...)
		return item, nil
	}
	audit, err := flows.Audit(ctx, bound)
	if err != nil {
		return item, err
	}
	for _, l := range audit.Lines {
		text := strings.TrimSpace(l[1:])
		if strings.HasPrefix(l, "-") {
			item.MissingFlows = append(item.MissingFlows, text)
		} else {
			item.UnwantedFlows = append(item.UnwantedFlows, text)
		}
	}
	seen, err := flows.Observe(ctx)
	if err != nil && !errors.Is(err, topology.ErrNotFound) {
		return item, err
	}
	item.ForeignFlows = append(item.ForeignFlows, seen.Foreign...)
	item.Same = !item.UpdateBridge && len(item.AddPorts)+len(item.UpdatePorts)+len(item.RemovePorts)+len(item.MissingFlows)+len(item.UnwantedFlows) == 0
	return item, nil
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
	if d.Same {
		fmt.Fprintf(&b, "Open vSwitch is as node %s should be\n", d.Node)
	} else {
		b.WriteString("\n+ is missing, - should not be there, ~ differs: 'baize agent' puts it right\n")
	}
	section(" ", "not ours, left alone: port", d.ForeignPorts)
	section(" ", "not ours, left alone: flow", d.ForeignFlows)
	for _, p := range d.Problems {
		fmt.Fprintf(&b, "  problem: %s\n", p)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
