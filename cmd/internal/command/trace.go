package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/cmd/internal/fastpath/bpf"
	"github.com/baize-net/baize/cmd/internal/kernel/linux"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

func (r *runner) traceCommand() *ucli.Command {
	return &ucli.Command{
		Name: "trace", Usage: "follow a packet from one endpoint to another, hop by hop, and say where it ends and why",
		ArgsUsage: "[SOURCE] [DESTINATION]",
		Description: `SOURCE and DESTINATION are endpoints or containers of this node, published names, or
addresses; host2/c1 is an endpoint of another node, whose agent is asked. Each step says which table of which
switch decides, and which key in etcd, at which revision, put that flow there. First
the sender asks for the link address of the receiver, and the answer comes back.

The trace goes by what Open vSwitch and the kernel really have, and says where that is
not what it should be: on this host as root, on others by asking their agents by way of
etcd. What a host whose agent does not answer does is computed from etcd, and marked
so. No packet is sent. docs/trace.md tells how to read it.
With --live, the flows of the way are counted while your own packets go that way.
--drops alone shows what this host dropped in the last seconds, and why.

The exit code is 0 where the packet is delivered, and 7 where it is not, or where
nobody can say.

  baize trace c1 host3/c1
  baize trace web 10.1.65.2 --proto tcp --port 443
  baize trace c1 10.1.65.2 --arp
  baize trace c1 10.1.65.2 --live --for 10s
  baize trace c1 --broadcast
  baize trace --drops`,
		Flags:  append(packetFlags(), bridgeFlags()...),
		Action: r.trace,
	}
}

// packetFlags say what the packet is, and what is told of it.
func packetFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{
			Name:    "proto",
			Usage:   "`PROTOCOL` of the packet: icmp, tcp or udp",
			Value:   trace.ICMP,
			EnvVars: cli.Env("trace-proto"),
		},
		&ucli.IntFlag{
			Name:    "port",
			Usage:   "`PORT` that a packet of TCP or UDP is for",
			EnvVars: cli.Env("trace-port"),
			Action:  isPort("port"),
		},
		&ucli.IntFlag{
			Name:    "ttl",
			Usage:   "`NUMBER` that the packet's TTL or hop limit begins with",
			Value:   panels.DefaultTTL,
			EnvVars: cli.Env("trace-ttl"),
			Action:  between("ttl", 1, 255),
		},
		&ucli.BoolFlag{Name: "arp", Usage: "an ARP request and its answer only", EnvVars: cli.Env("trace-arp")},
		&ucli.BoolFlag{
			Name: "nd", Usage: "a neighbour solicitation and its answer only", EnvVars: cli.Env("trace-nd"),
		},
		&ucli.BoolFlag{
			Name:    "broadcast",
			Usage:   "a broadcast; without DESTINATION, to everybody",
			EnvVars: cli.Env("trace-broadcast"),
		},
		&ucli.BoolFlag{
			Name:    "live",
			Usage:   "then count for a while which flows of the way real packets take",
			EnvVars: cli.Env("trace-live"),
		},
		&ucli.DurationFlag{
			Name: "for", Usage: "how long --live counts", Value: 5 * time.Second, EnvVars: cli.Env("trace-for"),
			Action: atLeast("for", time.Second),
		},
		&ucli.BoolFlag{
			Name: "drops", Usage: "show the headers of what this host dropped last, by reason", EnvVars: cli.Env("trace-drops"),
		},
		&ucli.StringFlag{Name: "network", Usage: "`NAME` of the network, where an address is in several"},
		&ucli.StringFlag{Name: "node", Usage: "`NAME` of this node (default the name of this host)"},
		&ucli.BoolFlag{
			Name: "verbose", Aliases: []string{"v"}, Usage: "show the flows, and all steps of question and answer",
			EnvVars: cli.Env("trace-verbose"),
		},
		sourceFlag(),
		outputFlag("text", "json", "yaml", "jsonpath="),
	}
}

// traceHopCommand answers questions about packets for this host, JSON to JSON.
func (r *runner) traceHopCommand() *ucli.Command {
	return &ucli.Command{
		Name: "trace-hop", Usage: "read questions about packets, and say what becomes of them on this host", Hidden: true,
		Flags: append([]ucli.Flag{
			&ucli.StringFlag{Name: "node", Usage: "`NAME` of this node (default the name of this host)"}, sourceFlag(),
		}, bridgeFlags()...),
		Action: r.traceHop,
	}
}

// traceFlags are those that this node's agent knows as well.
var traceFlags = []string{"node", "bridge", "ovsdb", "ovs-rundir", "vxlan-port", "geneve-port"}

func (r *runner) trace(c *ucli.Context) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	if c.Bool("drops") {
		return r.traceDrops(c, format)
	}
	protocol, err := traceProtocol(c)
	if err != nil {
		return err
	}
	asker, err := r.newAsker(c)
	if err != nil {
		return err
	}
	return r.withStore(c, func(store *etcdstore.Store) error {
		asker.store = store
		return r.follow(c, asker, protocol, format)
	})
}

