package panels

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
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

// Ask puts a question of a kind to nodes, by way of etcd, for whole seconds, and returns what
// each answered. A node that does not answer, or refuses, has an error.
func Ask[T any](
	ctx context.Context, s Asker, kind string, nodes []string, arguments any, wait time.Duration,
) (map[string]T, map[string]error, error) {
	body, err := json.Marshal(arguments)
	if err != nil {
		return nil, nil, err
	}
	host, _ := os.Hostname()
	q := topology.Question{
		ID: rand.Text(), Kind: kind, Arguments: body, From: kind + " on " + host, Nodes: nodes,
		Seconds: int(wait / time.Second),
	}
	answers, errs, heard := map[string]T{}, map[string]error{}, map[string]bool{}
	for _, n := range nodes {
		errs[n] = fmt.Errorf("its agent did not answer within %s", wait)
	}
	err = s.Ask(ctx, q, func(a topology.NodeAnswer) bool {
		if !slices.Contains(nodes, a.Node) {
			return false
		}
		heard[a.Node] = true
		var v T
		refused := json.Unmarshal(a.Body, &v)
		if a.Error != "" {
			refused = errors.New(a.Error)
		}
		if refused != nil {
			errs[a.Node] = refused
		} else {
			answers[a.Node] = v
			delete(errs, a.Node)
		}
		return len(heard) == len(nodes)
	})
	return answers, errs, err
}
