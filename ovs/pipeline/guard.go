package pipeline

import (
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// endpoint writes all flows of one local endpoint.
func (b *builder) endpoint(n topology.NetworkView, net match, e ovs.Endpoint) {
	in := inPort(e.Port)
	if e.MAC == nil {
		b.flow(TableClassify, prioPort, in, fmt.Sprintf("%s,set_field:0x%x->metadata,goto_table:%d", setKey(n.VNI), n.VNI, TableLocal))
		return
	}
	b.flow(TableClassify, prioPort, in, fmt.Sprintf("%s,set_field:0x%x->metadata,goto_table:%d", setKey(n.VNI), n.VNI, TableGuard))
	b.guard(in, e)
	b.deliver(n.VNI, net, e)
}

// setKey sets the tunnel key early: every way out of this node uses the same.
func setKey(vni uint32) string { return fmt.Sprintf("set_field:0x%x->tun_id", vni) }

// guard lets pass what an endpoint may send and counts the rest.
func (b *builder) guard(in string, e ovs.Endpoint) {
	pass := goTo(TableLocal)
	mac := e.MAC.String()
	from := in + ",dl_src=" + mac
	ipv6 := false
	for _, a := range e.IPs {
		if a.Is4() {
			b.flow(TableGuard, prioAddress, from+",ip,nw_src="+a.String(), pass)
			b.flow(TableGuard, prioAddress, from+",arp,arp_spa="+a.String()+",arp_sha="+mac, pass)
			continue
		}
		ipv6 = true
		b.guardIPv6(from, mac, a)
	}
	if len(e.IPs) > 0 {
		// An ARP probe has no sender address yet (RFC 5227).
		b.flow(TableGuard, prioAddress, from+",arp,arp_op=1,arp_spa=0.0.0.0,arp_sha="+mac, pass)
	}
	if ipv6 {
		b.guardIPv6(from, mac, ovs.LinkLocal(e.MAC))
		// Before it has an address, a host reports its multicast groups from
		// the unspecified one (RFC 3810 section 5.2.13).
		b.flow(TableGuard, prioAddress, from+",icmp6,ipv6_src=::,icmp_type=143", pass)
	}
	for _, t := range []int{neighbourSolicitation, neighbourAdvertisement} {
		b.flow(TableGuard, prioNeighbourLie, fmt.Sprintf("%s,icmp6,icmp_type=%d", in, t), "drop")
	}
	for _, proto := range []string{"arp", "ip", "ipv6", "rarp"} {
		b.flow(TableGuard, prioAddressLie, in+","+proto, "drop")
	}
	b.flow(TableGuard, prioOther, from, pass)
	b.flow(TableGuard, prioMACLie, in, "drop")
}

// ICMPv6 types (RFC 4861).
const (
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
)

func (b *builder) guardIPv6(from, mac string, a netip.Addr) {
	pass := goTo(TableLocal)
	b.flow(TableGuard, prioAddress, from+",ipv6,ipv6_src="+a.String(), pass)
	// A solicitation's link address option may be left out; OVS then sees
	// zeros.
	for _, sll := range []string{mac, "00:00:00:00:00:00"} {
		b.flow(TableGuard, prioNeighbour, fmt.Sprintf("%s,icmp6,ipv6_src=%s,icmp_type=%d,nd_sll=%s", from, a, neighbourSolicitation, sll), pass)
	}
	// Duplicate address detection (RFC 4862) asks without an address.
	b.flow(TableGuard, prioNeighbour, fmt.Sprintf("%s,icmp6,ipv6_src=::,icmp_type=%d,nd_target=%s", from, neighbourSolicitation, a), pass)
	b.flow(TableGuard, prioNeighbour, fmt.Sprintf("%s,icmp6,icmp_type=%d,nd_target=%s,nd_tll=%s", from, neighbourAdvertisement, a, mac), pass)
}

// deliver brings frames for the endpoint to its port.
func (b *builder) deliver(vni uint32, net match, e ovs.Endpoint) {
	out := output(e.Port)
	ipv6 := false
	for _, a := range e.IPs {
		ipv6 = ipv6 || a.Is6()
		if a.Is4() {
			// Everybody's ARP cache is to hear an announcement (RFC 5227
			// section 3), so it is not steered.
			b.flow(TableLocal, prioAnnounce, fmt.Sprintf("metadata=0x%x,arp,arp_spa=%s,arp_tpa=%s", vni, a, a), goTo(TableReplicate))
		}
		b.flow(TableLocal, prioTarget, net.and(target(single(a))), out)
	}
	if ipv6 {
		b.flow(TableLocal, prioTarget, net.and(target(single(ovs.LinkLocal(e.MAC)))), out)
	}
	b.flow(TableLocal, prioMAC, net.and("dl_dst="+e.MAC.String()), out)
}
