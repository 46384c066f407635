// Package kernel is the part of the agent that keeps this host's kernel as the
// networks need it that kernels forward (transports route and auto, and networks
// with routers): the host's own ports, routes, sysctls, the firewall.
//
// It publishes which prefixes of other nodes the kernel routes now (Direct); the
// switch makes flows of that, and says which of them its flows rely on. A route
// goes only when no flow relies on it.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// passPause is the least time between two passes, whatever happens to routes.
	passPause = 100 * time.Millisecond
	// passTimeout bounds one.
	passTimeout = 60 * time.Second
	// acceptEvery is how often the firewall is looked at, at most: an engine that
	// starts changes it.
	acceptEvery = time.Second
)

// Host is what of the host's kernel is read and changed (hostnet, route).
type Host interface {
	SetHostPort(p hostnet.HostPort) error
	// Forward makes the host a router of families and returns what it changed.
	Forward(families ...topology.Family) ([]string, error)
	Routes() (route.Observed, error)
	ChangeRoutes(c route.Change) error
	// CleanRoutes removes all routes of Baize and returns them.
	CleanRoutes() ([]route.Route, error)
	// OnLinkDevice returns the device by which an address is on-link; "" for none.
	OnLinkDevice(a netip.Addr) string
	StrictReversePath(dev string) bool
	AcceptForwarded(ctx context.Context, f topology.Family, rules []string) (bool, error)
	Masquerade(ctx context.Context, f topology.Family, network netip.Prefix, own []netip.Prefix) (bool, error)
	SyncIngressDrops(devices []string) error
	// WatchRoutes and WatchLinks call fire whenever something changed.
	WatchRoutes(ctx context.Context, fire func()) error
	WatchLinks(ctx context.Context, fire func()) error
}

// Config is what the part is started with.
type Config struct {
	// Userspace: the datapath reads frames from packet sockets.
	Userspace bool
	// Every is how often all is looked at though nothing is reported: the firewall
	// reports nothing.
	Every time.Duration
	// Masquerade says whether packets that leave a network get this host's
	// address; nil: nobody asked for it of any, and no rule for it is touched.
	Masquerade func(topology.Network) bool
}

// State is what the kernel's part in forwarding was at the end of a pass. It is
// immutable.
type State struct {
	View     topology.View
	OnLink   topology.OnLink
	NextHops topology.NextHops
	// Direct are the prefixes of other nodes that the kernel routes.
	Direct map[netip.Prefix]bool
	// Complete: every network that needs a port of the host's has it.
	Complete bool
}

// Part is the part of the agent.
type Part struct {
	cfg       Config
	hub       *hub.Hub
	host      Host
	known     *part.Cell[attach.Known]
	segments  *part.Cell[[]ovs.Segment]
	hostPorts *part.Cell[map[string]bool]
	relied    *part.Cell[map[netip.Prefix]bool]
	learned   *part.Cell[Learned]
	direct    *part.Cell[map[netip.Prefix]bool]
	state     *part.Cell[State]
	log       *logrus.Entry
	wake      part.Signal
	faults    part.Faults

	accepted accepted
}

// New returns the part. It starts nothing.
func New(cfg Config, h *hub.Hub, host Host, known *part.Cell[attach.Known], in openvswitch.Inputs, sw *openvswitch.Part, log *logrus.Entry) *Part {
	return &Part{
		cfg: cfg, hub: h, host: host, known: known, segments: in.Segments, direct: in.Direct,
		hostPorts: sw.HostPorts(), relied: sw.Relied(),
		learned: part.NewCell(sameLearned), state: part.NewCell[State](nil), log: log.WithField("part", "kernel"), wake: part.NewSignal(),
	}
}

// Name implements part.Part.
func (p *Part) Name() string { return "kernel" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// State is that at the end of the last pass.
func (p *Part) State() *part.Cell[State] { return p.state }

// Learned is where next hops that routers have told are put.
func (p *Part) Learned() *part.Cell[Learned] { return p.learned }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.hub.Records().Wakes(p.wake)
	p.known.Wakes(p.wake)
	p.segments.Wakes(p.wake)
	p.hostPorts.Wakes(p.wake)
	p.learned.Wakes(p.wake)
	p.relied.Wakes(p.wake)
	var rest sync.WaitGroup
	for what, watch := range map[string]func(context.Context, func()) error{"routes": p.host.WatchRoutes, "links": p.host.WatchLinks} {
		rest.Go(func() { p.keepWatching(ctx, what, watch) })
	}
	part.Loop{Wake: p.wake, Every: p.cfg.Every, Pause: passPause, Timeout: passTimeout}.Run(ctx, p.pass)
	rest.Wait()
	return nil
}