// follow follows the packet, and says where it ended.
func (r *runner) follow(c *ucli.Context, asker *traceAsker, protocol, format string) error {
	return r.withTopology(c, asker.self, func(snap *topology.Snapshot) error {
		asker.snap = snap
		asker.withoutAgent(c.Context)
		req, err := asker.request(asked{
			command: "baize trace", protocol: protocol, network: c.String("network"), args: c.Args().Slice(),
			port: c.Int("port"), ttl: c.Int("ttl"),
		})
		if err != nil {
			return err
		}
		result, err := waiting(r, c, "following the packet", func(ctx context.Context) (trace.Result, error) {
			return trace.Walk(ctx, req, asker)
		})
		if err == nil && c.Bool("live") {
			result, err = asker.live(req, result)
		}
		if err != nil {
			return err
		}
		if format == "text" {
			err = traceText(r.Out, result, c.Bool("verbose"))
		} else {
			err = r.data(format, result)
		}
		if err == nil && result.Verdict.Outcome != trace.Delivered {
			err = &cli.ExitStatus{Code: exitProblems}
		}
		return err
	})
}

// traceProtocol says what the trace is of.
func traceProtocol(c *ucli.Context) (string, error) {
	const command = "baize trace"
	chosen := []string{}
	for _, flag := range []string{trace.ARP, trace.ND, trace.Broadcast} {
		if c.Bool(flag) {
			chosen = append(chosen, flag)
		}
	}
	if c.IsSet("proto") || c.IsSet("port") {
		chosen = append(chosen, c.String("proto"))
	}
	switch {
	case len(chosen) > 1:
		return "", usagef(command, "only one of --proto, --arp, --nd and --broadcast says what the packet is")
	case len(chosen) == 0:
		return trace.ICMP, nil
	}
	switch p := chosen[0]; {
	case p == trace.TCP || p == trace.UDP:
		return p, nil
	case p == trace.ICMP && c.IsSet("port"):
		return "", usagef(command, "--port needs --proto tcp or udp")
	case p == trace.ICMP || c.Bool(p):
		return p, nil
	default:
		return "", checkOneOf(command, "proto", p, []string{trace.ICMP, trace.TCP, trace.UDP})
	}
}

// traceAsker answers for this host from what it has, and for other nodes from etcd.
type traceAsker struct {
	r    *runner
	c    *ucli.Context
	snap *topology.Snapshot
	// self is this node.
	self string
	// store is where other nodes are asked; nil: they are not.
	store *etcdstore.Store
	// silent are nodes that did not answer, and why.
	silent map[string]error
	// endpoints are those of this node that its agent knows, unless agentErr.
	endpoints []api.Endpoint
	agentErr  error
	facts     *trace.Facts
}

