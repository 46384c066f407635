// Package pipeline computes the wanted state of one node's Open vSwitch from
// its view of the topology and its local endpoints. It is pure.
//
// A frame's network is carried in the OpenFlow metadata field: its VNI. The
// tables are listed in Tables, the fields that carry decisions in Fields;
// docs/pipeline.md explains them and a test keeps them in step.
package pipeline

// The tables of the pipeline.
const (
	TableClassify  = 0
	TableTunnel    = 5
	TableRouted    = 7
	TableFirstHop  = 8
	TableGuard     = 10
	TableIngress   = 12 // reserved
	TableDirect    = 15
	TableSteer     = 20
	TableExact     = 25
	TableAnswer    = 27
	TableLocal     = 30
	TableFlood     = 35
	TableReplicate = 40 // to 59: a long replication list continues in the next table
	TableEgress    = 65 // reserved
	TableDeliver   = 70
)

// maxOutputs is how many outputs one flow carries at most: beyond
// net.core.netdev_max_backlog, 1000 unless set, the kernel would drop copies.
const maxOutputs = 900

// maxReplicateTables bounds the chain of replication tables.
const maxReplicateTables = 20

// Table describes one table for people.
type Table struct {
	ID      int
	Name    string
	Purpose string
}

// Tables lists the pipeline's tables in the order frames pass them.
func Tables() []Table {
	return []Table{
		{TableClassify, "classify", "which network does the frame belong to, or is it out of a tunnel?"},
		{
			TableTunnel, "tunnel",
			"frames out of tunnels: tunnel key → network; probes go to the agent; unknown keys are dropped",
		},
		{
			TableRouted, "routed",
			"packets that other hosts routed to this node: to the MAC of the endpoint, or to its kernel",
		},
		{
			TableFirstHop, "first-hop",
			"may the endpoint send what only routers, DHCP servers and bridges send, or a tagged frame?",
		},
		{TableGuard, "guard", "anti-spoofing: an endpoint sends from its own MAC and addresses only"},
		{TableIngress, "ingress", "reserved for policies on what endpoints send: no flows, no way leads here yet"},
		{
			TableDirect, "direct",
			"only networks of an auto transport: may the packet go to its node without encapsulation?",
		},
		{
			TableSteer, "steer",
			"frames of local endpoints, to the node that owns the address: by ARP or ND target, then by MAC range",
		},
		{TableExact, "exact", "what ranges cannot decide: pinned and static MACs, then unknown MACs by IP prefix"},
		{
			TableAnswer, "answer",
			"neighbour solicitations of addresses that are routed, answered with the gateway's or this node's own MAC",
		},
		{
			TableLocal, "local",
			"which local port: by ARP or ND target, then by MAC; the only way for frames out of tunnels",
		},
		{
			TableFlood, "flood",
			"broadcast, multicast and unknown unicast of local ports: how much of it, and for a group that bridges keep?",
		},
		{
			TableReplicate, "replicate",
			"broadcast, multicast and unknown unicast of local endpoints: one copy into each tunnel of the network",
		},
		{TableEgress, "egress", "reserved for policies on what endpoints receive: no flows, no way leads here yet"},
		{TableDeliver, "deliver", "out of the local port that was decided on, or of all of a list"},
	}
}

// TableName returns a table's name; the tables that continue a replication
// list have the name of the first.
func TableName(id int) string {
	if id > TableReplicate && id < TableReplicate+maxReplicateTables {
		id = TableReplicate
	}
	for _, t := range Tables() {
		if t.ID == id {
			return t.Name
		}
	}
	return ""
}

// Field describes, for people, one of the fields that carry decisions from table
// to table. Each has one meaning in the whole pipeline.
type Field struct {
	Name, Holds string
}

