package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// doctorPatience is how long the doctors of other nodes may take to answer the console.
const doctorPatience = 5 * time.Second

// addConsole makes the console a part, where it was asked for.
func (a *Agent) addConsole() {
	if a.cfg.Console.Listen == "" {
		return
	}
	records := console.As(a.rooms.hub.Topology(), func(t hub.Topology) console.Topology {
		return console.Topology{Snapshot: t.Snapshot, Err: t.Err}
	})
	sources := panels.Sources{
		Events: func(_ context.Context, q event.Query) ([]event.Event, error) { return a.rooms.events.Journal().Read(q) },
		Examine: func(ctx context.Context) (doctor.Report, error) {
			t := a.rooms.hub.Topology().Get()
			if !t.Known() {
				return doctor.Report{}, errors.New("the topology is not known yet")
			}
			asked, err := panels.AskDoctors(ctx, a.world.Store, t.Snapshot, doctorPatience)
			return doctor.Cluster(asked, time.Now(), a.cfg.Version, doctorPatience), err
		},
	}
	sources.Traffic = func(ctx context.Context) (map[string]*api.Traffic, map[string]error, error) {
		t := a.rooms.hub.Topology().Get()
		if !t.Known() {
			return nil, nil, errors.New("the topology is not known yet")
		}
		return panels.AskTraffic(ctx, a.world.Store, t.Snapshot, doctorPatience)
	}
	if a.rooms.mesh != nil {
		sources.Mesh = a.Mesh
	}
	more := panels.New(sources)
	cfg := console.Config{Version: a.cfg.Version, Topology: records}
	if t, ok := a.tracer(); ok {
		cfg.Tracer = t
	}
	a.add(console.NewPart(a.cfg.Console, more.Config(cfg), func(ctx context.Context) console.Agent {
		s, err := a.Status(ctx)
		if err != nil {
			return console.Agent{Err: err}
		}
		return console.Agent{Status: &s}
	}, more.Follow, a.log))
}

// tracer follows packets for the console, where the agent's world can read this host.
func (a *Agent) tracer() (t panels.Tracer, ok bool) {
	hop := a.world.kinds(a.rooms.hub, a.containerOf)[trace.QuestionKind]
	if hop == nil {
		return t, false
	}
	return panels.Tracer{
		Snapshot: func() *topology.Snapshot { return a.rooms.hub.Topology().Get().Snapshot },
		Self:     a.cfg.Node, Endpoints: a.Endpoints, Others: a.world.Store, Wait: doctorPatience,
		Hop: func(ctx context.Context, q trace.Question) (out trace.Hop, err error) {
			arguments, err := json.Marshal(q)
			if err != nil {
				return out, err
			}
			answer, err := hop(ctx, arguments)
			out, _ = answer.(trace.Hop)
			return out, err
		},
		Options: func(n topology.Node) pipeline.Options {
			return pipeline.Options{Bridge: a.cfg.Bridge, Datapath: cmp.Or(n.Datapath, "system"), Ports: a.udpPorts()}
		},
	}, true
}
