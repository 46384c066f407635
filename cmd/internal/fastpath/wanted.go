package fastpath

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// Device is a network device of this host, as far as the fast path is concerned.
type Device struct {
	// Ethernet: its packets have Ethernet headers.
	Ethernet bool
	// Away: it is one end of a pair whose other end is in another network namespace.
	Away bool
}

// Input is what the wanted state is computed from.
type Input struct {
	View topology.View
	// HostPorts are the host's own ports in networks, by network.
	HostPorts map[string]string
	Endpoints []ovs.Endpoint
	// Direct are the prefixes of other nodes that the kernel routes; OnLink and
	// NextHops say by which devices.
	Direct   map[topology.SubnetID]bool
	OnLink   topology.OnLink
	NextHops topology.NextHops
	// Devices are those that this host has, by name.
	Devices map[string]Device
	// Off says why nothing of this host takes the fast path; empty: it may.
	Off string
	// Switch says why Open vSwitch has to have what endpoints send: the other direction
	// alone takes the fast path then. Empty: both do.
	Switch string
	// Kept says of networks why their packets have to go the plain way, by name.
	Kept map[string]string
}

// Network says what a network's packets take on this node.
type Network struct {
	Name string `json:"name"`
	// Used: what can takes the fast path.
	Used bool `json:"used"`
	// Why says in words why, or why not.
	Why string `json:"why"`
}

// Wanted computes what the programs have to have, and says of every network that
// the kernel forwards whether its packets take the fast path. It is pure.
func Wanted(in Input) (State, []Network) {
	s := NewState()
	var out []Network
	taken := in.addresses()
	for _, n := range in.View.Networks {
		if !n.Transport.Routed() {
			continue
		}
		x := Network{Name: n.Name}
		switch port := in.HostPorts[n.Name]; {
		case in.Off != "":
			x.Why = in.Off
		case n.Router:
			x.Why = "the network's nodes are routers for what is behind them"
		case in.Kept[n.Name] != "":
			x.Why = in.Kept[n.Name]
		case port == "":
			x.Why = "the host's own port is not there yet"
		default:
			x.Used, x.Why = s.network(in, n, port, taken)
		}
		out = append(out, x)
	}
	return s, out
}

// addresses counts who has an address: one that two have goes the plain way.
func (in Input) addresses() map[netip.Addr]int {
	out := map[netip.Addr]int{}
	for _, e := range in.Endpoints {
		for _, a := range e.IPs {
			out[a]++
		}
	}
	return out
}

// network adds one network.
func (s State) network(
	in Input, n topology.NetworkView, port string, taken map[netip.Addr]int,
) (used bool, why string) {
	part := NewState()
	hops := part.hops(in, n)
	endpoints := part.endpoints(in, n, port, taken)
	switch {
	case hops == 0:
		return false, "no prefix of another node is routed by a device with Ethernet headers"
	case endpoints == 0:
		return false, "no endpoint whose addresses are known"
	}
	maps.Copy(s.Ports, part.Ports)
	maps.Copy(s.Locals, part.Locals)
	maps.Copy(s.Hops, part.Hops)
	maps.Copy(s.Uplinks, part.Uplinks)
	why = fmt.Sprintf("prefixes of other nodes: %d, endpoints: %d", hops, endpoints)
	if reads := in.reads(n); reads != "" {
		why = "only what endpoints receive: " + reads + "; " + why
	}
	return true, why
}

// reads says why Open vSwitch has to have what endpoints of a network send; empty: it
// need not.
func (in Input) reads(n topology.NetworkView) string {
	if len(n.Sampled().Collectors) > 0 {
		return "Open vSwitch samples what they send (IPFIX)"
	}
	return in.Switch
}

// endpoints adds those of the network, and returns how many there are.
func (s State) endpoints(in Input, n topology.NetworkView, port string, taken map[netip.Addr]int) (count int) {
	host, _ := n.Host()
	reads := in.reads(n)
	for _, e := range in.Endpoints {
		dev, there := in.Devices[e.Port]
		if e.Network != n.Name || e.MAC == nil || !there {
			continue
		}
		count++
		p := Port{Network: n.VNI, Host: port, MAC: MACOf(e.MAC)}
		if n.Transport.Choice().Gateway == topology.GatewayNode {
			p.Gateway = MACOf(topology.GatewayMAC(n.Network))
		}
		for _, a := range e.IPs {
			switch {
			case a.Is4() && !p.IPv4.IsValid():
				p.IPv4 = a
			case a.Is6() && !p.IPv6.IsValid():
				p.IPv6 = a
			}
			if taken[a] == 1 && lives(n, in.View.Node.Name, a) {
				s.Locals[a] = Local{Network: n.VNI, Dev: e.Port, MAC: p.MAC, Src: MACOf(host.MAC), Peer: dev.Away}
			}
		}
		if reads == "" {
			s.Ports[e.Port] = p
		}
	}
	return count
}

// lives reports whether the kernels route an address to this node: it is in the
// node's subnets and pinned to no other, or pinned to it.
func lives(n topology.NetworkView, self string, a netip.Addr) bool {
	for _, pin := range n.Pins {
		if pin.Addr == a {
			return pin.Node == self
		}
	}
	return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// hops adds the prefixes of other nodes that are routed, and every pin: one that
// is not routed is no part of the subnet it is in. It returns how many are routed.
func (s State) hops(in Input, n topology.NetworkView) int {
	pins := map[netip.Prefix]topology.Pin{}
	for _, pin := range n.Pins {
		p := netip.PrefixFrom(pin.Addr, pin.Addr.BitLen())
		pins[p] = pin
		s.Hops[p] = Hop{Network: n.VNI, Node: NodeID(pin.Node)}
	}
	routed := 0
	for _, path := range n.Paths(in.OnLink, in.NextHops) {
		p := path.Prefix.Masked()
		inPlace := in.Direct[topology.SubnetID{Network: n.Name, Prefix: path.Prefix}]
		if path.Kind != topology.PathRoute || !in.Devices[path.Dev].Ethernet || !inPlace {
			continue
		}
		h := Hop{Network: n.VNI, Node: NodeID(path.Node), Dev: path.Dev}
		if pin, ok := pins[p]; ok {
			m, err := topology.ParseMAC(pin.MAC)
			if err != nil {
				continue
			}
			h.MAC = MACOf(m)
		}
		s.Hops[p] = h
		s.Uplinks[path.Dev] = true
		routed++
	}
	return routed
}
