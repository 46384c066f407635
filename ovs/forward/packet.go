package forward

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Packet is a frame by its fields, and what a switch knows of it on its way. It is
// a comparable value.
type Packet struct{ fields [fieldCount]value }

// Broadcast is everybody's MAC.
var Broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Frame is a frame of any EtherType.
func Frame(fromMAC, toMAC net.HardwareAddr, etherType uint16) Packet {
	var p Packet
	p.SetMAC(EthSrc, fromMAC)
	p.SetMAC(EthDst, toMAC)
	p.Set(EthType, uint64(etherType))
	return p
}

// IP is a UDP packet from one address to another, TTL 64.
func IP(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr) Packet {
	p := Frame(fromMAC, toMAC, typeIPv6)
	src, dst := IPv6Src, IPv6Dst
	if from.Is4() {
		p.Set(EthType, typeIPv4)
		src, dst = IPv4Src, IPv4Dst
	}
	p.set(src, addrValue(from))
	p.set(dst, addrValue(to))
	p.Set(IPProto, protoUDP)
	p.Set(IPTTL, 64)
	return p
}

// Who asks for the owner of an address: an ARP request (RFC 826) or a neighbour
// solicitation (RFC 4861).
func Who(fromMAC net.HardwareAddr, from, target netip.Addr) Packet {
	if from.Is4() {
		return arp(fromMAC, Broadcast, from, target, 1)
	}
	t := target.As16()
	group := [16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}
	p := IP(fromMAC, net.HardwareAddr{0x33, 0x33, 0xff, t[13], t[14], t[15]}, from, netip.AddrFrom16(group))
	p.neighbour(135, target)
	p.SetMAC(NDSLL, fromMAC)
	return p
}

// Here answers Who: the sender has the address from.
func Here(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr) Packet {
	if from.Is4() {
		p := arp(fromMAC, toMAC, from, to, 2)
		p.SetMAC(ARPTHA, toMAC)
		return p
	}
	p := IP(fromMAC, toMAC, from, to)
	p.neighbour(136, from)
	p.SetMAC(NDTLL, fromMAC)
	return p
}

func arp(fromMAC, toMAC net.HardwareAddr, from, target netip.Addr, op uint64) Packet {
	p := Frame(fromMAC, toMAC, typeARP)
	p.Set(ARPOp, op)
	p.set(ARPSPA, addrValue(from))
	p.set(ARPTPA, addrValue(target))
	p.SetMAC(ARPSHA, fromMAC)
	return p
}

func (p *Packet) neighbour(kind uint64, target netip.Addr) {
	p.Set(IPProto, protoICMP6)
	p.Set(IPTTL, 255)
	p.Set(ICMPType, kind)
	p.set(NDTarget, addrValue(target))
}

// Set gives a field of at most 64 bits a value.
func (p *Packet) Set(f Field, v uint64) { p.set(f, value{0, v}) }

// SetMAC gives a field that is a link address a value.
func (p *Packet) SetMAC(f Field, m net.HardwareAddr) {
	var out uint64
	for _, b := range m {
		out = out<<8 | uint64(b)
	}
	p.Set(f, out)
}

func (p *Packet) set(f Field, v value) { p.fields[f] = v }

// Number returns a field of at most 64 bits.
func (p *Packet) Number(f Field) uint64 { return p.fields[f].lo }

// MAC returns a field that is a link address.
func (p *Packet) MAC(f Field) net.HardwareAddr {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], p.fields[f].lo)
	return b[2:]
}

// Addr returns a field that is an address.
func (p *Packet) Addr(f Field) netip.Addr {
	v := p.fields[f]
	for _, t := range fieldTypes {
		if t.field == f && t.kind == ipv4 {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], uint32(v.lo))
			return netip.AddrFrom4(b)
		}
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], v.hi)
	binary.BigEndian.PutUint64(b[8:], v.lo)
	return netip.AddrFrom16(b)
}

// Addrs returns the addresses of an IP packet; false of any other.
func (p *Packet) Addrs() (from, to netip.Addr, ok bool) {
	switch p.Number(EthType) {
	case typeIPv4:
		return p.Addr(IPv4Src), p.Addr(IPv4Dst), true
	case typeIPv6:
		return p.Addr(IPv6Src), p.Addr(IPv6Dst), true
	}
	return from, to, false
}

// Decapsulated returns the packet as it comes out of a tunnel: of a switch's own
// fields it has the tunnel's key only.
func (p Packet) Decapsulated() Packet {
	p.Set(Metadata, 0)
	p.Set(InPort, 0)
	for i := range Field(registers) {
		p.Set(Reg0+i, 0)
	}
	return p
}

