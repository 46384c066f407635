package topology

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/topology/fault"
)

// View is what one node has to know of the topology: itself, the networks it
// carries and its peers in them. Contradictory records are left out and
// reported; everything is in a fixed order.
type View struct {
	Node     Node
	Networks []NetworkView
	// Problems are those of the whole topology and of this node's part in it.
	Problems []fault.Fault
}

// NetworkView is one network as one of its nodes sees it.
type NetworkView struct {
	Network
	// Subnets are this node's own that it gives to endpoints, by prefix.
	Subnets []netip.Prefix
	// Segments are the local Ethernets that have subnets of this node, by name.
	Segments []Segment
	// Peers are the other nodes that carry the network, by name.
	Peers []Peer
	// Pins are the addresses living away from home, by address, this node's
	// own included.
	Pins []Pin
	// RouterMAC is this node's, of a network with Router.
	RouterMAC net.HardwareAddr
	// OwnRevisions are the modification revisions of this node's subnets.
	OwnRevisions map[netip.Prefix]int64
}

// OwnSubnets returns all subnets of this node, those of its segments included,
// by prefix.
func (n NetworkView) OwnSubnets() []netip.Prefix {
	if len(n.Segments) == 0 {
		return n.Subnets
	}
	out := slices.Clone(n.Subnets)
	for _, s := range n.Segments {
		out = append(out, s.Subnets...)
	}
	slices.SortFunc(out, ComparePrefixes)
	return out
}

// Segment is an Ethernet of the node that has subnets of its own in a network
// (Subnet.Segment). Its MACs are not known one by one.
type Segment struct {
	Name    string
	Subnets []netip.Prefix
}

// Peer is another node that carries a network, and how to reach it.
type Peer struct {
	Node      string
	Encap     Transport  // "" where the network has no tunnels
	Local     netip.Addr // this node's VTEP
	Remote    netip.Addr // the peer's VTEP
	RemoteMAC string     // its link address, where known
	// VTEPs are all its underlay addresses: packets that are not encapsulated
	// go by the one of their own family.
	VTEPs   []netip.Addr
	Subnets []netip.Prefix
	// Bridged are those of Subnets that are of its segments: in an Auto network,
	// frames for them are frames all the way.
	Bridged []netip.Prefix
	// Router is set of a peer that is a router and no bridge: it takes routed
	// packets, no frames. Its tunnels for IPv6 end at addresses of that family, of
	// which LocalIPv6 is this node's.
	Router    *RouterHost
	LocalIPv6 netip.Addr
	// RouterMAC is the peer's, of a network with Router.
	RouterMAC net.HardwareAddr
	// Revision is the modification revision of the node's record, Revisions those
	// of Subnets, one by one.
	Revision  int64
	Revisions []int64
}

// Equal reports whether two peers are the same, field by field.
func (p *Peer) Equal(o *Peer) bool {
	return p.Node == o.Node && p.sameTunnel(o) && p.sameRouter(o) && slices.Equal(p.Subnets, o.Subnets) &&
		slices.Equal(p.Bridged, o.Bridged) && p.Revision == o.Revision && slices.Equal(p.Revisions, o.Revisions)
}

func (p *Peer) sameTunnel(o *Peer) bool {
	return p.Encap == o.Encap && p.Local == o.Local && p.Remote == o.Remote && p.RemoteMAC == o.RemoteMAC &&
		slices.Equal(p.VTEPs, o.VTEPs)
}

func (p *Peer) sameRouter(o *Peer) bool {
	same := p.Router == o.Router || p.Router != nil && o.Router != nil && *p.Router == *o.Router
	return same && p.LocalIPv6 == o.LocalIPv6 && slices.Equal(p.RouterMAC, o.RouterMAC)
}

// Find returns the view of one network.
func (v View) Find(network string) (NetworkView, bool) {
	i := slices.IndexFunc(v.Networks, func(n NetworkView) bool { return n.Name == network })
	if i < 0 {
		return NetworkView{}, false
	}
	return v.Networks[i], true
}

