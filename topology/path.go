package topology

import (
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/topology/fault"
)

// A network with direct delivery, or with Router, is forwarded by the hosts'
// kernels, each through a port of its own on the bridge. This file says what such
// a port is, and which path packets to every other node take.

// HostPort is the host's own port in a network.
type HostPort struct {
	// MAC is the link address: where the nodes are the gateway (GatewayNode) the
	// same on every node, so that an endpoint that moves keeps its neighbour; else
	// the node's own.
	MAC net.HardwareAddr
	// Addrs are the node's addresses, one a family, then, where the nodes are the
	// gateway, the gateways, which are the same on every node.
	Addrs []netip.Addr
	// Neighbours are link addresses that the port need not ask for.
	Neighbours map[netip.Addr]net.HardwareAddr
	// MTU is the network's.
	MTU int
}

// Host returns the host's own port in the network; false where the network
// needs none.
func (n NetworkView) Host() (HostPort, bool) {
	if !n.Kernel() {
		return HostPort{}, false
	}
	h := HostPort{MTU: n.MTU, MAC: GatewayMAC(n.Network)}
	for _, f := range n.Families() {
		if a, ok := n.NodeAddr(f); ok {
			h.Addrs = append(h.Addrs, a)
		}
	}
	if n.Router && n.Transport.Ethernet() {
		h.MAC, h.Neighbours = n.RouterMAC, map[netip.Addr]net.HardwareAddr{}
		for _, f := range n.Families() {
			h.Neighbours[RouterAddr(f)] = AnyRouterMAC()
		}
		return h, true
	}
	if n.Transport.Choice().Gateway == GatewayNone {
		// A node that has only pins has no address of its own. The MAC is the
		// gateway's then: it stays on the host, like the gateway's.
		if len(h.Addrs) > 0 {
			h.MAC = MACOf(h.Addrs[0])
		}
		return h, true
	}
	for _, f := range n.Families() {
		if g := n.Gateway(f); g.IsValid() && !slices.Contains(h.Addrs, g) {
			h.Addrs = append(h.Addrs, g)
		}
	}
	return h, true
}

// NodeAddr returns this node's own address in the network: the first of its
// first subnet of the family. With Router that is docker0's, and the node has
// the subnet's own address.
func (n NetworkView) NodeAddr(f Family) (netip.Addr, bool) {
	for _, p := range n.Subnets {
		switch {
		case FamilyOf(p.Addr()) != f:
		case n.Router:
			return p.Addr(), true
		default:
			return NodeAddr(p), true
		}
	}
	return netip.Addr{}, false
}

// routerMAC is what the link addresses of Router networks begin with: locally
// administered, and not one that is derived from an address.
var routerMAC = [2]byte{0x0e, 0xba}

// RouterMAC returns the link address under which a node takes packets that it
// is to route: made of its underlay IPv4 address, so that every node's is its
// own and stays what it is, else of its name.
func RouterMAC(n Node) net.HardwareAddr {
	if a, ok := n.VTEP(IPv4); ok {
		b := a.As4()
		return append(routerMAC[:2:2], b[:]...)
	}
	h := fnv.New32a()
	h.Write([]byte(n.Name))
	return h.Sum(routerMAC[:2:2])
}

// AnyRouterMAC is the link address to which a node's kernel sends what other
// nodes are to route: Open vSwitch knows to which.
func AnyRouterMAC() net.HardwareAddr { return append(net.HardwareAddr(routerMAC[:2:2]), 0, 0, 0, 0) }

// RouterAddr is the next hop of a node's kernel for all of a Router network: a
// link-local address (RFC 3927, RFC 4291) that nobody has and nobody asks for,
// with AnyRouterMAC.
func RouterAddr(f Family) netip.Addr {
	if f == IPv6 {
		return netip.MustParseAddr("fe80::ba:1")
	}
	return netip.AddrFrom4([4]byte{169, 254, 186, 1})
}

