package kernelfake

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
)

// What RandomState expects of a host: an underlay device with these addresses,
// two ports, and two more devices that may have drops.
var (
	Underlay      = "eth0"
	UnderlayAddrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}
	Ports         = []string{"bn-blue", "bn-red"}
	Ends          = []string{"bz-a", "bz-b"}
)

// RandomState returns a state that is possible on such a host. Tests jump from
// one to another.
func RandomState(r *rand.Rand) kernel.State {
	var s kernel.State
	some := func() bool { return r.IntN(2) == 0 }
	one := func(list ...string) string { return list[r.IntN(len(list))] }
	for i, dev := range Ports {
		if some() {
			port(&s, dev, i, some, one)
		}
	}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		if some() {
			p := map[topology.Family]string{topology.IPv4: "10.1.5.0/24", topology.IPv6: "fd00:1:5::/64"}[f]
			s.Rules = append(
				s.Rules,
				kernel.Rule{Family: f, Priority: 17300 + r.IntN(2), From: netip.MustParsePrefix(p), Table: 173},
			)
		}
	}
	if some() {
		s.Sysctls = append(s.Sysctls, kernel.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"})
	}
	if some() {
		whole := netip.MustParsePrefix("10.1.0.0/16")
		s.Firewall.NAT = []kernel.NATRule{
			{
				Src:    whole,
				Dst:    whole,
				Return: true,
			},
			{Dst: netip.MustParsePrefix(one("10.1.5.0/24", "10.1.6.9/32")), Return: true},
			{Src: whole, Dst: netip.MustParsePrefix("224.0.0.0/4"), NotDst: true},
			{Dst: whole},
		}
		if some() {
			v6 := netip.MustParsePrefix("fd00:1::/48")
			s.Firewall.NAT = append(
				s.Firewall.NAT,
				kernel.NATRule{Src: v6, Dst: v6, Return: true},
				kernel.NATRule{Src: v6, Dst: netip.MustParsePrefix("ff00::/8"), NotDst: true},
			)
		}
	}
	if some() {
		s.Firewall.Tunnels = []kernel.TunnelPort{{}, {UDP: 4789}}[r.IntN(2):]
	}
	if s.Firewall.Drops.Use = some(); s.Firewall.Drops.Use {
		for _, dev := range Ends {
			if some() {
				s.Firewall.Drops.Devices = append(s.Firewall.Drops.Devices, dev)
			}
		}
	}
	return s
}

// port adds a port with what is on it.
func port(s *kernel.State, dev string, i int, some func() bool, one func(...string) string) {
	s.Links = append(
		s.Links,
		kernel.Link{
			Name: dev,
			MAC:  one("02:42:0a:01:05:01", "0e:ba:c0:00:02:01"),
			MTU:  map[string]int{"a": 1450, "b": 1400}[one("a", "b")],
			Up:   true,
		},
	)
	s.Sysctls = append(s.Sysctls, kernel.PortSysctls(dev)...)
	p := func(format string) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(format, i+1)) }
	v4, v6 := p("10.%d.5.1/32"), p("fd00:%d:5::1/128")
	s.Addresses = append(s.Addresses, kernel.Address{Dev: dev, Prefix: v4}, kernel.Address{Dev: dev, Prefix: v6})
	if some() {
		s.Addresses = append(s.Addresses, kernel.Address{Dev: dev, Prefix: p("10.%d.0.1/32")})
	}
	if some() {
		hop := netip.MustParseAddr("169.254.186.1")
		s.Neighbours = append(
			s.Neighbours,
			kernel.Neighbour{Dev: dev, Addr: hop, MAC: one("0e:ba:00:00:00:00", "0e:ba:00:00:00:01")},
		)
	}
	add := func(r route.Route) {
		if r.Src = v4.Addr(); r.Prefix.Addr().Is6() {
			r.Src = v6.Addr()
		}
		if r.Unreachable {
			r.Src = netip.Addr{}
		}
		if some() {
			s.Routes = append(s.Routes, r)
		}
	}
	add(route.Route{Prefix: p("10.%d.0.0/16"), Dev: dev})
	add(route.Route{Prefix: p("10.%d.5.0/24"), Dev: dev})
	add(route.Route{Prefix: p("10.%d.6.0/24"), Via: netip.MustParseAddr(one("192.0.2.6", "192.0.2.7")), Dev: Underlay})
	add(route.Route{Prefix: p("10.%d.6.9/32"), Dev: dev, Metric: 1})
	add(route.Route{Prefix: p("10.%d.7.0/24"), Unreachable: true})
	if pick := some(); pick {
		add(route.Route{Prefix: p("10.%d.8.0/24"), Unreachable: true})
	} else {
		add(route.Route{Prefix: p("10.%d.8.0/24"), Via: netip.MustParseAddr("192.0.2.8"), Dev: Underlay})
	}
	add(
		route.Route{Prefix: p("fd00:%d:6::/64"), Via: netip.MustParseAddr(one("2001:db8::6", "2001:db8::7")), Dev: Underlay},
	)
	add(route.Route{Prefix: p("fd00:%d:7::/64"), Unreachable: true})
}
