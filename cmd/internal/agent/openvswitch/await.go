package openvswitch

import (
	"context"
	"errors"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// waiter waits for a pass that began after it did.
type waiter struct {
	// done judges the outcome of a pass; until it says so the waiter stays.
	done   func(Outcome) (done bool, err error)
	answer chan error
	// last is why the passes since did not satisfy it, gone that nobody waits any more. They
	// need the part's lock.
	last error
	gone bool
}

// Await wakes the part and returns when done says so of a pass that began after
// the call. When ctx, or the part, ends first the error says what the last pass
// failed at.
func (p *Part) Await(ctx context.Context, done func(Outcome) (bool, error)) error {
	return p.awaitAfter(ctx, func() error { p.wake.Wake(); return nil }, done)
}

// awaitAfter is Await for whoever has a change to make that wakes the part itself: the
// pass that this begins is not missed, and no other is needed. An error of change ends it.
func (p *Part) awaitAfter(ctx context.Context, change func() error, done func(Outcome) (bool, error)) error {
	w := &waiter{done: done, answer: make(chan error, 1)}
	p.mu.Lock()
	p.waiters = append(p.waiters, w)
	ended := p.ended
	p.mu.Unlock()
	if err := change(); err != nil {
		_ = p.giveUp(w)
		return err
	}
	select {
	case err := <-w.answer:
		return err
	case <-ended:
	case <-ctx.Done():
	}
	what := "did not take the change in time"
	if last := p.giveUp(w); last != nil {
		what += ": " + last.Error()
	}
	return &topology.Error{
		Kind:   topology.ErrUnavailable,
		Code:   fault.SwitchUnavailable,
		Item:   "Open vSwitch",
		What:   what,
		Remedy: "see 'baize status'",
	}
}

// giveUp ends a wait, and returns why the last pass did not satisfy it. A pass at work may
// still answer; nobody hears it.
func (p *Part) giveUp(w *waiter) (last error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiters = slices.DeleteFunc(p.waiters, func(x *waiter) bool { return x == w })
	w.gone = true
	return w.last
}

// answer gives an outcome to those who waited for it, and keeps the others.
func (p *Part) answer(waiters []*waiter, o Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range waiters {
		if w.gone {
			continue // while the pass was at work
		}
		done, err := w.done(o)
		if done {
			w.answer <- err
			continue
		}
		w.last = errors.Join(o.Err, err)
		p.waiters = append(p.waiters, w)
	}
}

// Attached waits until the switch forwards for an endpoint: its port is there
// and its flows are installed. Nothing else of the switch matters. put, where it is not
// nil, makes the endpoint one that is to have a port.
func (p *Part) Attached(ctx context.Context, e ovs.Endpoint, put func() error) error {
	if put == nil {
		put = func() error { p.wake.Wake(); return nil }
	}
	return p.awaitAfter(ctx, put, func(o Outcome) (bool, error) {
		port, there := o.Observed.Ports[e.Port]
		switch {
		case o.Err != nil || !o.Complete || !there:
			return false, nil
		case port.Live():
			return true, nil
		}
		return port.Error != "", &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.PortDead, Item: "endpoint " + e.Name,
			What: "Open vSwitch did not take its port " + e.Port + ": " + port.Error, Remedy: "look into ovs-vswitchd's log",
		}
	})
}

// Detached waits until an endpoint's port is gone.
func (p *Part) Detached(ctx context.Context, port string) error {
	return p.Await(ctx, func(o Outcome) (bool, error) {
		_, there := o.Observed.Ports[port]
		return o.Err == nil && !there, nil
	})
}

// Reconcile runs a pass now and returns when it ended; with audit it reads
// everything back.
func (p *Part) Reconcile(ctx context.Context, audit bool) error {
	if audit {
		p.requestAudit()
	}
	return p.Await(ctx, func(o Outcome) (bool, error) { return true, o.Err })
}
