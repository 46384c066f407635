// Package events is the part of the agent that keeps a journal of what happened on the
// node and in the topology, with causes. Events are made of what other parts hand over:
// the difference of two topologies, of two lists of faults; what was done to endpoints
// and at the switch. Nothing waits for the journal, and nothing but the journal suffers
// where the disk is full.
package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// pause lets faults that come together be looked at together.
	pause = 100 * time.Millisecond
	// lookEvery is how often faults are looked at of parts that do not tell.
	lookEvery = time.Minute
)

// Sources are what events are made of.
type Sources struct {
	Hub *hub.Hub
	// Faults are those of all parts, FaultsWake wakes a signal when they may have changed.
	Faults     func() []fault.Fault
	FaultsWake func(part.Signal)
	Endpoints  *part.Queue[attach.Deed]
	Known      *part.Cell[attach.Known]
	Switch     *part.Queue[openvswitch.Deed]
	// Called is what the engine calls containers, by the label of their endpoints; nil
	// where there is no engine.
	Called *part.Cell[names.Called]
	Label  string
	// Version is the program's, Started when the agent began.
	Version string
	Started time.Time
}

// Part is the part of the agent.
type Part struct {
	sources Sources
	journal *Journal
	log     *logrus.Entry
	faults  part.Faults
	begun   sync.Once

	// wakes are those of the loops.
	wakes struct{ endpoints, switched, topology, faults, named part.Signal }

	// Each loop below uses its own.
	topology hub.Topology // as it was looked at last
	lost     time.Time    // since when etcd does not answer
	seen     []fault.Fault
	quiet    quiet
	away     bool // ovs-vswitchd ended

	damping sync.Mutex // of damper and damped, when all of it was looked at last
	damper  damper
	damped  time.Time

	naming sync.Mutex // of named
	// named are the containers of endpoints, as they were last called.
	named map[string]names.Container

	mu   sync.Mutex
	ends chan struct{} // closed when the part ends: nobody need follow any more
}

// New returns the part. It starts nothing.
func New(s Sources, stateDir string, log *logrus.Entry) *Part {
	p := &Part{
		sources: s, journal: NewJournal(stateDir, s.Hub.Self().Node), log: log.WithField("part", "events"),
		named: map[string]names.Container{}, quiet: quiet{}, damper: damper{},
	}
	w := &p.wakes
	for _, signal := range []*part.Signal{&w.endpoints, &w.switched, &w.topology, &w.faults, &w.named} {
		*signal = part.NewSignal()
	}
	// From the agent's beginning on, so that nothing is missed.
	s.Endpoints.Wakes(w.endpoints)
	s.Switch.Wakes(w.switched)
	return p
}

// Name implements part.Part.
func (p *Part) Name() string { return "events" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Journal is where the events are.
func (p *Part) Journal() *Journal { return p.journal }

// Cleanup implements part.Part.
func (p *Part) Cleanup(_ context.Context, undo part.Undo) ([]string, error) {
	return undo.RemoveFiles(p.journal.paths()...)
}

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	ends := make(chan struct{})
	p.mu.Lock()
	p.ends = ends
	p.mu.Unlock()
	defer close(ends)
	s, w := p.sources, p.wakes
	p.begun.Do(func() {
		e := started(p.journal, s.Hub.Self(), s.Version)
		e.Time = s.Started
		p.add(e)
	})
	s.Hub.Topology().Wakes(w.topology)
	s.FaultsWake(w.faults)
	if s.Called != nil {
		s.Called.Wakes(w.named)
	}

	g := part.NewGroup(ctx)
	loop := func(l part.Loop, pass func()) { g.Loop(l, func(context.Context) error { pass(); return nil }) }
	loop(part.Loop{Wake: w.endpoints}, p.takeEndpoints)
	loop(part.Loop{Wake: w.switched}, p.takeSwitch)
	loop(part.Loop{Wake: w.topology}, p.lookAtTopology)
	loop(part.Loop{Wake: w.faults, Pause: pause, Every: lookEvery}, p.lookAtFaults)
	if s.Called != nil {
		loop(part.Loop{Wake: w.named, Pause: pause}, p.lookAtNames)
	}
	err := g.Wait()
	if err == nil {
		p.add(event.Event{
			Kind: event.AgentStopped, Subject: "agent", Text: "stopped; forwarding goes on", Cause: "it was told to",
			Version: p.sources.Version,
		})
	}
	return errors.Join(err, p.journal.Close())
}

// add writes events. What the disk does not take is a fault of this part alone.
func (p *Part) add(events ...event.Event) {
	p.damping.Lock()
	now := time.Now()
	events = p.damper.choose(events, now)
	if now.Sub(p.damped) >= dampFor {
		events = append(p.damper.due(now), events...)
		p.damped = now
	}
	p.damping.Unlock()
	if len(events) == 0 {
		return
	}
	for _, f := range p.faults.Set(fault.All(p.journal.Add(events...))) {
		p.log.Warn(f)
	}
}

