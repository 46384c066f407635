package pipeline

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// Options are the node's own settings.
type Options struct {
	// Bridge is the integration bridge's name; empty: ovs.DefaultBridge.
	Bridge string
	// Datapath is "system" or "netdev".
	Datapath string
	// VXLANPort and GenevePort are UDP ports; 0: the standard ones, 4789
	// (RFC 7348) and 6081 (RFC 8926).
	VXLANPort, GenevePort int
	// Segments are the ports to local Ethernets. One whose network gives it no
	// subnet keeps its port, and nothing is forwarded for it.
	Segments []ovs.Segment
	// Direct are the prefixes of other nodes, subnets and pins, that this
	// host's kernel routes at this moment. It is observed: what of an Auto
	// network is not in it takes the tunnel.
	Direct map[netip.Prefix]bool
}

// Build returns the wanted state of the node whose view is given. Endpoints
// of a network that the node does not carry keep their port, and nothing is
// forwarded for them.
func Build(v topology.View, endpoints []ovs.Endpoint, opt Options) ovs.State {
	if opt.Bridge == "" {
		opt.Bridge = ovs.DefaultBridge
	}
	peers := 0
	for _, n := range v.Networks {
		peers += len(n.Peers)
	}
	b := &builder{opt: opt, tunnels: make(map[string]bool, peers)}
	b.state.Flows = make([]ovs.Flow, 0, 6*peers+32*(len(endpoints)+1))
	b.state.Ports = make([]ovs.Port, 0, peers+len(endpoints))
	b.state.Bridge = ovs.Bridge{
		Name: opt.Bridge, Datapath: opt.Datapath, FailMode: "secure",
		// 1.0 for people who type plain ovs-ofctl, 1.4 for bundles.
		Protocols:   []string{"OpenFlow10", "OpenFlow13", "OpenFlow14"},
		OtherConfig: map[string]string{"disable-in-band": "true"},
		ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyNode: v.Node.Name},
	}
	for _, e := range endpoints {
		b.state.Ports = append(b.state.Ports, e.AsPort())
	}
	for _, s := range opt.Segments {
		b.state.Ports = append(b.state.Ports, s.AsPort())
	}
	b.defaults()
	for _, n := range v.Networks {
		b.network(n, slices.DeleteFunc(slices.Clone(endpoints), func(e ovs.Endpoint) bool { return e.Network != n.Name }))
	}
	b.state.Sort()
	return b.state
}

type builder struct {
	opt     Options
	state   ovs.State
	tunnels map[string]bool // by port name: a tunnel serves all networks of its encapsulation
	// local is this node's VTEP, that nearly all tunnels share.
	local     netip.Addr
	localText string
}

func (b *builder) flow(table, priority int, match, actions string) {
	b.state.Flows = append(b.state.Flows, ovs.Flow{Table: table, Priority: priority, Match: match, Actions: actions})
}

// defaults writes what happens to frames nothing else matches. Every drop is
// explicit, so that its counter tells.
func (b *builder) defaults() {
	b.flow(TableClassify, prioDefault, "", "drop")
	b.flow(TableTunnel, prioDefault, "", "drop")
	b.flow(TableGuard, prioDefault, "", "drop")
	b.flow(TableLocal, prioBUM, multicast, goTo(TableFlood))
	b.flow(TableLocal, prioDefault, "", "drop")
	b.flow(TableSteer, prioBUM, multicast, goTo(TableReplicate))
	b.flow(TableSteer, prioDefault, "", goTo(TableExact))
	b.flow(TableExact, prioDefault, "", goTo(TableReplicate))
	b.flow(TableReplicate, prioDefault, "", goTo(TableFlood))
	b.flow(TableFlood, prioDefault, "", "drop")
}

// multicast matches the group bit of the destination, broadcast included.
const multicast = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"

