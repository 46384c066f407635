package pipeline

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// What concerns networks that the host's kernel routes, all or in part
// (topology.Network.Kernel).

// host adds the host's own port and what is for the host itself.
func (n *network) host() {
	h, ok := n.Host()
	if !ok {
		return
	}
	n.hostPort = n.b.names.Host(n.Name)
	n.toHost = actions(set(h.MAC, "eth_dst"), deliver(n.hostPort))
	ips := make([]string, len(h.Addrs))
	for i, a := range h.Addrs {
		ips[i] = a.String()
	}
	ids := map[string]string{
		ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleHost, ovs.KeyNetwork: n.Name,
		ovs.KeyMAC: h.MAC.String(), ovs.KeyMTU: strconv.Itoa(h.MTU),
	}
	if len(ips) > 0 {
		ids[ovs.KeyIPs] = strings.Join(ips, ",")
	}
	n.b.state.Ports = append(n.b.state.Ports, ovs.Port{Name: n.hostPort, Type: "internal", ExternalIDs: ids})
	// Frames of the kernel are not guarded: packets of other nodes' endpoints
	// are among them. Where there are no tunnels they are all for this node.
	next := TableLocal
	if n.Transport.Ethernet() {
		next = TableSteer
	}
	if n.Transport.Direct() == topology.DirectOnLink {
		n.hops()
	}
	n.b.flow(classEnter, TableClassify, prioPort, inPort(n.hostPort), actions(n.enterLocally(), goTo(next)))
	n.find(ovs.Endpoint{Network: n.Name, Port: n.hostPort, MAC: h.MAC, IPs: h.Addrs}, classKernel)
	if !n.Transport.Ethernet() || n.Router {
		n.answer()
	}
}

// answer makes an advertisement of a solicitation (RFC 4861 sections 4.3 and
// 4.4). The type was set in table steer: fields of an advertisement can be
// written only where the type is known. Flags and option type get there through
// reg1: no kernel's datapath has these fields, and Open vSwitch refuses to set
// them there by set_field, but moves what changes them to ovs-vswitchd.
//
// An answer goes back to who asked, and passes no other table.
func (n *network) answer() {
	const solicitedOverride = "0x60000000"
	n.flow(classAnswer, TableAnswer, prioPort, fmt.Sprintf("icmp6,icmp_type=%d", neighbourAdvertisement), actions(
		"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", n.answerMAC("eth_src"),
		"move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[]", "move:NXM_NX_ND_TARGET[]->NXM_NX_IPV6_SRC[]",
		set(solicitedOverride, "reg1"), "move:NXM_NX_REG1[]->ERICOXM_OF_ICMPV6_ND_RESERVED[]",
		set(2, "reg1"), "move:NXM_NX_REG1[0..7]->ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE[]", n.answerMAC("nd_tll"), "in_port",
	))
	// Duplicate address detection must not find the gateway.
	probe := fmt.Sprintf("icmp6,ipv6_src=::,icmp_type=%d", neighbourAdvertisement)
	n.flow(DropProbe, TableAnswer, prioPort+10, probe, drop)
}

// answerMAC sets a field to the link address that answers give: the gateway's
// where the nodes are the gateway, else this node's own as a router.
func (n *network) answerMAC(field string) string {
	mac := n.RouterMAC
	if n.Transport.Choice().Gateway == topology.GatewayNode {
		mac = topology.GatewayMAC(n.Network)
	}
	return set(mac, field)
}

// answerTarget answers on the spot who asks for the link address of p.
func (n *network) answerTarget(table, priority int, p netip.Prefix) {
	if p.Addr().Is6() {
		next := goTo(TableAnswer)
		if table > TableAnswer {
			next = fmt.Sprintf("resubmit(,%d)", TableAnswer) // goto_table leads forward only
		}
		n.once(classAnswer, table, priority, target(p), actions(set(neighbourAdvertisement, "icmpv6_type"), next))
		return
	}
	// The question becomes its own answer (RFC 826).
	n.once(classAnswer, table, priority, target(p)+",arp_op=1", actions(
		"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", n.answerMAC("eth_src"), set(2, "arp_op"),
		"move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]", n.answerMAC("arp_sha"),
		// The addresses change places.
		"push:NXM_OF_ARP_SPA[]", "move:NXM_OF_ARP_TPA[]->NXM_OF_ARP_SPA[]", "pop:NXM_OF_ARP_TPA[]", "in_port",
	))
}

// routed writes the subnets of a node that packets are routed to: the kernel has
// the route. Frames to MACs of that node are those of endpoints that asked
// before the network was routed.
func (n *network) routed(peer *topology.Peer) {
	for i, p := range peer.Subnets {
		before := n.b.because(n.subnetReason(p, peer.Revisions[i]))
		n.answerTarget(TableSteer, prioTarget, p)
		n.flow(classKernel, TableExact, prioIPPrefix, destination(p), n.toHost)
		if p.Addr().Is4() {
			n.routedMACs(p)
		}
		n.b.because(before)
	}
}

func (n *network) routedMACs(p netip.Prefix) {
	macs := "dl_dst=" + macRange(p)
	if n.exact[p] { // some of these MACs are here
		n.flow(classElsewhere, TableSteer, prioMACRange, macs, goTo(TableExact))
		return
	}
	n.flow(classKernel, TableSteer, prioMACRangeIP, "ip,"+macs, n.toHost)
	n.flow(classKernel, TableSteer, prioMACRangeIP, "ipv6,"+macs, n.toHost)
	n.flow(DropNotIP, TableSteer, prioMACRange, macs, drop)
}

func (n *network) routedPins() {
	for _, pin := range n.Pins {
		p := single(pin.Addr)
		if !n.isPeer[pin.Node] {
			continue
		}
		before := n.b.because(n.pinReason(pin))
		n.answerTarget(TableSteer, prioAddrKnown, p)
		n.flow(classKernel, TableExact, prioIPDirect, destination(p), n.toHost)
		n.once(classKernel, TableExact, prioMAC, "dl_dst="+pin.MAC, n.toHost)
		n.b.because(before)
	}
}
