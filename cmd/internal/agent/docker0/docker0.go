// Package docker0 is the part of the agent that makes Docker's own bridge a part
// of a network: containers that ask for no network are on the same Ethernet as
// all others. Docker assigns the addresses of a subnet of its own; the part leases
// it, makes the pair of devices between the bridge and Open vSwitch, and writes the
// file that says what Docker must be started with.
package docker0

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Bridge is the bridge of containers that ask for no network.
const Bridge = "docker0"

const (
	passTimeout = 60 * time.Second
	passPause   = 50 * time.Millisecond
)

// port is the end of the pair of devices on the integration bridge, end the one
// on docker0. A pair, and not an internal port of Open vSwitch: it stays a port of
// docker0 when ovs-vswitchd restarts.
var (
	port = hostnet.HostIfname("segment/" + Bridge)
	end  = Bridge + "-baize"
)

// Store is where the subnet is leased.
type Store interface {
	LeaseSegment(ctx context.Context, network, node, segment string, f topology.Family) (topology.Subnet, error)
	ClaimSubnet(ctx context.Context, s topology.Subnet) (topology.Subnet, error)
}

// Host is what is read and changed of this host (hostnet).
type Host interface {
	Attach(ctx context.Context, spec hostnet.AttachSpec) error
	Detach(ctx context.Context, port string) error
	FindBridge(name string) (*hostnet.Bridge, error)
	Enslave(ifname, bridge string) (bool, error)
	// WatchLinks calls fire whenever links or addresses change, until ctx ends.
	WatchLinks(ctx context.Context, fire func()) error
}

// Config is what the part is started with.
type Config struct {
	// Network is the network that docker0 is a part of. Where it is empty, it is the
	// only one of Networks, or where that is empty as well, the only one that there is.
	Network  string
	Networks []string
	// EnvFile is the file that says what Docker must be started with.
	EnvFile string
	// Every is how often all is looked at though nothing is reported: the host's
	// firewall reports nothing.
	Every time.Duration
	// Userspace: the datapath reads frames from packet sockets.
	Userspace bool
}

// Part is the part of the agent.
type Part struct {
	cfg       Config
	hub       *hub.Hub
	store     Store
	host      Host
	segments  *part.Cell[[]ovs.Segment]
	hostPorts *part.Cell[map[string]bool]
	outcome   *part.Cell[openvswitch.Outcome]
	log       *logrus.Entry
	wake      part.Signal
	faults    part.Faults
	stats     part.Stats
	firewall  firewall

	mu sync.Mutex
	// written: the file says what is in force.
	written bool
}

// New returns the part. It starts nothing.
func New(
	cfg Config,
	h *hub.Hub,
	store Store,
	host Host,
	in openvswitch.Inputs,
	sw *openvswitch.Part,
	log *logrus.Entry,
) *Part {
	return &Part{
		cfg: cfg, hub: h, store: store, host: host, segments: in.Segments, hostPorts: sw.HostPorts(), outcome: sw.Outcome(),
		log: log.WithField("part", "docker0"), wake: part.NewSignal(),
	}
}

// Name implements part.Part.
func (p *Part) Name() string { return "docker0" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Passes implements part.Reconciler.
func (p *Part) Passes() part.Passes { return p.stats.Passes() }

// Ready implements part.Readier: Docker is started after this, with what the
// file says.
func (p *Part) Ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written
}

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.hub.Records().Wakes(p.wake)
	p.hostPorts.Wakes(p.wake)
	g := part.NewGroup(ctx)
	g.Watch("the links of this host", p.log, p.watchLinks)
	g.Loop(part.Loop{Wake: p.wake, Every: p.cfg.Every, Pause: passPause, Timeout: passTimeout, Stats: &p.stats}, p.pass)
	return g.Wait()
}

// watchLinks makes docker0's end of the pair its port as soon as Docker has made
// the bridge.
func (p *Part) watchLinks(ctx context.Context) error {
	return p.host.WatchLinks(ctx, func() {
		if _, err := p.host.Enslave(end, Bridge); err != nil {
			p.log.Warn(err)
		}
		p.wake.Wake()
	})
}

func (p *Part) pass(ctx context.Context) error {
	t := p.hub.Records().Get()
	if !t.Known() {
		return nil
	}
	// First what the switch waits for; etcd and the firewall may take their time.
	v := t.View()
	segments, attachErr := p.attach(ctx, v)
	p.segments.Set(segments)
	var leaseErr error
	if _, registered := t.Snapshot.Nodes[p.hub.Self().Node]; registered && !t.Cached && t.Err == nil {
		leaseErr = p.lease(ctx, t.Snapshot)
	}
	faults := p.look(ctx, v, segments)
	err := errors.Join(attachErr, leaseErr, p.finish(ctx, v, segments))
	for _, f := range p.faults.Set(fault.Add(faults, err)) {
		p.log.Warn(f)
	}
	return err
}

