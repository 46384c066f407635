package pipeline

import (
	"fmt"
	"hash/fnv"
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
}

// Build returns the wanted state of the node whose view is given. Endpoints
// of a network that the node does not carry keep their port, and nothing is
// forwarded for them.
func Build(v topology.View, endpoints []ovs.Endpoint, opt Options) ovs.State {
	if opt.Bridge == "" {
		opt.Bridge = ovs.DefaultBridge
	}
	b := &builder{opt: opt, tunnels: map[string]bool{}}
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
	b.defaults()
	for _, n := range v.Networks {
		b.network(n, slices.DeleteFunc(slices.Clone(endpoints), func(e ovs.Endpoint) bool { return e.Network != n.Name }))
	}
	b.state.Sort()
	// Two rules for one match would replace each other for ever: one wins,
	// always the same. It takes two endpoints with one address to get here.
	b.state.Flows = slices.CompactFunc(b.state.Flows, func(x, y ovs.Flow) bool {
		return x.Table == y.Table && x.Priority == y.Priority && x.Match == y.Match
	})
	return b.state
}

type builder struct {
	opt     Options
	state   ovs.State
	tunnels map[string]bool // by port name: a tunnel serves all networks of its encapsulation
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
	b.flow(TableLocal, prioDefault, "", goTo(TableSteer))
	b.flow(TableSteer, prioTunnelDrop, fmt.Sprintf("metadata=0x%x/0x%x", fromTunnel, fromTunnel), "drop")
	b.flow(TableSteer, prioTunnelFlood, fmt.Sprintf("metadata=0x%x/0x%x,%s", fromTunnel, fromTunnel, multicast), goTo(TableFlood))
	b.flow(TableSteer, prioBUM, multicast, goTo(TableReplicate))
	b.flow(TableSteer, prioDefault, "", goTo(TableReplicate))
	b.flow(TableReplicate, prioDefault, "", goTo(TableFlood))
	b.flow(TableFlood, prioDefault, "", "drop")
}

// multicast matches the group bit of the destination, broadcast included.
const multicast = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"

func (b *builder) network(n topology.NetworkView, endpoints []ovs.Endpoint) {
	net := match{fmt.Sprintf("metadata=0x%x/0x%x", n.VNI, vniMask)}

	b.flow(TableTunnel, prioPort, fmt.Sprintf("tun_id=0x%x", n.VNI),
		fmt.Sprintf("set_field:0x%x->metadata,goto_table:%d", fromTunnel|n.VNI, TableLocal))

	var locals, open []string
	for _, e := range endpoints {
		locals = append(locals, output(e.Port))
		if e.MAC == nil {
			open = append(open, output(e.Port))
		}
		b.endpoint(n, net, e)
	}
	if len(locals) > 0 {
		b.flow(TableFlood, prioPort, net.String(), strings.Join(locals, ","))
	}

	// Ports whose addresses nobody knows get what no known endpoint wants.
	rest := "drop"
	if len(open) > 0 {
		rest = strings.Join(open, ",")
		b.flow(TableSteer, prioTunnelOpen, fmt.Sprintf("metadata=0x%x", fromTunnel|n.VNI), rest)
	}
	for _, p := range n.Prefixes() {
		b.flow(TableSteer, prioUnowned, net.and(target(p)), rest)
	}
	for _, p := range n.Subnets {
		b.subnet(net, p, rest)
	}

	var tunnels []string
	byNode := make(map[string]string, len(n.Peers))
	for _, peer := range n.Peers {
		name := b.tunnel(peer)
		out := output(name)
		byNode[peer.Node] = out
		tunnels = append(tunnels, out)
		for _, p := range peer.Subnets {
			b.subnet(net, p, out)
		}
	}
	b.replicate(net, tunnels)
	b.pins(net, n.Pins, byNode)
}

// subnet steers all that is meant for one subnet: four bits of knowledge
// (ARP, ND, MAC, IP) for each node, whatever the number of its endpoints.
func (b *builder) subnet(net match, p netip.Prefix, actions string) {
	b.flow(TableSteer, prioPeerTarget, net.and(target(p)), actions)
	if p.Addr().Is4() {
		addr, mask := topology.MACRange(p)
		b.flow(TableSteer, prioMACRange, net.and(fmt.Sprintf("dl_dst=%s/%s", addr, mask)), actions)
		b.flow(TableSteer, prioIPPrefix, net.and("ip,nw_dst="+p.String()), actions)
	} else {
		b.flow(TableSteer, prioIPPrefix, net.and("ipv6,ipv6_dst="+p.String()), actions)
	}
}

// target matches what concerns the link address of an address in p: ARP by its
// target (RFC 826; a reply's target is who asked) or a neighbour solicitation
// (RFC 4861; its answer is an ordinary IPv6 packet).
func target(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "arp,arp_tpa=" + prefixText(p)
	}
	return "icmp6,icmp_type=135,nd_target=" + prefixText(p)
}

// prefixText leaves out the length of a single address, as ovs-ofctl does.
func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func (b *builder) pins(net match, pins []topology.Pin, byNode map[string]string) {
	macs := map[string]bool{}
	for _, p := range pins {
		out, remote := byNode[p.Node]
		if !remote {
			continue // this node's own are known by their endpoint
		}
		b.flow(TableSteer, prioPinTarget, net.and(target(single(p.Addr))), out)
		if !macs[p.MAC] {
			macs[p.MAC] = true
			b.flow(TableSteer, prioPinMAC, net.and("dl_dst="+p.MAC), out)
		}
	}
}

// replicate chains tables where one flow would carry too many outputs.
func (b *builder) replicate(net match, tunnels []string) {
	table := TableReplicate
	for chunk := range slices.Chunk(tunnels, maxOutputs) {
		next := table + 1
		if table == TableReplicate+maxReplicateTables-1 || len(chunk)+maxOutputs*(table-TableReplicate) == len(tunnels) {
			next = TableFlood
		}
		b.flow(table, prioPort, net.String(), strings.Join(chunk, ",")+","+goTo(next))
		if next == TableFlood {
			return
		}
		table = next
	}
}

// tunnel adds the port to a peer, once, and returns its name.
func (b *builder) tunnel(p topology.Peer) string {
	name := TunnelName(p.Encap, p.Node)
	if b.tunnels[name] {
		return name
	}
	b.tunnels[name] = true
	options := map[string]string{"local_ip": p.Local.String(), "remote_ip": p.Remote.String(), "key": "flow"}
	if p.Remote.Is6() && p.Encap != topology.GRE {
		// Kernels drop UDP over IPv6 without a checksum unless told not to.
		options["csum"] = "true"
	}
	if port := b.opt.port(p.Encap); port != 0 {
		options["dst_port"] = strconv.Itoa(port)
	}
	b.state.Ports = append(b.state.Ports, ovs.Port{
		Name: name, Type: string(p.Encap), Options: options,
		ExternalIDs: map[string]string{
			ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel, ovs.KeyNode: p.Node, ovs.KeyEncap: string(p.Encap),
		},
	})
	b.flow(TableClassify, prioPort, inPort(name), goTo(TableTunnel))
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

// match is the beginning of a match: the network.
type match struct{ net string }

func (m match) String() string      { return m.net }
func (m match) and(s string) string { return m.net + "," + s }
func goTo(table int) string         { return "goto_table:" + strconv.Itoa(table) }
func output(port string) string     { return `output:"` + port + `"` }
func inPort(port string) string     { return `in_port="` + port + `"` }
