package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/events"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// The flags of events that choose them.
const (
	flagSince    = "since"
	flagUntil    = "until"
	flagFollow   = "follow"
	flagKind     = "kind"
	flagSubject  = "subject"
	flagEndpoint = "endpoint"
	flagJournal  = "journal"
	flagAll      = "all"
)

// eventsFor is how far back events are listed where nobody says.
const eventsFor = 24 * time.Hour

func (r *runner) eventsCommand() *ucli.Command {
	// What is watched is followed here: a list that is shown again would say it twice.
	flags := slices.DeleteFunc(eventKind.flags(), func(f ucli.Flag) bool { return f.Names()[0] == flagWatch })
	env := func(flag string) []string { return cli.Env(eventKind.name + "-" + flag) }
	return &ucli.Command{
		Name: "events", Usage: "show what happened on this node and in the topology, and why",
		Description: `The agent keeps a journal: of the records in etcd that came, changed and went, of
endpoints, of what was changed or repaired at Open vSwitch, of faults, of etcd and
of the agent itself. It survives restarts, and has a bounded size. docs/events.md
has the kinds of events.

A time is one of the day (14:00, yesterday 14:00), a date with or without one, one of
RFC 3339, or how long ago (90s, 2h).

  baize events --since 14:00 --until 14:10
  baize events --endpoint web --since "yesterday 14:00"
  baize events --kind fault-* --follow
  baize events --all --subject host2           # what all nodes saw of it
  baize events --journal /var/lib/baize        # where no agent runs`,
		Flags: append([]ucli.Flag{
			&ucli.StringFlag{
				Name: flagSince, EnvVars: env(flagSince),
				Usage: "`TIME` of the first event (default a day ago; with --follow now)",
			},
			&ucli.StringFlag{Name: flagUntil, EnvVars: env(flagUntil), Usage: "`TIME` of the last event (default now)"},
			&ucli.BoolFlag{
				Name: flagFollow, EnvVars: env(flagFollow), Usage: "go on with the events that come, until Ctrl-C",
			},
			&ucli.StringSliceFlag{
				Name: flagKind, EnvVars: env(flagKind), Usage: "only events of this `KIND`, or of those that begin as KIND*",
			},
			&ucli.StringFlag{
				Name: flagSubject, EnvVars: env(flagSubject),
				Usage: "only events whose subject has this `TEXT` in it, such as host2",
			},
			&ucli.StringFlag{
				Name: flagEndpoint, EnvVars: env(flagEndpoint),
				Usage: "only events of the endpoint, or of the container, with this `NAME`",
			},
			&ucli.StringFlag{Name: "network", Usage: "only events of the network with this `NAME`"},
			&ucli.StringFlag{
				Name: flagJournal, EnvVars: env(flagJournal),
				Usage: "read the journal in this state `DIRECTORY`, of an agent that does not run",
			},
			&ucli.BoolFlag{
				Name: flagAll, EnvVars: env(flagAll), Usage: "those of all nodes, whose agents are asked by way of etcd",
			},
		}, flags...),
		Action: r.events,
	}
}

var eventKind = kind[event.Event]{
	name: "event",
	key:  func(e event.Event) string { return e.Subject },
	none: "no such events: --since looks further back",
	columns: []column[event.Event]{
		{"TIME", plain, func(e event.Event) any { return e.Time.Local().Format("2006-01-02 15:04:05.000") }},
		{"NODE", wide, func(e event.Event) any { return e.Node }},
		{"KIND", plain, func(e event.Event) any { return string(e.Kind) }},
		{"NETWORK", wide, func(e event.Event) any { return e.Network }},
		{"SUBJECT", plain, func(e event.Event) any { return e.Subject }},
		{"CODE", optional, func(e event.Event) any { return string(e.Code) }},
		{"WHAT", plain, func(e event.Event) any { return e.Text }},
		{"CAUSE", plain, func(e event.Event) any { return e.Cause }},
	},
}

