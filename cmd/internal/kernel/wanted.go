package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Input is what the wanted state is computed from.
type Input struct {
	View topology.View
	// Ports are the host's own ports that the switch has, by network.
	Ports map[string]string
	// Endpoints are the addresses of this node's own endpoints, by network.
	Endpoints map[string][]netip.Addr
	// OnLink and NextHops are observed: Observed.OnLink, NextHops.
	OnLink   topology.OnLink
	NextHops topology.NextHops
	// Protected are the addresses that no network may cover.
	Protected []Protected
	// Masquerade are the networks whose packets get the host's address on their way
	// out of them.
	Masquerade []string
	// Pods are the networks whose containers this host routes to past their port: by a
	// device and a route of each. Whatever comes from there, or goes there, passes.
	Pods []string
	// Bridges are Linux bridges of this host that are a part of a network and have
	// an IPv6 address of it, by network: engines have no --bip for IPv6, so that
	// containers take the rest of the network to be behind their gateway.
	Bridges map[string]string
	Drops   Drops
	// Userspace: Open vSwitch takes the packets of tunnels itself, and not the kernel.
	Userspace bool
	// TunnelPorts are the UDP ports of encapsulations, where they are not the usual ones.
	TunnelPorts map[topology.Transport]int
}

// carried returns the networks that the kernel forwards and that have their port,
// without those that cover what they must not. refused is called with each of
// the latter.
func (in Input) carried(refused func(topology.NetworkView, fault.Fault)) []route.Network {
	var out []route.Network
	for _, n := range in.View.Networks {
		port := in.Ports[n.Name]
		if _, ok := n.Host(); !ok || port == "" {
			continue
		}
		if f, bad := Covers(n.Network, in.Protected); bad {
			if refused != nil {
				refused(n, f)
			}
			continue
		}
		out = append(out, route.Network{NetworkView: n, Port: port, Endpoints: in.Endpoints[n.Name]})
	}
	return out
}

// Wanted computes what a node's kernel has to have. A network that covers what
// the host itself needs is left out and becomes a fault; so does a node that no
// packet reaches. It is pure.
func Wanted(in Input) (State, []fault.Fault) {
	var s State
	var faults []fault.Fault
	networks := in.carried(func(n topology.NetworkView, f fault.Fault) {
		faults = append(faults, f)
		// Without addresses: one of them may be the gateway's.
		s.port(n, in.Ports[n.Name], nil)
	})
	forward := map[topology.Family]bool{}
	for _, n := range networks {
		h, _ := n.Host()
		s.port(n.NetworkView, n.Port, h.Addrs)
		for _, f := range n.Families() {
			forward[f] = true
		}
		if slices.Contains(in.Pods, n.Name) {
			s.Firewall.Accept = append(s.Firewall.Accept, acceptPods(n.Network)...)
		} else {
			s.Firewall.Accept = append(s.Firewall.Accept, accept(n, in.OnLink, in.NextHops)...)
		}
		if slices.Contains(in.Masquerade, n.Name) {
			s.Firewall.NAT = append(s.Firewall.NAT, nat(n)...)
		}
		faults = append(faults, unreachable(n, in.OnLink, in.NextHops)...)
	}
	if forward[topology.IPv4] {
		s.Sysctls = append(s.Sysctls, Sysctl{forwardIPv4, "1"})
	}
	if forward[topology.IPv6] {
		s.Sysctls = append(s.Sysctls, Sysctl{forwardIPv6, "1"})
	}
	s.Routes = append(route.Wanted(networks, in.OnLink, in.NextHops), in.bridges()...)
	s.Firewall.Drops = in.Drops
	s.Firewall.Tunnels = in.tunnels()
	return s, faults
}

// port adds a host port with its addresses. They are single addresses (/32,
// /128): which of the network's addresses are beyond the port is a matter of
// routes.
func (s *State) port(n topology.NetworkView, dev string, addrs []netip.Addr) {
	h, _ := n.Host()
	s.Links = append(s.Links, Link{Name: dev, MAC: h.MAC.String(), MTU: h.MTU, Up: true})
	s.Sysctls = append(s.Sysctls, PortSysctls(dev)...)
	var own []Address
	for _, a := range addrs {
		own = append(own, Address{dev, single(a)})
	}
	// The kernel makes a link-local address once, and asks for no neighbour
	// (RFC 4861) after somebody removed it.
	if slices.ContainsFunc(addrs, netip.Addr.Is6) {
		own = append(own, Address{dev, netip.PrefixFrom(ovs.LinkLocal(h.MAC), 64)})
	}
	slices.SortFunc(own, compareAddresses)
	s.Addresses = append(s.Addresses, own...)
	for _, a := range slices.SortedFunc(maps.Keys(h.Neighbours), netip.Addr.Compare) {
		s.Neighbours = append(s.Neighbours, Neighbour{dev, a, h.Neighbours[a].String()})
	}
}

