package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Event is a step that began or ended.
type Event struct {
	// Step is what is done, for people: "host1: start Open vSwitch".
	Step string
	// Ended is false at the beginning of the step.
	Ended bool
	// Elapsed is what the step took, where it ended.
	Elapsed time.Duration
	// Done of Total steps have ended; both grow.
	Done, Total int
}

// begin reports a step to Progress; the function returned reports its end and
// passes the error on.
func (l *Lab) begin(format string, args ...any) func(error) error {
	step := fmt.Sprintf(format, args...)
	start := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	l.report(Event{Step: step, Done: l.done, Total: l.total})
	return func(err error) error {
		if err != nil {
			return stepFailed(step, err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.done++
		e := Event{Step: step, Ended: true, Elapsed: time.Since(start), Done: l.done, Total: l.total}
		l.Steps = append(l.Steps, e)
		l.report(e)
		return nil
	}
}

func (l *Lab) report(e Event) {
	if l.cfg.Progress != nil {
		l.cfg.Progress(e)
	}
}

// stepFailed names the step, keeping errors that are for people as they are.
func stepFailed(step string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", step, err)
}