func (r *runner) events(c *ucli.Context) error {
	q, err := eventQuery(c, time.Now())
	if err != nil {
		return err
	}
	f, err := eventKind.form(r, c)
	if err != nil {
		return err
	}
	dir, follow := c.String(flagJournal), c.Bool(flagFollow)
	switch {
	case dir != "" && follow:
		return usagef(c.Command.HelpName, "--follow needs an agent, --journal is for where none runs")
	case c.Bool(flagAll) && (follow || dir != ""):
		return usagef(c.Command.HelpName, "--all goes with neither --follow nor --journal")
	case follow:
		return r.followEvents(c, q, f)
	case c.Bool(flagAll):
		return r.allEvents(c, q, f)
	}
	source := r.agentEvents(c)
	if dir != "" {
		source = func(_ context.Context, q event.Query) ([]event.Event, error) { return events.ReadDir(dir, q) }
	}
	list, err := waiting(r, c, "asking the agent", func(ctx context.Context) ([]event.Event, error) {
		return gatherEvents(ctx, q, source)
	})
	if len(list) == 0 && errors.Is(err, topology.ErrUnavailable) {
		return fmt.Errorf("%w; 'baize events --journal DIRECTORY' reads the journal of an agent that does not run", err)
	}
	if len(list) == 0 && err != nil {
		return err
	}
	return errors.Join(eventKind.print(r, f, list), err)
}

// allEvents prints those of all nodes whose agents run. One that does not answer costs
// its own events only.
func (r *runner) allEvents(c *ucli.Context, q event.Query, f form) error {
	return r.withSnapshot(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		var nodes []string
		for _, n := range snap.SortedNodes() {
			if _, alive := snap.Alive[n.Name]; alive && n.Router == nil {
				nodes = append(nodes, n.Name)
			}
		}
		var silent []error
		list, err := waiting(r, c, "asking all nodes", func(ctx context.Context) (list []event.Event, err error) {
			answers, errs, err := ask[[]event.Event](ctx, s, event.QuestionKind, nodes, q)
			for _, n := range nodes {
				list = append(list, answers[n]...)
				if errs[n] != nil {
					silent = append(silent, fmt.Errorf("node %s: %w", n, errs[n]))
				}
			}
			return list, err
		})
		if err != nil {
			return err
		}
		event.Sort(list)
		if f.format == cli.FormatTable {
			f.format = cli.FormatWide // whose they are
		}
		return errors.Join(eventKind.print(r, f, list), errors.Join(silent...))
	})
}

// eventSource answers a query from the journal of one node.
type eventSource func(ctx context.Context, q event.Query) ([]event.Event, error)

// agentEvents is the journal of this node's agent.
func (r *runner) agentEvents(c *ucli.Context) eventSource {
	return func(ctx context.Context, q event.Query) (list []event.Event, err error) {
		err = r.agentClient(c).Events(ctx, q, false, func(e event.Event) error { list = append(list, e); return nil })
		return list, err
	}
}

// gatherEvents asks all sources at a time, and returns what they answer by time. A source
// that does not answer costs its own events only.
func gatherEvents(ctx context.Context, q event.Query, sources ...eventSource) ([]event.Event, error) {
	answers, errs := make([][]event.Event, len(sources)), make([]error, len(sources))
	var asked sync.WaitGroup
	for i, ask := range sources {
		asked.Go(func() { answers[i], errs[i] = ask(ctx, q) })
	}
	asked.Wait()
	list := append([]event.Event{}, slices.Concat(answers...)...)
	event.Sort(list)
	return list, errors.Join(errs...)
}

