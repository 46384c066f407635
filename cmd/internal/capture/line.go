package capture

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/gopacket/gopacket/layers"

	"github.com/baize-net/baize/ovs/pipeline"
)

// Describer says in a line what a packet is. It belongs to one goroutine.
type Describer struct{ parser *parser }

// NewDescriber returns one.
func NewDescriber() *Describer { return &Describer{newParser()} }

// Describe says who sends what to whom, from the headers.
func (d *Describer) Describe(p Packet) string {
	l := d.parser.parse(p.Data)
	return fmt.Sprintf("%s, %d bytes", l.describe(), p.Length)
}

func (p *parser) describe() string {
	switch {
	case p.has(layers.LayerTypeARP):
		return p.describeARP()
	case p.has(layers.LayerTypeIPv4), p.has(layers.LayerTypeIPv6):
		return p.describeIP()
	case !p.has(layers.LayerTypeEthernet):
		return "a frame that is cut short"
	}
	what := p.eth.EthernetType
	if p.has(layers.LayerTypeDot1Q) {
		what = p.tag.Type
	}
	if what == pipeline.ProbeEtherType {
		return "probe of the agents, see docs/mesh.md"
	}
	return fmt.Sprintf("%s > %s EtherType 0x%04x", p.eth.SrcMAC, p.eth.DstMAC, uint16(what))
}

func (p *parser) describeARP() string {
	src, _ := netip.AddrFromSlice(p.arp.SourceProtAddress)
	dst, _ := netip.AddrFromSlice(p.arp.DstProtAddress)
	mac := net.HardwareAddr(p.arp.SourceHwAddress)
	switch {
	case p.arp.Operation == layers.ARPReply:
		return fmt.Sprintf("ARP %s is at %s", src, mac)
	case src == dst:
		return fmt.Sprintf("ARP announcement: %s is at %s", src, mac)
	}
	return fmt.Sprintf("ARP who has %s, tell %s", dst, src)
}

func (p *parser) describeIP() string {
	src, dst, _ := p.addrs()
	from, to := src.String(), dst.String()
	if a, b, ok := p.ports(); ok {
		from, to = netip.AddrPortFrom(src, a).String(), netip.AddrPortFrom(dst, b).String()
	}
	return from + " > " + to + " " + p.carried()
}

// carried is what an IP packet carries.
func (p *parser) carried() string {
	switch {
	case p.has(layers.LayerTypeTCP):
		return fmt.Sprintf("TCP %s seq %d ack %d win %d", p.flags(), p.tcp.Seq, p.tcp.Ack, p.tcp.Window)
	case p.has(layers.LayerTypeUDP):
		return "UDP"
	case p.has(layers.LayerTypeICMPv4):
		text := "ICMP " + p.icmp4.TypeCode.String()
		if t := p.icmp4.TypeCode.Type(); t == layers.ICMPv4TypeEchoRequest || t == layers.ICMPv4TypeEchoReply {
			text += fmt.Sprintf(" id %d seq %d", p.icmp4.Id, p.icmp4.Seq)
		}
		return text
	case p.has(layers.LayerTypeICMPv6):
		text := "ICMPv6 " + p.icmp6.TypeCode.String()
		if t := p.icmp6.TypeCode.Type(); t == layers.ICMPv6TypeEchoRequest || t == layers.ICMPv6TypeEchoReply {
			if b := p.icmp6.LayerPayload(); len(b) >= 4 {
				text += fmt.Sprintf(" id %d seq %d", int(b[0])<<8|int(b[1]), int(b[2])<<8|int(b[3]))
			}
		}
		return text
	}
	return "protocol " + p.protocol().String()
}

func (p *parser) flags() string {
	var out []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"SYN", p.tcp.SYN}, {"FIN", p.tcp.FIN}, {"RST", p.tcp.RST}, {"PSH", p.tcp.PSH}, {"ACK", p.tcp.ACK},
	} {
		if f.set {
			out = append(out, f.name)
		}
	}
	return strings.Join(out, ",")
}
