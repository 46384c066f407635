package pipeline

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// Options are the node's own settings.
type Options struct {
	// Bridge is the integration bridge's name; empty: ovs.DefaultBridge.
	Bridge string
	// Datapath is "system" or "netdev".
	Datapath string
	// Ports are the UDP ports of encapsulations; 0, or none: the usual one.
	Ports map[topology.Transport]int
	// Segments are the ports to local Ethernets. One whose network gives it no
	// subnet keeps its port, and nothing is forwarded for it.
	Segments []ovs.Segment
	// Direct are the prefixes of other nodes, subnets and pins, by network, that
	// this host's kernel routes at this moment. It is observed. Packets for a
	// prefix that is not in it are encapsulated.
	Direct map[topology.SubnetID]bool
	// SFlow is how the node tells of its packets by sFlow; nil: not at all.
	SFlow *ovs.SFlow
}

// Build returns the wanted state of the node whose view is given. Endpoints
// of a network that the node does not carry keep their port, and nothing is
// forwarded for them. The order in which they are given does not matter.
func Build(v topology.View, endpoints []ovs.Endpoint, opt Options) ovs.State {
	return new(Builder).Build(v, endpoints, opt)
}

// Build is Build. States of one Builder share what is the same in them.
func (m *Builder) Build(v topology.View, endpoints []ovs.Endpoint, opt Options) ovs.State {
	if opt.Bridge == "" {
		opt.Bridge = ovs.DefaultBridge
	}
	endpoints = slices.SortedFunc(slices.Values(endpoints), ovs.CompareEndpoints)
	peers := 0
	for _, n := range v.Networks {
		peers += len(n.Peers)
	}
	b := &builder{opt: opt, node: v.Node.Name, names: m.namesOf(v), tunnels: make(map[string]bool, peers)}
	b.last = m.networks
	b.parts, b.networks = make([][]ovs.Flow, 0, peers+2*len(v.Networks)+1), make(map[string]*written, len(v.Networks))
	b.state.Flows = make([]ovs.Flow, 0, 32*(len(endpoints)+1))
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
	b.state.SFlow = opt.SFlow
	if b.nodeRate > 0 {
		b.state.Meters = append(b.state.Meters, ovs.Meter{Rate: b.nodeRate})
	}
	flows := ovs.SortFlows(append(b.parts, b.state.Flows)...)
	b.state.Flows = nil
	b.state.Sort()
	b.state.Flows, m.networks = flows, b.networks
	return b.state
}

type builder struct {
	opt   Options
	node  string
	state ovs.State
	names Names
	// reason is the record that the flows being written stem from.
	reason  ovs.Reason
	tunnels map[string]bool // by port name: a tunnel serves all networks of its encapsulation
	// parts are the flows that were written before those of state.
	parts [][]ovs.Flow
	// last is what was written for peers the last time, networks this time.
	last, networks map[string]*written
	// local is this node's VTEP, that nearly all tunnels share.
	local     netip.Addr
	localText string
	// nodeRate is what the node may flood in all networks with a limit, in frames a
	// second; 0: there is none.
	nodeRate int
}

func (b *builder) flow(class string, table, priority int, match, actions string) {
	b.state.Flows = append(b.state.Flows, ovs.Flow{
		Table: table, Priority: priority, Match: match, Actions: actions, Class: class, Reason: b.reason,
	})
}

// because sets the record that the flows written from now on stem from, and
// returns the one before.
func (b *builder) because(r ovs.Reason) (before ovs.Reason) {
	before, b.reason = b.reason, r
	return before
}

// defaults writes what happens to frames nothing else matches. Every drop is
// explicit, so that it is counted.
func (b *builder) defaults() {
	b.flow(DropForeignPort, TableClassify, prioDefault, "", drop)
	b.flow(DropUnknownKey, TableTunnel, prioDefault, "", drop)
	b.firstHop()
	b.probes()
	b.flow(DropUnguarded, TableGuard, prioDefault, "", drop)
	b.flow(classFlood, TableLocal, prioBUM, multicast, deliverTo(egressAll))
	b.flow(DropNoMAC, TableLocal, prioDefault, "", drop)
	b.flow(classFlood, TableSteer, prioBUM, multicast, goTo(TableFlood))
	b.flow(classElsewhere, TableSteer, prioDefault, "", goTo(TableExact))
	b.flow(classFlood, TableExact, prioDefault, "", goTo(TableFlood))
	b.flow(classFlood, TableFlood, prioDefault, "", goTo(TableReplicate))
	b.flow(classFlood, TableReplicate, prioDefault, "", deliverTo(egressAll))
	b.flow(DropNoPorts, TableDeliver, prioNoList, ovs.Egress+"=0x10000/0x10000", drop)
	b.flow(DropUndecided, TableDeliver, prioNothing, ovs.Egress+"=0", drop)
	b.flow(classDeliver, TableDeliver, prioOutput, "", ovs.EgressOutput)
}

// tunnel adds the port to a peer, once, and returns its name.
func (b *builder) tunnel(p *topology.Peer) string {
	return b.tunnelTo(p, b.names.Tunnel(p.Encap, p.Node), p.Local, p.Remote, false)
}

func (b *builder) tunnelTo(p *topology.Peer, name string, local, remote netip.Addr, second bool) string {
	if b.tunnels[name] {
		return name
	}
	b.tunnels[name] = true
	if b.local != local {
		b.local, b.localText = local, local.String()
	}
	row, _ := topology.EncapsulationOf(p.Encap)
	options := map[string]string{"local_ip": b.localText, "remote_ip": remote.String(), "key": "flow"}
	if remote.Is6() && row.ChecksumIPv6 {
		options["csum"] = "true"
	}
	port, next := b.opt.Ports[p.Encap], toTunnel
	if p.Router != nil {
		port, next = p.Router.Port, goTo(TableRouted)
	}
	if port != 0 {
		options["dst_port"] = strconv.Itoa(port)
	}
	ids := map[string]string{
		ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel, ovs.KeyNode: p.Node, ovs.KeyEncap: string(p.Encap),
	}
	if second {
		ids[ovs.KeySecond] = "IPv6"
	}
	b.state.Ports = append(b.state.Ports, ovs.Port{Name: name, Type: string(p.Encap), Options: options, ExternalIDs: ids})
	before := b.because(ovs.Reason{Key: topology.NodeKey(p.Node), Revision: p.Revision})
	b.flow(classTunnel, TableClassify, prioPort, inPort(name), next)
	b.because(before)
	return name
}
