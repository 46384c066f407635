package fastpath

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/topology"
)

// HopsTaken is how far the TTL of a packet sinks on its way to another node's
// endpoint: by one on each of the two, as where their kernels route it.
const HopsTaken = 2

// Sent is what becomes of a packet that the fast path takes from an endpoint.
type Sent struct {
	// Dev is the device of the underlay by which the packet leaves if the kernel's own
	// route leads out of it, with its TTL lowered; empty: Local gets the frame as it is.
	Dev   string
	Local Local
}

// Send says what the programs do with a frame that comes in by the host's end of an
// endpoint; false: it goes the plain way. Sizes are not looked at.
func (s State) Send(dev string, p forward.Packet) (Sent, bool) {
	port, there := s.Ports[dev]
	from, to, ip := whole(p, HopsTaken)
	if !there || !ip || MACOf(p.MAC(forward.EthSrc)) != port.MAC || (from != port.IPv4 && from != port.IPv6) {
		return Sent{}, false
	}
	mac := MACOf(p.MAC(forward.EthDst))
	hop, away := s.hop(to)
	if !away {
		local, here := s.Locals[to]
		return Sent{Local: local}, here && local.Network == port.Network && mac == local.MAC && local.Dev != dev
	}
	ok := hop.Dev != "" && hop.Network == port.Network && s.leadsThere(port, hop, mac, to)
	return Sent{Dev: hop.Dev}, ok
}

// Receive says to which endpoint the programs give a packet that comes in by a device
// of the underlay, with its TTL lowered; false: it goes the plain way. Sizes are not
// looked at.
func (s State) Receive(dev string, p forward.Packet) (Local, bool) {
	from, to, ip := whole(p, 1)
	local, here := s.Locals[to]
	hop, known := s.hop(from)
	return local, ip && here && known && s.Uplinks[dev] && hop.Dev == dev && hop.Network == local.Network
}

// hop is that of the longest prefix which contains an address.
func (s State) hop(a netip.Addr) (out Hop, ok bool) {
	for bits := a.BitLen(); bits >= 0 && a.IsValid(); bits-- {
		p, _ := a.Prefix(bits)
		if out, ok = s.Hops[p]; ok {
			return out, true
		}
	}
	return out, false
}

// leadsThere reports whether a frame's MAC is one of the prefix's node: that of all
// nodes, the pin's, or one derived from an IPv4 address of the same node.
func (s State) leadsThere(port Port, hop Hop, mac MAC, to netip.Addr) bool {
	switch none := (MAC{}); {
	case port.Gateway != none:
		return mac == port.Gateway
	case hop.MAC != none:
		return mac == hop.MAC
	}
	derived := netip.AddrFrom4([4]byte(mac[2:]))
	if MACOf(topology.MACOf(derived)) != mac {
		return false
	}
	if to.Is4() {
		return derived == to
	}
	same, ok := s.hop(derived)
	return ok && same.Dev != "" && same.MAC == (MAC{}) && same.Node == hop.Node && same.Network == hop.Network
}

// whole returns the addresses of a packet that the fast path may take: of TCP, UDP or
// ICMP in IPv6, in IPv4 of any protocol, no neighbour discovery, with a TTL that
// survives taken hops.
func whole(p forward.Packet, taken uint64) (from, to netip.Addr, ok bool) {
	from, to, ok = p.Addrs()
	if ttl := p.Number(forward.IPTTL); !ok || ttl <= taken || ttl == 255 {
		return from, to, false
	}
	if from.Is4() {
		return from, to, true
	}
	switch p.Number(forward.IPProto) {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		return from, to, true
	case unix.IPPROTO_ICMPV6:
		kind := p.Number(forward.ICMPType)
		return from, to, kind < 133 || kind > 137
	}
	return from, to, false
}
