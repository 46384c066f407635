// Package pipeline computes the wanted state of one node's Open vSwitch from
// its view of the topology and its local endpoints. It is pure.
//
// A frame's network is carried in the OpenFlow metadata field: its VNI. The
// tables are listed in Tables; docs/pipeline.md explains them and a test keeps
// the two in step.
package pipeline

// The tables of the pipeline.
const (
	TableClassify  = 0
	TableTunnel    = 5
	TableRouted    = 7
	TableGuard     = 10
	TableDirect    = 15
	TableSteer     = 20
	TableExact     = 25
	TableAnswer    = 27
	TableLocal     = 30
	TableReplicate = 40 // to 59: a long replication list continues in the next table
	TableFlood     = 60
)

// maxOutputs is how many outputs one flow carries at most: beyond
// net.core.netdev_max_backlog, 1000 unless set, the kernel would drop copies.
const maxOutputs = 900

// maxReplicateTables bounds the chain of replication tables.
const maxReplicateTables = TableFlood - TableReplicate

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
		{TableTunnel, "tunnel", "frames out of tunnels: tunnel key → network; unknown keys are dropped"},
		{TableRouted, "routed", "packets that other hosts routed to this node: to the MAC of the endpoint, or to its kernel"},
		{TableGuard, "guard", "anti-spoofing: an endpoint sends from its own MAC and addresses only"},
		{TableDirect, "direct", "only networks of transport auto: may the packet go to its node without encapsulation?"},
		{TableSteer, "steer", "frames of local endpoints, to the node that owns the address: by ARP or ND target, then by MAC range"},
		{TableExact, "exact", "what no range tells: pinned and static MACs, then unknown MACs by IP prefix"},
		{TableAnswer, "answer", "neighbour solicitations of addresses that are routed, answered with the gateway's or this node's own MAC"},
		{TableLocal, "local", "delivery to local endpoints: by ARP or ND target, then by MAC; the only way for frames out of tunnels"},
		{TableReplicate, "replicate", "broadcast, multicast and unknown unicast of local endpoints: one copy into each tunnel of the network"},
		{TableFlood, "flood", "broadcast and multicast: one copy to each local endpoint of the network"},
	}
}

// TableName returns a table's name; the tables that continue a replication
// list have the name of the first.
func TableName(id int) string {
	if id > TableReplicate && id < TableFlood {
		id = TableReplicate
	}
	for _, t := range Tables() {
		if t.ID == id {
			return t.Name
		}
	}
	return ""
}

// Priorities within the tables. Higher wins.
const (
	prioDefault = 0

	// routed
	prioKernel = 50 // after single endpoints

	// classify, tunnel
	prioPort     = 100
	prioOwnMACs  = 120 // of a segment: its own range of derived MACs
	prioMACTheft = 110 // and those of the rest of the network

	// guard
	prioNeighbourOwn = 130 // what every docker0 has, and only for its own link
	prioNeighbour    = 120 // ND messages that say the truth
	prioNeighbourLie = 110 // ND messages that do not
	prioNeighbourBad = 109 // and those with a code, which are none
	prioAddress      = 100 // packets from a known address
	prioAddressLie   = 90  // IP and ARP from any other
	prioOther        = 80  // other EtherTypes from the right MAC
	prioMACLie       = 70  // anything else of the port

	// direct
	prioHops   = 120 // packets that routers would change too much
	prioDirect = 110

	// local and steer: ARP and ND
	prioAnnounce  = 210 // gratuitous ARP is for everybody
	prioAddrKnown = 200 // of one endpoint
	prioInside    = 196 // between two addresses of one segment
	prioToAll     = 195 // gratuitous ARP of a segment
	prioTarget    = 190 // of a subnet
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
)
