package pipeline

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// segment writes all flows of the port to a local Ethernet: its subnets are
// known, its hosts are not. Frames between two of its hosts are its own
// business, though some of them come here as well: broadcasts, and what its
// bridge has to flood.
func (n *network) segment(port string, subnets []netip.Prefix) {
	defer n.b.because(n.b.because(portReason(port)))
	n.segmentGuard(inPort(port), subnets)
	n.allowTraffic(port, nil)
	n.meter(port, segmentShare)
	out := deliver(port)
	if whole := n.Prefix(topology.IPv4); whole.IsValid() {
		// Derived from an address of another node.
		n.once(DropOtherNodesMAC, TableLocal, prioOtherMACs, "dl_dst="+macRange(whole), drop)
	}
	for _, p := range subnets {
		before := n.b.because(n.subnetReason(p, n.OwnRevisions[p]))
		n.segmentSubnet(p, out)
		n.b.because(before)
	}
}

func (n *network) segmentSubnet(p netip.Prefix, out string) {
	n.subnet(p, classSubnet, goTo(TableLocal))
	n.flow(classSegment, TableLocal, prioTarget, target(p), out)
	if p.Addr().Is6() {
		n.to(classSegment, TableLocal, prioIPPrefix, "ipv6,ipv6_dst=", p, out)
		return
	}
	n.to(classSegment, TableLocal, prioIPPrefix, "ip,nw_dst=", p, out)
	n.flow(classSegment, TableLocal, prioMACRange, "dl_dst="+macRange(p), out)
	n.gratuitous(p)
}

// segmentGuard lets pass what comes from an address of the segment, whatever
// its MAC is; but nobody has a MAC that is derived from another subnet.
func (n *network) segmentGuard(in string, subnets []netip.Prefix) {
	b, pass := n.b, goTo(TableSteer) // frames all the way: see topology.Peer.Bridged
	enter := n.enterLocally() + n.sample() + "," + goTo(TableFirstHop)
	allow := func(priority int, match string) { b.flow(classGuard, TableGuard, priority, in+","+match, pass) }
	b.flow(classEnter, TableClassify, prioPort, in, enter)
	if whole := n.Prefix(topology.IPv4); whole.IsValid() {
		b.flow(DropMAC, TableClassify, prioMACTheft, in+",dl_src="+macRange(whole), drop)
	}
	// Every Ethernet has link-local addresses; here their owners are unknown, but for
	// those of MACs that are somebody else's.
	neighbours := []string{"fe80::/10"}
	for _, p := range subnets {
		if p.Addr().Is6() {
			neighbours = append(neighbours, p.String())
			continue
		}
		b.flow(classEnter, TableClassify, prioOwnMACs, in+",dl_src="+macRange(p), enter)
		n.ownLinkLocal(in, linkLocalRange(p), pass)
		allow(prioAddress, "ip,nw_src="+p.String())
		allow(prioAddress, "arp,arp_spa="+p.String())
		// An ARP probe has no sender address yet (RFC 5227).
		allow(prioAddress, "arp,arp_op=1,arp_spa=0.0.0.0,arp_tpa="+p.String())
	}
	n.othersLinkLocal(in)
	for _, p := range neighbours {
		allow(prioAddress, "ipv6,ipv6_src="+p)
		b.guardSegmentNeighbour(prioNeighbour, in, p, pass)
	}
	// Docker gives every docker0 this address, and means one link each. What is
	// sent from it passes: the kernel asks for neighbours with it.
	for _, t := range []int{neighbourSolicitation, neighbourAdvertisement} {
		own := fmt.Sprintf("%s,icmp6,icmp_type=%d,icmp_code=0,nd_target=fe80::1", in, t)
		b.flow(DropDocker0, TableGuard, prioNeighbourOwn, own, drop)
	}
	// RFC 3810 section 5.2.13, as in guard.
	allow(prioAddress, "icmp6,ipv6_src=::,icmp_type=143")
	b.spoofed(in)
	b.flow(classGuard, TableGuard, prioOther, in, pass)
}

// linkLocalRange matches the link-local addresses that are made of the MACs that are
// made of a subnet's IPv4 addresses.
func linkLocalRange(p netip.Prefix) string {
	addr, mask := topology.MACRange(p)
	ones := netip.AddrFrom16([16]byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, mask[0], mask[1], mask[2], 0xff, 0xff, mask[3], mask[4], mask[5],
	})
	return ovs.LinkLocal(addr).String() + "/" + ones.String()
}

