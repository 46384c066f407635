package agent

import (
	"context"

	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/capture"
	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// What the local API asks of an agent (api.Service) is asked of its parts.
var _ api.Service = (*Agent)(nil)

// AddEndpoint implements api.Service.
func (a *Agent) AddEndpoint(ctx context.Context, req api.EndpointRequest) (api.Endpoint, error) {
	e, err := a.rooms.attach.Add(ctx, req)
	if err != nil {
		return api.Endpoint{}, err
	}
	return api.EndpointOf(e), nil
}

// RemoveEndpoint implements api.Service.
func (a *Agent) RemoveEndpoint(ctx context.Context, name string) error {
	return a.rooms.attach.Remove(ctx, name)
}

// Availability implements api.Attachments.
func (a *Agent) Availability(_ context.Context, network string) (api.Availability, error) {
	a.mu.Lock()
	ready := a.ready
	a.mu.Unlock()
	why := a.rooms.attach.Available(network)
	forwards := a.rooms.sw.Outcome().Get().Err
	out := api.Availability{Attach: why == nil && ready && forwards == nil, Forward: ready && forwards == nil}
	if t := a.rooms.hub.Topology().Get(); t.Known() {
		n := t.Snapshot.Networks[network]
		for _, f := range n.Families() {
			out.Prefixes = append(out.Prefixes, n.Prefix(f))
			if g := n.Gateway(f); g.IsValid() {
				out.Gateways = append(out.Gateways, g)
			}
		}
	}
	switch {
	case !ready:
		out.Why = "the agent has only started"
	case forwards != nil:
		out.Why = forwards.Error()
	case why != nil:
		out.Why = why.Error()
	}
	return out, nil
}

// CheckAttachment implements api.Attachments.
func (a *Agent) CheckAttachment(ctx context.Context, x api.Attachment) (api.Endpoint, error) {
	e, err := a.rooms.attach.CheckAttachment(ctx, x)
	if err != nil {
		return api.Endpoint{}, err
	}
	return api.EndpointOf(e), nil
}

// Detach implements api.Attachments.
func (a *Agent) Detach(ctx context.Context, d api.Detachment) error {
	return a.rooms.attach.DetachAttachment(ctx, d)
}

// Retain implements api.Attachments.
func (a *Agent) Retain(ctx context.Context, r api.Retention) error {
	return a.rooms.attach.Retain(ctx, r)
}

// Endpoints implements api.Service.
func (a *Agent) Endpoints(context.Context) ([]api.Endpoint, error) {
	return apiEndpoints(a.rooms.attach.Endpoints(), a.containers()), nil
}

// containers are those of this host's engine, by its ID of their endpoints.
func (a *Agent) containers() map[string]names.Container {
	if a.rooms.docker == nil {
		return nil
	}
	return a.rooms.docker.Called().Get().Containers
}

// apiEndpoints adds to endpoints what their containers are called. An endpoint that
// no engine made has no ID of one.
func apiEndpoints(endpoints []ovs.Endpoint, containers map[string]names.Container) []api.Endpoint {
	out := make([]api.Endpoint, len(endpoints))
	for i, e := range endpoints {
		c := containers[e.Labels[docker.LabelEndpoint]]
		out[i] = api.EndpointOf(e)
		if e.Labels[docker.LabelEndpoint] != "" {
			out[i].Engine = api.EngineDocker
			out[i].Container, out[i].Service, out[i].Image = c.Name, c.Service, c.Image
		}
	}
	return out
}

// containerOf returns what people call an endpoint's container; "" where it has none.
func (a *Agent) containerOf(e ovs.Endpoint) string {
	return apiEndpoints([]ovs.Endpoint{e}, a.containers())[0].Container
}

// Config implements api.Service.
func (a *Agent) Config(context.Context) (api.Config, error) {
	out := make([]settings.Setting, len(a.cfg.Settings))
	for i, s := range a.cfg.Settings {
		if s.Name == "node" && s.Value == "" {
			s.Value, s.Set = a.cfg.Node, true
		}
		out[i] = s.Public()
	}
	return api.Config{Settings: out}, nil
}

// Reconcile implements api.Service.
func (a *Agent) Reconcile(ctx context.Context, audit bool) error {
	return a.rooms.sw.Reconcile(ctx, audit)
}

// Events implements api.Service.
func (a *Agent) Events(
	ctx context.Context, q event.Query, follow bool, show func(event.Event) error,
) error {
	if follow {
		return a.rooms.events.Follow(ctx, q, show)
	}
	list, err := a.rooms.events.Journal().Read(q)
	for _, e := range list {
		if err := show(e); err != nil {
			return err
		}
	}
	return err
}

// Point implements api.Service.
func (a *Agent) Point(_ context.Context, name string) (api.Point, error) {
	t := a.rooms.hub.Topology().Get()
	if !t.Known() {
		return api.Point{}, &topology.Error{
			Kind: topology.ErrUnavailable, Item: "the agent", What: "does not know the topology yet",
			Remedy: "see 'baize status'",
		}
	}
	h := capture.Host{
		View: t.View(), Endpoints: apiEndpoints(a.rooms.attach.Endpoints(), a.containers()),
		Observed: a.rooms.sw.Outcome().Get().Observed, UDPPorts: a.udpPorts(), Fast: map[string]bool{},
		Device: hostnet.DeviceTo,
	}
	h.View.Node.Datapath = a.world.Datapath
	if a.rooms.fastpath != nil {
		for _, n := range a.rooms.fastpath.State().Get().Networks {
			h.Fast[n.Name] = n.Used
		}
	}
	return h.Find(name)
}

// Routes implements api.Service: how every prefix of other nodes is reached, as
// of the kernel part's last pass.
func (a *Agent) Routes(context.Context) ([]api.Route, error) {
	k := a.rooms.kernel.State().Get()
	out := []api.Route{}
	for _, n := range k.View.Networks {
		for _, path := range n.Paths(k.OnLink, k.NextHops) {
			x := api.Route{
				Network: n.Name, Prefix: path.Prefix, Node: path.Node, Pin: path.MAC != "", Kind: string(path.Kind),
				Encap: path.Encap, Device: path.Dev, Why: path.Why(),
			}
			if path.Via.IsValid() {
				x.Via = path.Via.String()
			}
			if path.Kind == topology.PathRoute && !k.Direct[topology.SubnetID{Network: n.Name, Prefix: path.Prefix}] {
				// The kernel has not got the route, or follows somebody else's.
				x.Why += ", but the route is not in place: see 'baize status'"
				x.Kind, x.Encap = string(topology.PathTunnel), n.Transport.Tunnel()
				if x.Encap == "" {
					x.Kind = string(topology.PathNone)
				}
			}
			out = append(out, x)
		}
	}
	return out, nil
}
