package forward

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// value is the content of a field, at its right end.
type value struct{ hi, lo uint64 }

func (v value) and(m value) value { return value{v.hi & m.hi, v.lo & m.lo} }
func (v value) or(m value) value  { return value{v.hi | m.hi, v.lo | m.lo} }
func (v value) not() value        { return value{^v.hi, ^v.lo} }

func ones(n int) value {
	switch {
	case n >= 128:
		return value{^uint64(0), ^uint64(0)}
	case n > 64:
		return value{1<<(n-64) - 1, ^uint64(0)}
	case n == 64:
		return value{0, ^uint64(0)}
	}
	return value{0, 1<<n - 1}
}

func (v value) shl(n int) value {
	if n >= 64 {
		return value{v.lo << (n - 64), 0}
	}
	return value{v.hi<<n | v.lo>>(64-n), v.lo << n}
}

func (v value) shr(n int) value {
	if n >= 64 {
		return value{0, v.hi >> (n - 64)}
	}
	return value{v.hi >> n, v.lo>>n | v.hi<<(64-n)}
}

// localPort is the number of a bridge's own port (OFPP_LOCAL).
const localPort = 65534

// registers counts those of 32 bits: reg0 to reg15.
const registers = 16

// Field is one of ovs-fields(7).
type Field int

// The fields that Baize's pipeline uses.
const (
	InPort Field = iota
	EthSrc
	EthDst
	EthType
	VLANTCI
	IPProto
	IPTTL
	IPv4Src
	IPv4Dst
	IPv6Src
	IPv6Dst
	ARPOp
	ARPSPA
	ARPTPA
	ARPSHA
	ARPTHA
	ICMPType
	ICMPCode
	NDTarget
	NDSLL
	NDTLL
	NDReserved
	NDOptions
	TPSrc
	TPDst
	TunID
	Metadata
	Reg0
	fieldCount = Reg0 + registers
)

type fieldKind int

const (
	number fieldKind = iota
	mac
	ipv4
	ipv6
)

type fieldType struct {
	field Field
	bits  int
	kind  fieldKind
	// needs is what a packet must be for the field to be there.
	needs []constraint
	// or is what it may be instead; nil: there is nothing else.
	or []constraint
}

type constraint struct {
	field       Field
	value, mask value
}

func exactly(f Field, v uint64) constraint { return constraint{f, value{0, v}, ones(64)} }

// The EtherTypes and protocols of the prerequisites.
const (
	typeARP, typeRARP, typeIPv4, typeIPv6 = 0x0806, 0x8035, 0x0800, 0x86dd
	protoICMP, protoTCP, protoUDP         = 1, 6, 17
	protoICMP6                            = 58
)

var (
	isARP    = []constraint{exactly(EthType, typeARP)}
	isIPv4   = []constraint{exactly(EthType, typeIPv4)}
	isIPv6   = []constraint{exactly(EthType, typeIPv6)}
	isICMP   = []constraint{exactly(EthType, typeIPv4), exactly(IPProto, protoICMP)}
	isICMP6  = []constraint{exactly(EthType, typeIPv6), exactly(IPProto, protoICMP6)}
	noneNeed []constraint
)

