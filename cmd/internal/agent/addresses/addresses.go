// Package addresses chooses addresses for endpoints. It is pure: what is taken
// is a value, and the one allocator serves the command line, Docker and
// whoever else starts containers.
package addresses

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Taken says by whom the addresses of one network are in use: "endpoint web".
type Taken map[netip.Addr]string

// Add enters the addresses of endpoints of a network.
func (t Taken) Add(network string, endpoints []ovs.Endpoint) {
	for _, e := range endpoints {
		if e.Network != network {
			continue
		}
		for _, ip := range e.IPs {
			t[ip] = "endpoint " + e.Name
		}
	}
}

// AddPins enters the addresses that are pinned to other nodes. Of those that are
// wanted it says by what name people know their containers: there may be thousands
// of pins.
func (t Taken) AddPins(s *topology.Snapshot, network, self string, wanted ...netip.Addr) {
	for id, p := range s.Pins {
		if id.Network != network || p.Node == self {
			continue
		}
		var names []string
		if slices.Contains(wanted, id.Addr) {
			names = s.LookupAddr(network, id.Addr)
		}
		t[id.Addr] = owner(topology.DescribeEndpoint(p.Endpoint, names), p.Node)
	}
}

// owner names what has an address or a MAC on another node; what may be empty.
func owner(what, node string) string {
	if what == "" {
		return "an endpoint of node " + node
	}
	return what + ", of node " + node
}

// AddClaims enters the addresses that this node has agreed to give to others, and
// those that others have claimed where nobody has to agree.
func (t Taken) AddClaims(s *topology.Snapshot, network, self string) {
	for id, c := range s.Claims {
		if id.Network == network && c.Node != self && c.Answer == topology.ClaimAgreed {
			t[id.Addr] = "an endpoint to come of node " + c.Node
		}
	}
}

// Request asks for one address.
type Request struct {
	Family topology.Family
	// Addr is the address wanted; any where it is not valid.
	Addr netip.Addr
	// Range, where valid, is the part of the network to choose from.
	Range netip.Prefix
	// Like is an IPv4 address whose place in its subnet an IPv6 address is to
	// share: people read them side by side.
	Like netip.Addr
}

// Choose returns an address of one of the node's subnets, or the one that is
// wanted. Errors: ErrConflict where it is taken, ErrInvalid where it cannot be
// an endpoint's, ErrFull where nothing is left.
func Choose(n topology.NetworkView, r Request, taken Taken) (netip.Addr, error) {
	if r.Addr.IsValid() {
		return r.Addr, check(n, r.Addr, taken)
	}
	for _, p := range n.Subnets {
		if topology.FamilyOf(p.Addr()) != r.Family || (r.Range.IsValid() && !p.Overlaps(r.Range)) {
			continue
		}
		if ip, ok := like(n, p, r.Like); ok && taken[ip] == "" && r.allows(ip) {
			return ip, nil
		}
		for ip := range topology.EndpointAddrs(n.Network, p) {
			if taken[ip] == "" && r.allows(ip) {
				return ip, nil
			}
		}
	}
	where := fmt.Sprintf("this node's subnets %v", n.Subnets)
	if r.Range.IsValid() {
		where = "range " + r.Range.String() + " of " + where
	}
	return netip.Addr{}, &topology.Error{
		Kind: topology.ErrFull, Code: fault.NetworkFull, Item: "network " + n.Name,
		What: fmt.Sprintf("no %s address is left in %s", r.Family, where), Remedy: "remove endpoints",
	}
}

func (r Request) allows(ip netip.Addr) bool { return !r.Range.IsValid() || r.Range.Contains(ip) }

func check(n topology.NetworkView, ip netip.Addr, taken Taken) error {
	if err := n.CheckEndpointAddr(ip); err != nil {
		return err
	}
	if by, ok := taken[ip]; ok {
		return &topology.Error{
			Kind: topology.ErrConflict, Code: fault.AddressTaken, Item: "address " + ip.String(), What: "taken by " + by,
			Remedy: "choose another, or leave it out",
		}
	}
	return nil
}

// like returns the address of p that has the place of an IPv4 address.
func like(n topology.NetworkView, p netip.Prefix, v4 netip.Addr) (netip.Addr, bool) {
	if !v4.IsValid() || p.Addr().Is4() {
		return netip.Addr{}, false
	}
	for _, q := range n.Subnets {
		if q.Contains(v4) {
			ip, ok := topology.AddrAt(p, topology.HostIndex(q, v4))
			return ip, ok && ip != n.GatewayIPv6
		}
	}
	return netip.Addr{}, false
}

