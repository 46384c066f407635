package pipeline

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
)

// portReason is the record of a local port: its external_ids.
func portReason(port string) ovs.Reason { return ovs.Reason{Key: "port " + port} }

// endpoint writes all flows of one local endpoint.
func (n *network) endpoint(e ovs.Endpoint) {
	defer n.b.because(n.b.because(portReason(e.Port)))
	in := inPort(e.Port)
	enter := n.enterLocally() + n.sample()
	n.b.flow(classEnter, TableClassify, prioPort, in, enter+","+goTo(TableFirstHop))
	n.allowTraffic(e.Port, e.AllowTraffic)
	n.meter(e.Port, 1)
	if e.MAC == nil {
		n.b.flow(classGuard, TableGuard, prioOther, in, goTo(n.first()))
		return
	}
	n.allowTags(e)
	n.b.guard(in, e, goTo(n.first()))
	n.find(e, classEndpoint)
	n.allow(e)
}

// guard lets pass what an endpoint may send and counts the rest.
func (b *builder) guard(in string, e ovs.Endpoint, pass string) {
	mac := e.MAC.String()
	from := in + ",dl_src=" + mac
	allow := func(match string) { b.flow(classGuard, TableGuard, prioAddress, from+","+match, pass) }
	for _, a := range e.IPs {
		if a.Is4() {
			allow("ip,nw_src=" + a.String())
			allow("arp,arp_spa=" + a.String() + ",arp_sha=" + mac)
			continue
		}
		b.guardIPv6(from, mac, a.String(), pass)
	}
	if len(e.IPs) > 0 {
		// An ARP probe has no sender address yet (RFC 5227).
		allow("arp,arp_op=1,arp_spa=0.0.0.0,arp_sha=" + mac)
	}
	// Every Ethernet has IPv6 link-local addresses, whatever the network's own
	// prefixes are.
	b.guardIPv6(from, mac, ovs.LinkLocal(e.MAC).String(), pass)
	// Before it has an address, a host reports its multicast groups from the
	// unspecified one (RFC 3810 section 5.2.13).
	allow("icmp6,ipv6_src=::,icmp_type=143")
	b.spoofed(in)
	b.flow(classGuard, TableGuard, prioOther, from, pass)
	b.flow(DropMAC, TableGuard, prioMACBad, in, drop)
}

// spoofed drops IP, ARP and ND that no flow of a known address has let pass.
func (b *builder) spoofed(in string) {
	for _, t := range []int{neighbourSolicitation, neighbourAdvertisement} {
		b.flow(DropNeighbour, TableGuard, prioNeighbourBad, fmt.Sprintf("%s,icmp6,icmp_type=%d,icmp_code=0", in, t), drop)
		b.flow(DropNeighbour, TableGuard, prioNeighbourOdd, fmt.Sprintf("%s,icmp6,icmp_type=%d", in, t), drop)
	}
	for _, proto := range []string{"arp", "ip", "ipv6", "rarp"} {
		b.flow(DropAddress, TableGuard, prioAddressBad, in+","+proto, drop)
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

func (b *builder) guardIPv6(from, mac, addr, pass string) {
	b.flow(classGuard, TableGuard, prioAddress, from+",ipv6,ipv6_src="+addr, pass)
	b.guardNeighbour(classGuard, from, mac, addr, pass)
}

// guardNeighbour lets pass the neighbour discovery of who has an address, or a
// whole prefix of them.
func (b *builder) guardNeighbour(class, from, mac, a, pass string) {
	neighbour := func(format string, args ...any) {
		b.flow(class, TableGuard, prioNeighbour, from+fmt.Sprintf(format, args...), pass)
	}
	// The link address option may be left out, and is in the answer to a
	// unicast solicitation (RFC 4861 section 7.2.4); OVS then sees zeros.
	for _, lla := range []string{mac, "00:00:00:00:00:00"} {
		neighbour(",icmp6,ipv6_src=%s,icmp_type=%d,icmp_code=0,nd_sll=%s", a, neighbourSolicitation, lla)
		neighbour(",icmp6,icmp_type=%d,icmp_code=0,nd_target=%s,nd_tll=%s", neighbourAdvertisement, a, lla)
	}
	// Duplicate address detection (RFC 4862) asks without an address.
	neighbour(",icmp6,ipv6_src=::,icmp_type=%d,icmp_code=0,nd_target=%s", neighbourSolicitation, a)
}

// find decides on the endpoint's port for frames that are for it.
func (n *network) find(e ovs.Endpoint, class string) {
	out := deliver(e.Port)
	for _, a := range append(slices.Clone(e.IPs), ovs.LinkLocal(e.MAC)) {
		n.once(class, TableLocal, prioAddrKnown, target(single(a)), out)
		if a.Is4() {
			// Everybody's ARP cache is to hear an announcement (RFC 5227
			// section 3), so it is not steered.
			n.once(classAnnounce, TableSteer, prioAnnounce, fmt.Sprintf("arp,arp_spa=%s,arp_tpa=%s", a, a), goTo(TableFlood))
		}
		if !slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) }) {
			n.once(class, TableSteer, prioAddrKnown, target(single(a)), out)
		}
	}
	n.once(class, TableLocal, prioMAC, "dl_dst="+e.MAC.String(), out)
	if !n.ownRange(e.MAC) {
		n.once(class, TableExact, prioMAC, "dl_dst="+e.MAC.String(), out)
	}
}
