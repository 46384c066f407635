package pipeline

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// endpoint writes all flows of one local endpoint.
func (n *network) endpoint(e ovs.Endpoint) {
	in := inPort(e.Port)
	enter := n.enterLocally()
	if e.MAC == nil {
		n.b.flow(TableClassify, prioPort, in, enter+","+goTo(n.first()))
		return
	}
	n.b.flow(TableClassify, prioPort, in, enter+","+goTo(TableGuard))
	n.b.guard(in, e, goTo(n.first()))
	n.deliver(e)
}

// enterLocally is enter for frames of this node. The tunnel key is set early:
// every way out of the node uses the same.
func (n *network) enterLocally() string {
	return fmt.Sprintf("set_field:0x%x->tun_id,%s", n.VNI, n.enter())
}

// first returns the table in which a frame of an endpoint is steered first.
func (n *network) first() int {
	if n.Transport.Direct() == topology.DirectOnLink {
		return TableDirect
	}
	return TableSteer
}

// guard lets pass what an endpoint may send and counts the rest.
func (b *builder) guard(in string, e ovs.Endpoint, pass string) {
	mac := e.MAC.String()
	from := in + ",dl_src=" + mac
	for _, a := range e.IPs {
		if a.Is4() {
			b.flow(TableGuard, prioAddress, from+",ip,nw_src="+a.String(), pass)
			b.flow(TableGuard, prioAddress, from+",arp,arp_spa="+a.String()+",arp_sha="+mac, pass)
			continue
		}
		b.guardIPv6(from, mac, a, pass)
	}
	if len(e.IPs) > 0 {
		// An ARP probe has no sender address yet (RFC 5227).
		b.flow(TableGuard, prioAddress, from+",arp,arp_op=1,arp_spa=0.0.0.0,arp_sha="+mac, pass)
	}
	// Every Ethernet has IPv6 link-local addresses, whatever the network's own
	// prefixes are.
	b.guardIPv6(from, mac, ovs.LinkLocal(e.MAC), pass)
	// Before it has an address, a host reports its multicast groups from the
	// unspecified one (RFC 3810 section 5.2.13).
	b.flow(TableGuard, prioAddress, from+",icmp6,ipv6_src=::,icmp_type=143", pass)
	b.lies(in)
	b.flow(TableGuard, prioOther, from, pass)
	b.flow(TableGuard, prioMACLie, in, "drop")
}

// lies drops what of IP, ARP and ND nothing before let pass.
func (b *builder) lies(in string) {
	for _, t := range []int{neighbourSolicitation, neighbourAdvertisement} {
		b.flow(TableGuard, prioNeighbourLie, fmt.Sprintf("%s,icmp6,icmp_type=%d,icmp_code=0", in, t), "drop")
		b.flow(TableGuard, prioNeighbourBad, fmt.Sprintf("%s,icmp6,icmp_type=%d", in, t), "drop")
	}
	for _, proto := range []string{"arp", "ip", "ipv6", "rarp"} {
		b.flow(TableGuard, prioAddressLie, in+","+proto, "drop")
	}
}

// ICMPv6 types (RFC 4861). Flows that match what is in such a message match the
// code too, which is 0: up to version 3.1 Open vSwitch leaves the message's fields
// out of the kernel's flows where the code is not matched, and one solicitation's
// flow took all others along.
const (
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
)

func (b *builder) guardIPv6(from, mac string, a netip.Addr, pass string) {
	b.flow(TableGuard, prioAddress, from+",ipv6,ipv6_src="+a.String(), pass)
	// The link address option may be left out, and is in the answer to a
	// unicast solicitation (RFC 4861 section 7.2.4); OVS then sees zeros.
	for _, lla := range []string{mac, "00:00:00:00:00:00"} {
		b.flow(TableGuard, prioNeighbour, fmt.Sprintf("%s,icmp6,ipv6_src=%s,icmp_type=%d,icmp_code=0,nd_sll=%s", from, a, neighbourSolicitation, lla), pass)
		b.flow(TableGuard, prioNeighbour, fmt.Sprintf("%s,icmp6,icmp_type=%d,icmp_code=0,nd_target=%s,nd_tll=%s", from, neighbourAdvertisement, a, lla), pass)
	}
	// Duplicate address detection (RFC 4862) asks without an address.
	b.flow(TableGuard, prioNeighbour, fmt.Sprintf("%s,icmp6,ipv6_src=::,icmp_type=%d,icmp_code=0,nd_target=%s", from, neighbourSolicitation, a), pass)
}

// deliver brings frames for the endpoint to its port.
func (n *network) deliver(e ovs.Endpoint) {
	out := output(e.Port)
	for _, a := range append(slices.Clone(e.IPs), ovs.LinkLocal(e.MAC)) {
		n.once(TableLocal, prioAddrKnown, target(single(a)), out)
		if a.Is4() {
			// Everybody's ARP cache is to hear an announcement (RFC 5227
			// section 3), so it is not steered.
			n.once(TableSteer, prioAnnounce, fmt.Sprintf("arp,arp_spa=%s,arp_tpa=%s", a, a), goTo(TableReplicate))
		}
		if !slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
			n.once(TableSteer, prioAddrKnown, target(single(a)), out)
		}
	}
	n.once(TableLocal, prioMAC, "dl_dst="+e.MAC.String(), out)
	if !n.ownRange(e.MAC) {
		n.once(TableExact, prioMAC, "dl_dst="+e.MAC.String(), out)
	}
}
