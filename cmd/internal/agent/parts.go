package agent

import (
	"context"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/bgp"
	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/agent/docker0"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/kernel"
	"github.com/baize-net/baize/cmd/internal/agent/membership"
	"github.com/baize-net/baize/cmd/internal/agent/mesh"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/source"
)

// rooms are the parts by what they are; those that an agent may lack are nil.
type rooms struct {
	hub        *hub.Hub
	membership *membership.Part
	attach     *attach.Part
	sw         *openvswitch.Part
	kernel     *kernel.Part
	docker     *docker.Part
	bgp        *bgp.Part
	mesh       *mesh.Part
}

// New puts an agent together. It starts nothing. cfg has its defaults.
func New(cfg Config, w World, log *logrus.Logger) (*Agent, error) {
	a := &Agent{
		cfg: cfg, world: w, log: log.WithField("node", cfg.Node), started: time.Now(), failed: map[string]*part.Faults{},
	}
	userspace := w.Datapath != "system"
	probes := w.Probes != nil && cfg.ProbeInterval > 0
	ports := map[topology.Transport]int{topology.VXLAN: cfg.VXLANPort, topology.Geneve: cfg.GenevePort}
	h := hub.New(w.Identity)
	records := hub.NewRecords(h, w.Store, cfg.StateDir, a.log)
	member := membership.New(membership.Config{
		Networks: cfg.Networks, Grace: cfg.LeaseGrace, LivenessTTL: cfg.LivenessTTL, Datapath: w.Datapath,
		Version: cfg.Version, Probes: probes, EtcdEndpoints: cfg.Etcd.Endpoints,
	}, h, w.Store, w.Host, a.log)
	endpoints := attach.New(h, member, w.Host, cfg.StateDir, userspace, a.log)
	in := openvswitch.NewInputs()
	in.HasSegments = cfg.DockerBridge != ""
	sw := openvswitch.New(openvswitch.Config{
		Bridge: cfg.Bridge, Datapath: w.Datapath, Ports: ports, AuditInterval: cfg.AuditInterval,
	}, h, w.Database, w.Flows, w.Host, endpoints, in, a.log)
	endpoints.SetSwitch(sw)
	member.Follow(endpoints.Known(), endpoints, sw.Offers())
	routes := kernel.New(kernel.Config{
		Userspace: userspace, Every: cfg.AuditInterval, Masquerade: cfg.Masquerade, Protected: cfg.protected(),
	}, h, w.Kernel, endpoints.Known(), in, sw, a.log)
	a.rooms = rooms{hub: h, membership: member, attach: endpoints, sw: sw, kernel: routes}
	a.parts = []part.Part{records, member, endpoints, sw, routes}

	if err := a.addSources(); err != nil {
		return nil, err
	}
	if cfg.DockerBridge != "" {
		a.parts = append(a.parts, docker0.New(docker0.Config{
			Network: cfg.DockerNetwork, Networks: cfg.Networks, EnvFile: cfg.DockerEnv,
			Every: cfg.AuditInterval, Userspace: userspace,
		}, h, w.Store, w.Host, in, sw, a.log))
	}
	var called *part.Cell[names.Called]
	if s := a.dockerSettings(); s.Wanted() {
		a.rooms.docker = docker.NewPart(s, dockerNode{endpoints, member, h}, a.log)
		a.parts = append(a.parts, a.rooms.docker)
		called = a.rooms.docker.Called()
	}
	a.followUse(in)
	a.parts = append(a.parts, names.NewPart(h, w.Store, endpoints.Known(), called, docker.LabelEndpoint, a.log))
	if cfg.speaks() {
		speaker, err := bgp.NewPart(cfg.BGP, h, a.log)
		if err != nil {
			return nil, err
		}
		speaker.Follow(routes.State(), routes.Learned())
		a.rooms.bgp = speaker
		a.parts = append(a.parts, speaker)
	}
	if probes {
		a.addMesh(ports)
	}
	for _, p := range a.parts {
		a.failed[p.Name()] = &part.Faults{}
	}
	return a, nil
}

// addMesh makes the probes of peers a part of the agent.
func (a *Agent) addMesh(ports map[topology.Transport]int) {
	cfg := mesh.Config{Interval: a.cfg.ProbeInterval, Ports: ports}
	a.rooms.mesh = mesh.New(cfg, a.rooms.hub, a.rooms.sw.Outcome(), a.world.Probes, a.world.Echo, a.log)
	a.parts = append(a.parts, a.rooms.mesh)
}

