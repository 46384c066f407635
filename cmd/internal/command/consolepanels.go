package command

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// How often the panels of a console that somebody looks at are made anew.
const (
	latencyEvery  = 15 * time.Second
	findingsEvery = 30 * time.Second
	eventsEvery   = 2 * time.Second
	// shownEvents is how many of the last day's events are shown, the newest.
	shownEvents = 500
)

// panels are what a console shows beside the topology: what the agents of all hosts say
// of themselves, and this host's agent of the ways between hosts and of what happened.
type panels struct {
	r        *runner
	c        *ucli.Context
	findings *part.Cell[[]console.Finding]
	// latency and events are nil where this host is no node.
	latency *part.Cell[console.Latency]
	events  *part.Cell[[]console.Event]
}

func (r *runner) newPanels(c *ucli.Context) *panels {
	p := &panels{r: r, c: c, findings: part.NewCell[[]console.Finding](nil)}
	if _, err := os.Stat(r.socket(c).Value); err == nil {
		p.latency, p.events = part.NewCell[console.Latency](nil), part.NewCell[[]console.Event](nil)
	}
	return p
}

// config adds the panels to a console's.
func (p *panels) config(cfg console.Config) console.Config {
	cfg.Findings, cfg.Tracer = p.findings, p
	if p.latency != nil {
		cfg.Latency, cfg.Events = p.latency, p.events
	}
	return cfg
}

// follow makes the panels as long as somebody looks, until ctx ends.
func (p *panels) follow(ctx context.Context, watched console.Value[int]) {
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { console.Follow(ctx, watched, findingsEvery, p.examine, p.findings) })
	if p.latency == nil {
		return
	}
	client := p.r.agentClient(p.c)
	following.Go(func() {
		console.Follow(ctx, watched, latencyEvery, func(ctx context.Context) (console.Latency, error) {
			ways, err := client.Mesh(ctx)
			return latencyOf(ways, time.Now()), err
		}, p.latency)
	})
	following.Go(func() {
		console.Follow(ctx, watched, eventsEvery, func(ctx context.Context) (out []console.Event, err error) {
			q := event.Query{Since: time.Now().Add(-eventsFor)}
			err = client.Events(ctx, q, false, func(e event.Event) error { out = append(out, shownEvent(e)); return nil })
			return out[max(0, len(out)-shownEvents):], err
		}, p.events)
	})
}

// examine asks the doctors of all hosts.
func (p *panels) examine(ctx context.Context) (out []console.Finding, err error) {
	own := *p.c
	own.Context = ctx
	err = p.r.withStore(&own, func(s *etcdstore.Store) error {
		snap, err := s.Snapshot(ctx)
		if err != nil {
			return err
		}
		asked, err := askNodes(ctx, s, snap, askPatience)
		if err != nil {
			return err
		}
		out = findingsOf(doctor.Cluster(asked, time.Now(), currentVersion().Version, askPatience))
		return nil
	})
	return out, err
}

// findingsOf lists the checks of a report and what came of each.
func findingsOf(r doctor.Report) []console.Finding {
	out := []console.Finding{}
	for _, x := range r.Results {
		check := strings.Trim(x.Section+", "+x.Check, ", ")
		if len(x.Findings) == 0 {
			out = append(out, console.Finding{Outcome: console.Outcome(x.State), Check: check, What: x.Text})
		}
		for _, f := range x.Findings {
			outcome := console.Failed
			if f.Severity == fault.Warning {
				outcome = console.Warned
			}
			out = append(out, console.Finding{
				Outcome: outcome, Code: f.Code, Check: check, Item: f.Item, Node: f.Node, What: f.What, Evidence: f.Evidence,
				Remedy: strings.Join(append([]string{f.Remedy}, f.Commands...), "\n"),
			})
		}
	}
	return out
}

