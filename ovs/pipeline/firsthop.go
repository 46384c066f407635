package pipeline

import (
	"fmt"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// What usually only routers, DHCP servers and bridges send (RFC 6105 and RFC 7610
// do the same in switches). It comes before guard, which has the last word on
// addresses.
//
// The matches cost the datapath's cache little: of ports and ICMP types it keeps as
// many bits as it takes to tell that they are others, and EtherTypes and tags are
// part of every entry.

// reserved are the groups that bridges keep for themselves (IEEE 802.1Q table 8-1).
const reserved = "dl_dst=01:80:c2:00:00:00/ff:ff:ff:ff:ff:f0"

// tagged matches frames with a tag, priorityTagged those of them with VLAN 0, which
// say a priority and belong to no VLAN.
const (
	tagged         = "vlan_tci=0x1000/0x1000"
	priorityTagged = "vlan_tci=0x1000/0x1fff"
)

// traffic are the kinds by what they match in table first-hop.
var traffic = []struct {
	kind    topology.Traffic
	class   string
	matches []string
}{
	{topology.RouterAdvertisement, DropRA, []string{"icmp6,icmp_type=134", "icmp,icmp_type=9"}},
	{topology.Redirect, DropRedirect, []string{"icmp6,icmp_type=137", "icmp,icmp_type=5"}},
	// By where it goes: clients take answers from any port.
	{topology.DHCPServer, DropDHCPServer, []string{"udp,tp_dst=68", "udp6,tp_dst=546"}},
	// 0x9100 is a tag that Open vSwitch does not know as one.
	{topology.VLAN, DropVLAN, []string{tagged, "dl_type=0x9100"}},
	// PAUSE and LLDP to some address else: see flood.
	{topology.BPDU, DropBPDU, []string{"dl_type=0x8808", "dl_type=0x88cc"}},
}

// firstHop drops all kinds that no port's flows allow.
func (b *builder) firstHop() {
	for _, t := range traffic {
		for _, m := range t.matches {
			b.flow(t.class, TableFirstHop, prioTraffic, m, drop)
		}
	}
	b.flow(classGuarded, TableFirstHop, prioDefault, "", goTo(TableGuard))
	b.flow(DropBPDU, TableFlood, prioReserved, reserved, drop)
}

// allowTraffic writes what a port may send beside ordinary frames: the kinds that the
// network allows, and own.
func (n *network) allowTraffic(port string, own []topology.Traffic) {
	in := inPort(port)
	for _, t := range traffic {
		if !slices.Contains(n.AllowTraffic, t.kind) && !slices.Contains(own, t.kind) {
			continue
		}
		for _, m := range t.matches {
			n.b.flow(classTraffic, TableFirstHop, prioAllowedTraffic, in+","+m, goTo(TableGuard))
		}
		if t.kind == topology.BPDU {
			n.b.flow(classTraffic, TableFlood, prioReservedAllowed, in+","+reserved, n.flooding(port))
		}
	}
}

// allowTags lets the frames of an endpoint's VLANs pass from its own MAC. What is in
// them is no address of this network. The tag of VLAN 0 means none: its frames are
// guarded as all others.
func (n *network) allowTags(e ovs.Endpoint) {
	if !slices.Contains(n.AllowTraffic, topology.VLAN) && !slices.Contains(e.AllowTraffic, topology.VLAN) {
		return
	}
	in := inPort(e.Port)
	n.b.flow(classTraffic, TableFirstHop, prioPriorityTagged, in+","+priorityTagged, goTo(TableGuard))
	n.b.flow(classTraffic, TableFirstHop, prioAllowedTraffic,
		fmt.Sprintf("%s,dl_src=%s,%s", in, e.MAC, tagged), n.tunnelled())
}
