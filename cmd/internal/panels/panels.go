// Package panels makes what the console shows beside the topology of what agents, doctors
// and traces say: for a console that a command serves, and for that of an agent.
package panels

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// How often the panels of a console that somebody looks at are made anew.
const (
	latencyEvery  = 15 * time.Second
	findingsEvery = 30 * time.Second
	eventsEvery   = 2 * time.Second
	// Open vSwitch counts anew every five seconds.
	ratesEvery = 5 * time.Second
	// eventsFor is how far back events are shown, shownEvents how many, the newest.
	eventsFor   = 24 * time.Hour
	shownEvents = 500
)

// Sources are what the panels are made of. What is nil is not on the page.
type Sources struct {
	// Mesh is what probes tell of the ways between all hosts.
	Mesh func(ctx context.Context) ([]api.Way, error)
	// Events are those of this host's journal.
	Events func(ctx context.Context, q event.Query) ([]event.Event, error)
	// Examine asks the doctors of all hosts.
	Examine func(ctx context.Context) (doctor.Report, error)
	// Traffic asks all hosts what they count of their links.
	Traffic func(ctx context.Context) (map[string]*api.Traffic, map[string]error, error)
}

// Panels are what a console shows.
type Panels struct {
	sources  Sources
	latency  *part.Cell[console.Latency]
	events   *part.Cell[[]console.Event]
	findings *part.Cell[[]console.Finding]
	rates    *part.Cell[console.Rates]
	// answered are of the goroutine that makes rates.
	answered Answered
}

// New returns the panels of sources. It starts nothing.
func New(s Sources) *Panels {
	return &Panels{
		sources: s, latency: part.NewCell[console.Latency](nil), events: part.NewCell[[]console.Event](nil),
		findings: part.NewCell[[]console.Finding](nil), rates: part.NewCell[console.Rates](nil),
	}
}

// Config adds the panels to a console's.
func (p *Panels) Config(cfg console.Config) console.Config {
	if p.sources.Mesh != nil {
		cfg.Latency = p.latency
	}
	if p.sources.Events != nil {
		cfg.Events = p.events
	}
	if p.sources.Examine != nil {
		cfg.Findings = p.findings
	}
	if p.sources.Traffic != nil {
		cfg.Rates = p.rates
	}
	return cfg
}

// Follow makes the panels as long as somebody looks, until ctx ends.
func (p *Panels) Follow(ctx context.Context, watched console.Value[int]) {
	var following sync.WaitGroup
	defer following.Wait()
	if p.sources.Mesh != nil {
		following.Go(func() { console.Follow(ctx, watched, latencyEvery, p.ways, p.latency) })
	}
	if p.sources.Events != nil {
		following.Go(func() { console.Follow(ctx, watched, eventsEvery, p.lately, p.events) })
	}
	if p.sources.Examine != nil {
		following.Go(func() { console.Follow(ctx, watched, findingsEvery, p.examine, p.findings) })
	}
	if p.sources.Traffic != nil {
		following.Go(func() { console.Follow(ctx, watched, ratesEvery, p.flow, p.rates) })
	}
}

func (p *Panels) ways(ctx context.Context) (console.Latency, error) {
	ways, err := p.sources.Mesh(ctx)
	return latencyOf(ways, time.Now()), err
}

func (p *Panels) lately(ctx context.Context) ([]console.Event, error) {
	list, err := p.sources.Events(ctx, event.Query{Since: time.Now().Add(-eventsFor)})
	out := []console.Event{}
	for _, e := range list[max(0, len(list)-shownEvents):] {
		out = append(out, shownEvent(e))
	}
	return out, err
}

func (p *Panels) flow(ctx context.Context) (console.Rates, error) {
	now, silent, err := p.sources.Traffic(ctx)
	if err == nil {
		p.answered = Answered{Before: p.answered.Now, Now: now, Silent: silent}
	}
	return ratesOf(p.answered, time.Now()), err
}

func (p *Panels) examine(ctx context.Context) ([]console.Finding, error) {
	report, err := p.sources.Examine(ctx)
	return findingsOf(report), err
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

// outcomes are those of a trace's steps.
var outcomes = map[trace.State]console.Outcome{
	trace.Good: console.Passed, trace.Drops: console.Failed, trace.Broken: console.Failed, trace.Unknown: console.NotSeen,
}

// TraceOf is the last packet of a trace: where the question who has an address was not
// answered, that.
func TraceOf(r trace.Result) console.Trace {
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
