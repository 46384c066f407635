package route

import (
	"net/netip"
	"slices"

	"github.com/baize-net/baize/topology"
)

// Network is a network that this host's kernel forwards.
type Network struct {
	topology.NetworkView
	// Port is the host's own port in it, which is there and has its addresses.
	Port string
	// Endpoints are the addresses of this node's own endpoints; used with Router
	// only, where the rest of the subnet may be behind another device.
	Endpoints []netip.Addr
}

// elsewhere is added to the metric of a single address's route onto the
// network's Ethernet: it tells it from what lives here, which a routing daemon
// may announce.
const elsewhere = 1

// Wanted returns the routes that the networks need in this host's kernel: their
// own addresses by the port, those of other nodes by their paths. An address that
// no node has is unreachable, or, where the network is an Ethernet, looked for on
// it. Where a foreign route leads to another node there is none of ours. With
// Router the nodes route for one another; what does not go by the underlay goes
// by the one next hop RouterAddr. It is pure.
func Wanted(networks []Network, onLink topology.OnLink, hops topology.NextHops) []Route {
	var out []Route
	for _, n := range networks {
		out = append(out, n.whole()...)
		out = append(out, n.here()...)
		for _, p := range n.Paths(onLink, hops) {
			switch {
			case p.Foreign:
			case p.Kind == topology.PathRoute:
				out = append(out, Route{Prefix: p.Prefix, Via: p.Via, Dev: p.Dev, Src: n.src(p.Prefix)})
			case n.Transport.Ethernet() && p.MAC != "":
				// On the Ethernet, though its subnet may not be.
				r := n.local(p.Prefix)
				r.Metric = r.metric() + elsewhere
				out = append(out, r)
			}
		}
		for _, pin := range n.Pins {
			if !slices.ContainsFunc(n.Peers, func(p topology.Peer) bool { return p.Node == pin.Node }) {
				out = append(out, n.local(single(pin.Addr)))
			}
		}
	}
	return out
}

// src is this node's address of a prefix's family.
func (n Network) src(p netip.Prefix) netip.Addr {
	a, _ := n.NodeAddr(topology.FamilyOf(p.Addr()))
	return a
}

// local is a route to the network's port.
func (n Network) local(p netip.Prefix) Route { return Route{Prefix: p, Dev: n.Port, Src: n.src(p)} }

// whole are the routes of the network's prefixes.
func (n Network) whole() []Route {
	var out []Route
	for _, p := range n.Prefixes() {
		switch {
		case !n.Transport.Ethernet():
			out = append(out, Route{Prefix: p, Unreachable: true})
		case n.Router:
			via := topology.RouterAddr(topology.FamilyOf(p.Addr()))
			if via.Is4() { // IPv6's is on every link
				out = append(out, Route{Prefix: single(via), Dev: n.Port})
			}
			out = append(out, Route{Prefix: p, Via: via, Dev: n.Port, Src: n.src(p)})
		case len(n.Segments) == 0:
			out = append(out, n.local(p))
		default: // its bridge has this route
		}
	}
	return out
}

// here are the routes of this node's subnets, and with Router of its endpoints.
func (n Network) here() []Route {
	var out []Route
	for _, p := range n.Subnets {
		r := n.local(p)
		if n.Router {
			r.Metric = MetricYield
		}
		out = append(out, r)
	}
	if n.Router {
		for _, a := range n.Endpoints {
			out = append(out, n.local(single(a)))
		}
	}
	return out
}

// InPlace returns the prefixes of wanted routes that packets follow: those that
// the kernel has and no foreign route takes the place of.
func InPlace(want []Route, have Observed) map[netip.Prefix]bool {
	// What differs, or is disputed, is not in place.
	not := map[key]bool{}
	change, _ := Diff(want, have)
	for _, list := range [][]Route{change.Add, change.Replace} {
		for _, r := range list {
			not[r.key()] = true
		}
	}
	best := bestForeign(have)
	out := map[netip.Prefix]bool{}
	for _, r := range want {
		if f, ok := best[r.Prefix.Masked()]; (!ok || !f.Before(r)) && !not[r.key()] {
			out[r.Prefix.Masked()] = true
		}
	}
	return out
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