// View computes what a node has to know. A node carries a network when it has
// a subnet or a pin in it. The node need not be registered: then it has no
// networks.
func (s *Snapshot) View(node string) View { return s.resolve(nil).view(node) }

// view is View of what is left.
func (r *resolved) view(node string) View {
	s := r.Snapshot
	v := View{Node: s.Nodes[node], Problems: r.problems}
	if _, ok := r.node(node); !ok {
		v.Node.Name = node
		return v
	}
	underlay := s.Underlay()
	for _, name := range slices.Sorted(maps.Keys(r.networks)) {
		c := r.networks[name]
		own, carries := c.members[node]
		if !carries {
			continue
		}
		c.Network, _ = c.WithMTU(underlay)
		nv := NetworkView{Network: c.Network, Pins: c.pins, Peers: make([]Peer, 0, len(c.members))}
		if c.Router {
			nv.RouterMAC = RouterMAC(v.Node)
		}
		nv.Subnets, nv.Segments = r.divide(name, own.subnets)
		nv.OwnRevisions = make(map[netip.Prefix]int64, len(own.subnets))
		for i, p := range own.subnets {
			nv.OwnRevisions[p] = own.revisions[i]
		}
		if len(nv.Segments) > 0 {
			if err := c.CheckSegment(nv.Segments[0].Name); err != nil {
				v.Problems = append(v.Problems, fault.Of(err))
				nv.Segments = nil
			}
		}
		for _, m := range c.sorted() {
			if m == own {
				continue
			}
			n, _ := r.node(m.name)
			peer, err := connect(&v.Node, &n, c.Network)
			if err != nil {
				v.Problems = append(v.Problems, *err)
				continue
			}
			peer.Subnets, peer.Revisions, peer.Revision = m.subnets, m.revisions, n.ModRevision
			if c.Transport.Direct() == DirectOnLink {
				peer.Bridged = r.bridged(name, m.subnets)
			}
			nv.Peers = append(nv.Peers, peer)
		}
		if p := r.checkMTU(c); p != nil {
			v.Problems = append(v.Problems, *p)
		}
		v.Networks = append(v.Networks, nv)
	}
	return v
}

// divide returns a node's own subnets apart: those for endpoints, and those of
// its segments.
func (r *resolved) divide(network string, own []netip.Prefix) (endpoints []netip.Prefix, segments []Segment) {
	endpoints = make([]netip.Prefix, 0, len(own))
	for _, p := range own {
		name := r.Subnets[SubnetID{network, p}].Segment
		if name == "" {
			endpoints = append(endpoints, p)
			continue
		}
		byName := func(s Segment, name string) int { return cmp.Compare(s.Name, name) }
		i, found := slices.BinarySearchFunc(segments, name, byName)
		if !found {
			segments = slices.Insert(segments, i, Segment{Name: name})
		}
		segments[i].Subnets = append(segments[i].Subnets, p)
	}
	return endpoints, segments
}

// bridged returns the subnets that are of segments.
func (r *resolved) bridged(network string, subnets []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range subnets {
		if r.Subnets[SubnetID{network, p}].Segment != "" {
			out = append(out, p)
		}
	}
	return out
}

// connect chooses the addresses of a tunnel: IPv4 where both have it.
func connect(self, peer *Node, n Network) (Peer, *fault.Fault) {
	for _, x := range [...]*Node{self, peer} {
		if t := n.Transport.Tunnel(); t != "" && !slices.Contains(x.Encapsulations, t) {
			return Peer{}, &fault.Fault{
				Code:   fault.EncapsulationMissing,
				Item:   fmt.Sprintf("node %s, network %s", x.Name, n.Name),
				What:   fmt.Sprintf("its datapath cannot do %s", t),
				Remedy: "choose another transport for the network, or update Open vSwitch on the node",
			}
		}
	}
	for _, f := range [...]Family{IPv4, IPv6} {
		local, ok1 := self.VTEP(f)
		remote, ok2 := peer.VTEP(f)
		if ok1 && ok2 {
			p := Peer{
				Node: peer.Name, Encap: n.Transport.Tunnel(), Local: local, Remote: remote, RemoteMAC: peer.VTEPMAC,
				VTEPs: peer.VTEPs, Router: peer.Router,
			}
			if n.Router {
				p.LocalIPv6, _ = self.VTEP(IPv6)
				p.RouterMAC = RouterMAC(*peer)
			}
			return p, nil
		}
	}
	return Peer{}, &fault.Fault{
		Code:   fault.UnderlayFamily,
		Item:   fmt.Sprintf("nodes %s and %s", self.Name, peer.Name),
		What:   "they have no underlay address family in common",
		Remedy: "give both an IPv4 or both an IPv6 address and set it with --vtep",
	}
}