// lookAtTopology tells what became of the topology, and of etcd.
func (p *Part) lookAtTopology() {
	before, now := p.topology, p.sources.Hub.Topology().Get()
	p.topology = now
	var events []event.Event
	if (before.Err == nil) != (now.Err == nil) {
		events = append(events, p.etcd(now))
	}
	if now.Known() && before.Snapshot != now.Snapshot {
		events = append(events, p.difference(before, now)...)
	}
	for i := range events {
		events[i].Time = now.At
	}
	p.add(events...)
}

func (p *Part) etcd(now hub.Topology) event.Event {
	e := event.Event{Kind: event.EtcdLost, Subject: "etcd"}
	if now.Err != nil {
		f := fault.Of(now.Err)
		p.lost = time.Now()
		e.Code, e.Text, e.Cause = f.Code, "does not answer; forwarding goes on", fault.Printable(f.What)
		return e
	}
	e.Kind, e.Text = event.EtcdBack, "answers again"
	if !p.lost.IsZero() {
		e.Text += " after " + time.Since(p.lost).Round(100*time.Millisecond).String()
	}
	if now.Known() {
		e.Revision = now.Snapshot.Revision
	}
	return e
}

// difference compares two topologies. The first one is compared with that which the
// agent before this one saw last.
func (p *Part) difference(before, now hub.Topology) []event.Event {
	was, kept := before.Snapshot, before.Cached
	if was == nil {
		was, kept = p.sources.Hub.Earlier(), true
	}
	events := event.Topology(was, now.Snapshot, !kept)
	if kept {
		for i := range events {
			events[i].Cause += ", while no agent ran here or etcd did not answer it"
		}
	}
	return events
}

// lookAtFaults tells which faults came and went.
func (p *Part) lookAtFaults() {
	t := p.sources.Hub.Topology().Get()
	now := p.quiet.choose(p.sources.Faults(), t.Err != nil || !t.Known())
	events := event.Faults(p.seen, now)
	p.seen = now
	p.add(events...)
}

// takeEndpoints tells what was done to endpoints.
func (p *Part) takeEndpoints() {
	deeds, lost := p.sources.Endpoints.Take()
	events := missed(lost, "endpoints")
	for _, d := range deeds {
		events = append(events, ofEndpoint(d, p.container(d.Endpoint, d.What == attach.Detached)))
	}
	p.add(events...)
}

// container is that of an endpoint of the engine's. The engine may have forgotten one
// that ended, which last says.
func (p *Part) container(x ovs.Endpoint, last bool) names.Container {
	id := x.Labels[p.sources.Label]
	if p.sources.Called == nil || id == "" {
		return names.Container{}
	}
	p.naming.Lock()
	defer p.naming.Unlock()
	c, ok := p.sources.Called.Get().Containers[id]
	if !ok {
		c = p.named[id]
	}
	if last {
		delete(p.named, id)
	}
	return c
}

// takeSwitch tells what happened at the switch.
func (p *Part) takeSwitch() {
	deeds, lost := p.sources.Switch.Take()
	events := missed(lost, "the switch")
	for _, d := range deeds {
		switch d.What {
		case openvswitch.Lost:
			p.away = true
		case openvswitch.Back:
			if !p.away {
				continue // the first connection
			}
			p.away = false
		}
		events = append(events, ofSwitch(d)...)
	}
	p.add(events...)
}

// lookAtNames tells which container an endpoint is of, once the engine has said so.
func (p *Part) lookAtNames() {
	known, called := p.sources.Known.Get(), p.sources.Called.Get()
	var events []event.Event
	p.naming.Lock()
	for _, x := range known.Endpoints {
		id := x.Labels[p.sources.Label]
		c := called.Containers[id]
		if c.Name == "" || p.named[id].Name == c.Name {
			continue
		}
		p.named[id] = c
		events = append(events, named(x, c))
	}
	p.naming.Unlock()
	p.add(events...)
}

// missed says that events were not taken in time.
func missed(lost int, of string) []event.Event {
	if lost == 0 {
		return nil
	}
	return []event.Event{{
		Kind: event.EventsLost, Subject: "journal", Text: fmt.Sprintf("%d earlier events of %s were not written", lost, of),
		Cause: "they came faster than they were written",
	}}
}

// Follow calls show with each event that a query chooses, those that there are first,
// until ctx ends, the part does, or show returns an error. Where the part ends the
// error is ErrStopped.
func (p *Part) Follow(ctx context.Context, q event.Query, show func(event.Event) error) error {
	p.mu.Lock()
	ends := p.ends
	p.mu.Unlock()
	if ends == nil {
		return ErrStopped
	}
	wake := part.NewSignal()
	p.journal.changed.Wakes(wake)
	defer p.journal.changed.Forget(wake)
	events, err := p.journal.Read(event.Query{})
	choose, last := q.Chooser(), q.After
	for ended := false; err == nil; {
		for _, e := range events {
			last = max(last, e.ID)
			if !choose.Chooses(e) {
				continue
			}
			if err := show(e); err != nil {
				return err
			}
		}
		if ended {
			return ErrStopped
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ends:
			ended = true // once more: the last event is that of the end
		case <-wake:
		}
		events, err = p.journal.after(last)
	}
	return err
}

// ErrStopped says that the agent stops: there will be no more events of it.
var ErrStopped = &topology.Error{
	Kind: topology.ErrUnavailable, Item: "agent", What: "it stops", Remedy: "events go on when it is started again",
}