// followUse tells the part that owns the node's leases what uses networks on this
// host: those it leases in, the others it lets go of.
func (a *Agent) followUse(in openvswitch.Inputs) {
	users := []membership.User{{
		Uses: func(network string) (uses []string, known bool) {
			for _, s := range in.Segments.Get() {
				if s.Network == network {
					uses = append(uses, s.Name)
				}
			}
			return uses, !in.HasSegments || in.Segments.Known()
		},
		Wakes: in.Segments.Wakes,
	}}
	if d := a.rooms.docker; d != nil {
		users = append(users, membership.User{
			Uses:  func(network string) ([]string, bool) { return d.Used().Get()[network], d.Used().Known() },
			Wakes: func(s part.Signal) { d.Used().Wakes(s); d.Called().Wakes(s) },
		})
		a.rooms.attach.SetCalled(func(e ovs.Endpoint) string {
			if name := d.Called().Get().Containers[e.Labels[docker.LabelEndpoint]].Name; name != "" {
				return "container " + name
			}
			return ""
		})
	}
	a.rooms.membership.FollowUse(a.rooms.attach, users...)
}

// agentDockerSocket, beside the local API's, is where the relay of Docker's
// requests finds the agent.
const agentDockerSocket = "docker.sock"

func (a *Agent) dockerSettings() docker.Settings {
	return docker.Settings{
		Mode:        a.cfg.DockerPlugin,
		Socket:      a.cfg.DockerSocket,
		StateDir:    a.cfg.StateDir,
		Relay:       a.cfg.DockerRelay,
		AgentSocket: filepath.Join(filepath.Dir(a.cfg.Socket), agentDockerSocket),
	}
}

// addSources makes the further sources of the topology parts of the agent.
func (a *Agent) addSources() error {
	known := a.rooms.attach.Known()
	for _, make := range a.cfg.Sources {
		s, err := make(SourceDeps{
			Node:    a.cfg.Node,
			Changed: a.rooms.hub.Merge,
			Member:  a.member,
			Infof:   a.log.Infof,
			Cache: func(file string, decode func(int64, []topology.KV) *topology.Snapshot) source.Cache {
				return hub.NewCache(filepath.Join(a.cfg.StateDir, file), decode, func(err error) { a.log.Warn(err) })
			},
		})
		if err != nil {
			return err
		}
		a.rooms.hub.AddSource(s)
		p := newSourcePart(s)
		known.Wakes(p.wake)
		a.rooms.hub.Records().Wakes(p.wake)
		a.parts = append(a.parts, p)
	}
	return nil
}

// member is what a source has to know of this node.
func (a *Agent) member(context.Context) (source.Member, error) {
	t, known := a.rooms.hub.Records().Get(), a.rooms.attach.Known().Get()
	if !t.Known() || !known.Complete {
		return source.Member{}, source.ErrNotYet
	}
	if _, registered := t.Own.Nodes[a.cfg.Node]; !registered {
		return source.Member{}, source.ErrNotYet
	}
	underlay, err := a.world.Host.Underlay()
	if err != nil {
		return source.Member{}, err
	}
	m := source.Member{Underlay: underlay.Addrs, InUse: map[string][]netip.Addr{}}
	for _, e := range known.Endpoints {
		m.InUse[e.Network] = append(m.InUse[e.Network], e.IPs...)
	}
	return m, nil
}

// sourcePart wakes a source when the node changes.
type sourcePart struct {
	source.Source
	wake part.Signal
}

func newSourcePart(s source.Source) sourcePart { return sourcePart{s, part.NewSignal()} }

// Run implements part.Part.
func (p sourcePart) Run(ctx context.Context) error {
	g := part.NewGroup(ctx)
	g.Go(func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-p.wake:
				p.Wake()
			}
		}
	})
	g.Go(p.Source.Run)
	return g.Wait()
}

// dockerNode is the node as Docker's plugin needs it.
type dockerNode struct {
	*attach.Part
	membership *membership.Part
	hub        *hub.Hub
}

var _ docker.Node = dockerNode{}

// Networks implements docker.Node.
func (n dockerNode) Networks(ctx context.Context) ([]topology.Network, error) {
	t, err := n.hub.Await(ctx)
	if err != nil {
		return nil, err
	}
	return t.Snapshot.SortedNetworks(), nil
}

// EnsureNetwork implements docker.Node.
func (n dockerNode) EnsureNetwork(
	ctx context.Context,
	net topology.Network,
	families []topology.Family,
	accept func(topology.Network) error,
) (topology.Network, error) {
	return n.membership.EnsureNetwork(ctx, net, families, accept)
}