// Bare returns the packet as it is on a wire, without what a switch knows of it.
func (p Packet) Bare() Packet {
	p = p.Decapsulated()
	p.Set(TunID, 0)
	return p
}

func (p *Packet) matches(cs []constraint) bool {
	for _, c := range cs {
		if p.fields[c.field].and(c.mask) != c.value {
			return false
		}
	}
	return true
}

func (p *Packet) get(x part) value { return p.fields[x.field].shr(x.first).and(ones(x.bits)) }

func (p *Packet) put(x part, v value) {
	mask := ones(x.bits).shl(x.first)
	p.fields[x.field] = p.fields[x.field].and(mask.not()).or(v.shl(x.first).and(mask))
}

// DecTTL lowers the TTL, and reports whether the packet lives on.
func (p *Packet) DecTTL() bool {
	ttl := p.Number(IPTTL)
	if ttl <= 1 {
		return false
	}
	p.Set(IPTTL, ttl-1)
	return true
}

// String is the packet as ofproto/trace takes it (ovs-vswitchd(8)): its fields that
// are not zero, and those that its kind has in any case.
func (p Packet) String() string {
	var out []string
	for _, t := range textFields {
		v := p.fields[t.field]
		if v == (value{}) && !(t.always && p.has(t.fieldType)) {
			continue
		}
		if p.has(t.fieldType) {
			out = append(out, p.nameOf(t.name)+"="+t.text(v))
		}
	}
	return strings.Join(out, ",")
}

// nameOf returns the name that a field has in packets of this kind.
func (p *Packet) nameOf(field string) string {
	switch {
	case p.Number(IPProto) == protoUDP:
		return strings.Replace(field, "tcp_", "udp_", 1)
	case p.Number(EthType) == typeIPv6:
		return strings.Replace(field, "icmp_", "icmpv6_", 1)
	}
	return field
}

// has reports whether packets of this kind have a field.
func (p *Packet) has(t fieldType) bool {
	switch t.field {
	case IPProto, IPTTL:
		_, _, ip := p.Addrs()
		return ip
	case ICMPType, ICMPCode:
		return p.matches(isICMP) || p.matches(isICMP6)
	case NDTarget, NDSLL, NDTLL: // only where the code is 0, as Open vSwitch has it
		if !p.matches(isICMP6) || p.Number(ICMPCode) != 0 {
			return false
		}
		solicits, advertises := p.Number(ICMPType) == 135, p.Number(ICMPType) == 136
		return solicits && t.field != NDTLL || advertises && t.field != NDSLL
	case TPSrc, TPDst:
		_, _, ip := p.Addrs()
		proto := p.Number(IPProto)
		return ip && (proto == protoTCP || proto == protoUDP)
	}
	return p.matches(t.needs)
}

// text writes a value of the field.
func (t fieldType) text(v value) string {
	p := Packet{}
	p.set(t.field, v)
	switch t.kind {
	case mac:
		return p.MAC(t.field).String()
	case ipv4, ipv6:
		return p.Addr(t.field).String()
	}
	if t.bits > 16 || t.field == EthType {
		return fmt.Sprintf("%#x", v.lo)
	}
	return fmt.Sprint(v.lo)
}

// ParsePacket reads what String writes.
func ParsePacket(text string) (Packet, error) {
	var p Packet
	for part := range matchParts(text) {
		cs, err := parseMatch(part)
		if err != nil {
			return p, fmt.Errorf("packet %q: %w", text, err)
		}
		for _, c := range cs {
			p.set(c.field, c.value)
		}
	}
	return p, nil
}

// MarshalText implements encoding.TextMarshaler.
func (p Packet) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Packet) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePacket(string(b))
	return err
}

// textFields are the fields in the order that String writes them in.
var textFields = func() (out []textField) {
	add := func(always bool, names ...string) {
		for _, n := range names {
			out = append(out, textField{fieldTypes[n], n, always})
		}
	}
	add(false, "in_port", "tun_id", "metadata")
	for i := range registers {
		add(false, fmt.Sprintf("reg%d", i))
	}
	add(true, "dl_src", "dl_dst", "dl_type")
	add(false, "vlan_tci")
	add(true, "nw_src", "nw_dst", "ipv6_src", "ipv6_dst", "nw_proto", "nw_ttl")
	add(true, "arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha", "icmp_type", "icmp_code")
	add(true, "nd_target", "nd_sll", "nd_tll", "tcp_src", "tcp_dst")
	return out
}()

type textField struct {
	fieldType
	name   string
	always bool
}