// network writes the flows of one network. Nothing that a frame out of a
// tunnel can reach (tables tunnel, routed, local, flood) has an output to
// another tunnel: that is the split horizon.
func (b *builder) network(n topology.NetworkView, endpoints []ovs.Endpoint) {
	net := &network{NetworkView: n, b: b, match: fmt.Sprintf("metadata=0x%x", n.VNI), exact: map[netip.Prefix]bool{}, known: map[place]bool{}}
	net.findExceptions(endpoints)
	net.host()

	b.flow(TableTunnel, prioPort, fmt.Sprintf("tun_id=0x%x", n.VNI), net.enter()+","+goTo(TableLocal))

	var locals, open []string
	if net.hostPort != "" {
		locals = append(locals, output(net.hostPort))
	}
	for _, e := range endpoints {
		locals = append(locals, output(e.Port))
		if e.MAC == nil {
			open = append(open, output(e.Port))
		}
		net.endpoint(e)
	}
	net.arriveRouted(endpoints)
	rest := slices.Clone(open) // of unicast that no known MAC wants
	for _, s := range b.opt.Segments {
		i := slices.IndexFunc(n.Segments, func(x topology.Segment) bool { return x.Name == s.Name && s.Network == n.Name })
		if i < 0 {
			continue
		}
		locals, rest = append(locals, output(s.Port)), append(rest, output(s.Port))
		net.segment(s.Port, n.Segments[i].Subnets)
	}
	if len(locals) > 0 {
		net.flow(TableFlood, prioPort, "", strings.Join(locals, ","))
	}

	// Ports whose addresses nobody knows get what no known endpoint wants.
	if len(rest) > 0 {
		net.flow(TableLocal, prioRest, "", strings.Join(rest, ","))
	}
	unowned := "drop"
	if len(open) > 0 {
		unowned = strings.Join(open, ",")
	}
	for _, p := range n.Prefixes() {
		net.flow(TableSteer, prioUnowned, target(p), unowned)
	}
	for _, p := range n.Subnets {
		net.subnet(p, goTo(TableLocal))
		if n.Router && len(open) == 0 {
			net.behindKernel(p)
			continue
		}
		net.flow(TableLocal, prioTarget, target(p), unowned)
	}

	tunnels := make([]string, 0, len(n.Peers))
	for i := range n.Peers {
		peer := &n.Peers[i]
		if peer.Encap == "" {
			net.routed(peer)
			continue
		}
		out := output(b.tunnel(peer))
		if peer.Router != nil {
			net.toRouterHost(peer, out)
			continue
		}
		tunnels = append(tunnels, out)
		for _, p := range peer.Subnets {
			net.subnet(p, out)
			net.direct(p, peer.RouterMAC)
		}
		if n.Router {
			net.toRouter(peer, out)
		}
	}
	net.replicate(tunnels)
	if n.Transport == topology.Route {
		net.routedPins()
	} else {
		net.pins(tunnels)
	}
}

// once writes a flow unless its match has one: two endpoints with one address
// would replace each other's flow for ever.
func (n *network) once(table, priority int, match, actions string) {
	k := place{table, priority, match}
	if !n.known[k] {
		n.known[k] = true
		n.flow(table, priority, match, actions)
	}
}

type place struct {
	table, priority int
	match           string
}

// network is one network while its flows are written.
type network struct {
	topology.NetworkView
	b     *builder
	match string
	// exact are the subnets of which some address is not where its subnet
	// is: their MACs are looked up one by one, all others by range only.
	// OVS caches what it looked at: a range looked up first keeps one cache
	// entry for a node instead of one for each remote container.
	exact map[netip.Prefix]bool
	known map[place]bool
	// hostPort is the name of the host's own port; "" where there is none.
	// toHost are the actions of a frame for the host's kernel to route.
	hostPort, toHost string
}

func (n *network) flow(table, priority int, match, actions string) {
	if match == "" {
		n.b.flow(table, priority, n.match, actions)
		return
	}
	n.b.flow(table, priority, n.match+","+match, actions)
}

