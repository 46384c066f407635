package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
)

// Filter chooses packets by what endpoints send: in a tunnel, by what is inside. What is
// zero chooses all.
type Filter struct {
	// Host has the source's or the destination's address.
	Host netip.Prefix `json:"host,omitzero"`
	// Port is the source's or the destination's, of TCP or UDP.
	Port int `json:"port,omitempty"`
	// Proto is one of Protocols.
	Proto string `json:"proto,omitempty"`
}

// Protocols are those that a Filter knows.
func Protocols() []string { return []string{"arp", "icmp", "icmp6", "ip", "ip6", "tcp", "udp"} }

// String is the filter as pcap-filter(7) writes it.
func (f Filter) String() string {
	out := f.Proto
	add := func(s string) {
		if out != "" {
			out += " and "
		}
		out += s
	}
	if f.Host.IsValid() {
		if f.Host.IsSingleIP() {
			add("host " + f.Host.Addr().String())
		} else {
			add("net " + f.Host.String())
		}
	}
	if f.Port != 0 {
		add(fmt.Sprintf("port %d", f.Port))
	}
	return out
}

func (f Filter) takes(p *parser) bool {
	if f.Host.IsValid() && !f.takesHost(p) {
		return false
	}
	if f.Port != 0 {
		src, dst, ok := p.ports()
		if !ok || (int(src) != f.Port && int(dst) != f.Port) {
			return false
		}
	}
	switch f.Proto {
	case "arp":
		return p.has(layers.LayerTypeARP)
	case "ip":
		return p.has(layers.LayerTypeIPv4)
	case "ip6":
		return p.has(layers.LayerTypeIPv6)
	case "icmp":
		return p.has(layers.LayerTypeICMPv4)
	case "icmp6":
		return p.has(layers.LayerTypeICMPv6)
	case "tcp":
		return p.has(layers.LayerTypeTCP)
	case "udp":
		return p.has(layers.LayerTypeUDP)
	}
	return true
}

// takesHost looks at both addresses; ARP has them, too.
func (f Filter) takesHost(p *parser) bool {
	src, dst, ok := p.addrs()
	if !ok && p.has(layers.LayerTypeARP) {
		src, _ = netip.AddrFromSlice(p.arp.SourceProtAddress)
		dst, _ = netip.AddrFromSlice(p.arp.DstProtAddress)
	}
	return f.Host.Contains(src) || f.Host.Contains(dst)
}

// mostConditions is how many prefixes a program of the kernel's looks for; with more it
// takes all packets of IP, and the rest is chosen later.
const mostConditions = 100

// program is what the kernel chooses frames by, and cuts them, before they are copied to
// the capture: of an endpoint all, of a tunnel those that the other node may have sent or
// gets. It is classic BPF, bpf(4).
func program(p api.Point, snapLen int) ([]bpf.RawInstruction, error) {
	keep := bpf.RetConstant{Val: uint32(snapLen)}
	if p.Kind == api.PointEndpoint {
		keep.Val = uint32(max(snapLen, maxOuter)) // the filter reads headers
		return bpf.Assemble([]bpf.Instruction{keep})
	}
	keep.Val = uint32(snapLen + maxOuter)
	both := slices.Clone(p.PeerPrefixes)
	for _, a := range p.Remotes {
		both = append(both, netip.PrefixFrom(a, a.BitLen()))
	}
	four := conditions(both, false, keep)
	six := conditions(both, true, keep)
	drop := bpf.RetConstant{}
	list := []bpf.Instruction{
		bpf.LoadAbsolute{Off: etherAddrs, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipFalse: 1},
		bpf.Jump{Skip: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipFalse: 1},
		bpf.Jump{Skip: uint32(1 + len(four) + 1)},
		drop,
	}
	list = append(append(list, four...), drop)
	list = append(append(list, six...), drop)
	return bpf.Assemble(list)
}

// Offsets in an Ethernet frame of the addresses of IPv4 and IPv6.
var (
	offsets4 = []uint32{14 + 12, 14 + 16}
	offsets6 = []uint32{14 + 8, 14 + 24}
)

// conditions keep a frame whose source or destination is in one of the prefixes of a
// family.
func conditions(prefixes []netip.Prefix, six bool, keep bpf.Instruction) (out []bpf.Instruction) {
	offsets := offsets4
	if six {
		offsets = offsets6
	}
	n := 0
	for _, p := range prefixes {
		if p.Addr().Is6() != six {
			continue
		}
		for _, off := range offsets {
			out = append(out, condition(p, off, keep)...)
		}
		n++
	}
	if n > mostConditions {
		return []bpf.Instruction{keep}
	}
	return out
}

// condition keeps a frame with an address in a prefix at an offset.
func condition(p netip.Prefix, off uint32, keep bpf.Instruction) (out []bpf.Instruction) {
	addr := p.Masked().Addr().AsSlice()
	words := (p.Bits() + 31) / 32
	for i := range words {
		bits := min(32, p.Bits()-32*i)
		out = append(out,
			bpf.LoadAbsolute{Off: off + uint32(4*i), Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(0) << (32 - bits)},
			// To the end of this condition.
			bpf.JumpIf{
				Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(addr[4*i:]), SkipTrue: uint8(3*(words-i-1) + 1),
			},
		)
	}
	return append(out, keep)
}
