// Package topology is the pure model of a Baize cluster: networks, nodes,
// subnet leases and pins as they are in etcd, and the view that one node has of
// them. It imports the standard library and package fault only; effects live in
// topology/etcdstore.
//
// The path of data is
//
//	etcd key/values → Snapshot → View(self) → (package ovs/pipeline) wanted OVS state
//
// and every step is a pure function.
package topology

import (
	"encoding/json"
	"net/netip"
)

// DefaultPrefix is the etcd key prefix of a cluster unless another is set.
const DefaultPrefix = "/baize/v1"

// MaxVNI is the largest VXLAN network identifier (24 bits, RFC 7348 section 5).
const MaxVNI = 1<<24 - 1

// Meta is a record's place in etcd's history. It is not part of the stored
// value.
type Meta struct {
	CreateRevision int64 `json:"-"`
	ModRevision    int64 `json:"-"`
	// Lease is the etcd lease that the key is held under; 0: it does not
	// expire.
	Lease int64 `json:"-"`
}

// Extra holds the fields of a stored value that this version does not know.
// They are written back unchanged, so that an older Baize never strips what a
// newer one wrote.
type Extra map[string]json.RawMessage

// Network is one L2 domain: key networks/<name>.
type Network struct {
	Name string `json:"-"`
	// IPv4 and IPv6 are the prefixes, whose mask containers have. At least one
	// is set.
	IPv4 netip.Prefix `json:"ipv4,omitzero"`
	IPv6 netip.Prefix `json:"ipv6,omitzero"`
	// VNI is the tunnel key, 1 to MaxVNI, unique in the cluster.
	VNI uint32 `json:"vni"`
	// SubnetLenIPv4 and SubnetLenIPv6 are the prefix lengths of the subnets
	// that nodes lease.
	SubnetLenIPv4 int `json:"subnetLenIPv4,omitempty"`
	SubnetLenIPv6 int `json:"subnetLenIPv6,omitempty"`
	// Transport says how frames travel between nodes: in which encapsulation, or
	// without one.
	Transport Transport `json:"transport"`
	// MTU is that of the containers' interfaces, in bytes of IP packet.
	MTU int `json:"mtu"`
	// MTUDefault says that nobody chose MTU: it is what all nodes carried when the
	// record was written, and what they carry now is in force (WithMTU).
	MTUDefault bool `json:"mtuDefault,omitempty"`
	// GatewayIPv4 and GatewayIPv6 are the endpoints' default routes. Unset
	// means: no default route.
	GatewayIPv4 netip.Addr `json:"gatewayIPv4,omitzero"`
	GatewayIPv6 netip.Addr `json:"gatewayIPv6,omitzero"`
	// Router makes the nodes' kernels routers in the network: addresses of a
	// node's subnet that no endpoint has are reached through its
	// kernel, on a docker0 that is no part of the Ethernet, for example.
	Router bool `json:"router,omitempty"`
	// AllowTraffic are the kinds of traffic that every endpoint of the network may
	// send, and what is behind its segments; see Traffic.
	AllowTraffic []Traffic `json:"allowTraffic,omitempty"`
	// BUM is how many broadcast, multicast and unknown unicast frames an endpoint may
	// send, a second. 0: DefaultBUM; less: any number.
	BUM int `json:"bum,omitempty"`
	// IPFIX says where records of its flows go; nil: nowhere.
	IPFIX *IPFIX `json:"ipfix,omitempty"`
	// Deleting says that the network is on its way out, and how; empty: it is not.
	Deleting Deletion `json:"deleting,omitempty"`
	// CreatedBy is CreatedByDocker where a Docker engine asked for the network;
	// empty: an operator did.
	CreatedBy string `json:"createdBy,omitempty"`
	// Layout names the topology source that the network comes from, unless it is
	// in Baize's own keys.
	Layout string `json:"-"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}

// CreatedByDocker is Network.CreatedBy of a network that goes with the last part
// that a node has of it.
const CreatedByDocker = "docker"

// Prefixes returns the network's prefixes, IPv4 first.
func (n Network) Prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
		if p.IsValid() {
			out = append(out, p)
		}
	}
	return out
}

// Prefix returns the network's prefix of one family; the zero Prefix when the
// network does not have that family.
func (n Network) Prefix(f Family) netip.Prefix {
	if f == IPv6 {
		return n.IPv6
	}
	return n.IPv4
}

// SubnetLen returns the length of the subnets leased in one family.
func (n Network) SubnetLen(f Family) int {
	if f == IPv6 {
		return n.SubnetLenIPv6
	}
	return n.SubnetLenIPv4
}

// Gateway returns the gateway of one family; the zero Addr when there is none.
func (n Network) Gateway(f Family) netip.Addr {
	if f == IPv6 {
		return n.GatewayIPv6
	}
	return n.GatewayIPv4
}

// Families returns the address families the network has, IPv4 first.
func (n Network) Families() []Family {
	var out []Family
	for _, f := range []Family{IPv4, IPv6} {
		if n.Prefix(f).IsValid() {
			out = append(out, f)
		}
	}
	return out
}

// Family is an IP address family.
type Family int

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() || a.Is4In6() {
		return IPv4
	}
	return IPv6
}

// Node is one Docker host: key nodes/<name>. The key is durable; a node that
// reboots or changes its address updates the attributes.
type Node struct {
	Name string `json:"-"`
	// ID is the identity of the installation behind the name, drawn at random
	// once per state directory. It distinguishes two hosts with one name.
	ID string `json:"id"`
	// Hostname is the machine's own name, for messages.
	Hostname string `json:"hostname,omitempty"`
	// VTEPs are the underlay addresses tunnels end at, at most one a family.
	VTEPs []netip.Addr `json:"vteps"`
	// VTEPMAC is the link address of the VTEP, so that peers on the same
	// segment with a userspace datapath need not lose a packet to ARP.
	VTEPMAC string `json:"vtepMAC,omitempty"`
	// UnderlayMTU is the MTU of the link that carries the VTEP, in bytes.
	UnderlayMTU int `json:"underlayMTU,omitempty"`
	// Encapsulations are the tunnel types that this node's datapath supports.
	Encapsulations []Transport `json:"encapsulations"`
	// Datapath is "system" (kernel) or "netdev" (userspace).
	Datapath string `json:"datapath,omitempty"`
	// Version is the Baize version of the agent.
	Version string `json:"version,omitempty"`
	// Epoch changes at every boot of the machine.
	Epoch string `json:"epoch,omitempty"`

	// Router is set of a host that does not run Baize: it is a router and no part
	// of any Ethernet.
	Router *RouterHost `json:"-"`
	// Layout names the topology source that the node comes from, unless it is in
	// Baize's own keys.
	Layout string `json:"-"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}

