package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The underlay: a bridge in the fabric's namespace and one port per host.
// Labs may all use the same addresses, they live in namespaces.
const (
	fabricName   = "fabric"
	fabricBridge = "br0"
	// routerName is the member between two segments of the underlay.
	routerName = "router"
	// MaxSegments is how many there can be: the second is another bridge of the
	// fabric, where the fabric itself has no address.
	MaxSegments = 2
	routerLast  = 2 // the router's addresses end like this
	underlayMTU = 1500
	hostPrefix  = "host"
	// MaxHosts is limited by the last byte of the underlay's addresses.
	MaxHosts  = 244
	firstHost = 10 // host N has the address …(10+N)
	etcdPort  = 2379
)

// underlays are the prefixes of each segment.
var underlays = [MaxSegments][2]netip.Prefix{
	{netip.MustParsePrefix("192.168.77.0/24"), netip.MustParsePrefix("fd77::/64")},
	{netip.MustParsePrefix("192.168.78.0/24"), netip.MustParsePrefix("fd78::/64")},
}

// fabricAddrs are the fabric's own addresses, where etcd listens.
func fabricAddrs() []netip.Prefix {
	return []netip.Prefix{at(underlays[0][0], 1, 1), at(underlays[0][1], 1, 1)}
}

// routerAddrs are the router's addresses in a segment.
func routerAddrs(segment int) []netip.Prefix {
	return []netip.Prefix{at(underlays[segment][0], routerLast, 0), at(underlays[segment][1], 0, routerLast)}
}

// segmentOf returns the segment, counted from 0, that host n is in: they take
// turns.
func segmentOf(n, segments int) int { return (n - 1) % max(segments, 1) }

// segmentBridge is the bridge in the fabric that stands for a segment.
func segmentBridge(segment int) string {
	if segment == 0 {
		return fabricBridge
	}
	return "br" + strconv.Itoa(segment)
}

// hostAddrs are the underlay addresses of host n in a lab of so many segments:
// 192.168.77.(10+n) and fd77::(10+n), the same digits in both, and 78 for 77 in
// the second.
func hostAddrs(n, segments int) []netip.Prefix {
	last, u := firstHost+n, underlays[segmentOf(n, segments)]
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
	a := hostAddrs(n, 1)[0].Addr().As4()
	return net.HardwareAddr{0x02, 0xba, a[0], a[1], a[2], a[3]}
}

func hostName(n int) string { return hostPrefix + strconv.Itoa(n) }

// hostNumber is the inverse of hostName; 0 where it is none.
func hostNumber(name string) int {
	digits, ok := strings.CutPrefix(name, hostPrefix)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 1 || n > MaxHosts || hostName(n) != name {
		return 0
	}
	return n
}

// netnsName is the name under which ip-netns(8) knows a member's namespace.
func netnsName(lab, member string) string { return "baize-" + lab + "-" + member }

// netnsMember is the inverse of netnsName for one lab; "" where it is none.
// Lab "a" has no member "b-host1": that one belongs to lab "a-b".
func netnsMember(lab, name string) string {
	member, ok := strings.CutPrefix(name, "baize-"+lab+"-")
	if !ok || (member != fabricName && member != routerName && hostNumber(member) == 0) {
		return ""
	}
	return member
}

// etcdURL is where hosts reach etcd.
func etcdURL(ipv6 bool) string {
	i := 0
	if ipv6 {
		i = 1
	}
	return "http://" + netip.AddrPortFrom(fabricAddrs()[i].Addr(), etcdPort).String()
}

// etcHosts is the file /etc/hosts of every host.
func etcHosts(hosts []string, segments int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n")
	line := func(addrs []netip.Prefix, name string) {
		for _, a := range addrs {
			fmt.Fprintf(&b, "%s\t%s\n", a.Addr(), name)
		}
	}
	line(fabricAddrs(), fabricName)
	for i := 0; segments > 1 && i < segments; i++ {
		line(routerAddrs(i), routerName)
	}
	for _, h := range hosts {
		line(hostAddrs(hostNumber(h), segments), h)
	}
	return []byte(b.String())
}
