package command

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/cmd/internal/kernel/linux"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

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
	item, err := waiting(r, c, "reading Open vSwitch and the kernel", func(ctx context.Context) (drift.Drift, error) {
		host := drift.Host{
			DB: db,
			Flows: openflow.New(openflow.Config{
				Bridge: opt.Bridge, RunDir: drift.RunDir(c.String("ovs-rundir"), c.String("ovsdb")),
			}),
			Kernel: linux.Host{},
		}
		return host.Compare(ctx, view, opt, routes)
	})
	if err != nil {
		return err
	}
	if format == "text" {
		err = writeDiff(r.Out, item)
	} else {
		err = r.data(format, item)
	}
	if err == nil && !item.Same {
		err = &cli.ExitStatus{Code: exitProblems}
	}
	return err
}

// writeDiff shows the difference for people: + is missing, - should not be there,
// ~ is there and differs.
func writeDiff(w io.Writer, d drift.Drift) error {
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
	section("~", "collector set", d.Collectors)
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
