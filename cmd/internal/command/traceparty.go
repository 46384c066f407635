package command

import (
	"context"
	"errors"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/cmd/internal/trace"
)

// asked is what somebody wants to know: the arguments of a trace, as they were typed.
type asked struct {
	command, protocol, network string
	args                       []string
	port, ttl                  int
}

// request reads the arguments of a trace.
func (a *traceAsker) request(x asked) (req trace.Request, err error) {
	if n := len(x.args); n == 0 || n > 2 || n == 1 && x.protocol != trace.Broadcast {
		return req, usagef(x.command, "needs SOURCE and DESTINATION, or SOURCE and --broadcast")
	}
	if x.network != "" {
		if _, err := findNetwork(a.snap, x.network); err != nil {
			return req, err
		}
	}
	ends := panels.Ends{From: x.args[0], Network: x.network, Protocol: x.protocol, Port: x.port, TTL: x.ttl}
	if len(x.args) == 2 {
		ends.To = x.args[1]
	}
	return panels.Parties{
		Snap: a.snap, Self: a.self, Endpoints: a.endpoints, AgentErr: a.agentErr, Others: a.endpointsOf,
		Node:     func(name string) error { _, err := findNode(a.snap, name); return err },
		NotFound: notFound,
	}.Request(ends)
}

// endpointsOf asks a node's agent for its endpoints of a name, which it alone knows.
func (a *traceAsker) endpointsOf(node, name string) ([]api.Endpoint, error) {
	if a.store == nil {
		return nil, errors.New("other nodes are not asked here")
	}
	return waiting(a.r, a.c, "asking "+node, func(ctx context.Context) ([]api.Endpoint, error) {
		return askNode[[]api.Endpoint](ctx, a, node, api.EndpointsKind, name)
	})
}