// checkMTU finds the node whose link is the least of those that are too small for
// the network's packets. All nodes of the network report it: whoever sends to it
// loses packets.
func (r *resolved) checkMTU(c *carried) *fault.Fault {
	nodes := func(yield func(Node) bool) {
		for _, m := range c.members {
			if n, _ := r.node(m.name); !yield(n) {
				return
			}
		}
	}
	mtu, node, f := UnderlayOf(nodes, 0).Carries(c.Transport)
	if mtu >= c.MTU {
		return nil
	}
	overhead := Overhead(c.Transport, f)
	remedy := "raise the link's MTU"
	if mtu >= c.MinMTU() {
		remedy += fmt.Sprintf(", or 'baize network update %s --mtu %d'", c.Name, mtu)
	}
	return &fault.Fault{
		Code: fault.UnderlayMTU,
		Item: fmt.Sprintf("node %s, network %s", node, c.Name),
		What: fmt.Sprintf(
			"packets of the network's MTU %d need an underlay MTU of %d over %s, its link has %d: larger packets vanish",
			c.MTU, c.MTU+overhead, f, mtu+overhead,
		),
		Remedy: remedy,
	}
}

// resolved is the topology without its contradictions.
type resolved struct {
	*Snapshot
	excluded map[string]bool // nodes
	networks map[string]*carried
	routed   map[string]Network // those that kernels forward, by name
	problems []fault.Fault
	// settled: no subnet or pin was left out, or is of a node that is not registered.
	settled bool
}

// node returns a node that takes part.
func (r *resolved) node(name string) (Node, bool) {
	if r.excluded[name] {
		return Node{}, false
	}
	n, ok := r.Nodes[name]
	return n, ok
}

// carried is a network with the nodes that carry it.
type carried struct {
	Network
	members map[string]*member
	inOrder []*member // by name, once they are asked for
	pins    []Pin
}

type member struct {
	name      string
	subnets   []netip.Prefix
	revisions []int64 // of subnets

	// A subnet a family is the rule: room for both, in one piece.
	subnetSpace   [2]netip.Prefix
	revisionSpace [2]int64
}

// member returns the membership of a node, made at the first sight; nil when
// the node does not take part.
func (r *resolved) member(c *carried, node string) *member {
	m := c.members[node]
	if m == nil {
		if _, ok := r.node(node); !ok {
			return nil
		}
		m = &member{name: node}
		m.subnets, m.revisions = m.subnetSpace[:0], m.revisionSpace[:0]
		c.members[node] = m
	}
	return m
}

func (c *carried) sorted() []*member {
	if len(c.inOrder) != len(c.members) {
		c.inOrder = slices.AppendSeq(make([]*member, 0, len(c.members)), maps.Values(c.members))
		slices.SortFunc(c.inOrder, func(a, b *member) int { return cmp.Compare(a.name, b.name) })
	}
	return c.inOrder
}

// Validate returns what is wrong with the topology as a whole: keys that
// cannot be read and records that contradict each other.
func (s *Snapshot) Validate() []fault.Fault { return s.resolve(nil).problems }

