package pipeline

import (
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/ovs"
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
	for _, s := range p.Subnets {
		n.answerTarget(TableSteer, prioTarget, s)
		if n.b.opt.Direct[s] {
			n.flow(TableExact, prioIPPrefix, destination(s), n.toHost)
			continue
		}
		mac, out := p.Router.MAC, out
		if s.Addr().Is6() {
			mac, out = p.Router.IPv6MAC, output(n.b.tunnelIPv6(p))
		}
		forward := fmt.Sprintf("set_field:%s->eth_src,set_field:%s->eth_dst,", n.RouterMAC, mac)
		// The kernel has lowered the TTL already, the endpoint's frame is to
		// lose one here.
		n.toAnyRouter(s, forward+out)
		n.flow(TableExact, prioRouted, destination(s)+",dl_dst="+n.RouterMAC.String(), forward+"dec_ttl,"+out)
		n.flow(TableExact, prioIPPrefix, destination(s), forward+"dec_ttl,"+out)
	}
}

// tunnelIPv6 adds the port to a router's second VXLAN device, which is for
// IPv6, inside and outside.
func (b *builder) tunnelIPv6(p *topology.Peer) string {
	var remote netip.Addr
	for _, a := range p.VTEPs {
		if a.Is6() {
			remote = a
		}
	}
	return b.tunnelTo(p, TunnelName(p.Encap, p.Node+" IPv6"), p.LocalIPv6, remote)
}

// toRouter leads to another Baize node: frames for its link address as a
// router, and what this node's kernel routes.
func (n *network) toRouter(p *topology.Peer, out string) {
	n.flow(TableExact, prioMAC, "dl_dst="+p.RouterMAC.String(), out)
	for _, s := range p.Subnets {
		n.toAnyRouter(s, fmt.Sprintf("set_field:%s->eth_dst,%s", p.RouterMAC, out))
	}
}

// toAnyRouter says which node routes what this node's kernel sends on.
func (n *network) toAnyRouter(p netip.Prefix, actions string) {
	n.flow(TableExact, prioRouted, destination(p)+",dl_dst="+topology.AnyRouterMAC().String(), actions)
}

// behindKernel answers for addresses of the node's own subnet that no endpoint
// has, except to the kernel itself.
func (n *network) behindKernel(p netip.Prefix) {
	n.answerTarget(TableLocal, prioTarget, p)
	n.flow(TableLocal, prioTarget+1, inPort(n.hostPort)+","+target(p), "drop")
}

// arriveRouted brings packets that were sent to this node as a router to local
// endpoints, and the rest to its kernel. The former go no further than table
// local: the split horizon holds for them, too.
func (n *network) arriveRouted(endpoints []ovs.Endpoint) {
	if !n.Router || n.Transport == topology.Route {
		return
	}
	b := n.b
	b.flow(TableRouted, prioDefault, "", "drop") // there is one such network at most
	b.flow(TableTunnel, prioPort+10, fmt.Sprintf("tun_id=0x%x,dl_dst=%s", n.VNI, n.RouterMAC), goTo(TableRouted))
	n.flow(TableExact, prioNoRoute, "dl_dst="+topology.AnyRouterMAC().String(), "drop")
	arrive := func(priority int, p netip.Prefix, actions string) {
		b.flow(TableRouted, priority, fmt.Sprintf("tun_id=0x%x,dl_dst=%s,%s", n.VNI, n.RouterMAC, destination(p)), n.enter()+","+actions)
	}
	for _, e := range endpoints {
		if e.MAC == nil {
			continue
		}
		for _, a := range e.IPs {
			arrive(prioPort, single(a), fmt.Sprintf("set_field:%s->eth_src,set_field:%s->eth_dst,dec_ttl,%s", n.RouterMAC, e.MAC, goTo(TableLocal)))
		}
	}
	for _, p := range n.OwnSubnets() {
		arrive(prioKernel, p, n.toHost)
	}
}
