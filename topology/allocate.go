package topology

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

// SubnetCount returns how many subnets a network is divided into in one
// family, the first one included, at most 2^32-1.
func SubnetCount(n Network, f Family) uint64 {
	p := n.Prefix(f)
	if !p.IsValid() || n.SubnetLen(f) < p.Bits() {
		return 0
	}
	if shift := n.SubnetLen(f) - p.Bits(); shift < 32 {
		return 1 << shift
	}
	return math.MaxUint32
}

// Candidates yields every subnet that may be leased in one family. It starts
// at a position hashed from the node's name, so that nodes joining at the same
// moment do not all try for the same one, and so that a node without a record
// of its old subnet is likely to find it again. The network's first subnet is
// left out: it contains the network address and, by convention, the gateway.
func Candidates(n Network, f Family, node string) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		count := SubnetCount(n, f)
		if count < 2 {
			return
		}
		h := fnv.New64a()
		fmt.Fprintf(h, "%s\x00%s", n.Name, node)
		leasable := count - 1
		// FNV's low bits of similar names are close together: mix before mod.
		sum := h.Sum64()
		sum ^= sum >> 33
		sum *= 0xff51afd7ed558ccd
		sum ^= sum >> 33
		// Both families start at the same index: 10.1.5.0/24 and fd00:10:1:5::/64
		// are easier to read side by side.
		least := leasable
		for _, g := range n.Families() {
			if c := SubnetCount(n, g); c > 1 {
				least = min(least, c-1)
			}
		}
		start := sum % least
		for i := range leasable {
			if !yield(SubnetAt(n, f, 1+(start+i)%leasable)) {
				return
			}
		}
	}
}

// SubnetAt returns the index-th subnet of a network, 0 being the first.
func SubnetAt(n Network, f Family, index uint64) netip.Prefix {
	p, l := n.Prefix(f), n.SubnetLen(f)
	return netip.PrefixFrom(addShifted(p.Addr(), index, p.Addr().BitLen()-l), l)
}

