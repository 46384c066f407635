package panels

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// Tracer follows packets for the console of an agent. It implements console.Tracer.
type Tracer struct {
	// Snapshot is the topology; nil: it is not known.
	Snapshot func() *topology.Snapshot
	// Self is the agent's node, Endpoints are those that it has.
	Self      string
	Endpoints func(ctx context.Context) ([]api.Endpoint, error)
	// Hop says what becomes of a packet on this node.
	Hop func(ctx context.Context, q trace.Question) (trace.Hop, error)
	// Options are those of the flows of a node that does not answer.
	Options func(n topology.Node) pipeline.Options
	// Others asks other nodes, Wait is how long each may take.
	Others Asker
	Wait   time.Duration
}

// tracing is one trace.
type tracing struct {
	Tracer
	snap *topology.Snapshot
	// silent are nodes that did not answer: they are not waited for twice.
	silent map[string]error
}

// CheckTraced refuses a protocol that a console traces no packets of.
func CheckTraced(protocol string) error {
	if slices.Contains([]string{trace.ICMP, trace.TCP, trace.UDP}, protocol) {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrInvalid, Item: "protocol " + protocol, What: "is unknown", Remedy: "use icmp, tcp or udp",
	}
}

// Trace implements console.Tracer.
func (t Tracer) Trace(ctx context.Context, r console.TraceRequest) (console.Trace, error) {
	if err := CheckTraced(r.Protocol); err != nil {
		return console.Trace{}, err
	}
	x := &tracing{t, t.Snapshot(), map[string]error{}}
	if x.snap == nil {
		return console.Trace{}, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "topology", What: "is not known yet", Remedy: "see 'baize status'",
		}
	}
	endpoints, err := t.Endpoints(ctx)
	q, failed := Parties{
		Snap: x.snap, Self: t.Self, Endpoints: endpoints, AgentErr: err,
		Others: func(node, name string) ([]api.Endpoint, error) {
			return other[[]api.Endpoint](ctx, x, node, api.EndpointsKind, name)
		},
		Node: func(name string) error {
			if _, known := x.snap.Nodes[name]; known {
				return nil
			}
			return missing("node", name, nil, "'baize node list' shows them all")
		},
		NotFound: missing,
	}.Request(Ends{From: r.From, To: r.To, Protocol: r.Protocol, Port: r.Port, TTL: DefaultTTL})
	if failed != nil {
		return console.Trace{}, failed
	}
	res, err := trace.Walk(ctx, q, x)
	return TraceOf(res), err
}

func missing(kind, name string, _ []string, otherwise string) error {
	return &topology.Error{
		Kind: topology.ErrNotFound, Item: kind + " " + name, What: "there is none of that name", Remedy: otherwise,
	}
}

// Ask implements trace.Asker: a node that does not answer is computed.
func (x *tracing) Ask(ctx context.Context, q trace.Question) (trace.Hop, error) {
	var hop trace.Hop
	var err error
	if q.Node == x.Self {
		hop, err = x.Hop(ctx, q)
	} else {
		hop, err = other[trace.Hop](ctx, x, q.Node, trace.QuestionKind, q)
	}
	if err == nil {
		return hop, nil
	}
	note := strings.TrimSpace(err.Error())
	return trace.Computed(x.snap.View(q.Node), x.Options(x.snap.Nodes[q.Node]), note, q.Assume).Hop(q), nil
}

// other asks another node.
func other[T any](ctx context.Context, x *tracing, node, kind string, arguments any) (out T, err error) {
	if _, alive := x.snap.Alive[node]; !alive {
		return out, errors.New("its agent does not run")
	}
	if err := x.silent[node]; err != nil {
		return out, err
	}
	answers, errs, err := Ask[T](ctx, x.Others, kind, []string{node}, arguments, x.Wait)
	if err == nil {
		err = errs[node]
	}
	if err != nil {
		x.silent[node] = err
	}
	return answers[node], err
}