// ChooseAll returns an address of each family of the network: those that are
// wanted, and any for the rest. full is the family that has none left, with
// ErrFull.
func ChooseAll(
	n topology.NetworkView,
	wanted []netip.Addr,
	taken Taken,
) (ips []netip.Addr, full topology.Family, err error) {
	chosen := map[topology.Family]netip.Addr{}
	for _, ip := range wanted {
		ip = ip.Unmap()
		f := topology.FamilyOf(ip)
		if other, dup := chosen[f]; dup {
			return nil, 0, &topology.Error{
				Kind: topology.ErrInvalid, Item: "--ip", What: fmt.Sprintf("two %s addresses, %s and %s", f, other, ip),
				Remedy: "give one a family",
			}
		}
		if err := check(n, ip, taken); err != nil {
			return nil, 0, err
		}
		chosen[f] = ip
	}
	for _, f := range n.Families() {
		if !chosen[f].IsValid() {
			ip, err := Choose(n, Request{Family: f, Like: chosen[topology.IPv4]}, taken)
			if err != nil {
				return nil, f, err
			}
			chosen[f] = ip
		}
		ips = append(ips, chosen[f])
	}
	return ips, 0, nil
}

// CheckMAC refuses a link address whose frames would go to somebody else: that of
// another endpoint of the network, as far as this node knows it (its own, and the
// pins of s), or one that is made of an address elsewhere.
func CheckMAC(n topology.NetworkView, s *topology.Snapshot, self string, e ovs.Endpoint, others []ovs.Endpoint) error {
	refuse := func(what string) error {
		return &topology.Error{
			Kind: topology.ErrConflict, Code: fault.AddressTaken, Item: "MAC " + e.MAC.String(), What: what,
			Remedy: "choose another MAC, or leave it out",
		}
	}
	for _, o := range others {
		if o.Network == e.Network && o.Port != e.Port && slices.Equal(o.MAC, e.MAC) {
			return refuse("that of endpoint " + o.Name)
		}
	}
	for _, p := range n.Pins {
		if p.Node != self && p.MAC == e.MAC.String() && !slices.Contains(e.IPs, p.Addr) {
			names := s.LookupAddr(n.Name, p.Addr)
			return refuse("that of " + owner(topology.DescribeEndpoint(p.Endpoint, names), p.Node))
		}
	}
	a, derived := topology.AddrOfMAC(e.MAC.String())
	if !derived || !n.IPv4.IsValid() || !n.IPv4.Contains(a) || slices.Contains(e.IPs, a) ||
		slices.ContainsFunc(n.OwnSubnets(), func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	if home, ok := s.Home(n.Name, a); ok {
		return refuse(fmt.Sprintf("made of %s, in subnet %s of node %s: its frames go there", a, home.Prefix, home.Node))
	}
	return refuse(fmt.Sprintf("made of %s of network %s, in a subnet that a node may lease: its frames would go there",
		a, n.Name))
}

// CheckSegment refuses an address of a subnet that a segment, such as docker0,
// assigns addresses from without asking anybody.
func CheckSegment(s *topology.Snapshot, network string, ip netip.Addr) error {
	for id, sub := range s.Subnets {
		if id.Network == network && sub.Segment != "" && id.Prefix.Contains(ip) {
			return &topology.Error{
				Kind: topology.ErrConflict, Code: fault.AddressTaken, Item: "address " + ip.String(),
				What:   fmt.Sprintf("%s of node %s assigns the addresses of %s itself", sub.Segment, sub.Node, sub.Prefix),
				Remedy: "choose another, or leave it out",
			}
		}
	}
	return nil
}

// Unknown is the error for a network that a view does not have.
func Unknown(s *topology.Snapshot, network, node string, why error) error {
	if _, ok := s.Networks[network]; !ok {
		return &topology.Error{
			Kind: topology.ErrNotFound, Item: "network " + network,
			What:   "does not exist; there are: " + strings.Join(slices.Sorted(maps.Keys(s.Networks)), ", "),
			Remedy: "create it with 'baize network create'",
		}
	}
	what := "node " + node + " has no subnet in it"
	if why != nil {
		what += ": " + why.Error()
	}
	return &topology.Error{
		Kind:   topology.ErrUnavailable,
		Item:   "network " + network,
		What:   what,
		Remedy: "see 'baize status'",
	}
}