// enter makes a frame one of this network.
func (n *network) enter() string { return fmt.Sprintf("set_field:0x%x->metadata", n.VNI) }

// findExceptions looks for MACs in the range of a subnet whose node does not
// have them: those of pins, and those of endpoints pinned to this node.
func (n *network) findExceptions(endpoints []ovs.Endpoint) {
	var macs []string
	for _, p := range n.Pins {
		macs = append(macs, p.MAC)
	}
	for _, e := range endpoints {
		if e.MAC != nil && !n.ownRange(e.MAC) {
			macs = append(macs, e.MAC.String())
		}
	}
	if len(macs) == 0 {
		return
	}
	lengths := map[int]bool{}
	for _, p := range n.Subnets {
		lengths[p.Bits()] = true
	}
	for _, s := range n.Segments {
		for _, p := range s.Subnets {
			lengths[p.Bits()] = true
		}
	}
	for _, peer := range n.Peers {
		for _, p := range peer.Subnets {
			lengths[p.Bits()] = true
		}
	}
	for _, s := range macs {
		if a, ok := topology.AddrOfMAC(s); ok {
			for l := range lengths {
				if p, err := a.Prefix(l); err == nil {
					n.exact[p] = true
				}
			}
		}
	}
}

// ownRange reports whether a MAC is in the range of one of the node's own
// subnets.
func (n *network) ownRange(mac net.HardwareAddr) bool {
	a, ok := topology.AddrOfMAC(mac.String())
	return ok && slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// subnet steers all that is meant for one subnet: four bits of knowledge
// (ARP, ND, MAC, IP) for each node, whatever the number of its endpoints.
func (n *network) subnet(p netip.Prefix, actions string) {
	if p.Addr().Is6() {
		n.to(TableSteer, prioTarget, targetIPv6, p, actions)
		n.to(TableExact, prioIPPrefix, "ipv6,ipv6_dst=", p, actions)
		return
	}
	n.to(TableSteer, prioTarget, targetIPv4, p, actions)
	n.to(TableExact, prioIPPrefix, "ip,nw_dst=", p, actions)
	var space [textSize]byte
	text := append(append(space[:0], n.match...), ",dl_dst="...)
	addr, mask := topology.MACRange(p)
	macs := string(appendMAC(append(appendMAC(text, addr), '/'), mask))
	if n.exact[p] {
		n.b.flow(TableSteer, prioMACRange, macs, goTo(TableExact))
		n.b.flow(TableExact, prioMACRange, macs, actions)
		return
	}
	n.b.flow(TableSteer, prioMACRange, macs, actions)
}

// textSize is room for any match on a prefix: there are thousands, each put
// together in one piece.
const textSize = 128

// to writes the flow of one field with a prefix.
func (n *network) to(table, priority int, field string, p netip.Prefix, actions string) {
	var space [textSize]byte
	text := append(append(append(space[:0], n.match...), ','), field...)
	n.b.flow(table, priority, string(p.AppendTo(text)), actions)
}

func appendMAC(text []byte, m net.HardwareAddr) []byte {
	for i := range m {
		if i > 0 {
			text = append(text, ':')
		}
		text = hex.AppendEncode(text, m[i:i+1])
	}
	return text
}

// What concerns the link address of an address: ARP by its target (RFC 826; a
// reply's target is who asked) or a neighbour solicitation (RFC 4861; its answer
// is an ordinary IPv6 packet).
const (
	targetIPv4 = "arp,arp_tpa="
	targetIPv6 = "icmp6,icmp_type=135,icmp_code=0,nd_target="
)

// target matches what concerns the link addresses of p. Of a single address
// the length is left out, as ovs-ofctl does.
func target(p netip.Prefix) string {
	text := p.String()
	if p.IsSingleIP() {
		text = p.Addr().String()
	}
	if p.Addr().Is4() {
		return targetIPv4 + text
	}
	return targetIPv6 + text
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// pins writes where pinned addresses are, by the tunnel of each peer.
func (n *network) pins(tunnels []string) {
	if len(n.Pins) == 0 {
		return
	}
	byNode := make(map[string]string, len(n.Peers))
	for _, peer := range n.Peers {
		if peer.Router == nil {
			byNode[peer.Node] = tunnels[len(byNode)]
		}
	}
	for _, p := range n.Pins {
		// This node's own pins are known by their endpoint.
		if out, remote := byNode[p.Node]; remote {
			n.once(TableSteer, prioAddrKnown, target(single(p.Addr)), out)
			n.once(TableExact, prioMAC, "dl_dst="+p.MAC, out)
		}
		n.directPin(p)
	}
}

// replicate chains tables where one flow would carry too many outputs.
func (n *network) replicate(tunnels []string) {
	table := TableReplicate
	for chunk := range slices.Chunk(tunnels, maxOutputs) {
		next := table + 1
		if table == TableReplicate+maxReplicateTables-1 || len(chunk)+maxOutputs*(table-TableReplicate) == len(tunnels) {
			next = TableFlood
		}
		n.flow(table, prioPort, "", strings.Join(chunk, ",")+","+goTo(next))
		if next == TableFlood {
			return
		}
		table = next
	}
}

// tunnel adds the port to a peer, once, and returns its name.
func (b *builder) tunnel(p *topology.Peer) string {
	return b.tunnelTo(p, TunnelName(p.Encap, p.Node), p.Local, p.Remote)
}

func (b *builder) tunnelTo(p *topology.Peer, name string, local, remote netip.Addr) string {
	if b.tunnels[name] {
		return name
	}
	b.tunnels[name] = true
	if b.local != local {
		b.local, b.localText = local, local.String()
	}
	options := map[string]string{"local_ip": b.localText, "remote_ip": remote.String(), "key": "flow"}
	if remote.Is6() && p.Encap != topology.GRE {
		// Kernels drop UDP over IPv6 without a checksum unless told not to.
		options["csum"] = "true"
	}
	port, next := b.opt.port(p.Encap), toTunnel
	if p.Router != nil {
		port, next = p.Router.Port, goTo(TableRouted)
	}
	if port != 0 {
		options["dst_port"] = strconv.Itoa(port)
	}
	b.state.Ports = append(b.state.Ports, ovs.Port{
		Name: name, Type: string(p.Encap), Options: options,
		ExternalIDs: map[string]string{
			ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel, ovs.KeyNode: p.Node, ovs.KeyEncap: string(p.Encap),
		},
	})
	b.flow(TableClassify, prioPort, inPort(name), next)
	return name
}

func (o Options) port(t topology.Transport) int {
	switch t {
	case topology.VXLAN:
		return o.VXLANPort
	case topology.Geneve:
		return o.GenevePort
	}
	return 0
}

// tunnelPrefix is what a tunnel's port name starts with.
var tunnelPrefix = map[topology.Transport]string{topology.VXLAN: "vx-", topology.GRE: "gr-", topology.Geneve: "gn-"}

// maxIfname is the longest name of a network device (IFNAMSIZ less the NUL).
const maxIfname = 15

// TunnelName returns the port's name: the encapsulation's two letters and the
// peer's name, cut and with four hex digits of a hash where that is too long.
func TunnelName(t topology.Transport, peer string) string {
	name := tunnelPrefix[t] + peer
	if len(name) <= maxIfname {
		return name
	}
	h := fnv.New32a()
	h.Write([]byte(peer))
	return fmt.Sprintf("%s-%04x", name[:maxIfname-5], h.Sum32()&0xffff)
}

var toTunnel = goTo(TableTunnel)

func goTo(table int) string     { return "goto_table:" + strconv.Itoa(table) }
func output(port string) string { return `output:"` + port + `"` }
func inPort(port string) string { return `in_port="` + port + `"` }