// RouterHost is how a host that is a router only takes packets: routed, no
// frames, in tunnels of their own family.
type RouterHost struct {
	// MAC is the inner link address that all packets to the host must have as
	// destination; empty where it has no tunnels. IPv6MAC is that of its second
	// tunnel, for IPv6 inside and outside; empty where it has none.
	MAC, IPv6MAC string
	// Port is the UDP port of its tunnels.
	Port int
}

// VTEP returns the node's underlay address of one family.
func (n Node) VTEP(f Family) (netip.Addr, bool) {
	for _, a := range n.VTEPs {
		if FamilyOf(a) == f {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Liveness is held by a running agent under an etcd lease of seconds: key
// alive/<node>. Forwarding never depends on it.
type Liveness struct {
	Node     string `json:"-"`
	ID       string `json:"id"`
	Hostname string `json:"hostname,omitempty"`
	Epoch    string `json:"epoch,omitempty"`
	// Probes: the agent answers the probes of other nodes' agents.
	Probes bool `json:"probes,omitempty"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}

// Subnet is a part of a network's prefix that one node allocates addresses
// from, or that is kept free of leases: key subnets/<network>/<prefix>, the
// slash of the prefix written as '-' (10.1.5.0-24).
type Subnet struct {
	Network string       `json:"-"`
	Prefix  netip.Prefix `json:"-"`
	// Node is the owner. A reservation may have none: then no node takes it.
	Node string `json:"node,omitempty"`
	// Reserved subnets are held by an operator: never leased to another node
	// and never released with their node.
	Reserved bool `json:"reserved,omitempty"`
	// Segment names an Ethernet of the owner that has the subnet's addresses,
	// such as docker0: whoever runs that assigns them, and Baize assigns none
	// of them to endpoints.
	Segment string `json:"segment,omitempty"`
	// Comment is the operator's own note on a reservation.
	Comment string `json:"comment,omitempty"`
	// LetGo is set of a reservation in a network that is being deleted: its node
	// does not use it any more.
	LetGo bool `json:"letGo,omitempty"`
	// UsedBy is its node's answer to the deletion of the network: what there still
	// uses it, in words, MaxUsedBy at the most. UsedByMore counts the rest.
	UsedBy     []string `json:"usedBy,omitempty"`
	UsedByMore int      `json:"usedByMore,omitempty"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}

// Pin is an address that lives outside its home subnet (a static address, a
// container that moved): key pins/<network>/<address>.
type Pin struct {
	Network string     `json:"-"`
	Addr    netip.Addr `json:"-"`
	// Node is where the address lives.
	Node string `json:"node"`
	// MAC is the link address that owns it.
	MAC string `json:"mac"`
	// Endpoint is what the endpoint is called on its node, for messages.
	Endpoint string `json:"endpoint,omitempty"`
	// Unconfirmed: the node that leases the address's subnet was not asked, for
	// its agent did not run. The endpoint's node asks when it does.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
	// MovedFrom is the node that had the endpoint before it was moved here: it lets go
	// of it.
	MovedFrom string `json:"movedFrom,omitempty"`

	Extra Extra `json:"-"`
	Meta  `json:"-"`
}
