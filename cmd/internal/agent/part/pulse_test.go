package part_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/part"
)

// Finding R10: a part whose pass does not end, whatever its time, is told from one that
// waits or works long.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pulse := part.NewPulse()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		hang := make(chan struct{})
		run := func(name string, timeout time.Duration, pass func(context.Context) error) part.Signal {
			wake := part.NewSignal()
			go part.Loop{Wake: wake, Timeout: timeout}.Run(part.WithPulse(ctx, pulse, name), pass)
			return wake
		}
		run("idle", time.Minute, func(context.Context) error { return nil })
		run("slow", time.Minute, func(ctx context.Context) error { <-ctx.Done(); return nil })
		run("unbounded", 0, func(ctx context.Context) error { <-ctx.Done(); return nil })
		run("deaf", time.Minute, func(context.Context) error { <-hang; return nil })
		time.Sleep(89 * time.Second)
		require.Empty(t, pulse.Hanging())
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"deaf"}, pulse.Hanging())
		close(hang)
		synctest.Wait()
		require.Empty(t, pulse.Hanging())
		time.Sleep(time.Hour)
		require.Empty(t, pulse.Hanging())
	})
}
