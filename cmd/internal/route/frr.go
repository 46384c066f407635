package route

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/baize-net/baize/topology"
)

// FRRNeighbor is a router that FRR on a host speaks BGP with.
type FRRNeighbor struct {
	Addr netip.Addr
	AS   uint32
}

// FRRConf writes a configuration for FRR (frr.conf, 8.4 and later) with which a
// host's routing daemon announces what lives on the host, and learns from the
// neighbours: of Baize's routes, which it sees in the kernel, it hands on those
// that lead to the host's own port of a network and are longer than the network's
// prefix, except those of addresses that live elsewhere on its Ethernet, which
// their metric tells. password, where not empty, is that of the
// sessions. port names a network's port. Networks that are not routed are left
// out.
func FRRConf(
	networks []topology.Network,
	as uint32,
	neighbors []FRRNeighbor,
	password string,
	port func(network string) string,
) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("frr defaults datacenter\n!")
	families := []struct {
		f            topology.Family
		ip, routeMap string
		usual        int // metric
	}{{topology.IPv4, "ip", "baize-ipv4", metricIPv4}, {topology.IPv6, "ipv6", "baize-ipv6", metricIPv6}}
	for _, fam := range families {
		// The usual metric cannot be matched: FRR 8.4 refuses 0, and its daemons abort
		// at the next 'show running-config'.
		for i, metric := range []int{fam.usual + elsewhere, MetricYield} {
			line("route-map %s deny %d\n match metric %d\nexit\n!", fam.routeMap, i+1, metric)
		}
		seq := 0
		for _, n := range networks {
			for _, p := range n.Prefixes() {
				if !n.Transport.Routed() || topology.FamilyOf(p.Addr()) != fam.f {
					continue
				}
				seq += 10
				list := "baize-" + n.Name
				line("%s prefix-list %s seq 10 permit %s ge %d", fam.ip, list, p, p.Bits()+1)
				line("route-map %s permit %d", fam.routeMap, seq)
				line(" match %s address prefix-list %s", fam.ip, list)
				line(" match interface %s", port(n.Name))
				line("exit\n!")
			}
		}
		line("route-map %s deny 65000\nexit\n!", fam.routeMap)
	}
	line("router bgp %d", as)
	line(" no bgp ebgp-requires-policy")
	// Without RFC 8538 (its notifications) neighbours forget a host that is silent
	// for the hold time at once, and not after its restart time.
	line(" bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n no bgp graceful-restart notification")
	for _, n := range neighbors {
		line(" neighbor %s remote-as %d", n.Addr, n.AS)
		if password != "" {
			line(" neighbor %s password %s", n.Addr, password)
		}
	}
	for _, fam := range families {
		name := "ipv4"
		if fam.f == topology.IPv6 {
			name = "ipv6"
		}
		line(" !\n address-family %s unicast", name)
		line("  redistribute kernel route-map %s", fam.routeMap)
		for _, n := range neighbors {
			line("  neighbor %s activate", n.Addr)
			line("  neighbor %s allowas-in 1", n.Addr)
		}
		line(" exit-address-family")
	}
	line("exit\n!")
	return b.String()
}