// resolve leaves out what contradicts an older record: the older one wins,
// because endpoints may already depend on it. What follows from subnets and pins alone is
// taken from last, unless that is nil, where they are the same.
func (s *Snapshot) resolve(last *resolved) *resolved {
	r := &resolved{
		Snapshot: s, excluded: map[string]bool{},
		networks: make(map[string]*carried, len(s.Networks)), routed: map[string]Network{},
	}
	for _, k := range slices.Sorted(maps.Keys(s.Malformed)) {
		r.problems = append(r.problems, s.Malformed[k])
	}
	r.resolveNetworks()
	r.resolveNodes()
	if r.sameSubnets(last) {
		r.takeSubnets(last)
		return r
	}
	before := len(r.problems)
	r.resolveSubnets()
	r.resolvePins()
	r.settled = len(r.problems) == before && len(r.excluded) == 0
	return r
}

func (r *resolved) report(code fault.Code, item, remedy, what string, args ...any) {
	r.problems = append(r.problems, fault.Fault{Code: code, Item: item, What: fmt.Sprintf(what, args...), Remedy: remedy})
}

func (r *resolved) resolveNetworks() {
	byVNI := map[uint32]string{}
	for _, n := range sortedBy(r.Networks, func(a, b Network) int {
		return cmp.Or(cmp.Compare(a.CreateRevision, b.CreateRevision), cmp.Compare(a.Name, b.Name))
	}) {
		if first, taken := byVNI[n.VNI]; taken {
			r.report(fault.RecordConflict, n.Key(), "delete one of the two networks and create it anew",
				"VNI %d is used by network %s already: this network is not carried", n.VNI, first)
			continue
		}
		if o, p, clash := routedClash(n, maps.Values(r.routed)); clash {
			r.report(fault.RecordConflict, n.Key(),
				"choose another transport for one of the two, or delete it and create it with another prefix",
				"%s", clashText(n, o, p)+": this network is not carried")
			continue
		}
		byVNI[n.VNI] = n.Name
		if n.Kernel() {
			r.routed[n.Name] = n
		}
		r.networks[n.Name] = &carried{Network: n, members: map[string]*member{}}
	}
}

func (r *resolved) resolveNodes() {
	byVTEP := make(map[netip.Addr]string, len(r.Nodes))
	clash := false
	for name, n := range r.Nodes {
		if len(n.VTEPs) == 0 {
			clash = true
		}
		for _, a := range n.VTEPs {
			if _, taken := byVTEP[a]; taken || !usableVTEP(a) {
				clash = true
			}
			byVTEP[a] = name
		}
	}
	if clash { // rare, so only now in order of age
		r.excludeNodes()
	}
}

func usableVTEP(a netip.Addr) bool { return a.IsGlobalUnicast() || a.IsLinkLocalUnicast() }

func (r *resolved) excludeNodes() {
	byVTEP := make(map[netip.Addr]string, len(r.Nodes))
	for _, n := range sortedBy(r.Nodes, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.CreateRevision, b.CreateRevision), cmp.Compare(a.Name, b.Name))
	}) {
		if len(n.VTEPs) == 0 {
			r.report(fault.RecordMalformed, n.Key(),
				"set one with 'baize agent --vtep' on it, or remove it with 'baize node remove "+n.Name+"'",
				"node has no underlay address: it is left out")
			r.excluded[n.Name] = true
		}
		for _, a := range n.VTEPs {
			if !usableVTEP(a) {
				r.report(fault.RecordMalformed, n.Key(), "set another with 'baize agent --vtep' on it",
					"%s is not an address a tunnel can end at: the node is left out", a)
				r.excluded[n.Name] = true
			} else if first, taken := byVTEP[a]; taken {
				r.report(fault.RecordConflict, n.Key(), fmt.Sprintf("set another with 'baize agent --vtep', "+
					"or remove the one that is gone with 'baize node remove %s'", first),
					"underlay address %s is that of node %s already: the node is left out", a, first)
				r.excluded[n.Name] = true
			}
		}
		if r.excluded[n.Name] {
			continue
		}
		for _, a := range n.VTEPs {
			byVTEP[a] = n.Name
		}
	}
}