// Fields is the map of metadata, registers and conntrack zones.
func Fields() []Field {
	return []Field{
		{"metadata", "the frame's network: its VNI"},
		{
			"tun_id",
			"the tunnel key, a VNI as well; of a local frame set once, when it enters; 0 is that of the agents' probes",
		},
		{"reg0", "1: the packet stays in the tunnel, whatever the kernel has routes to (set in direct, looked at in exact)"},
		{"reg1", "scratch within one table, never looked at in another (used in answer)"},
		{"reg2", "egress: what deliver does. 1 to 0xffff is the OpenFlow number of a local port; " +
			"0x10000 all local ports of the network, 0x10001 those behind which addresses are not known one by one, " +
			"0x10002 those that nothing is known of"},
		{"reg3", "reserved for policies: the group of the sender"},
		{"reg4", "reserved for policies: the group of the receiver"},
		{"reg5 to reg15", "free"},
		{"conntrack zones", "none used; 0xba00 to 0xbaff are reserved for policies, the others are not Baize's"},
	}
}

// The values of the egress register that are not a port's number, which has 16
// bits.
const (
	egressAll     = 0x10000
	egressUnknown = 0x10001
	egressOpen    = 0x10002
)

// Priorities within the tables. Higher wins.
const (
	prioDefault = 0

	// routed
	prioKernel = 50 // after single endpoints

	// classify, tunnel
	prioPort     = 100
	prioProbe    = 110
	prioStranger = 90  // of a node that is not in the network
	prioOwnMACs  = 120 // of a segment: its own range of derived MACs
	prioMACTheft = 110 // and those of the rest of the network

	// first-hop
	prioPriorityTagged = 70 // VLAN 0 is no VLAN
	prioAllowedTraffic = 60
	prioTraffic        = 50

	// guard
	prioNeighbourOwn    = 130 // what every docker0 has, and only for its own link
	prioOwnNeighbour    = 126 // of a segment: link-local addresses made of its own MACs
	prioOthersNeighbour = 124 // and those made of MACs of endpoints
	prioNeighbour       = 120 // ND messages with the sender's own addresses
	prioNeighbourBad    = 110 // ND messages with others
	prioNeighbourOdd    = 109 // and those with a code, which are none
	prioOwnLinkLocal    = 104 // the same two of IPv6 packets
	prioOthersLinkLocal = 102
	prioAddress         = 100 // packets from a known address
	prioAllowed         = 95  // packets from an address that the endpoint is allowed as well
	prioAddressBad      = 90  // IP and ARP from any other
	prioOther           = 80  // other EtherTypes from the right MAC
	prioMACBad          = 70  // anything else of the port

	// flood
	prioReservedAllowed = 120 // to a group that bridges keep for themselves
	prioReserved        = 110
	prioMetered         = 100

	// direct
	prioHops   = 120 // packets that routers would change too much
	prioDirect = 110

	// local and steer: ARP and ND
	prioAnnounce  = 210 // gratuitous ARP is for everybody
	prioAddrKnown = 200 // of one endpoint
	prioInside    = 196 // between two addresses of one segment
	prioToAll     = 195 // gratuitous ARP of a segment
	prioMayHave   = 193 // that endpoints of this node are allowed to have
	prioTarget    = 190 // of a subnet
	prioUnleased  = 185 // that endpoints of this node are allowed to have, and nobody leases
	prioUnowned   = 180 // of the network, but nobody leases it
	// local, steer and exact: by destination
	prioBUM        = 150 // multicast, before ranges of unicast addresses
	prioRouted     = 145 // to the MAC of a router, by address
	prioNoRoute    = 142 // and to no address that is somewhere
	prioMAC        = 140
	prioMACRangeIP = 135 // IP to MACs in it
	prioMACRange   = 130
	prioIPDirect   = 125
	prioIPPrefix   = 120
	prioOtherMACs  = 115
	prioRest       = 110

	// deliver
	prioList    = 100
	prioNoList  = 90
	prioNothing = 80
	prioOutput  = 50
)
