package pipeline

import (
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/topology"
)

// In a network with Router every node is a router beside being a part of the
// Ethernet: its kernel has what Open vSwitch has not, a docker0 for example.
// What is to be routed is sent to a link address of its own (topology.RouterMAC).
//
// A peer with Router is a router and nothing else, no member of the Ethernet:
// its kernel routes packets for another host's subnet into a VXLAN device, to
// the link address that the other host published, and takes only packets for
// its own.

// toRouterHost answers who asks for the host's addresses here, with this node's
// link address as a router, and sends packets for them on as a router does,
// unless the kernel has a route that needs no tunnel. The frames of endpoints
// have the tunnel key already.
func (n *network) toRouterHost(p *topology.Peer, out string) {
	for i, s := range p.Subnets {
		before := n.b.because(n.subnetReason(s, p.Revisions[i]))
		n.toRoutedSubnet(p, s, out)
		n.b.because(before)
	}
}

func (n *network) toRoutedSubnet(p *topology.Peer, s netip.Prefix, out string) {
	n.answerTarget(TableSteer, prioTarget, s)
	if n.direct(s) {
		n.flow(classDirect, TableExact, prioIPPrefix, destination(s), n.toHost)
		return
	}
	mac := p.Router.MAC
	if s.Addr().Is6() {
		mac, out = p.Router.IPv6MAC, output(n.b.tunnelIPv6(p))
	}
	forward := actions(set(n.RouterMAC, "eth_src"), set(mac, "eth_dst"))
	// The kernel has lowered the TTL already, the endpoint's frame is to
	// lose one here.
	n.toAnyRouter(s, actions(forward, out))
	lowered := actions(forward, "dec_ttl", out)
	n.flow(classRouter, TableExact, prioRouted, destination(s)+",dl_dst="+n.RouterMAC.String(), lowered)
	n.flow(classRouter, TableExact, prioIPPrefix, destination(s), lowered)
}

// hasSecond reports whether a router has a tunnel over IPv6 beside the one over IPv4.
func hasSecond(p *topology.Peer) bool {
	return p.Router != nil && p.Router.IPv6MAC != "" && !p.Remote.Is6()
}

// tunnelIPv6 adds the port to a router's VXLAN device that is for IPv6, inside and
// outside: its second one, unless the host has IPv6 alone.
func (b *builder) tunnelIPv6(p *topology.Peer) string {
	if !hasSecond(p) {
		return b.tunnel(p)
	}
	var remote netip.Addr
	for _, a := range p.VTEPs {
		if a.Is6() {
			remote = a
		}
	}
	return b.tunnelTo(p, b.names.Tunnel(p.Encap, p.Node+secondTunnel), p.LocalIPv6, remote, true)
}

// toRouter leads to another Baize node: frames for its link address as a
// router, and what this node's kernel routes.
func (n *network) toRouter(p *topology.Peer, out string) {
	n.flow(classRouter, TableExact, prioMAC, "dl_dst="+p.RouterMAC.String(), out)
	for i, s := range p.Subnets {
		before := n.b.because(n.subnetReason(s, p.Revisions[i]))
		n.toAnyRouter(s, actions(set(p.RouterMAC, "eth_dst"), out))
		n.b.because(before)
	}
}

// toAnyRouter says which node routes what this node's kernel sends on.
func (n *network) toAnyRouter(p netip.Prefix, to string) {
	n.flow(classRouter, TableExact, prioRouted, destination(p)+",dl_dst="+topology.AnyRouterMAC().String(), to)
}

// behindKernel answers for addresses of the node's own subnet that no endpoint
// has, except to the kernel itself.
func (n *network) behindKernel(p netip.Prefix) {
	n.answerTarget(TableLocal, prioTarget, p)
	n.flow(DropKernelAsks, TableLocal, prioTarget+1, inPort(n.hostPort)+","+target(p), drop)
}

// asRouter matches, in a tunnel, what is sent to this node as a router.
func (n *network) asRouter() string { return fmt.Sprintf("tun_id=0x%x,dl_dst=%s", n.VNI, n.RouterMAC) }

// arriveRouted brings packets that were sent to this node as a router to local
// endpoints, and the rest to its kernel. The former go no further than table
// local: the split horizon holds for them, too.
func (n *network) arriveRouted() {
	if !n.Router || !n.Transport.Ethernet() {
		return
	}
	b := n.b
	b.flow(DropRoutedHere, TableRouted, prioDefault, "", drop) // there is one such network at most
	ours := n.asRouter()
	n.flow(DropNoRoute, TableExact, prioNoRoute, "dl_dst="+topology.AnyRouterMAC().String(), drop)
	arrive := func(class string, priority int, p netip.Prefix, to string) {
		b.flow(class, TableRouted, priority, ours+","+destination(p), actions(n.enter(), to))
	}
	for _, e := range n.endpoints {
		if e.MAC == nil {
			continue
		}
		before := b.because(portReason(e.Port))
		for _, a := range e.IPs {
			arrive(classEndpoint, prioPort, single(a),
				actions(set(n.RouterMAC, "eth_src"), set(e.MAC, "eth_dst"), "dec_ttl", goTo(TableLocal)))
		}
		n.b.because(before)
	}
	for _, p := range n.OwnSubnets() {
		before := b.because(n.subnetReason(p, n.OwnRevisions[p]))
		arrive(classKernel, prioKernel, p, n.toHost)
		n.b.because(before)
	}
}
