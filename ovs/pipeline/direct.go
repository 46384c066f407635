package pipeline

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/baize-net/baize/topology"
)

// Direct delivery where the kernel has a route (topology.DirectOnLink).

// hopsTaken is how far a packet's TTL or hop limit sinks on the way through two
// kernels: one with no more than this would not arrive.
const hopsTaken = 2

// hops sends through the tunnel what is not what it was after two routers:
// packets whose time is up, packets with the highest hop limit, which proves to
// their receiver that there was no router (neighbour discovery, RFC 4861; GTSM,
// RFC 5082), and those with link-local addresses. A mark, reg0, keeps them
// there.
func (n *network) hops() {
	mark := n.tunnelled()
	for _, proto := range []string{"ip", "ipv6"} {
		for _, ttl := range append(make([]int, 0, hopsTaken+2), 0, 1, hopsTaken, 255) {
			n.flow(classKeep, TableDirect, prioHops, fmt.Sprintf("%s,nw_ttl=%d", proto, ttl), mark)
		}
	}
	n.flow(classKeep, TableDirect, prioHops, "ipv6,ipv6_src=fe80::/10", mark)
	n.flow(classElsewhere, TableDirect, prioDefault, "", goTo(TableSteer))
}

// tunnelled is the way of a packet that stays in the tunnel.
func (n *network) tunnelled() string {
	if n.first() != TableDirect {
		return goTo(n.first())
	}
	return actions(set(1, "reg0"), goTo(TableSteer))
}

// direct reports whether the kernel routes a prefix of another node.
func (n *network) direct(p netip.Prefix) bool {
	return n.hostPort != "" && n.b.opt.Direct[topology.SubnetID{Network: n.Name, Prefix: p}]
}

// directSubnet sends the IP packets for a node's subnet to the kernel where they
// are for a MAC of that node, of which ranges are matches: a frame to another MAC
// is for a router among the endpoints. Table steer has already found where unknown
// MACs are. mac is the node's as a router; nil where it is none.
func (n *network) directSubnet(p netip.Prefix, ranges []string, mac net.HardwareAddr) {
	for _, macs := range ranges {
		n.flow(classDirect, TableDirect, prioDirect, destination(p)+","+macs, n.toHost)
	}
	if mac != nil {
		n.flow(classDirect, TableDirect, prioDirect, destination(p)+",dl_dst="+mac.String(), n.toHost)
	}
	n.flow(classDirect, TableExact, prioIPDirect, destination(p)+",reg0=0", n.toHost)
}

// directPin says of a pinned address whether the kernel routes it; its subnet
// would say where it is not.
func (n *network) directPin(pin topology.Pin) {
	if n.hostPort == "" {
		return
	}
	p := single(pin.Addr)
	if n.isPeer[pin.Node] && n.direct(p) {
		n.once(classDirect, TableDirect, prioDirect+5, destination(p)+",dl_dst="+pin.MAC, n.toHost)
	}
	n.once(classElsewhere, TableDirect, prioDirect+1, destination(p), goTo(TableSteer))
}

// macRanges returns matches of the MACs that a node's endpoints have: made of
// the IPv4 addresses of its subnets.
func macRanges(subnets []netip.Prefix) []string {
	out := make([]string, 0, len(subnets))
	for _, q := range subnets {
		if q.Addr().Is4() {
			out = append(out, "dl_dst="+macRange(q))
		}
	}
	return out
}
