// Package ovs is the pure model of what Baize wants an Open vSwitch to be and
// what it observed it to be: bridge, ports, flows, and the difference between
// the two. Effects live in ovs/vswitch (OVSDB) and ovs/openflow.
package ovs

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/baize-net/baize/topology"
)

// The names in external_ids by which Baize recognises what it made
// (ovs-vswitchd.conf.db(5), "Common Columns").
const (
	KeyOwner    = "baize"          // on bridges and ports: Owner
	KeyRole     = "baize-role"     // RoleTunnel, RoleEndpoint, RoleSegment or RoleHost
	KeyNode     = "baize-node"     // tunnel: the peer; bridge: this node
	KeyEncap    = "baize-encap"    // tunnel: vxlan, gre, geneve
	KeySecond   = "baize-second"   // tunnel: not empty where it is the peer's second one, over IPv6
	KeyNetwork  = "baize-network"  // endpoint: its network
	KeyIPs      = "baize-ips"      // endpoint: its addresses, comma separated; empty: not known
	KeyMAC      = "baize-mac"      // endpoint: its link address
	KeyAllow    = "baize-allow"    // endpoint: prefixes that it may send from as well, comma separated
	KeyTraffic  = "baize-traffic"  // endpoint: kinds of traffic that it is allowed, comma separated
	KeyEndpoint = "baize-endpoint" // endpoint: its name
	KeyNetns    = "baize-netns"    // endpoint: path of its network namespace
	KeyIfname   = "baize-ifname"   // endpoint: the interface's name inside it
	KeyMTU      = "baize-mtu"      // host: its MTU, which Open vSwitch would choose itself
	KeyLabel    = "baize-label-"   // endpoint: begins the key of each label
	KeySegment  = "baize-segment"  // segment: the local Ethernet it leads to

	// KeyRestoreWait, on the row of Open_vSwitch, says that RestoreWait is
	// Baize's.
	KeyRestoreWait = "baize-flow-restore-wait"

	// RestoreWait in other_config of Open_vSwitch makes an ovs-vswitchd that
	// starts keep the kernel's flows, and take no new ones, until it is gone
	// (ovs-vswitchd.conf.db(5), "Open_vSwitch TABLE").
	RestoreWait = "flow-restore-wait"

	// Owner is the value of KeyOwner.
	Owner = "v1"

	RoleTunnel   = "tunnel"
	RoleEndpoint = "endpoint"
	RoleSegment  = "segment"
	RoleHost     = "host" // the host's own port in a network
)

// DefaultBridge is the integration bridge unless another is named.
const DefaultBridge = "br-baize"

// State is a whole wanted state. Ports are sorted by name, flows by table and
// priority (descending); flows of one table and priority keep the order they
// were made in, which is that of sorted names. So two equal states are equal
// field by field.
type State struct {
	Bridge Bridge
	Ports  []Port
	Flows  []Flow
	// Meters are sorted by port, the node's own first.
	Meters []Meter
	// Collectors are sorted by number.
	Collectors []CollectorSet
	// SFlow is nil where the bridge tells nobody of its packets.
	SFlow *SFlow
}

// Bridge is the integration bridge.
type Bridge struct {
	Name string
	// Datapath is datapath_type: "system" or "netdev".
	Datapath string
	// FailMode is always "secure": without flows nothing is forwarded, so a
	// restart can never turn the full mesh into a loop.
	FailMode string
	// Protocols are the OpenFlow versions the bridge speaks.
	Protocols   []string
	OtherConfig map[string]string
	ExternalIDs map[string]string
}

// Port is one port with its one interface.
type Port struct {
	Name string
	// Type is the interface type: "" (an existing device), "internal",
	// "vxlan", "gre", "geneve".
	Type        string
	Options     map[string]string
	ExternalIDs map[string]string
}

// Role returns KeyRole.
func (p Port) Role() string { return p.ExternalIDs[KeyRole] }

// Owned reports whether Baize made the port.
func (p Port) Owned() bool { return p.ExternalIDs[KeyOwner] != "" }

// Flow is one OpenFlow rule in the text of ovs-ofctl(8), ports by quoted name:
// in_port="c1", output:"vx-host2", set_field:"c1"->reg2. Match and Actions are canonical: the same
// meaning is always written the same way, so equal text is equal meaning.
type Flow struct {
	Table    int
	Priority int
	Match    string // empty matches everything
	Actions  string // "drop" is explicit
	// Class says in words what the flow is for; of a flow that drops it is the
	// label of the counter. Reason is the record that the flow stems from. Neither
	// goes to the switch: two flows that differ in nothing else are the same.
	Class  string
	Reason Reason
}

// Drops reports whether the flow does nothing but drop.
func (f Flow) Drops() bool { return f.Actions == "drop" }

// Bare returns the flow as a switch has it, without class and reason.
func (f Flow) Bare() Flow {
	f.Class, f.Reason = "", Reason{}
	return f
}

// Same reports whether a switch cannot tell two flows apart: as Bare, without the
// copies.
func (f *Flow) Same(o *Flow) bool {
	return f.Table == o.Table && f.Priority == o.Priority && f.Match == o.Match && f.Actions == o.Actions
}

// Reason is a record that something wanted stems from; the zero Reason is that
// of what is always wanted.
type Reason struct {
	// Key is the record's key in etcd below the cluster's prefix
	// ("subnets/blue/10.1.5.0-24"), or "port" and the name of a local port, whose
	// external_ids are the record.
	Key string
	// Revision is etcd's modification revision of the record; 0 of a port.
	Revision int64
}

// String is "subnets/blue/10.1.5.0-24 at revision 17".
func (r Reason) String() string {
	if r.Revision == 0 {
		return r.Key
	}
	return r.Key + " at revision " + strconv.FormatInt(r.Revision, 10)
}

