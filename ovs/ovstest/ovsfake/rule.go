package ovsfake

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
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

// field is one of ovs-fields(7).
type field int

// The fields that the pipeline uses.
const (
	inPort field = iota
	ethSrc
	ethDst
	ethType
	vlanTCI
	ipProto
	ipTTL
	ip4Src
	ip4Dst
	ip6Src
	ip6Dst
	arpOp
	arpSPA
	arpTPA
	arpSHA
	arpTHA
	icmpType
	icmpCode
	ndTarget
	ndSLL
	ndTLL
	ndReserved
	ndOptions
	tpSrc
	tpDst
	tunID
	metadata
	reg0
	fieldCount = reg0 + 16
)

type fieldKind int

const (
	number fieldKind = iota
	mac
	ipv4
	ipv6
)

type fieldType struct {
	field field
	bits  int
	kind  fieldKind
	// needs is what a packet must be for the field to be there.
	needs []constraint
	// or is what it may be instead; nil: there is nothing else.
	or []constraint
}

type constraint struct {
	field       field
	value, mask value
}

func exactly(f field, v uint64) constraint { return constraint{f, value{0, v}, ones(64)} }

// The EtherTypes and protocols of the prerequisites.
const (
	typeARP, typeRARP, typeIPv4, typeIPv6 = 0x0806, 0x8035, 0x0800, 0x86dd
	protoICMP6                            = 58
)

var (
	isARP    = []constraint{exactly(ethType, typeARP)}
	isIPv4   = []constraint{exactly(ethType, typeIPv4)}
	isIPv6   = []constraint{exactly(ethType, typeIPv6)}
	isICMP6  = []constraint{exactly(ethType, typeIPv6), exactly(ipProto, protoICMP6)}
	isICMP4  = []constraint{exactly(ethType, typeIPv4), exactly(ipProto, 1)}
	noneNeed []constraint
)

// fieldTypes are the fields by all their names: those of ovs-ofctl, of OXM and
// of NXM.
var fieldTypes = func() map[string]fieldType {
	out := map[string]fieldType{}
	add := func(f field, width int, kind fieldKind, needs []constraint, names ...string) {
		for _, n := range names {
			out[n] = fieldType{field: f, bits: width, kind: kind, needs: needs}
		}
	}
	add(inPort, 16, number, noneNeed, "in_port")
	add(ethSrc, 48, mac, noneNeed, "dl_src", "eth_src", "NXM_OF_ETH_SRC")
	add(ethDst, 48, mac, noneNeed, "dl_dst", "eth_dst", "NXM_OF_ETH_DST")
	add(ethType, 16, number, noneNeed, "dl_type", "eth_type")
	add(vlanTCI, 16, number, noneNeed, "vlan_tci")
	add(ipProto, 8, number, noneNeed, "nw_proto", "ip_proto")
	add(ipTTL, 8, number, noneNeed, "nw_ttl")
	add(ip4Src, 32, ipv4, isIPv4, "nw_src", "ip_src", "NXM_OF_IP_SRC")
	add(ip4Dst, 32, ipv4, isIPv4, "nw_dst", "ip_dst", "NXM_OF_IP_DST")
	add(ip6Src, 128, ipv6, isIPv6, "ipv6_src", "NXM_NX_IPV6_SRC")
	add(ip6Dst, 128, ipv6, isIPv6, "ipv6_dst", "NXM_NX_IPV6_DST")
	add(arpOp, 16, number, isARP, "arp_op")
	add(arpSPA, 32, ipv4, isARP, "arp_spa", "NXM_OF_ARP_SPA")
	add(arpTPA, 32, ipv4, isARP, "arp_tpa", "NXM_OF_ARP_TPA")
	add(arpSHA, 48, mac, isARP, "arp_sha", "NXM_NX_ARP_SHA")
	add(arpTHA, 48, mac, isARP, "arp_tha", "NXM_NX_ARP_THA")
	add(icmpType, 8, number, isICMP6, "icmp_type", "icmpv6_type")
	add(icmpCode, 8, number, isICMP6, "icmp_code", "icmpv6_code")
	add(ndTarget, 128, ipv6, isICMP6, "nd_target", "NXM_NX_ND_TARGET")
	add(ndSLL, 48, mac, isICMP6, "nd_sll", "NXM_NX_ND_SLL")
	add(ndTLL, 48, mac, isICMP6, "nd_tll", "NXM_NX_ND_TLL")
	add(ndReserved, 32, number, isICMP6, "ERICOXM_OF_ICMPV6_ND_RESERVED")
	add(ndOptions, 8, number, isICMP6, "ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE")
	add(tpSrc, 16, number, noneNeed, "tp_src", "udp_src", "tcp_src")
	add(tpDst, 16, number, noneNeed, "tp_dst", "udp_dst", "tcp_dst")
	add(tunID, 64, number, noneNeed, "tun_id")
	add(metadata, 64, number, noneNeed, "metadata")
	for _, n := range []string{"icmp_type", "icmpv6_type", "icmp_code", "icmpv6_code"} {
		t := out[n]
		t.or = isICMP4
		out[n] = t
	}
	for i := range 16 {
		add(reg0+field(i), 32, number, noneNeed, fmt.Sprintf("reg%d", i), fmt.Sprintf("NXM_NX_REG%d", i))
	}
	return out
}()

