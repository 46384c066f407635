package agent

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/answers"
	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/bgp"
	"github.com/baize-net/baize/cmd/internal/agent/captures"
	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/agent/docker0"
	"github.com/baize-net/baize/cmd/internal/agent/events"
	"github.com/baize-net/baize/cmd/internal/agent/fastpath"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/kernel"
	"github.com/baize-net/baize/cmd/internal/agent/membership"
	"github.com/baize-net/baize/cmd/internal/agent/mesh"
	"github.com/baize-net/baize/cmd/internal/agent/metrics"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
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
	fastpath   *fastpath.Part
	docker     *docker.Part
	bgp        *bgp.Part
	mesh       *mesh.Part
	events     *events.Part
	captures   *captures.Part
}

// New puts an agent together. It starts nothing. cfg has its defaults.
func New(cfg Config, w World, log *logrus.Logger) (*Agent, error) {
	a := &Agent{
		cfg: cfg, world: w, log: log.WithField("node", cfg.Node), started: time.Now(), pulse: part.NewPulse(),
		failed:   map[string]*part.Faults{},
		restarts: map[string]uint64{},
	}
	called, err := a.addParts()
	if err != nil {
		return nil, err
	}
	a.addWatchers(called)
	for _, p := range a.parts {
		a.failed[p.Name()] = &part.Faults{}
	}
	return a, nil
}

// add makes a part one of the agent's.
func (a *Agent) add(p part.Part) { a.parts = append(a.parts, p) }

// probes reports whether this node probes the ways to its peers.
func (a *Agent) probes() bool { return a.world.Probes != nil && a.cfg.ProbeInterval > 0 }

// udpPorts are the ports of encapsulations, where one was chosen.
func (a *Agent) udpPorts() map[topology.Transport]int {
	return map[topology.Transport]int{topology.VXLAN: a.cfg.VXLANPort, topology.Geneve: a.cfg.GenevePort}
}

// addParts adds the parts that make the node what it is to be. called is what an engine
// calls its containers; nil where there is none.
func (a *Agent) addParts() (called *part.Cell[names.Called], err error) {
	cfg, w := a.cfg, a.world
	in := a.addCore()
	if err := a.addSources(); err != nil {
		return nil, err
	}
	r := a.rooms
	if cfg.DockerBridge != "" {
		a.add(docker0.New(docker0.Config{
			Network: cfg.DockerNetwork, Networks: cfg.Networks, EnvFile: cfg.DockerEnv,
			Every: cfg.AuditInterval, Userspace: w.Datapath != "system",
		}, r.hub, w.Store, w.Host, in, r.sw, a.log))
	}
	if s := a.dockerSettings(); s.Wanted() {
		a.rooms.docker = docker.NewPart(s, dockerNode{r.attach, r.membership, r.hub}, a.log)
		a.add(a.rooms.docker)
		called = a.rooms.docker.Called()
	}
	a.followUse(in)
	host, err := names.ParseHost(cfg.HostNames)
	if err != nil {
		return nil, err
	}
	chosen := names.Settings{Public: cfg.PublicNames, Host: host}
	a.add(names.NewPart(r.hub, w.Store, r.attach.Known(), called, docker.LabelEndpoint, chosen, a.log))
	a.addCaptures()
	a.add(answers.New(cfg.Node, w.Store, a.kinds(), a.log))
	if cfg.speaks() {
		speaker, err := bgp.NewPart(cfg.BGP, r.hub, a.log)
		if err != nil {
			return nil, err
		}
		speaker.Follow(r.kernel.State(), r.kernel.Learned())
		a.rooms.bgp = speaker
		a.add(speaker)
	}
	return called, nil
}

// addCaptures adds what captures packets for other nodes.
func (a *Agent) addCaptures() {
	a.rooms.captures = captures.New(captures.Config{
		Refuse: a.cfg.NoRemoteCapture, Find: a.Point,
		IsNode: func(addr netip.Addr) bool {
			t := a.rooms.hub.Topology().Get()
			if !t.Known() {
				return false
			}
			for _, n := range t.Snapshot.Nodes {
				if slices.Contains(n.VTEPs, addr) {
					return true
				}
			}
			return false
		},
	}, a.log)
	a.add(a.rooms.captures)
}