// eventQuery reads the flags that choose events.
func eventQuery(c *ucli.Context, now time.Time) (event.Query, error) {
	q := event.Query{
		Kinds: c.StringSlice(flagKind), Subject: c.String(flagSubject), Endpoint: c.String(flagEndpoint),
		Network: c.String("network"),
	}
	for _, k := range q.Kinds {
		known := slices.ContainsFunc(event.Kinds(), func(m event.Meaning) bool { return m.Kind.Matches(k) })
		if !known {
			return q, usagef(c.Command.HelpName, "--kind %s: there is no such kind of events: use one of %s", k, kindList())
		}
	}
	var err error
	if q.Since, err = parseWhen(c.String(flagSince), now); err != nil {
		return q, usagef(c.Command.HelpName, "--since %v", err)
	}
	if q.Until, err = parseUntil(c.String(flagUntil), q.Since, now); err != nil {
		return q, usagef(c.Command.HelpName, "--until %v", err)
	}
	switch {
	case q.Since.IsZero() && c.Bool(flagFollow):
		q.Since = now
	case q.Since.IsZero() && !q.Until.IsZero():
		q.Since = q.Until.Add(-eventsFor)
	case q.Since.IsZero():
		q.Since = now.Add(-eventsFor)
	case !q.Until.IsZero() && q.Until.Before(q.Since):
		return q, usagef(c.Command.HelpName, "--until %s is before --since %s", c.String(flagUntil), c.String(flagSince))
	}
	return q, nil
}

func kindList() string {
	var out []string
	for _, m := range event.Kinds() {
		out = append(out, string(m.Kind))
	}
	return strings.Join(out, ", ")
}

// followPause is how long a command waits before it asks again for an agent that ended.
const followPause = 500 * time.Millisecond

// followEvents prints events as they come, from one agent of the node to the next.
func (r *runner) followEvents(c *ucli.Context, q event.Query, f form) error {
	show := r.eventPrinter(f)
	// One that does not answer at all is an error, one that ends is waited for.
	if _, err := r.agentClient(c).Status(c.Context); err != nil {
		return err
	}
	for away := false; ; {
		err := r.agentClient(c).Events(c.Context, q, true, func(e event.Event) error {
			q.After, away = e.ID, false
			if !q.Until.IsZero() && e.Time.After(q.Until) {
				return errEnough
			}
			return show(e)
		})
		switch {
		case c.Context.Err() != nil, errors.Is(err, errEnough):
			return nil
		case !errors.Is(err, topology.ErrUnavailable):
			return err
		}
		if !away {
			away = true
			fmt.Fprintf(r.Err, "baize: %s; waiting for the agent\n", cli.Printable(err.Error()))
		}
		select {
		case <-c.Context.Done():
			return nil
		case <-time.After(followPause):
		}
	}
}

// errEnough ends a following whose end has come.
var errEnough = errors.New("enough")

// widths are those of the first columns where events are printed one by one.
var widths = []int{23, 17, 24, 6}

// eventPrinter prints one event after the other.
func (r *runner) eventPrinter(f form) func(event.Event) error {
	first := true
	return func(e event.Event) error {
		chosen, err := choose(f.query, []event.Event{e})
		if err != nil || len(chosen) == 0 {
			return err
		}
		var out bytes.Buffer
		switch f.format {
		case cli.FormatTable:
			out.WriteString(eventLine(e))
		case cli.FormatJSON:
			err = json.NewEncoder(&out).Encode(e)
		case cli.FormatYAML:
			out.WriteString("---\n")
			err = cli.Print(&out, f.format, cli.Table{}, e)
		default:
			g := f
			g.noHeaders = f.noHeaders || !first
			_, err = eventKind.write(&out, g, chosen)
		}
		first = false
		if err == nil {
			_, err = r.Out.Write(out.Bytes())
		}
		return err
	}
}

// eventLine is an event in columns whose widths do not depend on others.
func eventLine(e event.Event) string {
	var b strings.Builder
	i := 0
	for _, col := range eventKind.columns {
		if col.style == wide {
			continue
		}
		text := cli.Cell(col.value(e))
		b.WriteString(text)
		if i < len(widths) {
			b.WriteString(strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(text))))
		}
		b.WriteString("   ")
		i++
	}
	return strings.TrimRight(b.String(), " ") + "\n"
}
