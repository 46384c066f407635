package command

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// askPatience is how long an agent that runs may take to answer, in whole seconds.
const askPatience = 5 * time.Second

// ask puts a question of a kind to nodes, by way of etcd, and returns what each
// answered. A node that does not answer, or refuses, has an error.
func ask[T any](
	ctx context.Context, s *etcdstore.Store, kind string, nodes []string, arguments any,
) (map[string]T, map[string]error, error) {
	body, err := json.Marshal(arguments)
	if err != nil {
		return nil, nil, err
	}
	host, _ := os.Hostname()
	q := topology.Question{
		ID: rand.Text(), Kind: kind, Arguments: body, From: kind + " on " + host, Nodes: nodes,
		Seconds: int(askPatience / time.Second),
	}
	answers, errs, heard := map[string]T{}, map[string]error{}, map[string]bool{}
	for _, n := range nodes {
		errs[n] = fmt.Errorf("its agent did not answer within %s", askPatience)
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