func (p *Part) keepWatching(ctx context.Context, what string, watch func(context.Context, func()) error) {
	for ctx.Err() == nil {
		if err := watch(ctx, p.wake.Wake); err != nil && ctx.Err() == nil {
			p.log.Warnf("watch the %s of this host: %v", what, err)
		}
		part.Sleep(ctx, time.Second)
	}
}

// pass brings the kernel to what the topology asks for. What fails costs only
// itself and is a fault.
func (p *Part) pass(ctx context.Context) error {
	t := p.hub.Records().Get()
	if !t.Known() {
		return nil
	}
	k := look{Part: p, State: State{View: t.View(), Direct: map[netip.Prefix]bool{}, Complete: true}}
	err := k.run(ctx)
	for _, f := range p.faults.Set(fault.Add(k.faults, err)) {
		p.log.Warn(f)
	}
	if err != nil {
		return err // what was stays
	}
	p.direct.Set(k.Direct)
	p.state.Set(k.State)
	return nil
}

// look is one pass.
type look struct {
	*Part
	State
	ready  []route.Network
	faults []fault.Fault
}

func (k *look) run(ctx context.Context) error {
	k.OnLink = k.onLink()
	k.makePorts()
	have, err := k.host.Routes()
	if err != nil {
		return err
	}
	k.NextHops = k.nextHops(have)
	want := route.Wanted(k.ready, k.OnLink, k.NextHops)
	k.faults = append(k.faults, k.pathFaults()...)
	change, faults := route.Diff(want, have)
	k.faults = append(k.faults, faults...)
	stale := change.Remove
	change.Remove = nil
	if !change.Empty() {
		// A route that failed is not in place, and its packets take the tunnel.
		k.faults = fault.Add(k.faults, k.host.ChangeRoutes(change))
		if have, err = k.host.Routes(); err != nil {
			return err
		}
	}
	inPlace := route.InPlace(want, have)
	for _, n := range k.ready {
		for _, path := range n.Paths(k.OnLink, k.NextHops) {
			if path.Kind == topology.PathRoute && (path.Foreign || inPlace[path.Prefix.Masked()]) {
				k.Direct[path.Prefix] = true
			}
		}
	}
	k.acceptForwarded(ctx)
	if k.cfg.Userspace {
		k.faults = fault.Add(k.faults, k.keepIngressDrops())
	}
	if gone := k.unused(stale); len(gone) > 0 {
		k.faults = fault.Add(k.faults, k.host.ChangeRoutes(route.Change{Remove: gone}))
	}
	return nil
}

// unused returns those of the stale routes that no flow relies on. The switch
// gives the others up once it sees Direct, and wakes this part.
func (k *look) unused(stale []route.Route) []route.Route {
	relied := map[netip.Prefix]bool{}
	for p := range k.relied.Get() {
		relied[p.Masked()] = !k.Direct[p]
	}
	return slices.DeleteFunc(stale, func(r route.Route) bool { return relied[r.Prefix.Masked()] })
}

// makePorts makes the host's own ports ready, in networks that kernels forward.
func (k *look) makePorts() {
	known := k.known.Get()
	live := k.hostPorts.Get()
	for _, n := range k.View.Networks {
		h, ok := n.Host()
		if !ok {
			continue
		}
		port := pipeline.HostPortName(n.Name)
		if !live[port] {
			k.Complete = false
			continue
		}
		err := k.host.SetHostPort(hostnet.HostPort{Name: port, MAC: h.MAC, MTU: h.MTU, Addrs: h.Addrs, Neighbours: h.Neighbours})
		if err == nil {
			err = k.forward(n)
		}
		if err != nil {
			k.faults = fault.Add(k.faults, fmt.Errorf("network %s: %w", n.Name, err))
			continue
		}
		x := route.Network{NetworkView: n, Port: port}
		for _, e := range known.Endpoints {
			if e.Network == n.Name {
				x.Endpoints = append(x.Endpoints, e.IPs...)
			}
		}
		k.ready = append(k.ready, x)
	}
}