// PortSysctls are what a host port needs. Endpoints are no routers and are told
// of none; a port answers for its own addresses only, and Open vSwitch guards
// those of endpoints.
func PortSysctls(dev string) []Sysctl {
	var out []Sysctl
	for _, s := range [...]struct{ family, key, value string }{
		{"ipv6", "disable_ipv6", "0"}, {"ipv6", "accept_ra", "0"},
		{"ipv6", "accept_redirects", "0"}, {"ipv6", "dad_transmits", "0"},
		{"ipv4", "send_redirects", "0"}, {"ipv4", "accept_redirects", "0"},
		{"ipv4", "arp_ignore", "1"}, {"ipv4", "rp_filter", "0"},
	} {
		out = append(out, Sysctl{fmt.Sprintf("net/%s/conf/%s/%s", s.family, dev, s.key), s.value})
	}
	return out
}

// nat is that of a network, by family.
func nat(n route.Network) []NATRule {
	var out []NATRule
	for _, whole := range n.Prefixes() {
		var own []netip.Prefix
		for _, p := range n.OwnSubnets() {
			if topology.FamilyOf(p.Addr()) == topology.FamilyOf(whole.Addr()) {
				own = append(own, p)
			}
		}
		out = append(out, masquerade(whole, own)...)
	}
	return out
}

// bridges makes whole IPv6 networks on-link at their bridges, since this host
// forwards to the same link. Any other route goes before these, and may.
func (in Input) bridges() []route.Route {
	var out []route.Route
	for _, n := range in.View.Networks {
		if dev := in.Bridges[n.Name]; dev != "" && n.IPv6.IsValid() {
			out = append(out, route.Route{Prefix: n.IPv6.Masked(), Dev: dev, Metric: route.MetricYield})
		}
	}
	return out
}

// accept returns what a network needs forwarded: what stays in it, and with
// Router all that leaves by its port, or comes to this node's subnets from hosts
// that routes lead to.
func accept(n route.Network, onLink topology.OnLink, hops topology.NextHops) []AcceptRule {
	var out []AcceptRule
	for _, p := range n.Prefixes() {
		f := topology.FamilyOf(p.Addr())
		if !n.Router {
			out = append(out, AcceptRule{Family: f, Dst: p, In: n.Port}, AcceptRule{Family: f, Src: p, Out: n.Port})
			continue
		}
		out = append(out, AcceptRule{Family: f, In: n.Port}, AcceptRule{Family: f, Out: n.Port})
	}
	if !n.Router {
		return out
	}
	for _, path := range n.Paths(onLink, hops) {
		f := topology.FamilyOf(path.Prefix.Addr())
		for _, p := range n.OwnSubnets() {
			in := AcceptRule{Family: f, Dst: p, In: path.Dev}
			if path.Kind != topology.PathRoute || topology.FamilyOf(p.Addr()) != f || slices.Contains(out, in) {
				continue
			}
			out = append(out, in, AcceptRule{Family: f, Src: p, Dst: n.Prefix(f), Out: path.Dev})
		}
	}
	return out
}

// acceptPods returns what pods need forwarded: all that comes from them or goes to them, on
// one host as well, out of the network, and from outside by a port of a node. What is part
// of no connection is left to others: kube-proxy drops it, since an answer that it did not
// translate back would be refused.
func acceptPods(n topology.Network) (out []AcceptRule) {
	for _, p := range n.Prefixes() {
		f := topology.FamilyOf(p.Addr())
		out = append(out, AcceptRule{Family: f, Src: p.Masked(), Valid: true},
			AcceptRule{Family: f, Dst: p.Masked(), Valid: true})
	}
	return out
}

// AcceptsPods reports whether a host lets pods' packets of a network pass, as Pods asks
// for.
func (o Observed) AcceptsPods(n topology.Network) bool {
	return slices.ContainsFunc(o.IPTables, func(t IPTables) bool {
		return slices.ContainsFunc(acceptPods(n), func(r AcceptRule) bool {
			ours, _, _ := AcceptChain.read(t.Filter)
			return slices.Contains(ours, r.String()+" -j ACCEPT")
		})
	})
}

// unreachable reports nodes that no packet reaches.
func unreachable(n route.Network, onLink topology.OnLink, hops topology.NextHops) []fault.Fault {
	var out []fault.Fault
	for _, p := range n.Paths(onLink, hops) {
		if p.Kind == topology.PathNone {
			out = append(out, fault.Fault{
				Code:     fault.Unreachable,
				Severity: fault.Error,
				Item:     fmt.Sprintf("network %s, node %s", n.Name, p.Node),
				What:     fmt.Sprintf("%s cannot be reached without encapsulation: %s", p.Prefix, p.Why()),
				Remedy: "'baize network update " + n.Name + " --transport auto', " +
					"or let the routers know the way: 'baize agent --bgp', see docs/routing.md",
			})
		}
	}
	return out
}
