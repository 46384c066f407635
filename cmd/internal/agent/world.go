package agent

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/answers"
	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/docker0"
	"github.com/baize-net/baize/cmd/internal/agent/fastpath"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/membership"
	"github.com/baize-net/baize/cmd/internal/agent/mesh"
	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/standalone"
	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/cmd/internal/fastpath/bpf"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/linux"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology/etcdstore"
)

// Store is etcd, as etcdstore.Store serves it.
type Store interface {
	hub.Watcher
	membership.Store
	docker0.Store
	names.Store
	answers.Store
	panels.Asker
}

// Host is this host's devices and namespaces.
type Host interface {
	attach.Host
	membership.Host
	docker0.Host
	openvswitch.Host
}

// World is all that is outside of an agent. A test may have one in memory.
type World struct {
	Identity hub.Identity
	Store    Store
	Database openvswitch.Database
	Flows    openvswitch.FlowTables
	Host     Host
	Kernel   kernel.Host
	// Disk writes what the agent must have at its next start; nil: atomicfile.Write does.
	Disk atomicfile.Writer
	// Programs are those of the fast path, Netfilter what they must not pass by; nil:
	// there is no fast path.
	Programs  fastpath.Programs
	Netfilter fastpath.Netfilter
	// Probes is how probes go out of the switch and come from it; nil: there are none.
	Probes mesh.Wire
	// Echo sends echo requests to other hosts; nil: none are sent.
	Echo mesh.Echo
	// Asker asks for addresses of nodes whose agent does not run; nil: by Probes, and by
	// pings where kernels route.
	Asker membership.Asker
	// Datapath is "system" or "netdev", DatapathReason says why it is that one.
	Datapath, DatapathReason string

	// Kinds makes the questions of other hosts that the agent answers; nil: there are none.
	// It is told what people call the container of an endpoint.
	Kinds func(h *hub.Hub, containers func(ovs.Endpoint) string) answers.Kinds

	closers []func()
}

// kinds are those that an agent with a hub answers.
func (w World) kinds(h *hub.Hub, containers func(ovs.Endpoint) string) answers.Kinds {
	if w.Kinds == nil {
		return nil
	}
	return w.Kinds(h, containers)
}

func (w World) close() {
	for _, f := range w.closers {
		f()
	}
}

// realWorld is the world that an agent is started in.
func realWorld(ctx context.Context, cfg Config, log *logrus.Logger) (World, error) {
	w, err := localWorld(cfg, log)
	if err != nil {
		return w, err
	}
	for _, file := range atomicfile.Left(cfg.StateDir, time.Minute) { // agents were killed
		if err := os.Remove(file); err != nil {
			log.Warnf("what a killed agent left: %v", err)
		}
	}
	if w.Identity.ID, err = cfg.nodeID(); err != nil {
		w.close()
		return w, err
	}
	if err := w.connect(ctx, cfg); err != nil {
		w.close()
		return w, err
	}
	return w, nil
}

// connect gives the world its etcd, which need not answer yet, or what stands for it.
func (w *World) connect(ctx context.Context, cfg Config) error {
	if cfg.WithoutEtcd {
		w.Store = standalone.New(cfg.Node, w.Identity.ID, hub.ReadCache(cfg.StateDir))
		return nil
	}
	store, err := etcdstore.Open(ctx, cfg.Etcd)
	if err != nil {
		return err
	}
	w.Store = store
	w.closers = append(w.closers, func() { _ = store.Close() })
	return nil
}

