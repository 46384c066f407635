// Package pipeline computes the wanted state of one node's Open vSwitch from
// its view of the topology and its local endpoints. It is pure.
//
// A frame's network is carried in the lower 24 bits of the OpenFlow metadata
// field (the VNI); bit 24 says that it came out of a tunnel. The tables are
// listed in Tables; docs/pipeline.md explains them and a test keeps the two in
// step.
package pipeline

// The tables of the pipeline.
const (
	TableClassify  = 0
	TableTunnel    = 5
	TableGuard     = 10
	TableLocal     = 20
	TableSteer     = 30
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
		{TableClassify, "classify", "which network does the frame belong to, and did it come out of a tunnel?"},
		{TableTunnel, "tunnel", "frames out of tunnels: tunnel key → network; unknown keys are dropped"},
		{TableGuard, "guard", "anti-spoofing: an endpoint sends from its own MAC and addresses only"},
		{TableLocal, "local", "delivery to local endpoints: by ARP or ND target, then by MAC"},
		{TableSteer, "steer", "to the node that owns the address: by pin, by ARP or ND target, by MAC range, by IP prefix"},
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

// Metadata bits.
const (
	vniMask    = 0xffffff
	fromTunnel = 1 << 24
)

// Priorities within the tables. Higher wins.
const (
	prioDefault = 0

	// classify, tunnel
	prioPort = 100

	// guard
	prioNeighbour    = 120 // ND messages that say the truth
	prioNeighbourLie = 110 // ND messages that do not
	prioAddress      = 100 // packets from a known address
	prioAddressLie   = 90  // IP and ARP from any other
	prioOther        = 80  // other EtherTypes from the right MAC
	prioMACLie       = 70  // anything else of the port

	// local
	prioAnnounce = 210 // gratuitous ARP is for everybody
	prioTarget   = 200 // ARP and ND by target
	prioMAC      = 100

	// steer
	prioTunnelFlood = 300 // split horizon: from a tunnel to local endpoints only
	prioTunnelOpen  = 290
	prioTunnelDrop  = 280
	prioPinTarget   = 230
	prioPinMAC      = 220
	prioPeerTarget  = 200
	prioUnowned     = 190 // ARP and ND for an address of the network nobody leases
	prioBUM         = 150 // multicast, before ranges of unicast addresses
	prioMACRange    = 140
	prioIPPrefix    = 130
)
