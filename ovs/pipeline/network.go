package pipeline

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// network is one network while its flows are written.
type network struct {
	topology.NetworkView
	b         *builder
	endpoints []ovs.Endpoint
	match     string
	// exact are the subnets of which some address is not where its subnet
	// is: their MACs are looked up one by one, all others by range only.
	// OVS caches what it looked at: a range looked up first keeps one cache
	// entry for a node instead of one for each remote container.
	exact map[netip.Prefix]bool
	known map[place]bool
	// isPeer are the nodes of peers, where there are pins.
	isPeer map[string]bool
	// hostPort is the name of the host's own port; "" where there is none.
	// toHost are the actions of a frame for the host's kernel to route.
	hostPort, toHost string
	// locals are the outputs to all local ports, unknown to those behind which
	// addresses are not known one by one, open to those that nothing is known of.
	locals, unknown, open []string
}

// network writes the flows of one network. Nothing that a frame out of a
// tunnel can reach (tables tunnel, routed, local, deliver) has an output to
// another tunnel: that is the split horizon.
func (b *builder) network(v topology.NetworkView, endpoints []ovs.Endpoint) {
	n := &network{
		NetworkView: v, b: b, endpoints: endpoints, match: fmt.Sprintf("metadata=0x%x", v.VNI),
		exact: map[netip.Prefix]bool{}, known: map[place]bool{},
	}
	defer b.because(b.because(ovs.Reason{Key: n.source(topology.NetworkKey(n.Name)), Revision: n.ModRevision}))
	n.findExceptions()
	n.collectors()
	n.host()
	b.flow(DropNotMember, TableTunnel, prioStranger, fmt.Sprintf("tun_id=0x%x", n.VNI), drop)
	n.localPorts()
	n.arriveRouted()
	n.lists()
	n.ownSubnets()
	tunnels := n.peers()
	n.replicate(tunnels)
	if len(n.Pins) > 0 {
		n.isPeer = make(map[string]bool, len(n.Peers))
		for i := range n.Peers {
			n.isPeer[n.Peers[i].Node] = true
		}
	}
	if n.Transport.Ethernet() {
		n.pins(tunnels)
	} else {
		n.routedPins()
	}
}

// source says in whose layout a key is.
func (n *network) source(key string) string {
	if n.Layout == "" {
		return key
	}
	return n.Layout + "'s " + key
}

// subnetReason is the record of a subnet.
func (n *network) subnetReason(p netip.Prefix, revision int64) ovs.Reason {
	return ovs.Reason{Key: n.source(topology.SubnetKey(n.Name, p)), Revision: revision}
}

// localPorts writes the flows of endpoints and segments.
func (n *network) localPorts() {
	if n.hostPort != "" {
		n.locals = append(n.locals, output(n.hostPort))
	}
	for _, e := range n.endpoints {
		n.locals = append(n.locals, output(e.Port))
		if e.MAC == nil {
			n.open, n.unknown = append(n.open, output(e.Port)), append(n.unknown, output(e.Port))
		}
		n.endpoint(e)
	}
	for _, s := range n.b.opt.Segments {
		i := slices.IndexFunc(n.Segments, func(x topology.Segment) bool { return x.Name == s.Name && s.Network == n.Name })
		if i < 0 {
			continue
		}
		n.locals, n.unknown = append(n.locals, output(s.Port)), append(n.unknown, output(s.Port))
		n.segment(s.Port, n.Segments[i].Subnets)
	}
}

// lists writes the ports of the lists that table deliver knows, and sends there
// what is for unknown addresses.
func (n *network) lists() {
	for _, x := range []struct {
		list  int
		class string
		ports []string
	}{{egressAll, classFlood, n.locals}, {egressUnknown, classUnknown, n.unknown}, {egressOpen, classUnknown, n.open}} {
		if len(x.ports) > 0 {
			n.flow(x.class, TableDeliver, prioList, fmt.Sprintf("%s=0x%x", ovs.Egress, x.list), strings.Join(x.ports, ","))
		}
	}
	if len(n.unknown) > 0 {
		n.flow(classUnknown, TableLocal, prioRest, "", deliverTo(egressUnknown))
	}
	for _, p := range n.Prefixes() {
		n.orOpen(DropUnleased, TableSteer, prioUnowned, p)
	}
}

// orOpen sends questions for an address that nobody has to the ports that
// nothing is known of, and drops them where there are none.
func (n *network) orOpen(class string, table, priority int, p netip.Prefix) {
	if len(n.open) > 0 {
		n.flow(classUnknown, table, priority, target(p), deliverTo(egressOpen))
		return
	}
	n.flow(class, table, priority, target(p), drop)
}