// GatewayMAC returns the link address that stands for whatever is not on this
// node where the nodes are the gateway (GatewayNode). It is made of the gateway, or of the address that a
// gateway usually has, in a subnet that no node leases.
func GatewayMAC(n Network) net.HardwareAddr {
	for _, f := range n.Families() {
		if g := n.Gateway(f); g.IsValid() {
			return MACOf(g)
		}
	}
	return MACOf(n.Prefixes()[0].Addr().Next())
}

// OnLink says, for underlay addresses of peers, by which device the kernel
// reaches them without a router. It is observed, every time anew.
type OnLink map[netip.Addr]string

// NextHop is a next hop through the routers of the fabric.
type NextHop struct {
	Via netip.Addr
	Dev string
	// Foreign: somebody else keeps this route in the kernel.
	Foreign bool
	// Why says where it is from: "learned by BGP from 192.0.2.1".
	Why string
}

// NextHops says, for subnets and pins of other nodes, which hop routers have
// offered. It is observed, every time anew.
type NextHops map[netip.Prefix]NextHop

// PathKind is how packets get to another node.
type PathKind string

// The kinds of paths.
const (
	PathRoute  PathKind = "route"  // not encapsulated, through the peer's address or a router's
	PathTunnel PathKind = "tunnel" // encapsulated
	PathNone   PathKind = "none"   // not at all
)

// Path is how a prefix of a network that lives on another node is reached.
type Path struct {
	Network string
	Prefix  netip.Prefix // a subnet, or the single address of a pin
	Node    string       // where it lives
	// MAC is that of a pin; empty for a subnet.
	MAC  string
	Kind PathKind
	// Via and Dev are the next hop of PathRoute.
	Via netip.Addr
	Dev string
	// Foreign: the route is somebody else's, and Baize makes none.
	Foreign bool
	// Encap is the encapsulation of PathTunnel.
	Encap  Transport
	reason reason
}

// reason is why a path is what it is. It is written when somebody wants to read it: of
// a thousand nodes nobody does, most of the time.
type reason struct {
	kind reasonKind
	// text is what the kind says it of: a transport, a node, a router's reason.
	text   string
	family Family
	via    netip.Addr
}

type reasonKind int

const (
	byTransport reasonKind = iota
	byBridge
	byHop
	byNoVTEP
	byLink
	byRouter
)

// Why says the reason in words.
func (p Path) Why() string {
	switch r := p.reason; r.kind {
	case byTransport:
		return "the network's transport is " + r.text
	case byBridge:
		return "it is on a bridge of " + r.text + ", as frames"
	case byNoVTEP:
		return fmt.Sprintf("%s has no %s underlay address that could be a next hop", r.text, r.family)
	case byLink:
		return fmt.Sprintf("%s is on-link on %s", p.Via, p.Dev)
	case byRouter:
		return fmt.Sprintf("%s is behind a router", r.via)
	default:
		return r.text
	}
}

// Paths returns the path of every subnet and pin of other nodes, subnets
// first, in the order of peers and pins. A peer that is on-link is reached
// directly, others through the fabric where it knows them; but packets follow a
// foreign route in any case.
func (n NetworkView) Paths(onLink OnLink, hops NextHops) []Path {
	out := slices.Grow([]Path(nil), 2*len(n.Peers)+len(n.Pins)) // a subnet for each family, mostly
	peers := make(map[string]*Peer, len(n.Peers))
	for i := range n.Peers {
		p := &n.Peers[i]
		peers[p.Node] = p
		for _, subnet := range p.Subnets {
			out = append(out, n.path(p, subnet, "", onLink, hops))
		}
	}
	for _, pin := range n.Pins {
		if p := peers[pin.Node]; p != nil {
			out = append(out, n.path(p, netip.PrefixFrom(pin.Addr, pin.Addr.BitLen()), pin.MAC, onLink, hops))
		}
	}
	return out
}