// addCore adds what every agent has: its records, its endpoints, the switch and the
// kernel.
func (a *Agent) addCore() openvswitch.Inputs {
	cfg, w := a.cfg, a.world
	userspace := w.Datapath != "system"
	h := hub.New(w.Identity)
	records := hub.NewRecords(h, w.Store, cfg.StateDir, a.log)
	member := membership.New(membership.Config{
		Networks: cfg.Networks, Grace: cfg.LeaseGrace, LivenessTTL: cfg.LivenessTTL, Datapath: w.Datapath,
		Version: cfg.Version, Probes: a.probes(), EtcdEndpoints: cfg.Etcd.Endpoints,
	}, h, w.Store, w.Host, a.log)
	endpoints := attach.New(h, member, w.Host, cfg.StateDir, userspace, a.log)
	if w.Disk != nil {
		records.SetDisk(w.Disk)
		endpoints.SetDisk(w.Disk)
	}
	in := openvswitch.NewInputs()
	in.HasSegments = cfg.DockerBridge != ""
	sw := openvswitch.New(openvswitch.Config{
		Bridge: cfg.Bridge, Datapath: w.Datapath, Ports: a.udpPorts(), AuditInterval: cfg.AuditInterval,
		SFlow: cfg.SFlow,
	}, h, w.Database, w.Flows, w.Host, endpoints, in, a.log)
	endpoints.SetSwitch(sw)
	member.Follow(endpoints.Known(), endpoints, sw.Offers())
	if member.SetAsker(w.Asker); w.Asker == nil && w.Probes != nil {
		member.SetAsker(a.askOwner)
	}
	routes := kernel.New(kernel.Config{
		Userspace: userspace, Every: cfg.AuditInterval, Masquerade: cfg.Masquerade, Protected: cfg.protected(),
		TunnelPorts: a.udpPorts(), Pods: cfg.Pods,
	}, h, w.Kernel, endpoints.Known(), in, sw, a.log)
	a.rooms = rooms{hub: h, membership: member, attach: endpoints, sw: sw, kernel: routes}
	a.parts = []part.Part{records, member, endpoints, sw, routes}
	a.addFastPath(userspace)
	return in
}

// addWatchers adds the parts that change nothing: they look, remember and tell.
func (a *Agent) addWatchers(called *part.Cell[names.Called]) {
	cfg, w, r := a.cfg, a.world, a.rooms
	if a.probes() {
		a.rooms.mesh = mesh.New(
			mesh.Config{Interval: cfg.ProbeInterval, Ports: a.udpPorts()}, r.hub, r.sw.Outcome(), w.Probes, w.Echo, a.log,
		)
		a.add(a.rooms.mesh)
	}
	a.rooms.events = events.New(events.Sources{
		Hub: r.hub, Faults: a.Faults, FaultsWake: a.faultsWake, Endpoints: r.attach.Deeds(), Known: r.attach.Known(),
		Switch: r.sw.Deeds(), Called: called, Label: docker.LabelEndpoint, Version: cfg.Version,
		Started: a.started,
	}, cfg.StateDir, a.log)
	a.add(a.rooms.events)
	if cfg.Metrics != "" {
		a.add(metrics.New(cfg.Metrics, a.metricSources(), a.log))
	}
	a.addConsole()
}

// metricSources are what metrics are taken from.
func (a *Agent) metricSources() metrics.Sources {
	var ways func() []api.Way
	if a.rooms.mesh != nil {
		ways = func() []api.Way { return waysOf(a.cfg.Node, a.rooms.mesh.Results()) }
	}
	return metrics.Sources{
		Ways:    ways,
		Version: a.cfg.Version, Started: a.started, Ready: a.isReady,
		Topology: a.rooms.hub.Topology(), Known: a.rooms.attach.Known(), Switch: a.rooms.sw,
		Faults: a.Faults, Failures: a.failures,
		Passes: func() map[string]part.Passes {
			out := map[string]part.Passes{}
			for _, p := range a.parts {
				if r, ok := p.(part.Reconciler); ok {
					out[p.Name()] = r.Passes()
				}
			}
			return out
		},
		Sessions: func() map[string]bool {
			out := map[string]bool{}
			if a.rooms.bgp == nil {
				return out
			}
			for _, s := range a.rooms.bgp.Sessions() {
				out[s.Neighbor.Addr.String()] = s.Up
			}
			return out
		},
		Events: a.rooms.events.Journal().Counts,
	}
}

// addFastPath makes the fast path a part of the agent, where the world has one.
func (a *Agent) addFastPath(userspace bool) {
	if a.world.Programs == nil {
		return
	}
	a.rooms.fastpath = fastpath.New(fastpath.Config{
		Mode: a.cfg.FastPath, Userspace: userspace, SFlow: a.cfg.SFlow != nil, Every: a.cfg.AuditInterval,
	}, a.world.Programs, a.world.Netfilter, a.rooms.kernel.State(), a.rooms.attach.Known(), a.rooms.sw.Outcome(), a.log)
	a.add(a.rooms.fastpath)
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

// Cleanup implements part.Part.
func (p sourcePart) Cleanup(_ context.Context, undo part.Undo) ([]string, error) {
	return undo.RemoveFiles(p.Files()...)
}

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