// addShifted returns a + (n << shift) in a's own width.
func addShifted(a netip.Addr, n uint64, shift int) netip.Addr {
	if a.Is4() {
		b := a.As4()
		v := binary.BigEndian.Uint32(b[:]) + uint32(n<<shift)
		binary.BigEndian.PutUint32(b[:], v)
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	var addHi, addLo uint64
	if shift >= 64 {
		addHi = n << (shift - 64)
	} else {
		addLo = n << shift
		addHi = n >> (64 - shift) // shift 0 gives 0
	}
	var carry uint64
	lo, carry = bits.Add64(lo, addLo, 0)
	hi, _ = bits.Add64(hi, addHi, carry)
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}

// NodeSubnets returns the subnets of one node in one network, by prefix.
func (s *Snapshot) NodeSubnets(network, node string) []Subnet {
	var out []Subnet
	for id, sub := range s.Subnets {
		if id.Network == network && sub.Node == node {
			out = append(out, sub)
		}
	}
	slices.SortFunc(out, compareSubnets)
	return out
}

// FreeSubnet returns the first candidate for a node that overlaps no subnet
// of the network and that skip (which may be nil) does not refuse. The error
// is of kind ErrFull.
func (s *Snapshot) FreeSubnet(n Network, f Family, node string, skip func(netip.Prefix) bool) (netip.Prefix, error) {
	// Almost every subnet has the network's own length: those are found by
	// lookup, only odd ones (a reservation of another size) by comparison.
	taken := map[netip.Prefix]bool{}
	var odd []netip.Prefix
	dead := map[string]bool{}
	for id, sub := range s.Subnets {
		if id.Network != n.Name || FamilyOf(id.Prefix.Addr()) != f {
			continue
		}
		if id.Prefix.Bits() == n.SubnetLen(f) {
			taken[id.Prefix] = true
		} else {
			odd = append(odd, id.Prefix)
		}
		if _, alive := s.Alive[sub.Node]; !alive && !sub.Reserved {
			dead[sub.Node] = true
		}
	}
	for c := range Candidates(n, f, node) {
		if taken[c] || (skip != nil && skip(c)) || slices.ContainsFunc(odd, c.Overlaps) {
			continue
		}
		return c, nil
	}
	return netip.Prefix{}, noSubnetLeft(n, f, slices.SortedFunc(maps.Keys(dead), CompareNames))
}

// noSubnetLeft names the nodes that hold subnets and are not alive.
func noSubnetLeft(n Network, f Family, dead []string) *Error {
	leasable := SubnetCount(n, f) - min(1, SubnetCount(n, f))
	e := &Error{
		Kind: ErrFull, Code: fault.NetworkFull, Item: "network " + n.Name,
		What:   fmt.Sprintf("all %d %s subnets of %s are leased or reserved", leasable, f, n.Prefix(f)),
		Remedy: "release some with 'baize node remove' or 'baize subnet release'",
	}
	const named = 5
	if len(dead) > 0 {
		more := ""
		if len(dead) > named {
			more = fmt.Sprintf(" and %d more", len(dead)-named)
			dead = dead[:named]
		}
		e.Remedy = fmt.Sprintf("these nodes are not alive, release their subnets with 'baize node remove': %s%s",
			strings.Join(dead, ", "), more)
	}
	return e
}

// NodeAddr returns the address of a subnet that belongs to the node itself:
// the first after the subnet's own.
func NodeAddr(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// scanLimit bounds the search in an IPv6 subnet: no host has more endpoints.
const scanLimit = 1 << 16

// EndpointAddrs yields the addresses of a subnet that endpoints may have, in
// order. Left out are the subnet's own address, the node's, the network's
// gateway and its IPv4 broadcast address.
func EndpointAddrs(n Network, subnet netip.Prefix) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		a := NodeAddr(subnet).Next()
		for i := 0; i < scanLimit && subnet.Contains(a); i++ {
			if a != n.Gateway(FamilyOf(a)) && a != broadcast(n.IPv4) && !yield(a) {
				return
			}
			a = a.Next()
		}
	}
}

// CheckEndpointAddr reports whether an endpoint of the network may have a static
// address. The error is of kind ErrInvalid.
func (n Network) CheckEndpointAddr(a netip.Addr) error {
	bad := func(what, remedy string) error {
		return &Error{Kind: ErrInvalid, Item: "address " + a.String(), What: what, Remedy: remedy}
	}
	p := n.Prefix(FamilyOf(a))
	switch {
	case !p.IsValid():
		return bad(fmt.Sprintf("network %s has no %s prefix", n.Name, FamilyOf(a)), "")
	case !p.Contains(a):
		return bad(fmt.Sprintf("outside network %s", n.Name), "choose one in "+p.String())
	case a == p.Addr():
		return bad("it is the network's own address", "choose a later one")
	case a == broadcast(n.IPv4):
		return bad("it is the network's broadcast address", "choose an earlier one")
	}
	return nil
}

// broadcast returns the last address of an IPv4 prefix (RFC 919); the zero
// Addr for none.
func broadcast(p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	return addShifted(p.Masked().Addr(), 1<<(32-p.Bits())-1, 0)
}

// HostIndex returns how far an address lies from the start of its subnet.
func HostIndex(subnet netip.Prefix, a netip.Addr) uint64 {
	b, base := a.As16(), subnet.Masked().Addr().As16()
	return binary.BigEndian.Uint64(b[8:]) - binary.BigEndian.Uint64(base[8:])
}

// AddrAt returns the address index places after the start of a subnet; ok is
// false when that is outside.
func AddrAt(subnet netip.Prefix, index uint64) (a netip.Addr, ok bool) {
	if w := subnet.Addr().BitLen() - subnet.Bits(); w < 64 && index >= 1<<w {
		return netip.Addr{}, false
	}
	return addShifted(subnet.Masked().Addr(), index, 0), true
}
