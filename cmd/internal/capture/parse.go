package capture

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// parser reads the headers of one frame after the other. It belongs to one goroutine.
type parser struct {
	parser *gopacket.DecodingLayerParser
	found  []gopacket.LayerType

	eth     layers.Ethernet
	tag     layers.Dot1Q
	arp     layers.ARP
	ip4     layers.IPv4
	ip6     layers.IPv6
	options layers.IPv6ExtensionSkipper
	tcp     layers.TCP
	udp     layers.UDP
	icmp4   layers.ICMPv4
	icmp6   layers.ICMPv6
}

func newParser() *parser {
	p := &parser{}
	p.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet,
		&p.eth, &p.tag, &p.arp, &p.ip4, &p.ip6, &p.options, &p.tcp, &p.udp, &p.icmp4, &p.icmp6)
	p.parser.IgnoreUnsupported = true
	return p
}

// parse reads a frame's headers, as far as they are there and make sense. They are valid
// until the next call.
func (p *parser) parse(data []byte) *parser {
	p.found = p.found[:0]
	_ = p.parser.DecodeLayers(data, &p.found) // frames are cut, and anybody sends anything
	return p
}

// has reports whether there is a header of a type.
func (p *parser) has(t gopacket.LayerType) bool { return slices.Contains(p.found, t) }

// addrs are the addresses of an IP packet.
func (p *parser) addrs() (src, dst netip.Addr, ok bool) {
	switch {
	case p.has(layers.LayerTypeIPv4):
		src, _ = netip.AddrFromSlice(p.ip4.SrcIP)
		dst, _ = netip.AddrFromSlice(p.ip4.DstIP)
	case p.has(layers.LayerTypeIPv6):
		src, _ = netip.AddrFromSlice(p.ip6.SrcIP)
		dst, _ = netip.AddrFromSlice(p.ip6.DstIP)
	default:
		return src, dst, false
	}
	return src.Unmap(), dst.Unmap(), true
}

// fragment reports whether an IP packet is a part of one.
func (p *parser) fragment() bool {
	return p.has(layers.LayerTypeIPv6Fragment) ||
		p.has(layers.LayerTypeIPv4) && (p.ip4.FragOffset != 0 || p.ip4.Flags&layers.IPv4MoreFragments != 0)
}

// protocol is the number of what an IP packet carries.
func (p *parser) protocol() layers.IPProtocol {
	switch {
	case p.has(layers.LayerTypeIPv4):
		return p.ip4.Protocol
	case len(p.options.Contents) > 0 && p.has(layers.LayerTypeIPv6Fragment):
		return p.options.NextHeader
	}
	return p.ip6.NextHeader
}

// ports are those of TCP or UDP.
func (p *parser) ports() (src, dst uint16, ok bool) {
	switch {
	case p.has(layers.LayerTypeTCP):
		return uint16(p.tcp.SrcPort), uint16(p.tcp.DstPort), true
	case p.has(layers.LayerTypeUDP):
		return uint16(p.udp.SrcPort), uint16(p.udp.DstPort), true
	}
	return 0, 0, false
}

// Headers that encapsulations have before the frame, in bytes.
const (
	vxlanHeader  = 8 // RFC 7348 section 5
	geneveHeader = 8 // RFC 8926 section 3.4, without options
	// maxOuter is more than all headers before a frame in a tunnel.
	maxOuter = 192
)

// uncover returns the frame that a packet of a tunnel carries. ports are the UDP ports of
// encapsulations. The second fragment of a packet, and what is no tunnel's, carries none.
func (p *parser) uncover(
	ports map[topology.Transport]int,
) (inner []byte, encap topology.Transport, vni uint32, ok bool) {
	if p.has(layers.LayerTypeUDP) {
		b := p.udp.LayerPayload()
		switch int(p.udp.DstPort) {
		case ports[topology.VXLAN]:
			if len(b) >= vxlanHeader && b[0]&8 != 0 {
				return b[vxlanHeader:], topology.VXLAN, binary.BigEndian.Uint32(b[4:]) >> 8, true
			}
		case ports[topology.Geneve]:
			if len(b) < geneveHeader || binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_TEB {
				break
			}
			if start := geneveHeader + 4*int(b[0]&0x3f); len(b) >= start {
				return b[start:], topology.Geneve, binary.BigEndian.Uint32(b[4:]) >> 8, true
			}
		}
		return nil, "", 0, false
	}
	var b []byte
	switch {
	case p.has(layers.LayerTypeIPv4) && p.ip4.Protocol == layers.IPProtocolGRE:
		b = p.ip4.LayerPayload()
	case p.has(layers.LayerTypeIPv6) && p.ip6.NextHeader == layers.IPProtocolGRE:
		b = p.ip6.LayerPayload()
	}
	return uncoverGRE(b)
}

// Bits of a GRE header: RFC 2890 section 2.
const (
	greChecksum = 0x8000
	greKey      = 0x2000
	greSequence = 0x1000
)

func uncoverGRE(b []byte) (inner []byte, encap topology.Transport, vni uint32, ok bool) {
	if len(b) < 4 || binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_TEB {
		return nil, "", 0, false
	}
	flags, start := binary.BigEndian.Uint16(b), 4
	if flags&greChecksum != 0 {
		start += 4
	}
	if flags&greKey != 0 && len(b) >= start+4 {
		vni = binary.BigEndian.Uint32(b[start:])
		start += 4
	}
	if flags&greSequence != 0 {
		start += 4
	}
	if len(b) < start {
		return nil, "", 0, false
	}
	return b[start:], topology.GRE, vni, true
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}
