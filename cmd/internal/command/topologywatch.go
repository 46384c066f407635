package command

import (
	"context"
	"errors"
	"sync"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

const (
	// trafficEvery is how often nodes are asked: Open vSwitch counts anew every five
	// seconds. trafficPerNode makes that slower where many answer.
	trafficEvery   = 5 * time.Second
	trafficPerNode = 200 * time.Millisecond
)

// watching is the live picture: one goroutine follows the topology, another asks the
// nodes, and who runs it draws.
type watching struct {
	r       *runner
	c       *ucli.Context
	changed part.Signal

	mu      sync.Mutex
	snap    *topology.Snapshot
	stale   error
	answers panels.Answered
}

// watchTopology shows the live picture until it is interrupted.
func (r *runner) watchTopology(c *ucli.Context, format string) error {
	if format != "tree" && format != "wide" {
		return usagef("baize topology", "--watch is for people: it goes with -o tree and -o wide")
	}
	color, err := colorOf(r, c)
	if err != nil {
		return err
	}
	w := &watching{r: r, c: c, changed: part.NewSignal()}
	// Once in any case: it waits, and fails, as a person expects.
	if err := r.withTopology(c, "", func(s *topology.Snapshot) error { return w.set(s, nil) }); err != nil {
		return err
	}
	screen := cli.NewScreen(r.Out)
	err = r.withStore(c, func(s *etcdstore.Store) error {
		ctx, stop := context.WithCancel(c.Context)
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		followed := make(chan error, 1)
		running.Go(func() { followed <- r.followTopology(c, w.set) })
		running.Go(func() { w.ask(ctx, s) })
		for {
			rows := screen.Rows()
			if format == "wide" {
				rows = 0
			}
			if err := screen.Show(w.text(rows, color)); err != nil {
				return err
			}
			select {
			case <-w.changed:
			case err := <-followed:
				return err
			}
		}
	})
	err = errors.Join(err, screen.Close())
	if c.Context.Err() != nil {
		return nil // the way it is meant to end
	}
	return err
}

// set takes a topology.
func (w *watching) set(s *topology.Snapshot, stale error) error {
	if network := w.c.String("network"); network != "" {
		if _, err := findNetwork(s, network); err != nil {
			return err
		}
		s = only(s, network)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.snap, w.stale = s, stale
	w.changed.Wake()
	return nil
}

// text is the picture as it is now.
func (w *watching) text(rows int, color bool) string {
	w.mu.Lock()
	snap, stale, answers := w.snap, w.stale, w.answers
	w.mu.Unlock()
	hint := ""
	if stale != nil {
		hint = stale.Error()
	}
	return liveOf(draw.New(snap, nil), answers).text(hint, rows, color)
}

// ask asks all nodes whose agents run, again and again.
func (w *watching) ask(ctx context.Context, s *etcdstore.Store) {
	for {
		w.mu.Lock()
		var nodes []string
		for _, n := range w.snap.SortedNodes() {
			if _, alive := w.snap.Alive[n.Name]; alive && n.Router == nil {
				nodes = append(nodes, n.Name)
			}
		}
		w.mu.Unlock()
		began := time.Now()
		if len(nodes) > 0 {
			got, silent, err := ask[*api.Traffic](ctx, s, api.TrafficKind, nodes, nil)
			if ctx.Err() != nil {
				return
			}
			if err == nil { // else the picture says that etcd does not answer
				w.mu.Lock()
				w.answers = panels.Answered{Before: w.answers.Now, Now: got, Silent: silent}
				w.mu.Unlock()
				w.changed.Wake()
			}
		}
		pause := max(trafficEvery, time.Duration(len(nodes))*trafficPerNode)
		if !part.Sleep(ctx, pause-time.Since(began)) {
			return
		}
	}
}
