package panels

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/topology"
)

// DefaultTTL is that of a packet that somebody traces.
const DefaultTTL = 64

// Parties finds out who is meant by the ends of a trace: endpoints, containers, names and
// addresses.
type Parties struct {
	Snap *topology.Snapshot
	// Self is this node, Endpoints are those that it has; AgentErr is why they are not known.
	Self      string
	Endpoints []api.Endpoint
	AgentErr  error
	// Others asks another node for its endpoints of a name.
	Others func(node, name string) ([]api.Endpoint, error)
	// Node is an error where there is no such node; NotFound is that of something that there
	// is none of, with what there is.
	Node     func(name string) error
	NotFound func(kind, name string, have []string, otherwise string) error
}

// Ends are the ends of a trace, as they were typed. To is empty where From sends to all.
type Ends struct {
	From, To string
	// Network is empty where it does not matter.
	Network, Protocol string
	Port, TTL         int
}

// Request is what a trace is of.
func (a Parties) Request(x Ends) (req trace.Request, err error) {
	req = trace.Request{Protocol: x.Protocol, Port: x.Port, TTL: x.TTL}
	sources, err := a.parties(x.From, x.Network)
	if err != nil {
		return req, err
	}
	destinations := sources
	if x.To != "" {
		if destinations, err = a.parties(x.To, x.Network); err != nil {
			return req, err
		}
	}
	src, dst, found := meeting(sources, destinations, x.Protocol)
	if !found {
		return req, apart(x, sources, destinations)
	}
	req.Source, req.Destination = src, dst
	if x.To == "" {
		req.Destination = trace.Party{Network: src.Network}
	}
	return req, sends(src)
}

// meeting finds two parties in one network with addresses of one family: that of the
// protocol, where it has one.
func meeting(sources, destinations []trace.Party, protocol string) (src, dst trace.Party, found bool) {
	family := map[string]topology.Family{trace.ARP: topology.IPv4, trace.ND: topology.IPv6}[protocol]
	for _, src := range sources {
		if family != 0 && topology.FamilyOf(src.Address) != family {
			continue
		}
		for _, dst := range destinations {
			if src.Network == dst.Network && src.Address.Is4() == dst.Address.Is4() {
				return src, dst, true
			}
		}
	}
	return src, dst, false
}

// apart says why two parties never meet.
func apart(x Ends, sources, destinations []trace.Party) error {
	e := &topology.Error{Kind: topology.ErrConflict, Item: x.From + " and " + x.To}
	for _, s := range sources {
		if slices.ContainsFunc(destinations, func(d trace.Party) bool { return d.Network == s.Network }) {
			e.What, e.Remedy = "they have no addresses of the same family", "give an address of each: 'baize endpoint list'"
			return e
		}
	}
	e.What = fmt.Sprintf(
		"they are in different networks (%s, %s), which never see each other",
		sources[0].Network,
		destinations[0].Network,
	)
	e.Remedy = "attach both to one network, or say which is meant with --network"
	return e
}

// sends checks that a party can be the source.
func sends(p trace.Party) error {
	if p.Node != "" {
		return nil
	}
	return &topology.Error{
		Kind:   topology.ErrNotFound,
		Item:   "source " + p.Address.String(),
		What:   "no node leases this address in network " + p.Network,
		Remedy: "'baize subnet list --network " + p.Network + "' shows what is leased",
	}
}

