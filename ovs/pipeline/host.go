package pipeline

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// What concerns networks that the host's kernel routes, all or in part
// (topology.Route, topology.Auto, Network.Router).

// host adds the host's own port and what is for the host itself.
func (n *network) host() {
	h, ok := n.Host()
	if !ok {
		return
	}
	n.hostPort = n.b.names.Host(n.Name)
	n.toHost = fmt.Sprintf("set_field:%s->eth_dst,%s", h.MAC, output(n.hostPort))
	ips := make([]string, len(h.Addrs))
	for i, a := range h.Addrs {
		ips[i] = a.String()
	}
	ids := map[string]string{
		ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleHost, ovs.KeyNetwork: n.Name, ovs.KeyMAC: h.MAC.String(), ovs.KeyMTU: strconv.Itoa(h.MTU),
	}
	if len(ips) > 0 {
		ids[ovs.KeyIPs] = strings.Join(ips, ",")
	}
	n.b.state.Ports = append(n.b.state.Ports, ovs.Port{Name: n.hostPort, Type: "internal", ExternalIDs: ids})
	// Frames of the kernel are not guarded: packets of other nodes' endpoints
	// are among them. In a Route network they are all for this node.
	next := TableLocal
	if n.Transport.Ethernet() {
		next = TableSteer
	}
	if n.Transport.Direct() == topology.DirectOnLink {
		n.hops()
	}
	n.b.flow(TableClassify, prioPort, inPort(n.hostPort), fmt.Sprintf("set_field:0x%x->tun_id,%s,%s", n.VNI, n.enter(), goTo(next)))
	n.deliver(ovs.Endpoint{Network: n.Name, Port: n.hostPort, MAC: h.MAC, IPs: h.Addrs})
	if !n.Transport.Ethernet() || n.Router {
		n.answer()
	}
}

// Route.

// answer makes an advertisement of a solicitation (RFC 4861 sections 4.3 and
// 4.4). The type was set in table steer: fields of an advertisement can be
// written only where the type is known. Flags and option type get there through
// reg1: no kernel's datapath has these fields, and Open vSwitch refuses to set
// them there by set_field, but moves what changes them to ovs-vswitchd.
func (n *network) answer() {
	const solicitedOverride = "0x60000000"
	n.flow(TableAnswer, prioPort, fmt.Sprintf("icmp6,icmp_type=%d", neighbourAdvertisement), strings.Join([]string{
		"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", n.answerMAC("eth_src"),
		"move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[]", "move:NXM_NX_ND_TARGET[]->NXM_NX_IPV6_SRC[]",
		"set_field:" + solicitedOverride + "->reg1", "move:NXM_NX_REG1[]->ERICOXM_OF_ICMPV6_ND_RESERVED[]",
		"set_field:2->reg1", "move:NXM_NX_REG1[0..7]->ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE[]", n.answerMAC("nd_tll"), "in_port",
	}, ","))
	// Duplicate address detection must not find the gateway.
	n.flow(TableAnswer, prioPort+10, fmt.Sprintf("icmp6,ipv6_src=::,icmp_type=%d", neighbourAdvertisement), "drop")
}

// answerMAC sets a field to the link address that answers give: of a Route
// network the gateway's, else this node's own as a router.
func (n *network) answerMAC(field string) string {
	mac := n.RouterMAC
	if !n.Transport.Ethernet() {
		mac = topology.GatewayMAC(n.Network)
	}
	return fmt.Sprintf("set_field:%s->%s", mac, field)
}

// answerTarget answers on the spot who asks for the link address of p.
func (n *network) answerTarget(table, priority int, p netip.Prefix) {
	if p.Addr().Is6() {
		next := goTo(TableAnswer)
		if table > TableAnswer {
			next = fmt.Sprintf("resubmit(,%d)", TableAnswer) // goto_table leads forward only
		}
		n.once(table, priority, target(p), fmt.Sprintf("set_field:%d->icmpv6_type,%s", neighbourAdvertisement, next))
		return
	}
	// The question becomes its own answer (RFC 826).
	n.once(table, priority, target(p)+",arp_op=1", strings.Join([]string{
		"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", n.answerMAC("eth_src"), "set_field:2->arp_op",
		"move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]", n.answerMAC("arp_sha"),
		// The addresses change places.
		"push:NXM_OF_ARP_SPA[]", "move:NXM_OF_ARP_TPA[]->NXM_OF_ARP_SPA[]", "pop:NXM_OF_ARP_TPA[]", "in_port",
	}, ","))
}

