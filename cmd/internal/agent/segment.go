package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// dockerBridge is the bridge of containers that ask for no network.
const dockerBridge = "docker0"

// segmentState is what is known of docker0 beside what can be read anew.
// a.mu guards it.
type segmentState struct {
	// written: the environment file says what is in force.
	written bool
	// firewall is what the last look at the host's firewall found, suspect what
	// it would have reported had the one before seen it, too.
	firewall, suspect []fault.Fault
	looked            bool
}

// segmentPort is the end of docker0's veth pair on the integration bridge,
// segmentEnd the one on docker0. A pair, and not an internal port of Open
// vSwitch: it stays a port of docker0 when ovs-vswitchd restarts.
var (
	segmentPort = hostnet.HostIfname("segment/" + dockerBridge)
	segmentEnd  = dockerBridge + "-baize"
)

// segmentOf returns the subnet whose addresses a segment gives away.
func segmentOf(s *topology.Snapshot, network string, ip netip.Addr) (topology.Subnet, bool) {
	for id, sub := range s.Subnets {
		if id.Network == network && sub.Segment != "" && id.Prefix.Contains(ip) {
			return sub, true
		}
	}
	return topology.Subnet{}, false
}

// dockerNetwork is the network that docker0 is a part of.
func (a *Agent) dockerNetwork(networks []topology.Network) (topology.Network, error) {
	bad := func(kind error, what, remedy string) (topology.Network, error) {
		return topology.Network{}, &topology.Error{Kind: kind, Item: "--docker-bridge " + a.cfg.DockerBridge, What: what, Remedy: remedy}
	}
	var names []string
	for _, n := range networks {
		if a.isFlannels(n) {
			if n.Name == a.cfg.DockerNetwork || len(networks) == 1 {
				return bad(topology.ErrInvalid, "in flannel's network docker0 is behind the host, as with flannel, and no part of an Ethernet", "leave --docker-bridge out, and start Docker with what "+a.cfg.SubnetFile+" says")
			}
			continue
		}
		if n.Name == a.cfg.DockerNetwork {
			return n, n.CheckSegment(a.cfg.DockerBridge)
		}
		names = append(names, n.Name)
	}
	networks = slices.DeleteFunc(slices.Clone(networks), a.isFlannels)
	switch {
	case a.cfg.DockerNetwork != "":
		return bad(topology.ErrNotFound, fmt.Sprintf("its network %s does not exist, or this node does not carry it", a.cfg.DockerNetwork), "create it with 'baize network create "+a.cfg.DockerNetwork+"'")
	case len(networks) == 0:
		return bad(topology.ErrNotFound, "there is no network for it yet", "create one with 'baize network create'")
	case len(networks) > 1:
		return bad(topology.ErrInvalid, "the node carries several networks: "+strings.Join(names, ", "), "name one with --docker-network")
	}
	return networks[0], networks[0].CheckSegment(a.cfg.DockerBridge)
}

// leaseSegment gets docker0 a subnet of its own in each family: Docker gives its
// addresses away without asking anybody.
func (a *Agent) leaseSegment(ctx context.Context, s *topology.Snapshot) error {
	if a.cfg.DockerBridge == "" {
		return nil
	}
	carried := slices.DeleteFunc(s.SortedNetworks(), func(n topology.Network) bool { return !a.carries(n.Name) })
	n, err := a.dockerNetwork(carried)
	if err != nil {
		return err
	}
	own := s.NodeSubnets(n.Name, a.cfg.Node)
	for _, f := range n.Families() {
		if slices.ContainsFunc(own, func(sub topology.Subnet) bool {
			return topology.FamilyOf(sub.Prefix.Addr()) == f && sub.Segment == a.cfg.DockerBridge
		}) {
			continue
		}
		sub, err := a.claimSegment(ctx, n, f)
		if err != nil {
			return err
		}
		a.log.Infof("leased %s in network %s for %s", sub.Prefix, n.Name, a.cfg.DockerBridge)
	}
	return nil
}

// claimSegment takes the subnet that Docker was started with, so that a lease
// lost is never a renumbering; else any.
func (a *Agent) claimSegment(ctx context.Context, n topology.Network, f topology.Family) (topology.Subnet, error) {
	// A file that is not there, or not whole, is no hint.
	if e, err := subnetenv.Read(a.cfg.DockerEnv); err == nil && e.L2 {
		p := e.Subnet
		if f == topology.IPv6 {
			p = e.IPv6Subnet
		}
		if p.IsValid() {
			if sub, err := a.store.ClaimSubnet(ctx, topology.Subnet{Network: n.Name, Prefix: p, Node: a.cfg.Node, Segment: a.cfg.DockerBridge}); err == nil {
				return sub, nil
			}
		}
	}
	return a.store.LeaseSegment(ctx, n.Name, a.cfg.Node, a.cfg.DockerBridge, f)
}

// segmentView finds docker0 in what the node knows. ok is false while it has
// no subnet.
func (a *Agent) segmentView(v topology.View) (n topology.NetworkView, s topology.Segment, ok bool) {
	for _, n := range v.Networks {
		for _, s := range n.Segments {
			if s.Name == a.cfg.DockerBridge && (a.cfg.DockerNetwork == "" || a.cfg.DockerNetwork == n.Name) {
				return n, s, true
			}
		}
	}
	return n, s, false
}

func apiSegments(observed ovs.Observed, v topology.View) []api.Segment {
	var out []api.Segment
	for _, s := range observed.Segments() {
		x := api.Segment{Name: s.Name, Network: s.Network, Port: s.Port, Subnets: []netip.Prefix{}}
		n, _ := v.Find(s.Network)
		for _, t := range n.Segments {
			if t.Name == s.Name {
				x.Subnets = t.Subnets
			}
		}
		out = append(out, x)
	}
	return out
}