// localWorld is the world without etcd, and without the identity that is drawn
// once.
func localWorld(cfg Config, log *logrus.Logger) (World, error) {
	w := World{
		Identity: hub.Identity{Node: cfg.Node}, Host: cfg.host(), Kernel: linux.Host{},
		Programs: &bpf.Host{}, Netfilter: linux.Host{},
	}
	var err error
	if w.Identity.Hostname, err = hostnet.Hostname(); err != nil {
		return w, err
	}
	if w.Identity.Epoch, err = hostnet.BootID(); err != nil {
		return w, err
	}
	db, err := vswitch.New(vswitch.Config{Endpoint: cfg.OVSDB, Bridge: cfg.Bridge})
	if err != nil {
		return w, err
	}
	w.Database = db
	flows := openflow.New(openflow.Config{Bridge: cfg.Bridge, RunDir: cfg.OVSRunDir, Spare: true})
	w.Flows = flows
	w.Probes = flows.Packets(openflow.PacketsConfig{
		ID: pipeline.ProbeController, Rate: mesh.MostPackets, Burst: mesh.MostBurst,
	})
	w.Echo = hostnet.NewEcho(uint16(os.Getpid()))
	w.closers = append(w.closers, db.Close, flows.Close)
	w.Datapath, w.DatapathReason = chooseDatapath(cfg, log)
	w.Kinds = cfg.kinds
	return w, nil
}

func chooseDatapath(cfg Config, log *logrus.Logger) (datapath, why string) {
	if cfg.Datapath != "auto" {
		return cfg.Datapath, "set with --datapath"
	}
	has, err := hostnet.Datapath()
	if has {
		return "system", "the kernel has the openvswitch module"
	}
	log.Debug(err)
	return "netdev", "userspace: the kernel has no openvswitch module"
}

// host is the real one.
type host struct {
	vtep  string
	reach []netip.Addr
}

func (c Config) host() host {
	h := host{vtep: c.VTEP}
	for _, r := range c.reached() {
		h.reach = append(h.reach, r.Addr)
	}
	return h
}

var _ Host = host{}

func (h host) Underlay() (hostnet.Underlay, error) { return hostnet.VTEP(h.vtep, h.reach) }

func (host) Attach(ctx context.Context, s hostnet.AttachSpec) error { return hostnet.Attach(ctx, s) }

func (host) MakePair(ctx context.Context, s hostnet.PairSpec) error { return hostnet.MakePair(ctx, s) }

func (host) Detach(ctx context.Context, port string) error { return hostnet.Detach(ctx, port) }

func (host) AwaitLink(ctx context.Context, netns string, mac net.HardwareAddr, addrs []netip.Addr) (string, error) {
	return hostnet.AwaitLink(ctx, netns, mac, addrs)
}

func (host) Announce(ctx context.Context, netns, ifname string, mac net.HardwareAddr, addrs []netip.Addr) error {
	return hostnet.Announce(ctx, netns, ifname, mac, addrs)
}

func (host) ProbeAddress(ctx context.Context, devices []string, a netip.Addr) (*hostnet.Occupant, error) {
	return hostnet.ProbeAddress(ctx, devices, a)
}

func (host) Abandoned(port string) (bool, error) { return hostnet.Abandoned(port) }

func (host) LinkExists(name string) bool       { return hostnet.LinkExists(name) }
func (host) DeviceCalled(name string) string   { return hostnet.DeviceCalled(name) }
func (host) Devices() (map[string]bool, error) { return hostnet.Devices() }

func (host) LowerMTU(port, netns string, mac net.HardwareAddr, mtu int) (int, error) {
	return hostnet.LowerMTU(port, netns, mac, mtu)
}

func (host) DeviceOf(p netip.Prefix, but string) (string, error) { return hostnet.DeviceOf(p, but) }

func (host) Veths() ([]string, error) { return hostnet.Veths(hostnet.HostPrefix) }

func (host) WatchLinks(ctx context.Context, fire func()) error { return hostnet.WatchLinks(ctx, fire) }

func (host) OnLink(a netip.Addr) bool { return hostnet.OnLink(a) }

func (host) FindBridge(name string) (*hostnet.Bridge, error) { return hostnet.FindBridge(name) }

func (host) Enslave(ifname, bridge string) (bool, error) { return hostnet.Enslave(ifname, bridge) }
