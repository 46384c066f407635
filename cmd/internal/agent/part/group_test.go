package part_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology/fault"
)

func until(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// One goroutine that fails ends the others, and the error is its own.
func TestGroup(t *testing.T) {
	bad := errors.New("bad")
	for name, c := range map[string]struct {
		f    func(context.Context) error
		want error
	}{
		"fails":          {func(context.Context) error { return bad }, bad},
		"fails for good": {func(context.Context) error { return part.Fatal(bad) }, bad},
		"ends":           {func(context.Context) error { return nil }, part.ErrEnded},
	} {
		t.Run(name, func(t *testing.T) {
			g := part.NewGroup(t.Context())
			g.Go(until)
			g.Go(c.f)
			require.ErrorIs(t, g.Wait(), c.want)
		})
	}
	t.Run("panics", func(t *testing.T) {
		g := part.NewGroup(t.Context())
		g.Go(until)
		g.Go(func(context.Context) error { panic("a bug") })
		var p *fault.Panic
		require.ErrorAs(t, g.Wait(), &p)
		require.Equal(t, "panic: a bug", p.Error())
		require.Contains(t, string(p.Stack), "group_test.go")
	})
	t.Run("is ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		g := part.NewGroup(ctx)
		g.Go(until)
		g.Loop(part.Loop{Wake: part.NewSignal()}, func(context.Context) error { cancel(); return nil })
		require.NoError(t, g.Wait())
	})
}

// A watch that ends is begun again, and not at once.
func TestGroupWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
		defer cancel()
		log := logrus.New()
		log.SetOutput(io.Discard)
		watched := 0
		g := part.NewGroup(ctx)
		g.Watch("something", logrus.NewEntry(log), func(context.Context) error {
			watched++
			return errors.New("lost")
		})
		require.NoError(t, g.Wait())
		require.Equal(t, 10, watched)
	})
}

// A part that is started again subscribes again.
func TestCellWakesOnce(t *testing.T) {
	c, s := part.NewCell[int](nil), part.NewSignal()
	c.Wakes(s)
	c.Wakes(s)
	c.Forget(s)
	c.Set(1)
	require.Empty(t, s)
}