// ownSubnets leads to table local.
func (n *network) ownSubnets() {
	for _, p := range n.Subnets {
		before := n.b.because(n.subnetReason(p, n.OwnRevisions[p]))
		n.subnet(p, classSubnet, goTo(TableLocal))
		if n.Router && len(n.open) == 0 {
			n.behindKernel(p)
		} else {
			n.orOpen(DropNoEndpoint, TableLocal, prioTarget, p)
		}
		n.b.because(before)
	}
}

// peers leads to the other nodes and returns the outputs to those that are
// bridges, in the order of the peers.
func (n *network) peers() []string {
	tunnels := make([]string, 0, len(n.Peers))
	w := n.b.write(n)
	for i := range n.Peers {
		peer := &n.Peers[i]
		switch {
		case peer.Encap == "":
			n.routed(peer)
		case peer.Router != nil:
			n.toRouterHost(peer, output(n.b.tunnel(peer)))
		default:
			tunnels = append(tunnels, w.peer(n, peer))
		}
	}
	return tunnels
}

// bridge leads to a node that is a bridge, out being the output to its port.
func (n *network) bridge(peer *topology.Peer, out string) {
	n.arrive(peer, n.b.tunnel(peer))
	var ranges []string
	for j, p := range peer.Subnets {
		before := n.b.because(n.subnetReason(p, peer.Revisions[j]))
		n.subnet(p, classSubnet, out)
		if n.direct(p) {
			if ranges == nil {
				ranges = macRanges(peer.Subnets)
			}
			n.directSubnet(p, ranges, peer.RouterMAC)
		}
		n.b.because(before)
	}
	if n.Router {
		n.toRouter(peer, out)
	}
}

// arrive takes frames out of the tunnel of a node that has a part of the network. Of
// any other node's they are dropped: nobody there may send them.
func (n *network) arrive(peer *topology.Peer, port string) {
	before := n.b.because(n.peerReason(peer))
	n.b.flow(classTunnel, TableTunnel, prioPort, fmt.Sprintf("%s,tun_id=0x%x", inPort(port), n.VNI),
		actions(n.enter(), goTo(TableLocal)))
	if n.Router {
		n.b.flow(classTunnel, TableTunnel, prioPort+10, inPort(port)+","+n.asRouter(), goTo(TableRouted))
	}
	n.b.because(before)
}

// peerReason is the record that makes a node one of the network's: its first subnet
// there.
func (n *network) peerReason(peer *topology.Peer) ovs.Reason {
	if len(peer.Subnets) == 0 {
		return n.b.reason
	}
	return n.subnetReason(peer.Subnets[0], peer.Revisions[0])
}

// once writes a flow unless its match has one: two endpoints with one address
// would replace each other's flow for ever.
func (n *network) once(class string, table, priority int, match, actions string) {
	k := place{table, priority, match}
	if !n.known[k] {
		n.known[k] = true
		n.flow(class, table, priority, match, actions)
	}
}

type place struct {
	table, priority int
	match           string
}

func (n *network) flow(class string, table, priority int, match, actions string) {
	if match == "" {
		n.b.flow(class, table, priority, n.match, actions)
		return
	}
	n.b.flow(class, table, priority, n.match+","+match, actions)
}

// enter makes a frame one of this network.
func (n *network) enter() string { return fmt.Sprintf("set_field:0x%x->metadata", n.VNI) }

// enterLocally is enter for frames of this node. The tunnel key is set early:
// every way out of the node uses the same.
func (n *network) enterLocally() string {
	return fmt.Sprintf("set_field:0x%x->tun_id,%s", n.VNI, n.enter())
}

// first returns the table in which a frame of an endpoint is steered first, after
// what may keep it from being sent at all.
func (n *network) first() int {
	if n.Transport.Direct() == topology.DirectOnLink {
		return TableDirect
	}
	return TableSteer
}

// findExceptions looks for MACs in the range of a subnet whose node does not
// have them: those of pins, and those of endpoints pinned to this node.
func (n *network) findExceptions() {
	var macs []string
	for _, p := range n.Pins {
		macs = append(macs, p.MAC)
	}
	for _, e := range n.endpoints {
		if e.MAC != nil && !n.ownRange(e.MAC) {
			macs = append(macs, e.MAC.String())
		}
	}
	if len(macs) == 0 {
		return
	}
	lengths := map[int]bool{}
	add := func(subnets []netip.Prefix) {
		for _, p := range subnets {
			lengths[p.Bits()] = true
		}
	}
	add(n.OwnSubnets())
	for i := range n.Peers {
		add(n.Peers[i].Subnets)
	}
	for _, s := range macs {
		a, ok := topology.AddrOfMAC(s)
		if !ok {
			continue
		}
		for l := range lengths {
			if p, err := a.Prefix(l); err == nil {
				n.exact[p] = true
			}
		}
	}
}

// ownRange reports whether a MAC is in the range of one of the node's own
// subnets.
func (n *network) ownRange(mac net.HardwareAddr) bool {
	a, ok := topology.AddrOfMAC(mac.String())
	return ok && slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}