func (r *resolved) resolveSubnets() {
	byNetwork := make(map[string][]netip.Prefix, len(r.Networks))
	for id := range r.Subnets {
		byNetwork[id.Network] = append(byNetwork[id.Network], id.Prefix)
	}
	for _, name := range slices.Sorted(maps.Keys(byNetwork)) {
		prefixes := byNetwork[name]
		slices.SortFunc(prefixes, ComparePrefixes)
		c, known := r.networks[name]
		if !known {
			if _, excluded := r.Networks[name]; !excluded {
				r.report(fault.RecordOrphaned, SubnetKey(name, prefixes[0]),
					"delete the keys below "+DirSubnets+name+"/, or create the network again",
					"%d subnet(s) of a network that does not exist", len(prefixes))
			}
			continue
		}
		c.members = make(map[string]*member, len(prefixes))
		for _, p := range r.withoutOverlaps(c.Network, prefixes) {
			sub := r.Subnets[SubnetID{name, p}]
			if sub.Node == "" || (sub.LetGo && c.Deleting != "") {
				continue // reserved for nobody, or not used any more
			}
			if m := r.member(c, sub.Node); m != nil {
				m.subnets, m.revisions = append(m.subnets, p), append(m.revisions, sub.ModRevision)
			} else if _, registered := r.Nodes[sub.Node]; !registered && !sub.Reserved {
				r.report(fault.RecordOrphaned, sub.Key(),
					fmt.Sprintf("release it with 'baize subnet release --network %s %s'", name, p),
					"its owner %s is not registered", sub.Node)
			}
		}
	}
}

// withoutOverlaps leaves out of a network's subnets, sorted, those that are
// outside of it and the newer of two that overlap.
func (r *resolved) withoutOverlaps(n Network, prefixes []netip.Prefix) []netip.Prefix {
	kept := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		if whole := n.Prefix(FamilyOf(p.Addr())); !whole.IsValid() || !whole.Contains(p.Addr()) || p.Bits() < whole.Bits() {
			r.report(fault.RecordConflict, SubnetKey(n.Name, p), "release it with 'baize subnet release'",
				"outside network %s: it is ignored", n.Name)
			continue
		}
		// Sorted by address, an overlap can only be with the one before.
		last := len(kept) - 1
		if last < 0 || !kept[last].Overlaps(p) {
			kept = append(kept, p)
			continue
		}
		older, newer := r.Subnets[SubnetID{n.Name, kept[last]}], r.Subnets[SubnetID{n.Name, p}]
		if newer.CreateRevision < older.CreateRevision {
			older, newer = newer, older
		}
		r.report(fault.RecordConflict, newer.Key(), "release one of the two with 'baize subnet release'",
			"leased to %s, but it overlaps %s of %s: it is ignored", owner(newer), older.Prefix, owner(older))
		kept[last] = older.Prefix
	}
	return kept
}

func owner(s Subnet) string {
	if s.Node == "" {
		return "nobody (reserved)"
	}
	return "node " + s.Node
}

func (r *resolved) resolvePins() {
	type link struct{ network, mac string }
	byMAC := map[link]string{}
	for _, p := range r.SortedPins() {
		c, ok := r.networks[p.Network]
		if !ok {
			if _, excluded := r.Networks[p.Network]; !excluded {
				r.report(fault.RecordOrphaned, p.Key(), "delete the key", "a pin of a network that does not exist")
			}
			continue
		}
		if !c.Prefix(FamilyOf(p.Addr)).Contains(p.Addr) {
			r.report(fault.RecordConflict, p.Key(), "delete the key", "outside network %s: it is ignored", p.Network)
			continue
		}
		if _, ok := r.node(p.Node); !ok {
			r.report(fault.RecordOrphaned, p.Key(), "delete the key, or start the agent on that node",
				"its node %s is not registered", p.Node)
			continue
		}
		l := link{p.Network, p.MAC}
		if first, taken := byMAC[l]; taken && first != p.Node {
			r.report(fault.RecordConflict, p.Key(), "give one of the endpoints another MAC",
				"MAC %s is that of a pin on node %s already: it is ignored", p.MAC, first)
			continue
		}
		byMAC[l] = p.Node
		r.member(c, p.Node)
		c.pins = append(c.pins, p)
	}
}
