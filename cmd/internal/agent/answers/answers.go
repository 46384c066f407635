// Package answers is the part of the agent that answers what other hosts ask it by
// way of etcd (docs/keyspace.md, "~questions/<id>"). What can be asked is registered
// as kinds; a kind only reads. How many questions are answered at a time and in a
// minute, and how long each may take, is bounded: asking must not be a way to keep a
// thousand hosts busy.
package answers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Bounds of what an agent does for those who ask.
const (
	// atATime is how many questions are answered at the same time.
	atATime = 2
	// perMinute is how many are answered in a minute.
	perMinute = 60
	// storeTimeout bounds the writing of an answer.
	storeTimeout = 5 * time.Second
)

// Kind answers one kind of question: arguments are those of the question, JSON or
// none. The answer is written as JSON. It changes nothing, neither on this host nor in
// etcd, and ends when ctx does.
type Kind func(ctx context.Context, arguments json.RawMessage) (any, error)

// Kinds are those that an agent answers, by name.
type Kinds map[string]Kind

// Store is where questions come from.
type Store interface {
	Questions(ctx context.Context, asked func(topology.Question)) error
	PutAnswer(ctx context.Context, q topology.Question, a topology.NodeAnswer) error
}

// Part is the part of the agent.
type Part struct {
	node  string
	store Store
	kinds Kinds
	log   *logrus.Entry
	slots chan struct{}

	mu sync.Mutex
	// lately are the times of the last answers, in a minute at most.
	lately []time.Time
}

// New returns the part of a node. It starts nothing.
func New(node string, store Store, kinds Kinds, log *logrus.Entry) *Part {
	return &Part{
		node: node, store: store, kinds: kinds, log: log.WithField("part", "answers"), slots: make(chan struct{}, atATime),
	}
}

// Name implements part.Part.
func (p *Part) Name() string { return "answers" }

// Faults implements part.Part: who asks sees what is wrong, and nobody else.
func (p *Part) Faults() []fault.Fault { return nil }

// Cleanup implements part.Part: there is nothing to undo.
func (p *Part) Cleanup(context.Context, part.Undo) ([]string, error) { return nil, nil }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	g := part.NewGroup(ctx)
	var pending sync.WaitGroup
	g.Go(func(ctx context.Context) error {
		defer pending.Wait()
		return p.store.Questions(ctx, func(q topology.Question) {
			if q.Asks(p.node) {
				pending.Go(func() { p.take(ctx, q) })
			}
		})
	})
	return g.Wait()
}

// take answers a question, or says why it does not.
func (p *Part) take(ctx context.Context, q topology.Question) {
	within, cancel := context.WithTimeout(ctx, time.Duration(q.Seconds)*time.Second)
	defer cancel()
	a := topology.NodeAnswer{Node: p.node}
	if err := fault.Protect(func() (err error) { a.Body, err = p.answer(within, q); return err }); err != nil {
		a.Body, a.Error = nil, fault.Of(err).String()
	}
	if ctx.Err() != nil {
		return
	}
	told, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := p.store.PutAnswer(told, q, a); err != nil {
		p.log.Debugf("answer the question %s of %s: %v", q.Kind, q.From, err)
	}
}

// answer returns the answer to a question as JSON.
func (p *Part) answer(ctx context.Context, q topology.Question) (json.RawMessage, error) {
	kind, known := p.kinds[q.Kind]
	if !known {
		return nil, &topology.Error{
			Kind: topology.ErrNotFound, Code: fault.RecordMalformed, Item: "question " + q.Kind,
			What:   "this agent does not know the kind; it knows " + strings.Join(slices.Sorted(maps.Keys(p.kinds)), ", "),
			Remedy: "update the agent",
		}
	}
	if !p.admit(time.Now()) {
		return nil, busy(fmt.Sprintf("%d questions were answered within a minute", perMinute))
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, busy(fmt.Sprintf("%d other questions took all the time", atATime))
	}
	p.log.Debugf("%s asks %s", q.From, q.Kind)
	v, err := kind(ctx, q.Arguments)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// admit counts a question, unless there were too many lately.
func (p *Part) admit(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lately = slices.DeleteFunc(p.lately, func(t time.Time) bool { return now.Sub(t) >= time.Minute })
	if len(p.lately) >= perMinute {
		return false
	}
	p.lately = append(p.lately, now)
	return true
}

func busy(what string) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.RecordMalformed, Item: "this agent", What: "is asked too much: " + what,
		Remedy: "ask again in a minute",
	}
}
