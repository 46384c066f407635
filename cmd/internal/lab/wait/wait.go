// Package wait waits for conditions, always under a context: a lab has many
// that nothing announces, such as a socket that appears or a process that ends.
package wait

import (
	"context"
	"time"
)

// Pause waits, or returns ctx's error.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Poll calls ready until it returns true or ctx ends, at growing intervals.
func Poll(ctx context.Context, ready func() (bool, error)) error {
	for d := 2 * time.Millisecond; ; d = min(2*d, 50*time.Millisecond) {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		if err := Pause(ctx, d); err != nil {
			return err
		}
	}
}