// parties are what an argument may mean: one for each address.
func (a Parties) parties(arg, network string) (out []trace.Party, err error) {
	if addr, err := netip.ParseAddr(arg); err == nil {
		out = a.byAddress(addr.Unmap(), network)
		if len(out) == 0 {
			return nil, &topology.Error{
				Kind: topology.ErrNotFound, Item: "address " + arg, What: "no network has it",
				Remedy: "'baize network list' shows their prefixes",
			}
		}
		return out, nil
	}
	node, name, named := strings.Cut(arg, "/")
	if !named {
		node, name = "", arg
	} else if err := a.Node(node); err != nil {
		return nil, err
	}
	on, endpoints, askErr := a.Self, a.Endpoints, error(nil)
	if node != "" && node != a.Self {
		on = node
		endpoints, askErr = a.Others(node, name)
	}
	var known []string
	for _, e := range endpoints {
		known = append(known, e.Name, e.Container)
		if e.Is(name) && (network == "" || network == e.Network) {
			out = append(out, partiesOf(on, e)...)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	out, published := a.byName(name, node, network)
	if len(out) == 0 {
		err = a.NotFound("endpoint", arg, append(known, published...), a.whereKnown(node, askErr))
	}
	return out, err
}

// partiesOf are the addresses of a known endpoint.
func partiesOf(node string, e api.Endpoint) (out []trace.Party) {
	for _, ip := range e.IPs {
		out = append(out, partyOf(node, e, ip))
	}
	return out
}

func partyOf(node string, e api.Endpoint, addr netip.Addr) trace.Party {
	return trace.Party{
		Node: node, Network: e.Network, Endpoint: e.Name, Container: e.Container, Address: addr, MAC: e.MAC, Known: true,
	}
}

// whereKnown says where the endpoint may be found.
func (a Parties) whereKnown(node string, askErr error) string {
	switch {
	case askErr != nil:
		return fmt.Sprintf("endpoints of %s are known there only, and %v: give an address", node, askErr)
	case node != "" && node != a.Self:
		return "'baize endpoint list' on " + node + " shows what there is; an address does as well"
	case a.AgentErr != nil:
		return "no agent answers here, which knows the endpoints of this node: give addresses"
	}
	return "'baize endpoint list' and 'baize name list' show what there is; an address does as well"
}

// byName finds published names.
func (a Parties) byName(name, node, network string) (out []trace.Party, known []string) {
	for _, n := range a.Snap.SortedNetworks() {
		if network != "" && n.Name != network {
			continue
		}
		for _, p := range a.Snap.Published(n.Name) {
			known = append(known, p.Name)
			if !slices.Contains(topology.NameForms(n.Name, name), p.Name) || (node != "" && p.Node != node) {
				continue
			}
			for _, addr := range p.Addrs {
				q := a.at(n, addr)
				q.Node, q.Container = p.Node, p.Name
				out = append(out, q)
			}
		}
	}
	return out, known
}

// byAddress finds who has an address: an endpoint of this node, a pin, or the node
// that leases it.
func (a Parties) byAddress(addr netip.Addr, network string) (out []trace.Party) {
	for _, e := range a.Endpoints {
		if slices.Contains(e.IPs, addr) && (network == "" || e.Network == network) {
			out = append(out, partyOf(a.Self, e, addr))
		}
	}
	for _, n := range a.Snap.SortedNetworks() {
		mine := slices.ContainsFunc(out, func(p trace.Party) bool { return p.Network == n.Name })
		contains := slices.ContainsFunc(n.Prefixes(), func(p netip.Prefix) bool { return p.Contains(addr) })
		if contains && !mine && (network == "" || n.Name == network) {
			out = append(out, a.at(n, addr))
		}
	}
	return out
}

// at is whoever would have an address that etcd alone knows.
func (a Parties) at(n topology.Network, addr netip.Addr) trace.Party {
	p := trace.Party{Network: n.Name, Address: addr, Endpoint: addr.String()}
	if pin, ok := a.Snap.Pins[topology.PinID{Network: n.Name, Addr: addr}]; ok {
		p.Node, p.MAC = pin.Node, pin.MAC
		return p
	}
	home, ok := a.Snap.Home(n.Name, addr)
	if !ok {
		p.MAC = topology.MACOf(n.Prefixes()[0].Addr()).String()
		return p
	}
	p.Node = home.Node
	if home.Segment != "" {
		p.Endpoint = home.Segment
	}
	p.MAC = a.likelyMAC(n.Name, home.Node, addr).String()
	return p
}

// likelyMAC is the link address that an endpoint with this address has, unless it
// was given another: it is made of the IPv4 address. Of an IPv6 address that is not
// known; then it is one of its node's.
func (a Parties) likelyMAC(network, node string, addr netip.Addr) net.HardwareAddr {
	if addr.Is4() {
		return topology.MACOf(addr)
	}
	for _, s := range a.Snap.NodeSubnets(network, node) {
		if s.Prefix.Addr().Is4() {
			host := addr.As16()
			b := s.Prefix.Addr().As4()
			b[3] |= host[15]
			return topology.MACOf(netip.AddrFrom4(b))
		}
	}
	return topology.MACOf(addr)
}
