package pipeline

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// subnet steers all that is meant for one subnet: four flows (ARP, ND, MAC, IP)
// for each node, whatever the number of its endpoints.
func (n *network) subnet(p netip.Prefix, class, actions string) {
	if p.Addr().Is6() {
		n.to(class, TableSteer, prioTarget, targetIPv6, p, actions)
		n.to(class, TableExact, prioIPPrefix, "ipv6,ipv6_dst=", p, actions)
		return
	}
	n.to(class, TableSteer, prioTarget, targetIPv4, p, actions)
	n.to(class, TableExact, prioIPPrefix, "ip,nw_dst=", p, actions)
	var space [textSize]byte
	text := append(append(space[:0], n.match...), ",dl_dst="...)
	addr, mask := topology.MACRange(p)
	macs := string(appendMAC(append(appendMAC(text, addr), '/'), mask))
	if n.exact[p] {
		n.b.flow(classElsewhere, TableSteer, prioMACRange, macs, goTo(TableExact))
		n.b.flow(class, TableExact, prioMACRange, macs, actions)
		return
	}
	n.b.flow(class, TableSteer, prioMACRange, macs, actions)
}

// to writes the flow of one field with a prefix.
func (n *network) to(class string, table, priority int, field string, p netip.Prefix, actions string) {
	var space [textSize]byte
	text := append(append(append(space[:0], n.match...), ','), field...)
	n.b.flow(class, table, priority, string(p.AppendTo(text)), actions)
}

// pinReason is the record of a pin.
func (n *network) pinReason(p topology.Pin) ovs.Reason {
	return ovs.Reason{Key: n.source(p.Key()), Revision: p.ModRevision}
}

// pins writes where pinned addresses are, by the tunnel of each peer.
func (n *network) pins(tunnels []string) {
	if len(n.Pins) == 0 {
		return
	}
	byNode := make(map[string]string, len(n.Peers))
	for i := range n.Peers {
		if n.Peers[i].Router == nil {
			byNode[n.Peers[i].Node] = tunnels[len(byNode)]
		}
	}
	for _, p := range n.Pins {
		before := n.b.because(n.pinReason(p))
		// This node's own pins are known by their endpoint.
		if out, remote := byNode[p.Node]; remote {
			n.once(classPin, TableSteer, prioAddrKnown, target(single(p.Addr)), out)
			n.once(classPin, TableExact, prioMAC, "dl_dst="+p.MAC, out)
		}
		n.directPin(p)
		n.b.because(before)
	}
}

// replicate chains tables where one flow would carry too many outputs.
func (n *network) replicate(tunnels []string) {
	table, meter := TableReplicate, n.nodeMeter()
	if len(tunnels) == 0 && meter != "" {
		n.flow(classFlood, table, prioPort, "", meter+deliverTo(egressAll))
	}
	for chunk := range slices.Chunk(tunnels, maxOutputs) {
		last := table == TableReplicate+maxReplicateTables-1 || len(chunk)+maxOutputs*(table-TableReplicate) == len(tunnels)
		next := goTo(table + 1)
		if last {
			next = deliverTo(egressAll)
		}
		n.flow(classFlood, table, prioPort, "", meter+strings.Join(chunk, ",")+","+next)
		meter = ""
		if last {
			return
		}
		table++
	}
}
