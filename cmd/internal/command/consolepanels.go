package command

import (
	"context"
	"errors"
	"os"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// consolePanels are what a console shows beside the topology: what the agents of all hosts
// say of themselves, and this host's agent, where there is one, of the ways between hosts
// and of what happened.
type consolePanels struct {
	*panels.Panels
	r *runner
	c *ucli.Context
}

func (r *runner) newPanels(c *ucli.Context) consolePanels {
	s := panels.Sources{
		Examine: func(ctx context.Context) (doctor.Report, error) { return r.examine(ctx, c) },
		Traffic: func(ctx context.Context) (now map[string]*api.Traffic, silent map[string]error, err error) {
			own := *c
			own.Context = ctx
			err = r.withStore(&own, func(s *etcdstore.Store) error {
				snap, err := s.Snapshot(ctx)
				if err != nil {
					return err
				}
				now, silent, err = panels.AskTraffic(ctx, s, snap, askPatience)
				return err
			})
			return now, silent, err
		},
	}
	if _, err := os.Stat(r.socket(c).Value); err == nil {
		client := r.agentClient(c)
		s.Mesh = client.Mesh
		s.Events = func(ctx context.Context, q event.Query) (list []event.Event, err error) {
			err = client.Events(ctx, q, false, func(e event.Event) error { list = append(list, e); return nil })
			return list, err
		}
	}
	return consolePanels{panels.New(s), r, c}
}

// examine asks the doctors of all hosts.
func (r *runner) examine(ctx context.Context, c *ucli.Context) (out doctor.Report, err error) {
	own := *c
	own.Context = ctx
	err = r.withStore(&own, func(s *etcdstore.Store) error {
		snap, err := s.Snapshot(ctx)
		if err != nil {
			return err
		}
		asked, err := panels.AskDoctors(ctx, s, snap, askPatience)
		if err != nil {
			return err
		}
		out = doctor.Cluster(asked, time.Now(), currentVersion().Version, askPatience)
		return nil
	})
	return out, err
}

// Trace implements console.Tracer: what 'baize trace' says.
func (p consolePanels) Trace(ctx context.Context, req console.TraceRequest) (out console.Trace, err error) {
	own := *p.c
	own.Context = ctx
	if err := panels.CheckTraced(req.Protocol); err != nil {
		return out, err
	}
	a, err := p.r.newAsker(&own)
	if err != nil {
		return out, err
	}
	err = p.r.withStore(&own, func(s *etcdstore.Store) error {
		a.store = s
		return p.r.withTopology(&own, a.self, func(snap *topology.Snapshot) error {
			a.snap = snap
			a.withoutAgent(ctx)
			q, err := a.request(asked{
				command: "trace", args: []string{req.From, req.To}, protocol: req.Protocol, port: req.Port, ttl: panels.DefaultTTL,
			})
			if err != nil {
				return err
			}
			res, err := trace.Walk(ctx, q, a)
			out = panels.TraceOf(res)
			return err
		})
	})
	var usage *usageError
	if errors.As(err, &usage) {
		err = &topology.Error{Kind: topology.ErrInvalid, Item: "trace", What: usage.what}
	}
	return out, err
}