// latencyOf is the matrix of what probes told, of several ways between two hosts the
// worst.
func latencyOf(ways []api.Way, at time.Time) console.Latency {
	l := console.Latency{Hosts: []string{}, At: at}
	for _, w := range ways {
		l.Hosts = append(l.Hosts, w.From, w.To)
	}
	slices.SortFunc(l.Hosts, topology.CompareNames)
	l.Hosts = slices.Compact(l.Hosts)
	index := map[string]int{}
	for i, h := range l.Hosts {
		index[h] = i
		rtt, loss := make([]float64, len(l.Hosts)), make([]float64, len(l.Hosts))
		for j := range rtt {
			rtt[j], loss[j] = -1, -1
		}
		l.RTT, l.Loss = append(l.RTT, rtt), append(l.Loss, loss)
	}
	for _, w := range ways {
		i, j := index[w.From], index[w.To]
		if w.RTT > 0 {
			l.RTT[i][j] = max(l.RTT[i][j], float64(time.Duration(w.RTT).Microseconds())/1000)
		}
		if w.LossOut != nil {
			l.Loss[i][j] = max(l.Loss[i][j], float64(*w.LossOut)/100)
		}
	}
	return l
}

func shownEvent(e event.Event) console.Event {
	out := console.Event{
		At: e.Time, Code: e.Code, Node: e.Node, Network: e.Network, Item: e.Subject, What: e.Text,
	}
	if e.Cause != "" {
		out.What += " (" + e.Cause + ")"
	}
	if e.Code != "" {
		out.Severity = e.Code.Severity()
	}
	return out
}

// Trace implements console.Tracer: what 'baize trace' says.
func (p *panels) Trace(ctx context.Context, req console.TraceRequest) (out console.Trace, err error) {
	own := *p.c
	own.Context = ctx
	if !slices.Contains([]string{trace.ICMP, trace.TCP, trace.UDP}, req.Protocol) {
		return out, &topology.Error{
			Kind: topology.ErrInvalid, Item: "protocol " + req.Protocol, What: "is unknown", Remedy: "use icmp, tcp or udp",
		}
	}
	a, err := p.r.newAsker(&own)
	if err != nil {
		return out, err
	}
	err = p.r.withStore(&own, func(s *etcdstore.Store) error {
		a.store = s
		return p.r.withTopology(&own, a.self, func(snap *topology.Snapshot) error {
			a.snap = snap
			a.withoutAgent(ctx)
			q, err := a.request(asked{
				command: "trace", args: []string{req.From, req.To}, protocol: req.Protocol, port: req.Port, ttl: defaultTTL,
			})
			if err != nil {
				return err
			}
			res, err := trace.Walk(ctx, q, a)
			out = shownTrace(res)
			return err
		})
	})
	var usage *usageError
	if errors.As(err, &usage) {
		err = &topology.Error{Kind: topology.ErrInvalid, Item: "trace", What: usage.what}
	}
	return out, err
}

// outcomes are those of a trace's steps.
var outcomes = map[trace.State]console.Outcome{
	trace.Good: console.Passed, trace.Drops: console.Failed, trace.Broken: console.Failed, trace.Unknown: console.NotSeen,
}

// shownTrace is the last packet of a trace: where the question who has an address was not
// answered, that.
func shownTrace(r trace.Result) console.Trace {
	out := console.Trace{
		From: r.Source.String(), To: r.Destination.String(), Packet: r.Protocol, Hops: []console.TraceHop{},
		Delivered: r.Verdict.Outcome == trace.Delivered, Verdict: r.Verdict.Text, Remedy: r.Verdict.Remedy,
	}
	if len(r.Phases) == 0 {
		return out
	}
	last := r.Phases[len(r.Phases)-1]
	out.Packet = last.About
	for _, h := range last.Hops {
		hop := console.TraceHop{Node: h.Node, Steps: []console.TraceStep{}}
		for _, s := range h.Steps {
			step := console.TraceStep{Stage: s.Stage, Outcome: outcomes[s.State], What: s.Text, Evidence: s.Flow}
			if s.Key != "" {
				step.What += " (because of " + s.Key + ")"
			}
			hop.Steps = append(hop.Steps, step)
			if s.Stage == trace.StageTunnel {
				hop.Wire = s.Text
			}
		}
		out.Hops = append(out.Hops, hop)
	}
	return out
}
