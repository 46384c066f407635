package command

import (
	"context"
	"time"

	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/topology/etcdstore"
)

// askPatience is how long an agent that runs may take to answer, in whole seconds.
const askPatience = 5 * time.Second

// ask is panels.Ask with the patience of a command.
func ask[T any](
	ctx context.Context, s *etcdstore.Store, kind string, nodes []string, arguments any,
) (map[string]T, map[string]error, error) {
	return panels.Ask[T](ctx, s, kind, nodes, arguments, askPatience)
}
