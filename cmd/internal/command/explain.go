package command

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func (r *runner) explainCommand() *ucli.Command {
	return &ucli.Command{
		Name: "explain", Usage: "say what a flow, a port, a fault or a counter of dropped packets is for",
		ArgsUsage: "FLOW|PORT|CODE|REASON...",
		Description: `FLOW is a line of 'ovs-ofctl dump-flows', or a cookie: which table it is in, what it
does, and which key in etcd, at which revision, put it there. PORT is a port of
'ovs-vsctl show', or its OpenFlow number; CODE that of a fault; REASON a reason for
dropped packets, as 'baize status' shows it. Several words are taken as one text.

On this host, as root, flows and ports are those that it has. With --node they are
computed from etcd for any node.

  baize explain 0xba12c198c8ac0956
  baize explain vx-host2
  baize explain BZ0304
  baize explain spoofed address`,
		Flags: append([]ucli.Flag{
			&ucli.StringFlag{Name: "node", Usage: "`NAME` of the node (default the name of this host)"},
			sourceFlag(), outputFlag(formatsItem...),
		}, bridgeFlags()...),
		Action: r.explain,
	}
}

var faultCode = regexp.MustCompile(`^(?i)bz\d{4}$`)

func (r *runner) explain(c *ucli.Context) error {
	text := strings.TrimSpace(strings.Join(c.Args().Slice(), " "))
	if text == "" {
		return usagef("baize explain", "needs FLOW, PORT, CODE or REASON")
	}
	if faultCode.MatchString(text) {
		e, err := explainCode(fault.Code(strings.ToUpper(text)))
		if err != nil {
			return err
		}
		return r.explained(c, []trace.Explanation{e})
	}
	named := c.IsSet("node")
	a, err := r.newAsker(c)
	if err != nil {
		return err
	}
	return r.withTopology(c, a.self, func(snap *topology.Snapshot) error {
		a.snap = snap
		facts, err := waiting(r, c, "reading Open vSwitch", func(ctx context.Context) (trace.Facts, error) {
			return a.factsOf(ctx, named)
		})
		if err != nil {
			return err
		}
		out, err := explainText(facts, text)
		if err != nil {
			return err
		}
		return r.explained(c, out)
	})
}

// factsOf are those of this host where it is the node and can be read, else what
// etcd knows of the node.
func (a *traceAsker) factsOf(ctx context.Context, named bool) (trace.Facts, error) {
	view := a.snap.View(a.self)
	host, err := hostName()
	if err != nil {
		return trace.Facts{}, err
	}
	note := "of another node than this"
	if !named || a.self == host || a.agentErr == nil {
		f, err := a.observed(ctx, view)
		if err == nil {
			return f, nil
		}
		note = err.Error()
	}
	if _, known := a.snap.Nodes[a.self]; !known {
		_, err := findNode(a.snap, a.self)
		if err == nil {
			err = &topology.Error{
				Kind: topology.ErrNotFound, Item: "node " + a.self, What: "not registered", Remedy: "start 'baize agent' on it",
			}
		}
		return trace.Facts{}, fmt.Errorf("%w; --node names another than this host", err)
	}
	return trace.Computed(view, planOptions(a.c, a.snap.Nodes[a.self]), note, nil), nil
}

func explainText(f trace.Facts, text string) ([]trace.Explanation, error) {
	if e, ok := f.Port(text); ok {
		return []trace.Explanation{e}, nil
	}
	if e, ok := f.Drop(text); ok {
		return []trace.Explanation{e}, nil
	}
	if out, ok := f.Flow(text); ok {
		return out, nil
	}
	known := pipeline.DropClasses()
	for _, p := range f.Wanted.Ports {
		known = append(known, p.Name)
	}
	return nil, notFound("flow, port or reason", text, known,
		"paste a line of 'ovs-ofctl dump-flows', or name a port of 'ovs-vsctl show'; --node names another node")
}

func explainCode(code fault.Code) (trace.Explanation, error) {
	meanings := fault.Meanings()
	text, known := meanings[code]
	if !known {
		var names []string
		for c := range meanings {
			names = append(names, string(c))
		}
		return trace.Explanation{}, notFound("fault", string(code), names, "docs/faults.md lists the codes")
	}
	return trace.Explanation{
		Kind: "fault", Subject: string(code), Text: text, Remedy: "'baize status' shows it with its subject and what to do",
		Details: []trace.Detail{{Name: "found in", Value: code.Area()}, {Name: "severity", Value: string(code.Severity())}},
	}, nil
}

// explained prints explanations: of several, each after an empty line.
func (r *runner) explained(c *ucli.Context, list []trace.Explanation) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	if !isTable(format) {
		return r.data(format, list)
	}
	for i, e := range list {
		if i > 0 {
			if err := r.say(""); err != nil {
				return err
			}
		}
		if err := r.say("%s\n  %s", e.Subject, e.Text); err != nil {
			return err
		}
		var rows [][]string
		for _, d := range e.Details {
			rows = append(rows, []string{"  " + d.Name + ":", cli.Printable(d.Value)})
		}
		if err := writeRows(r.Out, rows); err != nil {
			return err
		}
		if e.Remedy != "" {
			if err := r.say("  → %s", e.Remedy); err != nil {
				return err
			}
		}
	}
	return nil
}
