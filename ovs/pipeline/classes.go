package pipeline

import "github.com/baize-net/baize/ovs"

// Classes of flows that drop: the labels of the counters that people read. A flow
// whose output port is down has a class of its own: see ovs.State.Bind.
const (
	DropForeignPort   = "from a port that is not Baize's"
	DropUnknownKey    = "unknown tunnel key"
	DropRoutedHere    = "routed to this node, for an address without an endpoint"
	DropNotMember     = "out of the tunnel of a node that has no part of the network"
	DropRA            = "router advertisement, not allowed"
	DropRedirect      = "redirect, not allowed"
	DropDHCPServer    = "answer of a DHCP server, not allowed"
	DropVLAN          = "tagged frame, not allowed"
	DropBPDU          = "frame for bridges (STP, LLDP, PAUSE), not allowed"
	DropUnguarded     = "from an endpoint without a rule"
	DropMAC           = "spoofed MAC"
	DropAddress       = "spoofed address"
	DropNeighbour     = "spoofed neighbour discovery"
	DropDocker0       = "docker0's fe80::1, the same on every host"
	DropUnleased      = "ARP or ND for an address nobody leases"
	DropNotIP         = "not IP, in a network that is routed"
	DropNoRoute       = "routed by this node, for an address no node has"
	DropProbe         = "duplicate address detection of an address that lives elsewhere"
	DropNoEndpoint    = "ARP or ND for an address of this node without an endpoint"
	DropKernelAsks    = "ARP or ND of this node's kernel for an address without an endpoint"
	DropNoMAC         = "for a MAC of this node without an endpoint"
	DropOtherNodesMAC = "for a MAC of another node, to a bridge of this one"
	DropNoPorts       = "flood without local endpoints"
	DropUndecided     = "nothing says where to"
)

// Classes of what meters drop, which no flow does.
const (
	DropFlood     = "broadcast, multicast or unknown unicast beyond the endpoint's limit"
	DropNodeFlood = "broadcast, multicast or unknown unicast beyond the node's limit"
)

// DropClasses lists the classes of flows that drop by design.
func DropClasses() []string {
	return []string{
		DropForeignPort, DropUnknownKey, DropNotMember, DropRoutedHere, DropRA, DropRedirect, DropDHCPServer, DropVLAN,
		DropBPDU, DropUnguarded, DropMAC, DropAddress, DropNeighbour, DropDocker0,
		DropUnleased, DropNotIP, DropNoRoute, DropProbe, DropNoEndpoint, DropKernelAsks, DropNoMAC, DropOtherNodesMAC,
		DropNoPorts, DropUndecided,
	}
}

// Classes of flows that forward.
const (
	classEnter     = "a frame enters its network"
	classTunnel    = "a frame comes out of a tunnel"
	classProbe     = "a probe of another node's agent"
	classGuard     = "an endpoint's own addresses"
	classAllowed   = "addresses that an endpoint is allowed beside its own"
	classTraffic   = "a kind of traffic that is allowed"
	classGuarded   = "nothing that only a router, DHCP server or bridge sends"
	classDirect    = "a packet that needs no tunnel"
	classKeep      = "a packet that stays in the tunnel"
	classSubnet    = "to the node of a subnet"
	classPin       = "to the node of a pinned address"
	classEndpoint  = "to a local endpoint"
	classSegment   = "to a local bridge"
	classKernel    = "to this node's kernel"
	classAnswer    = "an answer in the place of who is elsewhere"
	classRouter    = "to another node's router"
	classAnnounce  = "an announcement, for everybody"
	classInside    = "between hosts of one local bridge"
	classFlood     = "broadcast, multicast and unknown unicast"
	classMetered   = "broadcast, multicast and unknown unicast, metered"
	classUnknown   = "to ports whose addresses are not known"
	classDeliver   = "out of the port that was decided on"
	classElsewhere = "to be looked up one by one"
)

// DropReason returns the label of the counter of a flow that drops; "" when the
// flow does not drop.
func DropReason(f ovs.Flow) string {
	if !f.Drops() {
		return ""
	}
	return f.Class
}
