package agent

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/baize-net/baize/cmd/internal/agent/answers"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/capture"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/doctor/gather"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/fastpath/bpf"
	"github.com/baize-net/baize/cmd/internal/kernel/linux"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
)

// kinds are the questions that an agent of this configuration answers. A hub has the
// topology with its other sources; containers are those of trace.Facts.
func (c Config) kinds(h *hub.Hub, containers func(ovs.Endpoint) string) answers.Kinds {
	return answers.Kinds{
		doctor.Kind: func(ctx context.Context, _ json.RawMessage) (any, error) {
			f, err := gather.Facts(ctx, c.gathering(h))
			if err != nil {
				return nil, err
			}
			return doctor.AnswerOf(f), nil
		},
		trace.QuestionKind: func(ctx context.Context, arguments json.RawMessage) (any, error) {
			var q trace.Question
			if err := json.Unmarshal(arguments, &q); err != nil {
				return nil, err
			}
			return c.hop(ctx, h, containers, q)
		},
	}
}

// hop says what becomes of a packet on this host, as it is now.
func (c Config) hop(
	ctx context.Context,
	h *hub.Hub,
	containers func(ovs.Endpoint) string,
	q trace.Question,
) (trace.Hop, error) {
	t := h.Records().Get()
	if !t.Known() {
		return trace.Hop{}, errors.New("the agent does not know the topology yet")
	}
	db, err := vswitch.New(vswitch.Config{Endpoint: c.OVSDB, Bridge: c.Bridge})
	if err != nil {
		return trace.Hop{}, err
	}
	defer db.Close()
	host := trace.Host{
		DB: db, Flows: openflow.New(openflow.Config{Bridge: c.Bridge, RunDir: c.OVSRunDir}), Kernel: linux.Host{},
		FastPath: bpf.Read, Containers: containers,
	}
	view := t.View()
	f, err := host.Read(ctx, view, pipeline.Options{
		Bridge: c.Bridge, Datapath: view.Node.Datapath,
		Ports: map[topology.Transport]int{topology.VXLAN: c.VXLANPort, topology.Geneve: c.GenevePort},
	}, nil)
	if err != nil {
		return trace.Hop{}, err
	}
	return f.Hop(q), nil
}

// gathering says where the facts of this host are.
func (c Config) gathering(h *hub.Hub) gather.Config {
	port := func(set, standard int) int {
		if set == 0 {
			return standard
		}
		return set
	}
	return gather.Config{
		Node: c.Node, Bridge: c.Bridge, OVSDB: c.OVSDB, RunDir: c.OVSRunDir,
		VXLANPort: port(c.VXLANPort, 4789), GenevePort: port(c.GenevePort, 6081),
		StateDir: c.StateDir, Socket: c.Socket, PluginSocket: c.DockerSocket, Etcd: c.Etcd, Version: c.Version,
		Merge: func(_ context.Context, own *topology.Snapshot) *topology.Snapshot {
			if t := h.Records().Get(); t.Known() && len(c.Sources) > 0 {
				return t.Snapshot
			}
			return own
		},
	}
}

// kinds are the questions that the agent answers: those of its world, and those of its
// parts.
func (a *Agent) kinds() answers.Kinds {
	out := answers.Kinds{event.QuestionKind: func(_ context.Context, arguments json.RawMessage) (any, error) {
		var q event.Query
		if err := json.Unmarshal(arguments, &q); err != nil {
			return nil, err
		}
		list, err := a.rooms.events.Journal().Read(q)
		return event.Newest(list, topology.MaxAnswer), err
	}}
	out[api.EndpointsKind] = func(ctx context.Context, arguments json.RawMessage) (any, error) {
		var name string
		if err := json.Unmarshal(arguments, &name); err != nil {
			return nil, err
		}
		list, err := a.Endpoints(ctx)
		return slices.DeleteFunc(list, func(e api.Endpoint) bool { return !e.Is(name) }), err
	}
	out[capture.QuestionKind] = a.rooms.captures.Answer
	out[api.TrafficKind] = a.answerTraffic
	maps.Copy(out, a.world.kinds(a.rooms.hub, a.containerOf))
	return out
}