// shorthands are words that stand for several fields.
var shorthands = map[string][]constraint{
	"ip": isIPv4, "ipv6": isIPv6, "arp": isARP, "rarp": {exactly(ethType, typeRARP)}, "icmp6": isICMP6,
	"icmp": isICMP4,
	"tcp":  {exactly(ethType, typeIPv4), exactly(ipProto, 6)}, "udp": {exactly(ethType, typeIPv4), exactly(ipProto, 17)},
	"tcp6": {exactly(ethType, typeIPv6), exactly(ipProto, 6)}, "udp6": {exactly(ethType, typeIPv6), exactly(ipProto, 17)},
}

// rule is a parsed flow.
type rule struct {
	flow    ovs.BoundFlow
	match   []constraint
	actions []action
}

func (r *rule) String() string {
	return fmt.Sprintf("table=%d,priority=%d,%s,actions=%s", r.flow.Table, r.flow.Priority, r.flow.Match, r.flow.Actions)
}

// parseRule reads a flow as ovs-ofctl does, and refuses what it refuses, with
// its words where they are known. The rule is never nil.
func parseRule(f ovs.BoundFlow) (*rule, error) {
	r := &rule{flow: f}
	if f.Table < 0 || f.Table > 254 {
		return r, fmt.Errorf("unknown table \"%d\"", f.Table)
	}
	if f.Priority < 0 || f.Priority > 65535 {
		return r, fmt.Errorf("invalid priority %d", f.Priority)
	}
	if f.Match != "" {
		for part := range strings.SplitSeq(f.Match, ",") {
			cs, err := parseMatch(part)
			if err != nil {
				return r, err
			}
			r.match = append(r.match, cs...)
		}
	}
	for _, c := range r.match {
		for _, t := range fieldTypes {
			if t.field == c.field && !implied(r.match, t.needs) && (t.or == nil || !implied(r.match, t.or)) {
				return r, errors.New("actions are invalid with specified match (OFPBMC_BAD_PREREQ)")
			}
		}
	}
	var err error
	r.actions, err = parseActions(f)
	return r, err
}

func implied(match, needs []constraint) bool {
	for _, n := range needs {
		found := false
		for _, c := range match {
			found = found || c.field == n.field && c.value == n.value
		}
		if !found {
			return false
		}
	}
	return true
}

func parseMatch(part string) ([]constraint, error) {
	name, text, ok := strings.Cut(part, "=")
	if !ok {
		if cs, ok := shorthands[name]; ok {
			return cs, nil
		}
		return nil, fmt.Errorf("unknown keyword %s", name)
	}
	t, ok := fieldTypes[name]
	if !ok {
		return nil, fmt.Errorf("unknown keyword %s", name)
	}
	v, m, err := parseValue(t, name, text)
	if err != nil {
		return nil, err
	}
	return []constraint{{t.field, v.and(m), m}}, nil
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