func (r *runner) newAsker(c *ucli.Context) (*traceAsker, error) {
	if err := r.nodeFlags(c, traceFlags...); err != nil {
		return nil, err
	}
	a := &traceAsker{r: r, c: c, self: c.String("node"), silent: map[string]error{}}
	if a.self == "" {
		var err error
		if a.self, err = hostName(); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(r.socket(c).Value); err != nil {
		a.agentErr = err
		return a, nil
	}
	a.endpoints, a.agentErr = waiting(r, c, "asking the agent", r.agentClient(c).Endpoints)
	return a, nil
}

// withoutAgent takes this node's endpoints from the ports where no agent answers.
func (a *traceAsker) withoutAgent(ctx context.Context) {
	if a.agentErr == nil || a.snap.Nodes[a.self].Name == "" {
		return
	}
	f, err := a.observed(ctx, a.snap.View(a.self))
	if err != nil {
		return // then there are none, and who needs one is told
	}
	for _, e := range f.Endpoints {
		a.endpoints = append(a.endpoints, api.EndpointOf(e))
	}
}

// Ask implements trace.Asker.
func (a *traceAsker) Ask(ctx context.Context, q trace.Question) (trace.Hop, error) {
	view := a.snap.View(q.Node)
	note := "not asked"
	if q.Node == a.self {
		f, err := a.observed(ctx, view)
		if err == nil {
			return f.Hop(q), nil
		}
		note = strings.TrimSpace(err.Error())
	} else if a.store != nil {
		hop, err := askNode[trace.Hop](ctx, a, q.Node, trace.QuestionKind, q)
		if err == nil {
			return hop, nil
		}
		note = strings.TrimSpace(err.Error())
	}
	return trace.Computed(view, planOptions(a.c, a.snap.Nodes[q.Node]), note, q.Assume).Hop(q), nil
}

// askNode asks another node's agent.
func askNode[T any](ctx context.Context, a *traceAsker, node, kind string, arguments any) (out T, err error) {
	if _, alive := a.snap.Alive[node]; !alive {
		return out, errors.New("its agent does not run")
	}
	if err := a.silent[node]; err != nil {
		return out, err // it is not waited for twice
	}
	answers, errs, err := ask[T](ctx, a.store, kind, []string{node}, arguments)
	if err == nil {
		err = errs[node]
	}
	if err != nil {
		a.silent[node] = err
	}
	return answers[node], err
}

// observed reads this host, once.
func (a *traceAsker) observed(ctx context.Context, view topology.View) (trace.Facts, error) {
	if a.facts != nil {
		return *a.facts, nil
	}
	if os.Geteuid() != 0 {
		return trace.Facts{}, errors.New("reading Open vSwitch needs root")
	}
	opt := planOptions(a.c, a.snap.Nodes[a.self])
	db, err := vswitch.New(vswitch.Config{Endpoint: a.c.String("ovsdb"), Bridge: opt.Bridge})
	if err != nil {
		return trace.Facts{}, err
	}
	defer db.Close()
	if a.agentErr == nil { // else the kernel's routes say it
		if _, err := a.r.agentRoutes(a.c, view, &opt); err != nil {
			opt.Direct = nil
		}
	}
	host := trace.Host{
		DB: db, Flows: a.flows(), Kernel: linux.Host{}, FastPath: bpf.Read, Containers: a.containerOf,
	}
	endpoints := make([]ovs.Endpoint, len(a.endpoints))
	for i, e := range a.endpoints {
		endpoints[i] = e.OfSwitch()
	}
	f, err := host.Read(ctx, view, opt, endpoints)
	if err == nil {
		a.facts = &f
	}
	return f, err
}

// containerOf returns what people call the container of an endpoint of this host.
func (a *traceAsker) containerOf(e ovs.Endpoint) string {
	for _, x := range a.endpoints {
		if x.Network == e.Network && x.Name == e.Name {
			return x.Container
		}
	}
	return ""
}

// flows are those of this host's bridge.
func (a *traceAsker) flows() *openflow.Client {
	return openflow.New(openflow.Config{
		Bridge: a.c.String("bridge"), RunDir: drift.RunDir(a.c.String("ovs-rundir"), a.c.String("ovsdb")),
	})
}

// live follows the packet again after a while, and counts what went that way. An
// interrupt ends the while.
func (a *traceAsker) live(req trace.Request, before trace.Result) (trace.Result, error) {
	_, err := waiting(a.r, a.c, "counting packets", func(ctx context.Context) (struct{}, error) {
		t := time.NewTimer(a.c.Duration("for"))
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		return struct{}{}, nil
	})
	if err != nil {
		return before, err
	}
	a.facts = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.c.Context), liveTimeout)
	defer cancel()
	after, err := trace.Walk(ctx, req, a)
	return trace.Count(before, after), err
}

// liveTimeout bounds the second reading of this host.
const liveTimeout = 20 * time.Second

// dropsAReason is how many headers --drops shows of one reason.
const dropsAReason = 5

func (r *runner) traceDrops(c *ucli.Context, format string) error {
	if c.Args().Len() > 0 {
		return usagef("baize trace", "--drops is of the whole host: it takes no SOURCE")
	}
	a, err := r.newAsker(c)
	if err != nil {
		return err
	}
	return r.withTopology(c, a.self, func(snap *topology.Snapshot) error {
		a.snap = snap
		drops, err := waiting(r, c, "reading Open vSwitch", func(ctx context.Context) ([]trace.Drop, error) {
			f, err := a.observed(ctx, snap.View(a.self))
			if err != nil {
				return nil, err
			}
			dropped, err := a.flows().Dropped(ctx)
			return f.Drops(dropped, dropsAReason), err
		})
		if err != nil {
			return err
		}
		if format != "text" {
			return r.data(format, drops)
		}
		return r.dropsText(drops)
	})
}

// dropsText lists drops under their reasons.
func (r *runner) dropsText(drops []trace.Drop) error {
	if len(drops) == 0 {
		return r.say("nothing was dropped in the last seconds")
	}
	for i, d := range drops {
		if i == 0 || drops[i-1].Reason != d.Reason {
			if err := r.say("%s, in %s", d.Reason, d.Table); err != nil {
				return err
			}
		}
		err := r.say("  %s ago  %s from %s: %s", time.Duration(d.Seconds*float64(time.Second)).Round(100*time.Millisecond),
			fault.Counted(int(d.Packets), "packet"), d.From, d.Header)
		if err != nil {
			return err
		}
	}
	return nil
}

// traceHop answers question after question from what the host had at the first.
// Before that it writes the node's name: it has read the topology then.
func (r *runner) traceHop(c *ucli.Context) error {
	a, err := r.newAsker(c)
	if err != nil {
		return err
	}
	return r.withTopology(c, a.self, func(snap *topology.Snapshot) error {
		a.snap = snap
		in, out := json.NewDecoder(r.In), json.NewEncoder(r.Out)
		if err := out.Encode(a.self); err != nil {
			return err
		}
		for {
			var q trace.Question
			switch err := in.Decode(&q); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return fmt.Errorf("question: %w", err)
			}
			f, err := a.observed(c.Context, snap.View(a.self))
			if err == nil {
				err = out.Encode(f.Hop(q))
			}
			if err != nil {
				return err
			}
		}
	})
}

var _ trace.Asker = (*traceAsker)(nil)
