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
	var c frrConf
	c.line("frr defaults datacenter\n!")
	for _, fam := range frrFamilies {
		c.routeMap(fam, networks, port)
	}
	c.line("router bgp %d", as)
	c.line(" no bgp ebgp-requires-policy")
	// Without RFC 8538 (its notifications) neighbours forget a host that is silent
	// for the hold time at once, and not after its restart time.
	c.line(" bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n no bgp graceful-restart notification")
	for _, n := range neighbors {
		c.line(" neighbor %s remote-as %d", n.Addr, n.AS)
		if password != "" {
			c.line(" neighbor %s password %s", n.Addr, password)
		}
	}
	for _, fam := range frrFamilies {
		c.line(" !\n address-family %s unicast", fam.name)
		c.line("  redistribute kernel route-map %s", fam.routeMap)
		for _, n := range neighbors {
			c.line("  neighbor %s activate", n.Addr)
			c.line("  neighbor %s allowas-in 1", n.Addr)
		}
		c.line(" exit-address-family")
	}
	c.line("exit\n!")
	return c.String()
}

// frrFamily is an address family in FRR's words.
type frrFamily struct {
	family             topology.Family
	name, ip, routeMap string
	usual              int // metric
}

var frrFamilies = []frrFamily{
	{topology.IPv4, "ipv4", "ip", "baize-ipv4", metricIPv4}, {topology.IPv6, "ipv6", "ipv6", "baize-ipv6", metricIPv6},
}

type frrConf struct{ strings.Builder }

func (c *frrConf) line(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

// routeMap writes which of the kernel's routes are announced.
func (c *frrConf) routeMap(fam frrFamily, networks []topology.Network, port func(network string) string) {
	// The usual metric cannot be matched: FRR 8.4 refuses 0, and its daemons abort
	// at the next 'show running-config'.
	for i, metric := range []int{fam.usual + elsewhere, MetricYield} {
		c.line("route-map %s deny %d\n match metric %d\nexit\n!", fam.routeMap, i+1, metric)
	}
	seq := 0
	for _, n := range networks {
		for _, p := range n.Prefixes() {
			if !n.Transport.Routed() || topology.FamilyOf(p.Addr()) != fam.family {
				continue
			}
			seq += 10
			list := "baize-" + n.Name
			c.line("%s prefix-list %s seq 10 permit %s ge %d", fam.ip, list, p, p.Bits()+1)
			c.line("route-map %s permit %d", fam.routeMap, seq)
			c.line(" match %s address prefix-list %s", fam.ip, list)
			c.line(" match interface %s", port(n.Name))
			c.line("exit\n!")
		}
	}
	c.line("route-map %s deny 65000\nexit\n!", fam.routeMap)
}
