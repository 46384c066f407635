package pipeline

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
)

// An endpoint may be allowed more than its own addresses: it is a router for
// others, or carries addresses that move between endpoints.

// allow writes the flows of what an endpoint is allowed.
func (n *network) allow(e ovs.Endpoint) {
	in, mac := inPort(e.Port), e.MAC.String()
	from := in + ",dl_src=" + mac
	for _, p := range e.Allow {
		if p.IsSingleIP() && (slices.Contains(e.IPs, p.Addr()) || p.Addr() == ovs.LinkLocal(e.MAC)) {
			continue
		}
		// No host's kernel takes a packet from an address that it has no route back to.
		n.b.flow(classAllowed, TableGuard, prioAllowed, from+","+source(p), n.tunnelled())
		if n.beyond(p) {
			continue
		}
		if p.Addr().Is6() {
			n.b.guardNeighbour(classAllowed, from, mac, prefixText(p), goTo(n.first()))
		} else {
			n.b.flow(classAllowed, TableGuard, prioAllowed,
				fmt.Sprintf("%s,arp,arp_spa=%s,arp_sha=%s", from, prefixText(p), mac), goTo(n.first()))
		}
		n.mayBeHere(p)
	}
}

// beyond reports whether a prefix is what lies behind a router, and not addresses
// that one endpoint has: all there are, or all of the network. The router forwards
// packets from there; link addresses it tells only of its own.
func (n *network) beyond(p netip.Prefix) bool {
	return p.Bits() == 0 || slices.ContainsFunc(n.Prefixes(), func(q netip.Prefix) bool {
		return p.Overlaps(q) && p.Bits() <= q.Bits()
	})
}

// mayBeHere lets all local ports hear who asks for an address that some of them
// may have: nobody else knows whether they do, and which. Known addresses, and the
// subnets of other nodes, come first.
func (n *network) mayBeHere(p netip.Prefix) {
	n.once(classAllowed, TableLocal, prioMayHave, target(p), deliverTo(egressAll))
	if p.IsSingleIP() && p.Addr().Is4() { // as in find
		n.once(classAnnounce, TableSteer, prioAnnounce, fmt.Sprintf("arp,arp_spa=%[1]s,arp_tpa=%[1]s", p.Addr()),
			goTo(TableFlood))
	}
	inside := func(q netip.Prefix) bool { return q.Overlaps(p) && q.Bits() <= p.Bits() }
	if slices.ContainsFunc(n.Prefixes(), inside) && !slices.ContainsFunc(n.OwnSubnets(), inside) {
		n.once(classAllowed, TableSteer, prioUnleased, target(p), goTo(TableFlood))
	}
}

// source matches IP packets from p.
func source(p netip.Prefix) string {
	field, proto := "nw_src=", "ip"
	if p.Addr().Is6() {
		field, proto = "ipv6_src=", "ipv6"
	}
	if p.Bits() == 0 {
		return proto
	}
	return proto + "," + field + prefixText(p)
}