// network is the network that docker0 is a part of.
func (p *Part) network(networks []topology.Network) (topology.Network, error) {
	bad := func(kind error, code fault.Code, what, remedy string) (topology.Network, error) {
		return topology.Network{}, &topology.Error{
			Kind:   kind,
			Code:   code,
			Item:   "--docker-bridge " + Bridge,
			What:   what,
			Remedy: remedy,
		}
	}
	var names []string
	var possible []topology.Network
	for _, n := range networks {
		if n.Layout != "" {
			if n.Name == p.cfg.Network || len(networks) == 1 {
				return bad(
					topology.ErrInvalid,
					fault.SegmentMismatch,
					"in "+n.Layout+"'s network docker0 is behind the host, which routes for it, and no part of an Ethernet",
					"leave --docker-bridge out, and start Docker with what "+n.Layout+"'s subnet file says",
				)
			}
			continue
		}
		if n.Name == p.cfg.Network {
			return n, n.CheckSegment(Bridge)
		}
		names, possible = append(names, n.Name), append(possible, n)
	}
	switch {
	case p.cfg.Network != "":
		return bad(
			topology.ErrNotFound,
			fault.NetworkMissing,
			fmt.Sprintf("its network %s does not exist", p.cfg.Network),
			"create it with 'baize network create "+p.cfg.Network+"'",
		)
	case len(possible) == 0:
		return bad(
			topology.ErrNotFound,
			fault.NetworkMissing,
			"there is no network for it yet",
			"create one with 'baize network create'",
		)
	case len(possible) > 1:
		return bad(
			topology.ErrInvalid,
			fault.SegmentMismatch,
			"there are several networks: "+strings.Join(names, ", "),
			"name one with --docker-network",
		)
	}
	return possible[0], possible[0].CheckSegment(Bridge)
}

// lease gets docker0 a subnet of its own in each family: Docker assigns its
// addresses without asking anybody.
func (p *Part) lease(ctx context.Context, s *topology.Snapshot) error {
	n, err := p.network(slices.DeleteFunc(s.SortedNetworks(), func(n topology.Network) bool {
		return p.cfg.Network == "" && len(p.cfg.Networks) > 0 && !slices.Contains(p.cfg.Networks, n.Name)
	}))
	if err != nil {
		return err
	}
	own := s.NodeSubnets(n.Name, p.hub.Self().Node)
	for _, f := range n.Families() {
		if slices.ContainsFunc(own, func(sub topology.Subnet) bool {
			return topology.FamilyOf(sub.Prefix.Addr()) == f && sub.Segment == Bridge
		}) {
			continue
		}
		if err := n.CheckOpen(); err != nil {
			return err
		}
		sub, err := p.claim(ctx, n, f)
		if err != nil {
			return err
		}
		p.log.Infof("leased %s in network %s for %s", sub.Prefix, n.Name, Bridge)
	}
	return nil
}

// claim takes the subnet that Docker was started with, so that a lease lost is
// never a renumbering; else any.
func (p *Part) claim(ctx context.Context, n topology.Network, f topology.Family) (topology.Subnet, error) {
	self := p.hub.Self().Node
	// A file that is not there, or not whole, is no hint.
	if e, err := subnetenv.Read(p.cfg.EnvFile); err == nil && e.L2 {
		prefix := e.Subnet
		if f == topology.IPv6 {
			prefix = e.IPv6Subnet
		}
		if prefix.IsValid() {
			claim := topology.Subnet{Network: n.Name, Prefix: prefix, Node: self, Segment: Bridge}
			if sub, err := p.store.ClaimSubnet(ctx, claim); err == nil {
				return sub, nil
			}
		}
	}
	return p.store.LeaseSegment(ctx, n.Name, self, Bridge, f)
}

// find finds docker0 in what the node knows. ok is false while it has no
// subnet.
func (p *Part) find(v topology.View) (n topology.NetworkView, s topology.Segment, ok bool) {
	for _, n := range v.Networks {
		for _, s := range n.Segments {
			if s.Name == Bridge && (p.cfg.Network == "" || p.cfg.Network == n.Name) {
				return n, s, true
			}
		}
	}
	return n, s, false
}

// attach makes the pair. There is no segment where there is nothing to forward.
func (p *Part) attach(ctx context.Context, v topology.View) ([]ovs.Segment, error) {
	n, s, ok := p.find(v)
	if !ok {
		return nil, nil // lease says why
	}
	// A pair that is made and taken away again is told to whoever watches links, this
	// part among them, which would never rest.
	if _, err := p.host.FindBridge(Bridge); errors.Is(err, topology.ErrConflict) {
		return nil, err
	}
	h := fnv.New32a()
	h.Write([]byte(p.hub.Self().ID))
	err := p.host.Attach(ctx, hostnet.AttachSpec{
		Netns: "/proc/thread-self/ns/net", Ifname: end, HostIfname: port,
		// High, so that docker0 does not take it for its own.
		MAC: h.Sum(net.HardwareAddr{0xfa, 0xba}), MTU: n.MTU,
		ChecksumOffload: !p.cfg.Userspace, HostIngressDrop: p.cfg.Userspace, Bridge: Bridge,
	})
	if err != nil {
		return nil, err
	}
	return []ovs.Segment{{Name: s.Name, Network: n.Name, Port: port}}, nil
}

