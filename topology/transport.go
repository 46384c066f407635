package topology

import "slices"

// Transport says how a network's frames travel between nodes: the name of a
// Choice, as people write it and records have it.
type Transport string

// The transports. The first three are encapsulations of Ethernet frames in IP.
// Route has none: unicast IP goes from host to host as it is, by routes in their
// kernels. Auto is the whole Ethernet, in VXLAN, but unicast IP to nodes on the
// same link goes as with Route; "auto-gre" and "auto-geneve" are the same over the
// other encapsulations.
const (
	VXLAN  Transport = "vxlan"
	GRE    Transport = "gre"
	Geneve Transport = "geneve"
	Route  Transport = "route"
	Auto   Transport = "auto"
)

// Direct says when unicast IP goes from host to host without encapsulation.
type Direct int

// The kinds of direct delivery.
const (
	DirectNever  Direct = iota // everything is encapsulated
	DirectOnLink               // where the kernel has a next hop without a tunnel
	DirectAlways               // there is no other way
)

// Gateway says who answers for addresses that are not on the node.
type Gateway int

// The gateways.
const (
	// GatewayNone: nobody. A network's gateway is an endpoint like any other.
	GatewayNone Gateway = iota
	// GatewayNode: every node itself, with one link address for all of them.
	GatewayNode
)

// Choice is what a transport is made of.
type Choice struct {
	// Encap is the encapsulation; empty where there is none.
	Encap   Transport
	Direct  Direct
	Gateway Gateway
}

// Transports lists every transport in the order they are offered to people.
func Transports() []Transport { return slices.Clone(current.Load().transports) }

// Choice returns what the transport is made of. A name that is not known is an
// encapsulation that nobody has.
func (t Transport) Choice() Choice {
	if c, ok := current.Load().choices[t]; ok {
		return c
	}
	return Choice{Encap: t}
}

// Tunnel returns the encapsulation that the transport uses; "" where there is
// none.
func (t Transport) Tunnel() Transport { return t.Choice().Encap }

// Direct says when packets of the transport need no encapsulation.
func (t Transport) Direct() Direct { return t.Choice().Direct }

// Routed reports whether the hosts' kernels forward packets of the transport.
func (t Transport) Routed() bool { return t.Direct() != DirectNever }

// Ethernet reports whether the transport carries any frame from node to node.
func (t Transport) Ethernet() bool { return t.Direct() != DirectAlways }

// Kernel reports whether the nodes' kernels have routes of the network.
func (n Network) Kernel() bool { return n.Transport.Routed() || n.Router }

// Limits says what a network of this transport cannot carry; "" where it is a
// whole Ethernet.
func (t Transport) Limits() string {
	if t.Ethernet() {
		return ""
	}
	return "unicast IP only between nodes: no broadcast, no multicast, no protocols but IP, " +
		"and each node on the way lowers the TTL"
}

// Valid reports whether t is a transport Baize knows.
func (t Transport) Valid() bool {
	_, ok := current.Load().choices[t]
	return ok
}