// ownLinkLocal lets a segment's hosts have the link-local addresses that follow from
// its own subnet; othersLinkLocal drops those of endpoints, here and elsewhere.
func (n *network) ownLinkLocal(in, own, pass string) {
	n.b.flow(classGuard, TableGuard, prioOwnLinkLocal, in+",ipv6,ipv6_src="+own, pass)
	n.b.guardSegmentNeighbour(prioOwnNeighbour, in, own, pass)
}

func (n *network) othersLinkLocal(in string) {
	var others []string
	if whole := n.Prefix(topology.IPv4); whole.IsValid() {
		others = append(others, linkLocalRange(whole))
	}
	single := func(mac net.HardwareAddr) {
		a, derived := topology.AddrOfMAC(mac.String())
		if a4 := ovs.LinkLocal(mac).String(); (!derived || !n.IPv4.Contains(a)) && !slices.Contains(others, a4) {
			others = append(others, a4)
		}
	}
	for _, e := range n.endpoints {
		if e.MAC != nil {
			single(e.MAC)
		}
	}
	for _, p := range n.Pins {
		if mac, err := topology.ParseMAC(p.MAC); err == nil {
			single(mac)
		}
	}
	for _, a := range others {
		n.b.flow(DropAddress, TableGuard, prioOthersLinkLocal, in+",ipv6,ipv6_src="+a, drop)
		n.b.guardSegmentNeighbour(prioOthersNeighbour, in, a, "")
	}
}

// guardSegmentNeighbour passes on, or drops, what tells of a link address that it is
// that of a.
func (b *builder) guardSegmentNeighbour(priority int, in, a, pass string) {
	class := classGuard
	if pass == "" {
		class, pass = DropNeighbour, drop
	}
	for _, match := range []string{
		fmt.Sprintf("icmp6,ipv6_src=%s,icmp_type=%d,icmp_code=0", a, neighbourSolicitation),
		fmt.Sprintf("icmp6,icmp_type=%d,icmp_code=0,nd_target=%s", neighbourAdvertisement, a),
		// Duplicate address detection (RFC 4862) asks without an address.
		fmt.Sprintf("icmp6,ipv6_src=::,icmp_type=%d,icmp_code=0,nd_target=%s", neighbourSolicitation, a),
	} {
		b.flow(class, TableGuard, priority, in+","+match, pass)
	}
}

// gratuitous separates ARP that two hosts of a segment exchange, which concerns
// nobody else, from announcements, where sender and target are one and which
// every cache is to hear (RFC 5227 section 3): OpenFlow cannot compare two
// fields, but of two addresses that differ some bit is 1 in one and 0 in the
// other.
func (n *network) gratuitous(p netip.Prefix) {
	b4 := p.Masked().Addr().As4()
	base, mask := binary.BigEndian.Uint32(b4[:]), ^uint32(0)<<(32-p.Bits())
	for bit := uint32(1) << 31; bit > 0; bit >>= 1 {
		if mask&bit != 0 {
			continue
		}
		zero, one := maskedIPv4(base, mask|bit), maskedIPv4(base|bit, mask|bit)
		n.flow(classInside, TableSteer, prioInside, "arp,arp_spa="+zero+",arp_tpa="+one, goTo(TableLocal))
		n.flow(classInside, TableSteer, prioInside, "arp,arp_spa="+one+",arp_tpa="+zero, goTo(TableLocal))
	}
	n.flow(classAnnounce, TableSteer, prioToAll, fmt.Sprintf("arp,arp_spa=%s,arp_tpa=%s", p, p), goTo(TableFlood))
}

// maskedIPv4 writes an address with a mask as ovs-ofctl does.
func maskedIPv4(addr, mask uint32) string {
	text := func(v uint32) string {
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}).String()
	}
	ones := bits.LeadingZeros32(^mask)
	switch {
	case ones == 32:
		return text(addr)
	case mask == ^uint32(0)<<(32-ones):
		return fmt.Sprintf("%s/%d", text(addr), ones)
	}
	return text(addr) + "/" + text(mask)
}
