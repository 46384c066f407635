// Package fabric is the underlay of a lab: the physical network that its hosts
// believe they are plugged into. Every segment is a bridge in the namespace of
// the member "fabric", every host is connected to one by a veth pair, and between two
// segments there is a router.
//
// What the package does outside takes a member.Member: it plugs cables in and
// pulls them out. What it does inside takes a Place: a pid 1 sets its own devices
// and addresses up. The addresses are all computed from a host's number.
package fabric

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/baize-net/baize/cmd/internal/lab/member"
)

// The underlay: a bridge in the fabric's namespace and one port per host.
// Labs may all use the same addresses, they live in namespaces.
const (
	fabricBridge = "br0"
	// MaxSegments is how many there can be: the second is another bridge of the
	// fabric, where the fabric itself has no address.
	MaxSegments = 2
	routerLast  = 2 // the router's addresses end like this
	// MTU is that of the underlay, in bytes.
	MTU       = 1500
	firstHost = 10 // host N has the address …(10+N)
	// EtcdPort is where etcd listens.
	EtcdPort = 2379
)

// underlays are the prefixes of each segment.
var underlays = [MaxSegments][2]netip.Prefix{
	{netip.MustParsePrefix("192.168.77.0/24"), netip.MustParsePrefix("fd77::/64")},
	{netip.MustParsePrefix("192.168.78.0/24"), netip.MustParsePrefix("fd78::/64")},
}

// Prefixes are the address ranges of a segment, one a family.
func Prefixes(segment int) []netip.Prefix { return underlays[segment][:] }

// Addrs are the fabric's own addresses, where etcd listens.
func Addrs() []netip.Prefix {
	return []netip.Prefix{at(underlays[0][0], 1, 1), at(underlays[0][1], 1, 1)}
}

// RouterAddrs are the router's addresses in a segment.
func RouterAddrs(segment int) []netip.Prefix {
	return []netip.Prefix{at(underlays[segment][0], routerLast, 0), at(underlays[segment][1], 0, routerLast)}
}

// RouterPorts are the addresses of the router's devices, one a segment.
func RouterPorts(segments int) (ports [][]netip.Prefix) {
	for i := range segments {
		ports = append(ports, RouterAddrs(i))
	}
	return ports
}

// gatewaysOf are the next hops of default routes in a segment, one a family;
// none where there is no router.
func gatewaysOf(segment, segments int) (gateways []netip.Addr) {
	if segments < 2 {
		return nil
	}
	for _, a := range RouterAddrs(segment) {
		gateways = append(gateways, a.Addr())
	}
	return gateways
}

// SegmentOf returns the segment, counted from 0, that host n is in: they take
// turns.
func SegmentOf(n, segments int) int { return (n - 1) % max(segments, 1) }

// segmentBridge is the bridge in the fabric that stands for a segment.
func segmentBridge(segment int) string {
	if segment == 0 {
		return fabricBridge
	}
	return "br" + strconv.Itoa(segment)
}

// HostAddrs are the underlay addresses of host n in a lab of so many segments:
// 192.168.77.(10+n) and fd77::(10+n), the same digits in both, and 78 for 77 in
// the second.
func HostAddrs(n, segments int) []netip.Prefix {
	last, u := firstHost+n, underlays[SegmentOf(n, segments)]
	digits, _ := strconv.ParseUint(strconv.Itoa(last), 16, 16)
	return []netip.Prefix{at(u[0], last, 0), at(u[1], 0, int(digits))}
}

// at returns the address in a prefix whose last bytes are v4 or v6.
func at(p netip.Prefix, v4, v6 int) netip.Prefix {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		b[3] = byte(v4)
		return netip.PrefixFrom(netip.AddrFrom4(b), p.Bits())
	}
	b := p.Addr().As16()
	b[14], b[15] = byte(v6>>8), byte(v6)
	return netip.PrefixFrom(netip.AddrFrom16(b), p.Bits())
}

// hostMAC is the link address of host n's eth0: it stays the same when the
// host is made anew.
func hostMAC(n int) net.HardwareAddr {
	a := HostAddrs(n, 1)[0].Addr().As4()
	return net.HardwareAddr{0x02, 0xba, a[0], a[1], a[2], a[3]}
}

// EtcdURL is where hosts reach etcd.
func EtcdURL(ipv6 bool) string {
	i := 0
	if ipv6 {
		i = 1
	}
	return "http://" + netip.AddrPortFrom(Addrs()[i].Addr(), EtcdPort).String()
}

// EtcHosts is the file /etc/hosts of every host.
func EtcHosts(hosts []string, segments int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n")
	line := func(addrs []netip.Prefix, name string) {
		for _, a := range addrs {
			fmt.Fprintf(&b, "%s\t%s\n", a.Addr(), name)
		}
	}
	line(Addrs(), member.Fabric)
	for i := 0; segments > 1 && i < segments; i++ {
		line(RouterAddrs(i), member.Router)
	}
	for _, h := range hosts {
		line(HostAddrs(member.HostNumber(h), segments), h)
	}
	return []byte(b.String())
}
