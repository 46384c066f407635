// Package part is what every part of the agent is made of: the interface that
// the runner knows it by, values that parts hand to each other, and the loop
// that a reconciler runs in.
//
// A part owns its state, its lock, its errors and its backoff. Between parts
// there are only values (Cell): a part that has something new sets a cell, and
// whoever subscribed is woken. Nothing is called back while a lock is held, and
// no part waits for another's work.
package part

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/baize-net/baize/topology/fault"
)

// Part is one part of an agent.
type Part interface {
	// Name is what people call it: "switch".
	Name() string
	// Run works until ctx ends, then returns nil. An error means that the part
	// failed: it is reported, and the part is started again. One made by Fatal
	// ends the agent. Run takes nothing down: forwarding goes on.
	Run(ctx context.Context) error
	// Faults are what the part sees wrong now.
	Faults() []fault.Fault
	// Cleanup undoes what the part made on this host, and nothing else. It is
	// called without Run, on a host whose agent does not run. It returns what it
	// removed and what it left, one line each.
	Cleanup(ctx context.Context, undo Undo) ([]string, error)
}

// FaultTeller is a part that says when its faults change. Those of others are
// looked at now and then.
type FaultTeller interface {
	// FaultsWake wakes a signal whenever Faults has changed.
	FaultsWake(s Signal)
}

// Readier is a part that the node must wait for: until it is ready, systemd
// holds back what comes after the agent, Docker for example.
type Readier interface {
	Ready() bool
}

// fatal is an error that ends the agent.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// Fatal makes an error end the agent: another host has the node's name, for
// example. Most errors are not.
func Fatal(err error) error { return fatal{err} }

// IsFatal reports whether Fatal made the error.
func IsFatal(err error) bool { return errors.As(err, &fatal{}) }

// Signal wakes one loop. Signals that come together are one.
type Signal chan struct{}

// NewSignal returns a signal.
func NewSignal() Signal { return make(Signal, 1) }

// Wake wakes the loop. It never blocks.
func (s Signal) Wake() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// Cell holds the newest of some value, and wakes whoever subscribed when it
// changes. The value must not be changed after it was set.
type Cell[T any] struct {
	same func(a, b T) bool

	mu      sync.Mutex
	value   T
	set     bool
	signals []Signal
}

// NewCell returns a cell with T's zero value. same says whether a new value
// wakes nobody; nil: every value wakes.
func NewCell[T any](same func(a, b T) bool) *Cell[T] { return &Cell[T]{same: same} }

// Set sets the value and wakes those who subscribed, unless it is the same.
func (c *Cell[T]) Set(v T) {
	c.mu.Lock()
	quiet := c.set && c.same != nil && c.same(c.value, v)
	c.value, c.set = v, true
	signals := c.signals
	c.mu.Unlock()
	if quiet {
		return
	}
	for _, s := range signals {
		s.Wake()
	}
}

// Get returns the value.
func (c *Cell[T]) Get() T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

// Known reports whether the value was ever set: nothing yet is not the same as
// none.
func (c *Cell[T]) Known() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set
}

// Wakes subscribes a signal. Once is enough, and more is no harm: a part that is
// started again does so.
func (c *Cell[T]) Wakes(s Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.signals, s) {
		return
	}
	c.signals = append(c.signals[:len(c.signals):len(c.signals)], s)
}

// Forget ends a subscription.
func (c *Cell[T]) Forget(s Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signals = slices.DeleteFunc(slices.Clone(c.signals), func(x Signal) bool { return x == s })
}

// Loop is how a reconciler runs: at once, when it is woken, after a failure
// with a growing wait, and now and then.
type Loop struct {
	Wake Signal
	// Every is the longest wait between two passes; 0: only a signal ends it.
	Every time.Duration
	// Pause is the least time between the starts of two passes, whatever wakes it.
	Pause time.Duration
	// Timeout bounds one pass; 0: nothing does.
	Timeout time.Duration
	// First and Last bound the wait after a failure; 0: 200 ms and 5 s.
	First, Last time.Duration
	// Stats, unless nil, counts the passes.
	Stats *Stats
}

// Run calls pass until ctx ends.
func (l Loop) Run(ctx context.Context, pass func(context.Context) error) {
	if l.First == 0 {
		l.First, l.Last = 200*time.Millisecond, 5*time.Second
	}
	backoff := l.First
	for ctx.Err() == nil {
		began := time.Now()
		err := l.once(ctx, pass)
		l.Stats.add(began, err)
		wait := l.Every
		if err != nil {
			wait, backoff = backoff, min(2*backoff, l.Last)
		} else {
			backoff = l.First
		}
		if !l.await(ctx, wait) || !Sleep(ctx, l.Pause-time.Since(began)) {
			return
		}
	}
}

func (l Loop) once(ctx context.Context, pass func(context.Context) error) error {
	defer begin(ctx, l.Timeout)()
	if l.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.Timeout)
		defer cancel()
	}
	return pass(ctx)
}

// await waits for a signal, or for a time unless it is 0. It reports false when
// ctx ended.
func (l Loop) await(ctx context.Context, wait time.Duration) bool {
	var after <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-l.Wake:
	case <-after:
	}
	return true
}

// Sleep waits, and reports false when ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Faults keeps what a part sees wrong, and since when.
type Faults struct {
	mu      sync.Mutex
	list    []fault.Fault
	signals []Signal
}

// Wakes subscribes a signal, which is woken when the faults change.
func (f *Faults) Wakes(s Signal) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.signals, s) {
		f.signals = append(f.signals, s)
	}
}

// Set replaces all faults. It returns those that are new.
func (f *Faults) Set(now []fault.Fault) (fresh []fault.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := time.Now()
	now = fault.Keep(f.list, fault.Merge(nil, now...), at)
	for _, x := range now {
		if x.Since.Equal(at) {
			fresh = append(fresh, x)
		}
	}
	if len(fresh) > 0 || len(now) != len(f.list) {
		for _, s := range f.signals {
			s.Wake()
		}
	}
	f.list = now
	return fresh
}

// Get returns the faults.
func (f *Faults) Get() []fault.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list
}

// Undo is how a cleanup is meant. In a dry run nothing changes, and the lines that it
// returns say what would have been done in the words of what was.
type Undo struct{ DryRun bool }

// Do does one thing, but not in a dry run.
func (u Undo) Do(change func() error) error {
	if u.DryRun {
		return nil
	}
	return change()
}

// RemoveFiles removes what is there of files, and says so.
func (u Undo) RemoveFiles(files ...string) (report []string, err error) {
	for _, f := range files {
		_, err := os.Lstat(f)
		if err == nil {
			err = u.Do(func() error { return os.Remove(f) })
		}
		if err == nil {
			report = append(report, "removed "+f)
		} else if !errors.Is(err, os.ErrNotExist) {
			return report, err
		}
	}
	return report, nil
}
