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

// dropMeanings say of each class of drops what it means, and what to look at.
var dropMeanings = map[string]string{
	DropForeignPort: "A port that Baize did not make sends frames: they belong to no network. " +
		"'baize status' names the port.",
	DropUnknownKey: "A frame came out of a tunnel with the VNI of a network that this node does not carry. " +
		"The sender's node thinks that it does: 'baize subnet list --node' with this node's name.",
	DropRoutedHere: "Another node routed a packet here, for an address that no endpoint of this node has.",
	DropNotMember: "A frame came out of the tunnel of a node that has no subnet in its network. " +
		"That node has given its part up, or somebody makes such packets by hand.",
	DropRA: "An endpoint sends router advertisements, which would make it the others' default route. " +
		"One that is a router is attached with '--allow ra', or its network allows it.",
	DropRedirect: "An endpoint tells others to send their packets elsewhere (ICMP redirect). " +
		"One that is a router is attached with '--allow ra'.",
	DropDHCPServer: "An endpoint answers as a DHCP server. One that is meant to is attached with '--allow dhcp-server'.",
	DropVLAN:       "An endpoint sends frames with a VLAN tag. It may with '--allow vlan'.",
	DropBPDU: "An endpoint sends what bridges say to each other. One that is a bridge is attached with " +
		"'--allow bpdu'.",
	DropUnguarded: "A frame of an endpoint has come to the guard without a rule for its port: the agent is behind.",
	DropMAC: "A frame has another sender than its endpoint's link address. " +
		"A bridge or a virtual machine inside the container does that.",
	DropAddress: "A packet, or an ARP message, has a sender that its endpoint was not given. " +
		"What may send from other addresses is added with 'baize endpoint add --allow'.",
	DropNeighbour: "A neighbour solicitation or advertisement names an address, or a link address, " +
		"that its sender was not given.",
	DropDocker0: "Docker gives fe80::1 to the bridge of every host. Messages about it stay on the host: " +
		"nothing is wrong.",
	DropUnleased: "Somebody asks for an address of the network that no node leases: nobody can have it. " +
		"'baize subnet list' shows what is leased.",
	DropNotIP:   "In a network whose packets are routed, only IP reaches other nodes.",
	DropNoRoute: "The kernel of this node sent a packet for an address of the network that no node leases.",
	DropProbe: "A host asks whether an address that lives on another node is taken, before it uses it itself. " +
		"The switch answers for that address, and must not answer this question.",
	DropNoEndpoint: "Somebody asks for an address of this node's subnet that no endpoint here has. " +
		"'baize endpoint list' shows who is here.",
	DropKernelAsks: "This node's kernel asks for an address of the node's subnet that no endpoint here has.",
	DropNoMAC: "A frame for a link address of this node's range came here, and no endpoint has it: " +
		"the sender remembers a container that is gone.",
	DropOtherNodesMAC: "A frame for a link address of another node's range came out of a tunnel. " +
		"It must not go on into another one.",
	DropNoPorts:   "A broadcast came to a node that has no endpoint of the network.",
	DropUndecided: "A frame came to the last table, and no table before it had decided on a port: a flow is missing.",
}

// DropMeaning explains a class of drops, for people; "" where it is none of
// DropClasses.
func DropMeaning(class string) string { return dropMeanings[class] }

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
