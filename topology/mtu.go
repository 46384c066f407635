package topology

import (
	"cmp"
	"iter"
	"maps"
	"math"
)

// Overhead returns how many bytes of the underlay's IP packet are not the
// endpoint's IP packet, for one transport over one underlay family. A transport
// without an encapsulation has none; one that encapsulates some packets has that
// of its tunnel.
func Overhead(t Transport, underlay Family) int {
	e, _ := EncapsulationOf(t.Tunnel())
	if underlay == IPv6 {
		return e.OverheadIPv6
	}
	return e.OverheadIPv4
}

// MTU returns the largest IP packet an endpoint may send when the underlay
// carries packets of underlayMTU bytes.
func MTU(t Transport, underlay Family, underlayMTU int) int {
	return underlayMTU - Overhead(t, underlay)
}

// Underlay is what the links of some nodes carry: of those with an IPv4 underlay
// address, and of those that have tunnels over IPv6 because some node has no other.
type Underlay struct {
	IPv4, IPv6 Link
}

// Link is the smallest MTU of links, in bytes of IP packet, and the node that has
// it. MTU is 0 where there are none.
type Link struct {
	MTU  int
	Node string
}

// UnderlayOf looks at the nodes' records. What a record does not say is unknown, 0,
// for which unknown stands in; with 0 the node counts as one that carries
// everything.
func UnderlayOf(nodes iter.Seq[Node], unknown int) Underlay {
	var u Underlay
	var with4, with6, only6 int
	least := func(l *Link, n Node) {
		mtu := cmp.Or(n.UnderlayMTU, unknown)
		if mtu != 0 && (l.MTU == 0 || cmp.Or(cmp.Compare(mtu, l.MTU), CompareNames(n.Name, l.Node)) < 0) {
			*l = Link{mtu, n.Name}
		}
	}
	for n := range nodes {
		_, has4 := n.VTEP(IPv4)
		_, has6 := n.VTEP(IPv6)
		if has4 {
			with4++
			least(&u.IPv4, n)
		}
		if has6 {
			with6++
			least(&u.IPv6, n)
		}
		if has6 && !has4 {
			only6++
		}
	}
	// It takes two for a tunnel; a node that is alone tells what it will have.
	if only6 == 0 || (with6 == 1 && with4 > 0) {
		u.IPv6 = Link{}
	}
	return u
}

// Carries returns the largest IP packet that an endpoint may send so that every link
// carries it, and the node and family that set the limit; math.MaxInt where none
// does.
func (u Underlay) Carries(t Transport) (mtu int, node string, f Family) {
	mtu = math.MaxInt
	for _, x := range []struct {
		Link
		f Family
	}{{u.IPv4, IPv4}, {u.IPv6, IPv6}} {
		if m := MTU(t, x.f, x.MTU); x.MTU != 0 && m < mtu {
			mtu, node, f = m, x.Node, x.f
		}
	}
	return mtu, node, f
}

// WithMTU returns the network with the MTU that is in force: where nobody chose one
// (MTUDefault), what all of the nodes carry, but not more than an underlay of
// DefaultUnderlayMTU leaves. A node that joins later would black-hole larger
// packets; so who has a larger underlay says so. node is the one that makes it
// smaller; "" where none does.
func (n Network) WithMTU(u Underlay) (out Network, node string) {
	if !n.MTUDefault {
		return n, ""
	}
	n.MTU = MTU(n.Transport, IPv4, DefaultUnderlayMTU)
	if mtu, least, _ := u.Carries(n.Transport); mtu < n.MTU {
		n.MTU, node = max(mtu, n.MinMTU()), least
	}
	return n, node
}

// Underlay is that of all nodes: each of them may carry any network some day.
func (s *Snapshot) Underlay() Underlay {
	return UnderlayOf(maps.Values(s.Nodes), DefaultUnderlayMTU)
}

// DefaultUnderlayMTU is assumed of a link whose MTU is not known (Ethernet,
// RFC 894).
const DefaultUnderlayMTU = 1500

// MinMTU is the smallest MTU a network may have: IPv6 needs 1280 bytes
// (RFC 8200 section 5), IPv4 576 (RFC 791).
func (n Network) MinMTU() int {
	if n.IPv6.IsValid() {
		return 1280
	}
	return 576
}