// Egress is the register that says which local port a frame leaves by. Its text
// form around a quoted port name is EgressBegin, name, EgressEnd; EgressOutput
// sends the frame there.
const (
	Egress       = "reg2"
	EgressBegin  = "set_field:"
	EgressEnd    = "->" + Egress
	EgressOutput = "output:NXM_NX_REG2[]"
)

// CompareFlows orders by table, priority (highest first), match, actions.
func CompareFlows(a, b Flow) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(b.Priority, a.Priority),
		cmp.Compare(a.Match, b.Match), cmp.Compare(a.Actions, b.Actions))
}

// Sort brings a state into its one order.
func (s *State) Sort() {
	slices.SortFunc(s.Ports, func(a, b Port) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Meters, func(a, b Meter) int { return cmp.Compare(a.Port, b.Port) })
	slices.SortFunc(s.Collectors, func(a, b CollectorSet) int { return cmp.Compare(a.ID, b.ID) })
	s.Flows = SortFlows(s.Flows)
}

// SortFlows returns flows in the order of a State: by table and priority, and those of
// one place as they are given, part after part.
//
// They are counted, not compared: comparing the texts of thousands of flows would be the
// most expensive part of a small change.
func SortFlows(parts ...[]Flow) []Flow {
	var order flowOrder
	n := 0
	for _, flows := range parts {
		n += len(flows)
		for i := range flows {
			order.place(&flows[i]).at++
		}
	}
	order.settle()
	sorted := make([]Flow, n)
	for _, flows := range parts {
		for i := range flows {
			p := order.place(&flows[i])
			sorted[p.at] = flows[i]
			p.at++
		}
	}
	return sorted
}

// flowOrder has the places of each table: they are few.
type flowOrder [][]flowPlace

// flowPlace is a priority, and how many flows there are of it; once settled, where the
// next of them goes.
type flowPlace struct{ priority, at int }

func (o *flowOrder) place(f *Flow) *flowPlace {
	for f.Table >= len(*o) {
		*o = append(*o, nil)
	}
	places := &(*o)[f.Table]
	for i := range *places {
		if p := &(*places)[i]; p.priority == f.Priority {
			return p
		}
	}
	*places = append(*places, flowPlace{priority: f.Priority})
	return &(*places)[len(*places)-1]
}

func (o flowOrder) settle() {
	next := 0
	for _, places := range o {
		slices.SortFunc(places, func(a, b flowPlace) int { return cmp.Compare(b.priority, a.priority) })
		for i := range places {
			places[i].at, next = next, next+places[i].at
		}
	}
}

// ObservedPort is a port as OVS has it.
type ObservedPort struct {
	Port
	// OFPort is the OpenFlow port number; 0 or less when there is none.
	OFPort int
	// Error is the interface's own error message.
	Error string
	// Status is the interface's status column (tunnel_egress_iface, …).
	Status map[string]string
	// Statistics is the interface's statistics column.
	Statistics map[string]int64
	// Up is the link state.
	Up bool
}

// Live reports whether OVS can forward through the port. A number alone is
// not enough: a second tunnel to the same remote has one, and an error.
func (p ObservedPort) Live() bool { return p.OFPort >= 1 && p.Error == "" }

// Unmade returns those of Baize's own ports that Open vSwitch is to make itself,
// such as tunnels, and that are not live, by name. It may make them the next time
// it looks.
func (o Observed) Unmade() []string {
	var out []string
	for name, p := range o.Ports {
		if p.Owned() && p.Type != "" && !p.Live() {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Observed is what the database of an Open vSwitch says about one bridge.
type Observed struct {
	// Bridge is nil when there is no bridge of that name.
	Bridge *Bridge
	// DatapathID is empty until vswitchd made the bridge.
	DatapathID string
	// Ports are all ports of the bridge but the local one, by name.
	Ports map[string]ObservedPort
	// LocalOFPort is 65534 once the bridge works.
	LocalOFPort int
	// Foreign lists other bridges' ports by name: "br-ex" for port eth1. A
	// name in use there cannot be used here.
	Foreign map[string]string
	// Version is ovs_version; DatapathTypes and IfaceTypes are what the
	// running vswitchd offers.
	Version       string
	DatapathTypes []string
	IfaceTypes    []string
	// Collectors are those of the bridge, by number; SFlow is nil where it has none.
	Collectors map[uint32]ObservedCollectorSet
	SFlow      *ObservedSFlow
	// RestoreWait says that other_config:flow-restore-wait is set, and
	// RestoreWaitOwned that Baize set it.
	RestoreWait, RestoreWaitOwned bool
}

// Endpoint is a local attachment to a network, as it stands in its port's
// external_ids.
type Endpoint struct {
	Name    string           `json:"name"`
	Node    string           `json:"node"`
	Network string           `json:"network"`
	IPs     []netip.Addr     `json:"ips"`
	MAC     net.HardwareAddr `json:"mac"`
	// Allow are prefixes that it may send from beside its own addresses, as
	// topology.ParseAllowed returns them: those behind a router, further addresses
	// that it carries.
	Allow []netip.Prefix `json:"allow,omitempty"`
	// AllowTraffic are the kinds of traffic that it may send beside those that its
	// network allows.
	AllowTraffic []topology.Traffic `json:"allowTraffic,omitempty"`

	Netns  string `json:"netns,omitempty"`
	Ifname string `json:"ifname,omitempty"`
	// Port is the port's name on the bridge.
	Port string `json:"port,omitempty"`
	// Labels are what the one who asked for the endpoint wants to know of it
	// again, such as the engine's own name for it. Empty values are not kept.
	Labels map[string]string `json:"labels,omitempty"`
}
