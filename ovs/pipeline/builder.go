package pipeline

import (
	"maps"
	"net"
	"reflect"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// Builder builds wanted states one after the other, as Build does. What it wrote for a
// peer it does not write again while all that it was made of is the same: nearly all that
// a node has is for its peers, and a change is one of them.
//
// The zero Builder is ready to use, from one goroutine at a time.
type Builder struct {
	networks map[string]*written
	named    named
	names    Names
}

// namesOf is NamesOf.
func (m *Builder) namesOf(v topology.View) Names {
	if now := namedIn(v); m.names.tunnels == nil || !now.equal(m.named) {
		m.named, m.names = now, now.names()
	}
	return m.names
}

// written is what was written for the bridges among a network's peers.
type written struct {
	of    common
	peers []*writtenPeer
	// last are those of the last time, from the first that may be the next.
	last []*writtenPeer
}

// common is what the flows of all peers of a network are made of, beside the peer.
type common struct {
	network          topology.Network
	routerMAC        net.HardwareAddr
	hostPort, toHost string
	udpPorts         map[topology.Transport]int
}

func (c *common) equal(o *common) bool {
	return c.hostPort == o.hostPort && c.toHost == o.toHost && slices.Equal(c.routerMAC, o.routerMAC) &&
		maps.Equal(c.udpPorts, o.udpPorts) && reflect.DeepEqual(c.network, o.network)
}

// writtenPeer is what was written for one peer, and of what.
type writtenPeer struct {
	peer topology.Peer
	port string
	// first: no network before had made the tunnel.
	first bool
	marks uint64

	out   string // the output to its port
	flows []ovs.Flow
	ports []ovs.Port
}

// write begins to write the peers of a network.
func (b *builder) write(n *network) *written {
	w := &written{
		of:    common{n.Network, n.RouterMAC, n.hostPort, n.toHost, b.opt.Ports},
		peers: make([]*writtenPeer, 0, len(n.Peers)),
	}
	if last := b.last[n.Name]; last != nil && last.of.equal(&w.of) {
		w.last = last.peers
	}
	b.networks[n.Name] = w
	return w
}

// peer writes a peer, and returns the output to its port. Peers come in the order of
// their names, as they did the last time.
func (w *written) peer(n *network, peer *topology.Peer) (out string) {
	for len(w.last) > 0 && w.last[0].peer.Node < peer.Node {
		w.last = w.last[1:]
	}
	b := n.b
	port := b.names.Tunnel(peer.Encap, peer.Node)
	marks, known := n.marks(peer)
	var x *writtenPeer
	if len(w.last) > 0 && known {
		x = w.last[0]
	}
	if x == nil || x.port != port || x.first == b.tunnels[port] || x.marks != marks || !x.peer.Equal(peer) {
		x = &writtenPeer{port: port, first: !b.tunnels[port], marks: marks, out: output(port)}
		ports := len(b.state.Ports)
		b.cut(make([]ovs.Flow, 0, 3+4*len(peer.Subnets)))
		n.bridge(peer, x.out)
		x.flows, x.ports = b.state.Flows, slices.Clone(b.state.Ports[ports:])
		b.cut(nil)
	} else {
		b.cut(nil)
		b.parts = append(b.parts, x.flows)
		b.state.Ports = append(b.state.Ports, x.ports...)
		b.tunnels[port] = true
	}
	x.peer = *peer // an equal one, which holds nothing of an earlier view
	w.peers = append(w.peers, x)
	return x.out
}

// cut begins a new part, whose flows go into space.
func (b *builder) cut(space []ovs.Flow) {
	if len(b.state.Flows) > 0 {
		b.parts = append(b.parts, b.state.Flows)
	}
	b.state.Flows = space
}

// marks says of each subnet of a peer what is known of it beside the peer and the
// network: whether it has exceptions, and whether the kernel routes it. known is false
// where there are too many.
func (n *network) marks(peer *topology.Peer) (marks uint64, known bool) {
	if len(n.exact) == 0 && len(n.b.opt.Direct) == 0 {
		return 0, true
	}
	if len(peer.Subnets) > 32 {
		return 0, false
	}
	for i, p := range peer.Subnets {
		if n.exact[p] {
			marks |= 1 << (2 * i)
		}
		if n.direct(p) {
			marks |= 2 << (2 * i)
		}
	}
	return marks, true
}