func (n NetworkView) path(peer *Peer, p netip.Prefix, mac string, onLink OnLink, hops NextHops) Path {
	out := Path{Network: n.Name, Prefix: p, Node: peer.Node, MAC: mac, Kind: PathTunnel, Encap: peer.Encap}
	if !n.Transport.Routed() {
		out.reason = reason{kind: byTransport, text: string(n.Transport)}
		return out
	}
	if peer.Encap == "" {
		out.Kind = PathNone
	}
	if slices.Contains(peer.Bridged, p) {
		out.reason = reason{kind: byBridge, text: peer.Node}
		return out
	}
	hop, known := hops[p.Masked()]
	through := func() Path {
		out.Kind, out.Via, out.Dev, out.Foreign, out.Encap = PathRoute, hop.Via, hop.Dev, hop.Foreign, ""
		out.reason = reason{kind: byHop, text: hop.Why}
		return out
	}
	if known && hop.Foreign {
		return through()
	}
	f := FamilyOf(p.Addr())
	i := slices.IndexFunc(peer.VTEPs, func(a netip.Addr) bool { return FamilyOf(a) == f })
	if i < 0 {
		if known {
			return through()
		}
		out.reason = reason{kind: byNoVTEP, text: peer.Node, family: f}
		return out
	}
	via := peer.VTEPs[i]
	if dev := onLink[via]; dev != "" {
		out.Kind, out.Via, out.Dev, out.Encap = PathRoute, via, dev, ""
		out.reason = reason{kind: byLink}
		return out
	}
	if known {
		return through()
	}
	out.reason = reason{kind: byRouter, via: via}
	return out
}

// CheckRouted refuses a network that is to be routed and has an address of
// another one that is: a kernel has one route for an address. The error is of
// kind ErrConflict and names the other.
func CheckRouted(n Network, others map[string]Network) error {
	o, p, clash := routedClash(n, maps.Values(others))
	if !clash {
		return nil
	}
	return &Error{
		Kind: ErrConflict, Code: fault.RecordConflict, Item: "network " + n.Name, What: clashText(n, o, p),
		Remedy: "choose another prefix, or a transport that is a tunnel: " + fmt.Sprint(Encapsulations()),
	}
}

// CheckCovers refuses a network that kernels are to forward and that has the
// underlay address of a node: the nodes would make no routes for it, so that they
// do not cut themselves off. The error is of kind ErrConflict and names the node.
func CheckCovers(n Network, nodes map[string]Node) error {
	if !n.Kernel() {
		return nil
	}
	for _, name := range slices.SortedFunc(maps.Keys(nodes), CompareNames) {
		for _, a := range nodes[name].VTEPs {
			if p := n.Prefix(FamilyOf(a)); p.IsValid() && p.Contains(a) {
				return &Error{
					Kind: ErrConflict, Code: fault.NetworkCoversUnderlay, Item: "network " + n.Name,
					What:   fmt.Sprintf("its prefix %s covers %s, the underlay address of node %s", p, a, name),
					Remedy: "choose another prefix, or other underlay addresses",
				}
			}
		}
	}
	return nil
}

// CheckSegment refuses a local Ethernet in a network that has none itself. The
// error is of kind ErrInvalid.
func (n Network) CheckSegment(segment string) error {
	if n.Transport.Ethernet() {
		return nil
	}
	return &Error{
		Kind: ErrInvalid, Code: fault.SegmentMismatch, Item: "network " + n.Name,
		What:   fmt.Sprintf("its transport is %s: it is no Ethernet that %s could be a part of", n.Transport, segment),
		Remedy: "'baize network update " + n.Name + " --transport auto', or choose another network for " + segment,
	}
}

// routedClash finds a routed network, other than n, that overlaps with n. Of
// several it takes the first by name.
func routedClash(n Network, others iter.Seq[Network]) (other Network, prefix netip.Prefix, clash bool) {
	if !n.Kernel() {
		return other, prefix, false
	}
	for o := range others {
		if o.Name == n.Name || !o.Kernel() || (clash && o.Name > other.Name) {
			continue
		}
		for _, p := range o.Prefixes() {
			if slices.ContainsFunc(n.Prefixes(), p.Overlaps) {
				other, prefix, clash = o, p, true
				break
			}
		}
	}
	return other, prefix, clash
}

func clashText(n, o Network, p netip.Prefix) string {
	return fmt.Sprintf("overlaps %s of network %s, and both are routed by one kernel (transport %s and %s)",
		p, o.Name, n.Transport, o.Transport)
}