// routed writes the subnets of a node that packets are routed to: the kernel
// knows the way. Frames to MACs of that node are those of endpoints that asked
// before the network was routed.
func (n *network) routed(peer *topology.Peer) {
	for _, p := range peer.Subnets {
		n.answerTarget(TableSteer, prioTarget, p)
		n.flow(TableExact, prioIPPrefix, destination(p), n.toHost)
		if p.Addr().Is6() {
			continue
		}
		macs := "dl_dst=" + macRange(p)
		if n.exact[p] { // some of these MACs are here
			n.flow(TableSteer, prioMACRange, macs, goTo(TableExact))
			continue
		}
		n.flow(TableSteer, prioMACRangeIP, "ip,"+macs, n.toHost)
		n.flow(TableSteer, prioMACRangeIP, "ipv6,"+macs, n.toHost)
		n.flow(TableSteer, prioMACRange, macs, "drop")
	}
}

func (n *network) routedPins() {
	for _, pin := range n.Pins {
		p := single(pin.Addr)
		if n.ownPin(pin) {
			continue
		}
		n.answerTarget(TableSteer, prioAddrKnown, p)
		n.flow(TableExact, prioIPDirect, destination(p), n.toHost)
		n.once(TableExact, prioMAC, "dl_dst="+pin.MAC, n.toHost)
	}
}

func (n *network) ownPin(pin topology.Pin) bool {
	for i := range n.Peers {
		if n.Peers[i].Node == pin.Node {
			return false
		}
	}
	return true
}

// Auto.

// hopsTaken is how far a packet's TTL or hop limit sinks on the way through two
// kernels: one with no more than this would not arrive.
const hopsTaken = 2

// hops sends through the tunnel what is not what it was after two routers:
// packets whose time is up, packets with the highest hop limit, which proves to
// their receiver that there was no router (neighbour discovery, RFC 4861; GTSM,
// RFC 5082), and those with link-local addresses. A mark, reg0, keeps them
// there.
func (n *network) hops() {
	mark := "set_field:1->reg0," + goTo(TableSteer)
	for _, proto := range []string{"ip", "ipv6"} {
		for _, ttl := range append(make([]int, 0, hopsTaken+2), 0, 1, hopsTaken, 255) {
			n.flow(TableDirect, prioHops, fmt.Sprintf("%s,nw_ttl=%d", proto, ttl), mark)
		}
	}
	n.flow(TableDirect, prioHops, "ipv6,ipv6_src=fe80::/10", mark)
	n.flow(TableDirect, prioDefault, "", goTo(TableSteer))
}

// direct sends the IP packets for a node's subnet to the kernel where they are
// for a MAC of that node: a frame to another MAC is for a router among the
// endpoints. Table steer has already found where unknown MACs are. mac is the
// node's as a router; nil where it is none.
func (n *network) direct(p netip.Prefix, mac net.HardwareAddr) {
	if n.hostPort == "" || !n.b.opt.Direct[p] {
		return
	}
	for _, macs := range n.macRanges(p) {
		n.flow(TableDirect, prioDirect, destination(p)+","+macs, n.toHost)
	}
	if mac != nil {
		n.flow(TableDirect, prioDirect, destination(p)+",dl_dst="+mac.String(), n.toHost)
	}
	n.flow(TableExact, prioIPDirect, destination(p)+",reg0=0", n.toHost)
}

// directPin says of a pinned address whether the kernel routes it; its subnet
// would say where it is not.
func (n *network) directPin(pin topology.Pin) {
	if n.hostPort == "" {
		return
	}
	p := single(pin.Addr)
	if !n.ownPin(pin) && n.b.opt.Direct[p] {
		n.once(TableDirect, prioDirect+5, destination(p)+",dl_dst="+pin.MAC, n.toHost)
	}
	n.once(TableDirect, prioDirect+1, destination(p), goTo(TableSteer))
}

// macRanges returns matches of the MACs that a node's endpoints in p have: made
// of the IPv4 addresses of the same node.
func (n *network) macRanges(p netip.Prefix) []string {
	for i := range n.Peers {
		subnets := n.Peers[i].Subnets
		found := false
		var out []string
		for _, q := range subnets {
			found = found || q == p
			if q.Addr().Is4() {
				out = append(out, "dl_dst="+macRange(q))
			}
		}
		if found {
			return out
		}
	}
	return nil
}

// destination matches IP packets to p.
func destination(p netip.Prefix) string {
	field := "ip,nw_dst="
	if p.Addr().Is6() {
		field = "ipv6,ipv6_dst="
	}
	if p.IsSingleIP() {
		return field + p.Addr().String()
	}
	return field + p.String()
}