// forward makes the host a router of the network's families.
func (k *look) forward(n topology.NetworkView) error {
	changed, err := k.host.Forward(n.Families()...)
	if len(changed) > 0 {
		k.log.Infof("network %s is routed by this host: set %s", n.Name, strings.Join(changed, ", "))
	}
	return err
}

// onLink asks the kernel which peers are on-link, by the device of this node's
// own underlay address.
func (k *look) onLink() topology.OnLink {
	out := topology.OnLink{}
	for _, n := range k.View.Networks {
		if !n.Transport.Routed() {
			continue
		}
		for _, peer := range n.Peers {
			for _, a := range peer.VTEPs {
				if _, asked := out[a]; !asked {
					out[a] = k.underlayDevice(a)
				}
			}
		}
	}
	return out
}

// underlay tells the devices through which packets may leave for other nodes
// from those of our own networks.
func underlay(dev string) bool { return dev != "" && dev != "lo" && !strings.HasPrefix(dev, "bn-") }

// underlayDevice is by which device of the underlay an address is on-link; ""
// for none.
func (p *Part) underlayDevice(a netip.Addr) string {
	if dev := p.host.OnLinkDevice(a); underlay(dev) {
		return dev
	}
	return ""
}

// keepIngressDrops puts the rules back that keep the kernel from taking the
// userspace datapath's frames as well: firewall managers flush what is not
// theirs.
func (k *look) keepIngressDrops() error {
	known := k.known.Get()
	if !known.Complete {
		return nil
	}
	var devices []string
	for _, e := range known.All() {
		devices = append(devices, e.Port)
	}
	for _, s := range k.segments.Get() {
		devices = append(devices, s.Port)
	}
	return k.host.SyncIngressDrops(devices)
}

// pathFaults reports nodes that no packet reaches, and a filter that drops
// packets of peers which see this node on their link while it does not see
// them on its own.
func (k *look) pathFaults() []fault.Fault {
	var out []fault.Fault
	strict := map[string]bool{}
	for _, n := range k.ready {
		for _, path := range n.Paths(k.OnLink, k.NextHops) {
			if path.Kind == topology.PathNone {
				out = append(out, fault.Fault{
					Code: fault.Unreachable, Severity: fault.Error, Item: fmt.Sprintf("network %s, node %s", n.Name, path.Node),
					What:   fmt.Sprintf("%s cannot be reached without encapsulation: %s", path.Prefix, path.Why),
					Remedy: "'baize network update " + n.Name + " --transport auto', or let the routers know the way: 'baize agent --bgp', see docs/routing.md",
				})
			}
			if n.Transport != topology.Route && path.Kind == topology.PathRoute && !strict[path.Dev] && k.host.StrictReversePath(path.Dev) {
				strict[path.Dev] = true
				out = append(out, fault.Fault{
					Code: fault.ReversePathStrict, Severity: fault.Warning, Item: "sysctl net.ipv4.conf." + path.Dev + ".rp_filter",
					What:   "strict: while a peer moves to or from the link, its packets are dropped",
					Remedy: fmt.Sprintf("'sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.%s.rp_filter=2'", path.Dev),
				})
			}
		}
	}
	return out
}

// Cleanup implements part.Part.
func (p *Part) Cleanup(ctx context.Context) (report []string, err error) {
	removed, err := p.host.CleanRoutes()
	for _, r := range removed {
		report = append(report, "removed route "+r.String())
	}
	if err != nil {
		return report, err
	}
	var errs []error
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		removed, err := p.host.AcceptForwarded(ctx, f, nil)
		if removed {
			report = append(report, fmt.Sprintf("removed the chain of Baize in the firewall (%s)", f))
		}
		_, masqErr := p.host.Masquerade(ctx, f, netip.Prefix{}, nil)
		errs = append(errs, err, masqErr)
	}
	errs = append(errs, p.host.SyncIngressDrops(nil))
	if err := errors.Join(errs...); err != nil {
		p.log.Warn(err)
	}
	return report, nil
}
