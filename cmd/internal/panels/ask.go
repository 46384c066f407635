package panels

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"time"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/topology"
)

// Asker puts questions to agents; etcdstore.Store is one.
type Asker interface {
	Ask(ctx context.Context, q topology.Question, answered func(topology.NodeAnswer) (enough bool)) error
}

// AskDoctors asks the nodes with a running agent, for whole seconds, and returns all nodes
// of the topology.
func AskDoctors(
	ctx context.Context, s Asker, snap *topology.Snapshot, wait time.Duration,
) ([]doctor.Asked, error) {
	var out []doctor.Asked
	at, living := map[string]int{}, 0
	for _, n := range snap.SortedNodes() {
		if n.Router != nil {
			continue // it runs another program
		}
		_, alive := snap.Alive[n.Name]
		if alive {
			living++
		}
		at[n.Name] = len(out)
		out = append(out, doctor.Asked{Node: n.Name, Alive: alive, Version: n.Version})
	}
	if living == 0 {
		return out, nil
	}
	host, _ := os.Hostname()
	q := topology.Question{ID: rand.Text(), Kind: doctor.Kind, From: "doctor on " + host, Seconds: int(wait / time.Second)}
	heard := 0
	err := s.Ask(ctx, q, func(a topology.NodeAnswer) bool {
		i, known := at[a.Node]
		if !known {
			return false
		}
		n := &out[i]
		n.Heard, n.Why = time.Now(), a.Error
		if a.Error == "" {
			n.Answer = new(doctor.Answer)
			if err := json.Unmarshal(a.Body, n.Answer); err != nil {
				n.Answer, n.Why = nil, "its answer cannot be read: "+err.Error()
			}
		}
		heard++
		return heard >= living
	})
	return out, err
}