// fieldTypes are the fields by all their names: those of ovs-ofctl, of OXM and
// of NXM.
var fieldTypes = func() map[string]fieldType {
	out := map[string]fieldType{}
	add := func(f Field, width int, kind fieldKind, needs []constraint, names ...string) {
		for _, n := range names {
			out[n] = fieldType{field: f, bits: width, kind: kind, needs: needs}
		}
	}
	add(InPort, 16, number, noneNeed, "in_port")
	add(EthSrc, 48, mac, noneNeed, "dl_src", "eth_src", "NXM_OF_ETH_SRC")
	add(EthDst, 48, mac, noneNeed, "dl_dst", "eth_dst", "NXM_OF_ETH_DST")
	add(EthType, 16, number, noneNeed, "dl_type", "eth_type")
	add(VLANTCI, 16, number, noneNeed, "vlan_tci")
	add(IPProto, 8, number, noneNeed, "nw_proto", "ip_proto")
	add(IPTTL, 8, number, noneNeed, "nw_ttl")
	add(IPv4Src, 32, ipv4, isIPv4, "nw_src", "ip_src", "NXM_OF_IP_SRC")
	add(IPv4Dst, 32, ipv4, isIPv4, "nw_dst", "ip_dst", "NXM_OF_IP_DST")
	add(IPv6Src, 128, ipv6, isIPv6, "ipv6_src", "NXM_NX_IPV6_SRC")
	add(IPv6Dst, 128, ipv6, isIPv6, "ipv6_dst", "NXM_NX_IPV6_DST")
	add(ARPOp, 16, number, isARP, "arp_op")
	add(ARPSPA, 32, ipv4, isARP, "arp_spa", "NXM_OF_ARP_SPA")
	add(ARPTPA, 32, ipv4, isARP, "arp_tpa", "NXM_OF_ARP_TPA")
	add(ARPSHA, 48, mac, isARP, "arp_sha", "NXM_NX_ARP_SHA")
	add(ARPTHA, 48, mac, isARP, "arp_tha", "NXM_NX_ARP_THA")
	add(ICMPType, 8, number, isICMP6, "icmp_type", "icmpv6_type")
	add(ICMPCode, 8, number, isICMP6, "icmp_code", "icmpv6_code")
	add(NDTarget, 128, ipv6, isICMP6, "nd_target", "NXM_NX_ND_TARGET")
	add(NDSLL, 48, mac, isICMP6, "nd_sll", "NXM_NX_ND_SLL")
	add(NDTLL, 48, mac, isICMP6, "nd_tll", "NXM_NX_ND_TLL")
	add(NDReserved, 32, number, isICMP6, "ERICOXM_OF_ICMPV6_ND_RESERVED")
	add(NDOptions, 8, number, isICMP6, "ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE")
	add(TPSrc, 16, number, noneNeed, "tp_src", "udp_src", "tcp_src")
	add(TPDst, 16, number, noneNeed, "tp_dst", "udp_dst", "tcp_dst")
	add(TunID, 64, number, noneNeed, "tun_id")
	add(Metadata, 64, number, noneNeed, "metadata")
	for _, n := range []string{"icmp_type", "icmpv6_type", "icmp_code", "icmpv6_code"} {
		t := out[n]
		t.or = isICMP
		out[n] = t
	}
	for i := range registers {
		add(Reg0+Field(i), 32, number, noneNeed, fmt.Sprintf("reg%d", i), fmt.Sprintf("NXM_NX_REG%d", i))
	}
	return out
}()

// shorthands are words that stand for several fields.
var shorthands = map[string][]constraint{
	"ip": isIPv4, "ipv6": isIPv6, "arp": isARP, "rarp": {exactly(EthType, typeRARP)},
	"icmp": isICMP, "icmp6": isICMP6,
	"tcp": withProto(isIPv4, protoTCP), "tcp6": withProto(isIPv6, protoTCP),
	"udp": withProto(isIPv4, protoUDP), "udp6": withProto(isIPv6, protoUDP),
}

func withProto(is []constraint, proto uint64) []constraint {
	return []constraint{is[0], exactly(IPProto, proto)}
}

// parseValue reads VALUE or VALUE/MASK.
func parseValue(t fieldType, name, text string) (v, mask value, err error) {
	text, maskText, masked := strings.Cut(text, "/")
	if v, err = parseOne(t, name, text); err != nil {
		return v, mask, err
	}
	mask = ones(t.bits)
	if !masked {
		return v, mask, nil
	}
	if n, err := strconv.Atoi(maskText); err == nil && (t.kind == ipv4 || t.kind == ipv6) {
		if n < 0 || n > t.bits {
			return v, mask, fmt.Errorf("%s: network prefix bits not between 0 and %d", text, t.bits)
		}
		return v, ones(t.bits).and(ones(t.bits - n).not()), nil
	}
	mask, err = parseOne(t, name, maskText)
	return v, mask, err
}

func parseOne(t fieldType, name, text string) (value, error) {
	switch t.kind {
	case mac:
		return parseMAC(text)
	case ipv4, ipv6:
		a, err := netip.ParseAddr(text)
		if err != nil || a.Is4() != (t.kind == ipv4) {
			return value{}, fmt.Errorf("%s: invalid IP address", text)
		}
		return addrValue(a), nil
	}
	if t.field == InPort && strings.EqualFold(text, "local") {
		return value{0, localPort}, nil
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		return value{}, fmt.Errorf("%s: invalid numeric value for field %s", text, name)
	}
	if bits.Len64(n) > t.bits {
		return value{}, fmt.Errorf("%s: value too large for %d-byte field %s", text, t.bits/8, name)
	}
	return value{0, n}, nil
}

// parseMAC takes what ovs-ofctl takes: six pairs of digits with colons.
func parseMAC(text string) (value, error) {
	parts := strings.Split(text, ":")
	var out uint64
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(parts) != 6 {
			return value{}, fmt.Errorf("%s: invalid Ethernet address", text)
		}
		out = out<<8 | n
	}
	return value{0, out}, nil
}

func addrValue(a netip.Addr) value {
	b := a.As16()
	var v value
	for i := range 8 {
		v.hi, v.lo = v.hi<<8|uint64(b[i]), v.lo<<8|uint64(b[i+8])
	}
	if a.Is4() {
		return value{0, v.lo & 0xffffffff}
	}
	return v
}
