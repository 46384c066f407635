package console

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology/fault"
)

// askEvery is how often an agent is asked while somebody looks: it says nothing by
// itself.
const askEvery = 2 * time.Second

// FollowAgent keeps out what ask says, as long as somebody looks at the console, until
// ctx ends.
func FollowAgent(ctx context.Context, watched Value[int], ask func(context.Context) Agent, out *part.Cell[Agent]) {
	Follow(ctx, watched, askEvery, func(ctx context.Context) (Agent, error) { return ask(ctx), nil }, out)
}

// Follow keeps out what ask says every so often, as long as somebody looks at the
// console, until ctx ends. What was stays where ask fails. However many pages come and
// go, it is not asked more often.
func Follow[T any](
	ctx context.Context, watched Value[int], every time.Duration, ask func(context.Context) (T, error), out *part.Cell[T],
) {
	wake := part.NewSignal()
	watched.Wakes(wake)
	defer watched.Forget(wake)
	var asked time.Time
	for ctx.Err() == nil {
		var again <-chan time.Time
		if watched.Get() > 0 {
			if time.Since(asked) >= every {
				if v, err := ask(ctx); err == nil {
					out.Set(v)
				}
				asked = time.Now()
			}
			again = time.After(every - time.Since(asked))
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-again:
		}
	}
}

// Part is the console as a part of an agent.
type Part struct {
	access Access
	cfg    Config
	ask    func(context.Context) Agent
	more   func(context.Context, Value[int])
	log    *logrus.Entry
}

var _ part.Part = (*Part)(nil)

// NewPart returns the part. ask is asked for the agent's own status; Agent and Token of
// cfg are set by the part. more keeps other values of cfg up to date as long as somebody
// looks, until its ctx ends.
func NewPart(
	access Access, cfg Config, ask func(context.Context) Agent, more func(context.Context, Value[int]), log *logrus.Entry,
) *Part {
	return &Part{access: access, cfg: cfg, ask: ask, more: more, log: log.WithField("part", "console")}
}

// Name implements part.Part.
func (p *Part) Name() string { return "console" }

// Faults implements part.Part: why it is not served is the error of Run.
func (p *Part) Faults() []fault.Fault { return nil }

// Cleanup implements part.Part: it leaves nothing.
func (p *Part) Cleanup(context.Context, part.Undo) ([]string, error) { return nil, nil }

// Run implements part.Part. It reads the token and opens the listener each time, so that
// a fault that was mended ends.
func (p *Part) Run(ctx context.Context) error {
	door, err := p.access.Check()
	if err != nil {
		return err
	}
	l, url, err := door.Open(ctx)
	if err != nil {
		return err
	}
	agent, cfg := part.NewCell[Agent](nil), p.cfg
	cfg.Agent, cfg.Token = agent, door.Token
	page := New(cfg)
	p.log.Infof("the console is at %s", url)
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() { FollowAgent(ctx, page.Watched(), p.ask, agent) })
	following.Go(func() { p.more(ctx, page.Watched()) })
	return page.Serve(ctx, l)
}
