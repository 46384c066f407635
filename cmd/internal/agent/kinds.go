package agent

import (
	"context"
	"encoding/json"

	"github.com/baize-net/baize/cmd/internal/agent/answers"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/doctor/gather"
	"github.com/baize-net/baize/topology"
)

// kinds are the questions that an agent of this configuration answers. A hub has the
// topology with its other sources.
func (c Config) kinds(h *hub.Hub) answers.Kinds {
	return answers.Kinds{
		doctor.Kind: func(ctx context.Context, _ json.RawMessage) (any, error) {
			f, err := gather.Facts(ctx, c.gathering(h))
			if err != nil {
				return nil, err
			}
			return doctor.AnswerOf(f), nil
		},
	}
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
