package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/doctor/gather"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/topology"
)

func (r *runner) doctorCommand() *ucli.Command {
	return &ucli.Command{
		Name: "doctor", Usage: "find what is wrong with this host or the cluster, and what mends it",
		Description: `It asks the agent, Open vSwitch, etcd and the kernel of this host, looks into the
containers' namespaces, and compares what is with what should be. It needs root,
and neither an agent nor etcd: what does not answer is a finding, or is not
checked, with the reason. It changes nothing but with --fix. Every finding has a
code, which docs/troubleshooting.md explains. The exit code is 7 where something
was found, 5 where nobody answered.

  baize doctor
  baize doctor --all                  # every node, by way of etcd
  baize doctor --fix                  # what takes nothing from anybody
  baize doctor --preflight            # before an agent is installed here
  baize doctor --file backup.json     # a topology on paper, or a bundle
  baize doctor --bundle host1.tar.gz  # for a colleague, without secrets`,
		Flags: append([]ucli.Flag{
			&ucli.BoolFlag{Name: "all", Usage: "ask the agents of all nodes"},
			&ucli.DurationFlag{
				Name: "wait", Usage: "how long --all waits for answers, a minute at most", Value: 20 * time.Second,
				Action: atLeast("wait", time.Second),
			},
			&ucli.BoolFlag{Name: "preflight", Usage: "look at a host before an agent is installed on it"},
			&ucli.StringFlag{Name: "file", Usage: "look at a `FILE`, a backup or a bundle, and not at this host"},
			&ucli.StringFlag{Name: "bundle", Usage: "write what was found, and what it was found from, to `FILE` (tar.gz)"},
			&ucli.BoolFlag{Name: "fix", Usage: "run those commands that take nothing from anybody, and look again"},
			&ucli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "a line for each check, and not for each section"},
			&ucli.StringFlag{
				Name: "vtep", Usage: "`ADDRESS` or interface that the agent would be given, for --preflight",
				Action: isVTEP("vtep"),
			},
			&ucli.StringFlag{Name: "node", Usage: "`NAME` of this node (default the agent's, or the name of this host)"},
			&ucli.StringFlag{Name: "state-dir", Usage: "`DIRECTORY` of the agent's files", Value: "/var/lib/baize"},
			colorFlag(), outputFlag(formatsItem...),
		}, bridgeFlags()...),
		Action: r.doctor,
	}
}

func (r *runner) doctor(c *ucli.Context) error {
	var modes []string
	for _, m := range []string{"all", "preflight", "file", "bundle", "fix"} {
		if c.IsSet(m) {
			modes = append(modes, "--"+m)
		}
	}
	if len(modes) > 1 {
		return usagef("baize doctor", "%s exclude each other", strings.Join(modes, " and "))
	}
	switch {
	case c.Bool("all"):
		err := r.doctorAll(c)
		if !errors.Is(err, topology.ErrUnavailable) || os.Geteuid() != 0 {
			return err
		}
		// Without etcd nobody else is asked. What is wrong may be seen from here.
		if err := r.note("%v\nThe other nodes cannot be asked; this host alone:\n", err); err != nil {
			return err
		}
	case c.Bool("preflight"):
		return r.preflight(c)
	case c.IsSet("file"):
		return r.doctorFile(c)
	}
	if os.Geteuid() != 0 {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: "baize doctor",
			What:   "looking at Open vSwitch, the kernel and namespaces needs root",
			Remedy: "run it with sudo; --all and --file need none",
		}
	}
	facts, err := r.facts(c)
	if err != nil {
		return err
	}
	report := doctor.Examine(facts)
	if c.IsSet("bundle") {
		return r.bundle(c, facts, report)
	}
	if c.Bool("fix") {
		if facts, err = r.fix(c, report); err != nil {
			return err
		}
		report = doctor.Examine(facts)
	}
	return r.diagnosis(c, report, facts.Silent())
}

// diagnosis prints a report; silent: nobody answered.
func (r *runner) diagnosis(c *ucli.Context, report doctor.Report, silent bool) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	style, err := r.doctorStyle(c)
	if err != nil {
		return err
	}
	if isTable(format) {
		_, err = fmt.Fprint(r.Out, report.Text(style))
	} else {
		err = r.data(format, report)
	}
	switch {
	case err != nil:
		return err
	case silent:
		return &cli.ExitStatus{Code: cli.ExitUnavailable}
	case len(report.Findings()) > 0:
		return &cli.ExitStatus{Code: exitProblems}
	}
	return nil
}

// doctorStyle is how a report is to be written.
func (r *runner) doctorStyle(c *ucli.Context) (doctor.Style, error) {
	s := doctor.Style{Verbose: c.Bool("verbose")}
	color, err := colorOf(r, c)
	if color {
		s.Paint = func(state doctor.State, mark string) string { return cli.PaintAs(string(state), mark) }
	}
	return s, err
}

// facts gathers those of this host.
func (r *runner) facts(c *ucli.Context) (doctor.Facts, error) {
	cfg, err := r.gatherConfig(c)
	if err != nil {
		return doctor.Facts{}, err
	}
	return waiting(r, c, "looking at this host", func(ctx context.Context) (doctor.Facts, error) {
		return gather.Facts(ctx, cfg)
	})
}

// gatherConfig says where this host's agent, Open vSwitch and etcd are.
func (r *runner) gatherConfig(c *ucli.Context) (gather.Config, error) {
	err := r.nodeFlags(c, "node", "state-dir", "bridge", "ovsdb", "ovs-rundir", "vxlan-port", "geneve-port")
	if err != nil {
		return gather.Config{}, err
	}
	etcd, err := r.storeConfig(c)
	if err != nil {
		return gather.Config{}, err
	}
	node := c.String("node")
	if node == "" {
		if node, err = hostName(); err != nil {
			return gather.Config{}, err
		}
	}
	return gather.Config{
		Node: node, Bridge: c.String("bridge"), OVSDB: c.String("ovsdb"),
		RunDir:    drift.RunDir(c.String("ovs-rundir"), c.String("ovsdb")),
		VXLANPort: c.Int("vxlan-port"), GenevePort: c.Int("geneve-port"),
		StateDir: c.String("state-dir"), Socket: r.socket(c).Value, PluginSocket: docker.DefaultSocket,
		Etcd: etcd, Version: currentVersion().Version,
		Merge:     func(ctx context.Context, own *topology.Snapshot) *topology.Snapshot { return r.merged(c, own, node) },
		MergeKept: func(own *topology.Snapshot) *topology.Snapshot { return r.kubeNodes(c)(own, node) },
	}, nil
}