// look reports what about docker0 is not as it has to be.
func (p *Part) look(ctx context.Context, v topology.View, segments []ovs.Segment) []fault.Fault {
	n, s, ok := p.find(v)
	if !ok || len(segments) == 0 {
		return nil
	}
	b, err := p.host.FindBridge(Bridge)
	if err != nil {
		return fault.All(err)
	}
	faults := bridgeFaults(b, n, s, p.cfg.EnvFile)
	if b != nil {
		faults = append(faults, p.firewall.look(ctx, p.cfg.Every, p.log)...)
	}
	return faults
}

// bridgeFaults compares docker0 with what Docker must be started with.
func bridgeFaults(b *hostnet.Bridge, n topology.NetworkView, s topology.Segment, file string) []fault.Fault {
	item := "bridge " + s.Name
	restart := "start Docker with the options of " + file + " (mk-docker-opts.sh turns it into them): 'systemctl " +
		"restart docker'"
	if b == nil {
		return []fault.Fault{
			{
				Code:     fault.SegmentMissing,
				Severity: fault.Error,
				Item:     item,
				What:     "it is not there: Docker has not made it yet, or does not run",
				Remedy:   restart,
			},
		}
	}
	var out []fault.Fault
	for _, p := range s.Subnets {
		want := netip.PrefixFrom(topology.NodeAddr(p), n.Prefix(topology.FamilyOf(p.Addr())).Bits())
		// Docker has no IPv6 unless it is told to, and then its own mask.
		if p.Addr().Is4() && !slices.Contains(b.Addrs, want) {
			out = append(
				out,
				fault.Fault{
					Code:     fault.SegmentMismatch,
					Severity: fault.Error,
					Item:     item,
					What: fmt.Sprintf(
						"its addresses are %v and not %s, which this node leases for it: its containers are cut off",
						b.Addrs,
						want,
					),
					Remedy: restart,
				},
			)
		}
	}
	if b.MTU > n.MTU {
		out = append(
			out,
			fault.Fault{
				Code:     fault.SegmentMismatch,
				Severity: fault.Error,
				Item:     item,
				What:     fmt.Sprintf("its MTU is %d, packets of the network have %d at most: larger ones vanish", b.MTU, n.MTU),
				Remedy:   restart,
			},
		)
	}
	if a, ok := topology.AddrOfMAC(b.MAC.String()); ok && n.IPv4.IsValid() && n.IPv4.Contains(a) &&
		!slices.ContainsFunc(s.Subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
		out = append(out, fault.Fault{
			Code: fault.SegmentMismatch, Severity: fault.Error,
			Item: item,
			What: fmt.Sprintf("its MAC %s, drawn by chance, is that of address %s: other hosts do not reach its own "+
				"address", b.MAC, a),
			Remedy: fmt.Sprintf("'ip link set %s address %s'", s.Name, topology.MACOf(topology.NodeAddr(s.Subnets[0]))),
		})
	}
	return out
}

// finish writes the file, with which Docker may start, once the switch forwards
// for docker0; what docker0 had and has no more is removed.
func (p *Part) finish(ctx context.Context, v topology.View, segments []ovs.Segment) error {
	var errs []error
	for _, old := range p.outcome.Get().Observed.Segments() {
		if !slices.ContainsFunc(segments, func(s ovs.Segment) bool { return s.Port == old.Port }) {
			errs = append(errs, p.host.Detach(ctx, old.Port))
		}
	}
	n, s, ok := p.find(v)
	if !ok || len(segments) == 0 || !p.hostPorts.Get()[port] {
		return errors.Join(errs...)
	}
	e := subnetenv.Env{MTU: n.MTU, L2: true}
	for _, prefix := range s.Subnets {
		if prefix.Addr().Is4() {
			e.Network, e.Subnet = n.IPv4, prefix
		} else {
			e.IPv6Network, e.IPv6Subnet = n.IPv6, prefix
		}
	}
	// Both families, or the file would change once it is in use.
	if len(s.Subnets) < len(n.Families()) {
		return errors.Join(errs...)
	}
	if err := subnetenv.Write(p.cfg.EnvFile, e); err != nil {
		return errors.Join(append(errs, err)...)
	}
	p.mu.Lock()
	p.written = true
	p.mu.Unlock()
	return errors.Join(errs...)
}

// Cleanup implements part.Part. The devices are among those of endpoints.
func (p *Part) Cleanup(_ context.Context, undo part.Undo) ([]string, error) {
	return undo.RemoveFiles(p.cfg.EnvFile)
}
