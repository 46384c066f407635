package part

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/topology/fault"
)

// Group is the goroutines of one run of a part. Where one fails, or panics, the
// others are ended: a part is started again as a whole, with nothing left of the
// run before.
type Group struct {
	g   *errgroup.Group
	ctx context.Context
}

// NewGroup returns a group that ends with ctx.
func NewGroup(ctx context.Context) *Group {
	g, ctx := errgroup.WithContext(ctx)
	return &Group{g, ctx}
}

// ErrEnded is the failure of what has to run until its ctx ends, and does not.
var ErrEnded = errors.New("it ended by itself")

// Go runs f in a goroutine, until f's ctx ends.
func (g *Group) Go(f func(ctx context.Context) error) {
	g.g.Go(func() error {
		err := fault.Protect(func() error { return f(g.ctx) })
		if err == nil && g.ctx.Err() == nil {
			return ErrEnded
		}
		return err
	})
}

// Loop runs a reconciler in a goroutine.
func (g *Group) Loop(l Loop, pass func(context.Context) error) {
	g.Go(func(ctx context.Context) error { l.Run(ctx, pass); return nil })
}

// watchPause is how long a group waits before it watches again.
const watchPause = time.Second

// Watch runs watch in a goroutine, again whenever it ends. what is what it
// watches, for the log.
func (g *Group) Watch(what string, log *logrus.Entry, watch func(ctx context.Context) error) {
	g.Go(func(ctx context.Context) error {
		for {
			if err := watch(ctx); err != nil && ctx.Err() == nil {
				log.Warnf("watch %s: %v", what, err)
			}
			if !Sleep(ctx, watchPause) {
				return nil
			}
		}
	})
}

// Wait waits for all of them and returns the first error.
func (g *Group) Wait() error { return g.g.Wait() }