// hangOn makes docker0's end of the pair its port as soon as Docker has made
// the bridge. It is called whenever a link changes.
func (a *Agent) hangOn() {
	if _, err := hostnet.Enslave(segmentEnd, a.cfg.DockerBridge); err != nil {
		a.log.Warn(err)
	}
}

// attachSegment makes the pair, and reports what about docker0 is not as it
// has to be. The segment is nil where there is nothing to forward.
func (a *Agent) attachSegment(ctx context.Context, v topology.View, audit bool) ([]ovs.Segment, []fault.Fault) {
	if a.cfg.DockerBridge == "" {
		return nil, nil
	}
	n, s, ok := a.segmentView(v)
	if !ok {
		return nil, nil // membership says why
	}
	h := fnv.New32a()
	h.Write([]byte(a.id))
	err := hostnet.Attach(ctx, hostnet.AttachSpec{
		Netns: "/proc/thread-self/ns/net", Ifname: segmentEnd, HostIfname: segmentPort,
		// High, so that docker0 does not take it for its own.
		MAC: h.Sum(net.HardwareAddr{0xfa, 0xba}), MTU: n.MTU,
		ChecksumOffload: a.datapath == "system", HostIngressDrop: a.datapath != "system", Bridge: a.cfg.DockerBridge,
	})
	if err != nil {
		return nil, []fault.Fault{fault.Of(err)}
	}
	segment := ovs.Segment{Name: s.Name, Network: n.Name, Port: segmentPort}
	b, err := hostnet.FindBridge(a.cfg.DockerBridge)
	if err != nil {
		return []ovs.Segment{segment}, []fault.Fault{fault.Of(err)}
	}
	problems := bridgeProblems(b, n, s, a.cfg.DockerEnv)
	if b != nil {
		a.addOnLink(b, n)
		problems = append(problems, a.firewallProblems(ctx, audit)...)
	}
	return []ovs.Segment{segment}, problems
}

// addOnLink makes the whole IPv6 network on-link at docker0: engines have no
// --bip for IPv6, so containers hold the others for behind their gateway, and
// this host forwards to the same link.
func (a *Agent) addOnLink(b *hostnet.Bridge, n topology.NetworkView) {
	if !n.IPv6.IsValid() || !slices.ContainsFunc(b.Addrs, func(p netip.Prefix) bool { return n.IPv6.Contains(p.Addr()) }) {
		return
	}
	if err := hostnet.AddOnLink(n.IPv6, a.cfg.DockerBridge); err != nil {
		a.log.Warn(err)
	}
}

// bridgeProblems compares docker0 with what Docker must be started with.
func bridgeProblems(b *hostnet.Bridge, n topology.NetworkView, s topology.Segment, file string) []fault.Fault {
	item := "bridge " + s.Name
	restart := "start Docker with the options of " + file + " (mk-docker-opts.sh turns it into them): 'systemctl restart docker'"
	if b == nil {
		return []fault.Fault{{Item: item, What: "it is not there: Docker has not made it yet, or does not run", Remedy: restart}}
	}
	var out []fault.Fault
	for _, p := range s.Subnets {
		want := netip.PrefixFrom(topology.NodeAddr(p), n.Prefix(topology.FamilyOf(p.Addr())).Bits())
		// Docker has no IPv6 unless it is told to, and then its own mask.
		if p.Addr().Is4() && !slices.Contains(b.Addrs, want) {
			out = append(out, fault.Fault{Item: item, What: fmt.Sprintf("its addresses are %v and not %s, which this node leases for it: its containers are cut off", b.Addrs, want), Remedy: restart})
		}
	}
	if b.MTU > n.MTU {
		out = append(out, fault.Fault{Item: item, What: fmt.Sprintf("its MTU is %d, packets of the network have %d at most: larger ones vanish", b.MTU, n.MTU), Remedy: restart})
	}
	if a, ok := topology.AddrOfMAC(b.MAC.String()); ok && n.IPv4.IsValid() && n.IPv4.Contains(a) && !slices.ContainsFunc(s.Subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
		out = append(out, fault.Fault{
			Item: item, What: fmt.Sprintf("its MAC %s, drawn by chance, is that of address %s: other hosts do not reach its own address", b.MAC, a),
			Remedy: fmt.Sprintf("'ip link set %s address %s'", s.Name, topology.MACOf(topology.NodeAddr(s.Subnets[0]))),
		})
	}
	return out
}

// finishSegment comes when all flows are in place: the file is written, with
// which Docker may start, and what docker0 had and has no more is removed.
func (a *Agent) finishSegment(ctx context.Context, v topology.View, observed ovs.Observed, segments []ovs.Segment) error {
	var errs []error
	for _, old := range observed.Segments() {
		if !slices.ContainsFunc(segments, func(s ovs.Segment) bool { return s.Port == old.Port }) {
			errs = append(errs, hostnet.Detach(ctx, old.Port))
		}
	}
	if n, s, ok := a.segmentView(v); ok && len(segments) > 0 {
		e := subnetenv.Env{MTU: n.MTU, L2: true}
		for _, p := range s.Subnets {
			if p.Addr().Is4() {
				e.Network, e.Subnet = n.IPv4, p
			} else {
				e.IPv6Network, e.IPv6Subnet = n.IPv6, p
			}
		}
		// Both families, or the file would change once it is in use.
		complete := len(s.Subnets) >= len(n.Families())
		if complete {
			if err := subnetenv.Write(a.cfg.DockerEnv, e); err != nil {
				return errors.Join(append(errs, err)...)
			}
		}
		a.mu.Lock()
		a.segment.written = a.segment.written || complete
		a.mu.Unlock()
	}
	return errors.Join(errs...)
}
