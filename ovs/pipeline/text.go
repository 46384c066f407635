package pipeline

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// How matches and actions are written, as ovs-ofctl(8) does.

const drop = "drop"

// multicast matches the group bit of the destination, broadcast included.
const multicast = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"

// toTunnel is where the frames of every tunnel go.
var toTunnel = goTo(TableTunnel)

func goTo(table int) string     { return "goto_table:" + strconv.Itoa(table) }
func output(port string) string { return `output:"` + port + `"` }
func inPort(port string) string { return `in_port="` + port + `"` }

// deliver decides on a local port. Only table deliver sends to one: a policy can
// stand before it, and what leads there can never lead into a tunnel.
func deliver(port string) string {
	return ovs.EgressBegin + `"` + port + `"` + ovs.EgressEnd + "," + goTo(TableDeliver)
}

// deliverTo decides on a list of the network's local ports.
func deliverTo(list int) string {
	return ovs.EgressBegin + "0x" + strconv.FormatInt(int64(list), 16) + ovs.EgressEnd + "," + goTo(TableDeliver)
}

// textSize is room for any match on a prefix: there are thousands, each put
// together in one piece.
const textSize = 128

func appendMAC(text []byte, m net.HardwareAddr) []byte {
	for i := range m {
		if i > 0 {
			text = append(text, ':')
		}
		text = hex.AppendEncode(text, m[i:i+1])
	}
	return text
}

// What concerns the link address of an address: ARP by its target (RFC 826; a
// reply's target is who asked) or a neighbour solicitation (RFC 4861; its answer
// is an ordinary IPv6 packet).
const (
	targetIPv4 = "arp,arp_tpa="
	targetIPv6 = "icmp6,icmp_type=135,icmp_code=0,nd_target="
)

// target matches what concerns the link addresses of p. Of a single address
// the length is left out, as ovs-ofctl does.
func target(p netip.Prefix) string {
	if p.Addr().Is4() {
		return targetIPv4 + prefixText(p)
	}
	return targetIPv6 + prefixText(p)
}

// destination matches IP packets to p.
func destination(p netip.Prefix) string {
	if p.Addr().Is6() {
		return "ipv6,ipv6_dst=" + prefixText(p)
	}
	return "ip,nw_dst=" + prefixText(p)
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// macRange matches the MACs that are derived from the addresses of a subnet.
func macRange(p netip.Prefix) string {
	addr, mask := topology.MACRange(p)
	var space [textSize]byte
	return string(appendMAC(append(appendMAC(space[:0], addr), '/'), mask))
}

// set writes a field.
func set(value any, field string) string { return fmt.Sprintf("set_field:%v->%s", value, field) }

func actions(list ...string) string { return strings.Join(list, ",") }
