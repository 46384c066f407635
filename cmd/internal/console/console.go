// Package console is Baize in a browser: a page that shows hosts, networks, leases
// and faults, and follows them. It only reads. The page is in the executable, and
// asks for nothing from anywhere else.
//
//	GET /                     the page; the files in web
//	GET /api/v1/stream        server-sent events, one for each section that changed
//	GET /api/v1/state         State, the section of that name
//	GET /api/v1/hosts/{name}  Host with its tunnels
//	GET /api/v1/trace?from=&to=&protocol=&port=   Trace, where there is a Tracer
//
// Everything below /api needs "Authorization: Bearer TOKEN" where a token is set.
package console

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
)

// Value is something that changes and that the console shows. A part.Cell is one.
type Value[T any] interface {
	Get() T
	// Known reports whether there ever was a value.
	Known() bool
	// Wakes has a signal woken by each change, until Forget.
	Wakes(s part.Signal)
	Forget(s part.Signal)
}

// As is a Value of another type, made of v each time it is asked for.
func As[T, U any](v Value[T], turn func(T) U) Value[U] { return turned[T, U]{v, turn} }

type turned[T, U any] struct {
	Value[T]
	turn func(T) U
}

func (t turned[T, U]) Get() U { return t.turn(t.Value.Get()) }

// Topology is what etcd has.
type Topology struct {
	Snapshot *topology.Snapshot
	// Err says why the snapshot may be old.
	Err error
}

// Agent is what the agent of the console's own host says.
type Agent struct {
	// Status is nil where no agent answers.
	Status *api.Status
	// Err says why an agent that is there does not answer.
	Err error
}

// Config is what a console shows. What is nil is not on the page.
type Config struct {
	Version  string
	Topology Value[Topology]
	Agent    Value[Agent]
	Latency  Value[Latency]
	Findings Value[[]Finding]
	Events   Value[[]Event]
	Rates    Value[Rates]
	Tracer   Tracer
	// Token is what a browser has to know; empty: nothing.
	Token string
}

// pause is the least time between two passes, so that changes which come together
// are shown together.
const pause = 150 * time.Millisecond

// Console shows a cluster to browsers. Run it to keep it up to date, and serve its
// Handler, or do both with Serve.
type Console struct {
	cfg Config
	// shown has the newest of each section; every stream sends from here, so that
	// a slow one costs nothing but its own connection.
	shown *part.Cell[sections]
	// watched counts the open streams; counting is held to change it.
	watched  *part.Cell[int]
	counting sync.Mutex
	wake     part.Signal
	ended    chan struct{}
}

// sections are the parts of the page that change on their own, by the name of
// their event.
type sections map[string]section

type section struct {
	version uint64
	data    []byte // JSON, on one line
}

// New returns a console. It starts nothing.
func New(cfg Config) *Console {
	same := func(a, b int) bool { return a == b }
	return &Console{
		cfg: cfg, shown: part.NewCell[sections](nil), watched: part.NewCell(same), wake: part.NewSignal(),
		ended: make(chan struct{}),
	}
}

// Watched is how many browsers follow the console: what has to be asked for need not
// be while there is none.
func (c *Console) Watched() Value[int] { return c.watched }

// Run keeps the sections up to date until ctx ends; then all streams end. It is
// called once.
func (c *Console) Run(ctx context.Context) {
	defer close(c.ended)
	for _, v := range c.values() {
		v.Wakes(c.wake)
		defer v.Forget(c.wake)
	}
	part.Loop{Wake: c.wake, Pause: pause}.Run(ctx, func(context.Context) error { return c.pass() })
}

// waker is the part of a Value that does not depend on its type.
type waker interface {
	Wakes(s part.Signal)
	Forget(s part.Signal)
}

func (c *Console) values() (out []waker) {
	out = append(out, c.cfg.Topology)
	if c.cfg.Agent != nil {
		out = append(out, c.cfg.Agent)
	}
	if c.cfg.Latency != nil {
		out = append(out, c.cfg.Latency)
	}
	if c.cfg.Findings != nil {
		out = append(out, c.cfg.Findings)
	}
	if c.cfg.Events != nil {
		out = append(out, c.cfg.Events)
	}
	if c.cfg.Rates != nil {
		out = append(out, c.cfg.Rates)
	}
	return out
}

// pass makes the sections anew; what is the same as before keeps its version.
func (c *Console) pass() error {
	next := maps.Clone(c.shown.Get())
	if next == nil {
		next = sections{}
	}
	changed := false
	set := func(name string, v any) error {
		data, err := json.Marshal(v)
		if err != nil || bytes.Equal(next[name].data, data) {
			return err
		}
		next[name] = section{version: next[name].version + 1, data: data}
		changed = true
		return nil
	}
	if c.cfg.Topology.Known() {
		if err := set("state", c.state()); err != nil {
			return err
		}
	}
	if c.cfg.Agent != nil && c.cfg.Agent.Known() {
		if err := set("agent", newAgentState(c.cfg.Agent.Get())); err != nil {
			return err
		}
	}
	if err := setKnown(set, "latency", c.cfg.Latency); err != nil {
		return err
	}
	if err := setKnown(set, "findings", c.cfg.Findings); err != nil {
		return err
	}
	if err := setKnown(set, "events", c.cfg.Events); err != nil {
		return err
	}
	if err := setKnown(set, "rates", c.cfg.Rates); err != nil {
		return err
	}
	if changed {
		c.shown.Set(next)
	}
	return nil
}

func setKnown[T any](set func(string, any) error, name string, v Value[T]) error {
	if v == nil || !v.Known() {
		return nil
	}
	return set(name, v.Get())
}

func (c *Console) state() State {
	var agent Agent
	if c.cfg.Agent != nil {
		agent = c.cfg.Agent.Get()
	}
	s := NewState(c.cfg.Topology.Get(), agent)
	s.Version, s.Panels = c.cfg.Version, c.panels()
	return s
}

// panels names the pages that there is something for.
func (c *Console) panels() []string {
	out := []string{}
	for _, p := range []struct {
		name string
		has  bool
	}{
		{"latency", c.cfg.Latency != nil},
		{"findings", c.cfg.Findings != nil},
		{"trace", c.cfg.Tracer != nil},
		{"events", c.cfg.Events != nil},
	} {
		if p.has {
			out = append(out, p.name)
		}
	}
	return out
}
