package doctor

import (
	"net/netip"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/topology/fault"
)

// Facts are what was seen on one host at one moment: plain values, so that checks are
// functions of them, and a file of them can be looked at elsewhere. They have no
// secrets: neither passwords nor keys.
type Facts struct {
	// At is by the clock of the host. Took is how long gathering took.
	At   time.Time     `json:"at"`
	Took time.Duration `json:"tookNanoseconds"`
	// Version is that of the program that gathered them.
	Version  string `json:"version"`
	Node     string `json:"node"`
	Hostname string `json:"hostname"`

	Agent     Agent      `json:"agent"`
	Store     Store      `json:"store"`
	Switch    Switch     `json:"switch"`
	Underlay  Underlay   `json:"underlay"`
	Mesh      Mesh       `json:"mesh"`
	Host      Host       `json:"host"`
	Endpoints []Endpoint `json:"endpoints"`
	Engine    Engine     `json:"engine"`
	// Preflight is nil but before an agent is installed.
	Preflight *Preflight `json:"preflight,omitempty"`
}

// Read says whether something could be read. Its zero value says that it was.
type Read struct {
	// Why it could not be read; nil where it was.
	Why *fault.Fault `json:"why,omitempty"`
	// Skipped says why nobody tried.
	Skipped string `json:"skipped,omitempty"`
}

// OK reports whether it was read.
func (r Read) OK() bool { return r.Why == nil && r.Skipped == "" }

// Reason says why it was not read; empty where it was.
func (r Read) Reason() string {
	if r.Why != nil {
		return r.Why.Item + ": " + r.Why.What
	}
	return r.Skipped
}

// Agent is the agent of this host.
type Agent struct {
	Read
	// Socket is where it was asked.
	Socket string `json:"socket"`
	// Traces are signs that this host is a node although no agent may run.
	Traces []string `json:"traces,omitempty"`
	// Status is nil where it does not answer.
	Status *api.Status `json:"status,omitempty"`
	// StateDir has its files. Free is in bytes, FreeFiles in inodes, of all its file
	// system has: Size and Files, which are 0 where that cannot be told.
	StateDir  string `json:"stateDir"`
	Free      uint64 `json:"free"`
	Size      uint64 `json:"size"`
	FreeFiles uint64 `json:"freeFiles"`
	Files     uint64 `json:"files"`
}

// Store is etcd, and the topology in it.
type Store struct {
	Read
	Endpoints []string `json:"endpoints"`
	Prefix    string   `json:"prefix"`
	// Took is how long the topology took to be read.
	Took time.Duration `json:"tookNanoseconds"`
	// Write is why writing would be refused, nil where it would not.
	Write *fault.Fault `json:"write,omitempty"`
	// Members are the endpoints that were asked one by one.
	Members      []Member      `json:"members,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	// Topology is what is wrong in the records.
	Topology []fault.Fault `json:"topology,omitempty"`
	Networks []NetworkUse  `json:"networks,omitempty"`
	Nodes    []Node        `json:"nodes,omitempty"`
	Revision int64         `json:"revision"`
}

// Member is a member of the etcd cluster, by one of its endpoints.
type Member struct {
	Endpoint string        `json:"endpoint"`
	Error    string        `json:"error,omitempty"`
	Version  string        `json:"version,omitempty"`
	Took     time.Duration `json:"tookNanoseconds"`
	Leader   bool          `json:"leader"` // it knows of one
	// Size and Quota of the database are in bytes; Quota is 0 where it is not told.
	Size   int64    `json:"size"`
	Quota  int64    `json:"quota"`
	Alarms []string `json:"alarms,omitempty"`
}

// Certificate is one of a PEM file that this host uses for etcd.
type Certificate struct {
	File     string    `json:"file"`
	Subject  string    `json:"subject,omitempty"`
	NotAfter time.Time `json:"notAfter,omitzero"`
	Error    string    `json:"error,omitempty"`
}

// NetworkUse is how many subnets of a network are leased or reserved.
type NetworkUse struct {
	Network string `json:"network"`
	Family  string `json:"family"`
	Total   uint64 `json:"total"`
	Used    uint64 `json:"used"`
	// Dead are the nodes without a living agent that hold subnets.
	Dead []string `json:"dead,omitempty"`
}

// Node is a registered node.
type Node struct {
	Name    string       `json:"name"`
	VTEPs   []netip.Addr `json:"vteps"`
	Alive   bool         `json:"alive"`
	Version string       `json:"version,omitempty"`
}

// Switch is Open vSwitch.
type Switch struct {
	// Database and Daemon: ovsdb-server and ovs-vswitchd answer.
	Database Read   `json:"database"`
	Daemon   Read   `json:"daemon"`
	Version  string `json:"version,omitempty"`
	Bridge   string `json:"bridge"`
	// Datapath is that of the bridge, "system" or "netdev"; empty: there is no bridge.
	Datapath string `json:"datapath,omitempty"`
	// RestoreWait: somebody set flow-restore-wait.
	RestoreWait bool `json:"restoreWait"`
	// Drift is what differs from the plan, as far as it was seen more than once;
	// Compared says why it is nil.
	Compared Read         `json:"compared"`
	Drift    *drift.Drift `json:"drift,omitempty"`
	Flows    int          `json:"flows"`
	// Tunnels are those of all bridges.
	Tunnels []Tunnel `json:"tunnels,omitempty"`
	// Limits are what somebody does to the traffic of Baize's ports.
	Limits []PortLimit `json:"limits,omitempty"`
	// Up is how long ovs-vswitchd runs, AfterBoot how long after the boot it started.
	Up        time.Duration `json:"upNanoseconds"`
	AfterBoot time.Duration `json:"afterBootNanoseconds"`
	// Stopped are its processes that a signal has stopped (proc(5), state T).
	Stopped []Process `json:"stopped,omitempty"`
	// Handlers is how many threads take new packets, Processors is how many there are.
	Handlers   int `json:"handlers"`
	Processors int `json:"processors"`
	// Settings are those of Open_vSwitch's other_config that somebody chose.
	Settings map[string]string `json:"settings,omitempty"`
	// Memory is what ovs-vswitchd has in memory, MemoryTotal what the host has; in bytes.
	Memory      uint64 `json:"memory"`
	MemoryTotal uint64 `json:"memoryTotal"`
	// Others are settings of the bridge that are none of Baize's.
	Others []BridgeSetting `json:"others,omitempty"`
	// LongPolls are the long poll intervals in the last minute.
	LongPolls int `json:"longPolls"`
	// FlowLimit is how many flows the datapath may hold now, FlowsNow how many it does.
	FlowLimit int `json:"flowLimit"`
	FlowsNow  int `json:"flowsNow"`
	// Lost are the packets that the datapath lost on their way, when gathering began
	// and when it ended.
	LostBefore uint64 `json:"lostBefore"`
	LostAfter  uint64 `json:"lostAfter"`
}

// BridgeSetting is something that somebody set on Baize's bridge, and how it is taken back.
type BridgeSetting struct {
	What string `json:"what"`
	Undo string `json:"undo"`
}

// PortLimit is what somebody does to the traffic of a port.
type PortLimit struct {
	Port string `json:"port"`
	// Rate is how much it may send, in kbit/s; 0: as much as it likes (ingress_policing_rate).
	Rate int `json:"rate,omitempty"`
	// QoS: what goes out of it is queued or limited.
	QoS bool `json:"qos,omitempty"`
	// NoForward: nothing goes out of it. NoReceive: what comes in by it is dropped.
	NoForward bool `json:"noForward,omitempty"`
	NoReceive bool `json:"noReceive,omitempty"`
}

// Process is a program that runs.
type Process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
}

// Tunnel is a tunnel port of a bridge.
type Tunnel struct {
	Bridge string `json:"bridge"`
	Port   string `json:"port"`
	Type   string `json:"type"`
	Local  string `json:"local,omitempty"`
	Remote string `json:"remote"`
	Key    string `json:"key,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Underlay is what tunnels go by.
type Underlay struct {
	Read
	// Device has the node's VTEPs. Below are the devices that its packets pass as well:
	// the ports of a bridge, what a VLAN is on, the members of a bond.
	Device string       `json:"device"`
	Below  []string     `json:"below,omitempty"`
	VTEPs  []netip.Addr `json:"vteps"`
	// Lacking are those of VTEPs that no device has.
	Lacking []netip.Addr `json:"lacking,omitempty"`
	// Down are the devices of Device and Below that somebody set down, NoCarrier those that
	// are up and have no other end.
	Down      []string `json:"down,omitempty"`
	NoCarrier []string `json:"noCarrier,omitempty"`
	// NoARP are those with a link address that ask for no other.
	NoARP []string `json:"noARP,omitempty"`
	// MTU is the smallest of Device and Below, that of MTUDevice. Need is what the
	// largest packet of a network takes there, and NeedOf says of which.
	MTU       int    `json:"mtu"`
	MTUDevice string `json:"mtuDevice,omitempty"`
	Need      int    `json:"need"`
	NeedOf    string `json:"needOf,omitempty"`
	// VXLANPort and GenevePort are this node's.
	VXLANPort  int `json:"vxlanPort"`
	GenevePort int `json:"genevePort"`
	// Encaps are the encapsulations that its networks use.
	Encaps []string `json:"encaps,omitempty"`
	// Takers are other programs and devices on these ports.
	Takers []Taker `json:"takers,omitempty"`
	Peers  []Peer  `json:"peers,omitempty"`
	// Shaping are the lines of tc(8) for Device and Below that drop, delay or limit.
	Shaping []Shaping `json:"shaping,omitempty"`
	// ReversePath are values of rp_filter by device; that of "all" counts where it is
	// the larger one.
	ReversePath map[string]int `json:"reversePath,omitempty"`
	// Neighbours are the kernel's tables; none where it does not say.
	Neighbours []NeighbourTable `json:"neighbourTables,omitempty"`
}

// NeighbourTable is the table of IPv4's or IPv6's neighbours, of which a kernel has one for
// all network namespaces.
type NeighbourTable struct {
	Family string `json:"family"`
	// Entries are those that the limits count.
	Entries int `json:"entries"`
	// Thresholds are gc_thresh1 to gc_thresh3 (arp(7)); the last is how many entries there
	// may be.
	Thresholds [3]int `json:"thresholds"`
}

// Taker has a UDP port that a tunnel needs.
type Taker struct {
	Port int `json:"port"`
	// Process is a program with a socket, PID its number. Device is a VXLAN or Geneve
	// device.
	Process string `json:"process,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Device  string `json:"device,omitempty"`
}

// Shaping is a queueing discipline or a filter that takes packets away.
type Shaping struct {
	Device string `json:"device"`
	// Line is what tc(8) prints, Undo the command that removes it.
	Line string `json:"line"`
	Undo string `json:"undo"`
}

// Peer is the way to the VTEP of another node.
type Peer struct {
	Node  string     `json:"node"`
	Addr  netip.Addr `json:"addr"`
	Alive bool       `json:"alive"`
	// Here is where this host has its address itself, which is a mistake.
	Here Assigned `json:"here,omitzero"`
	// Dev and Via are the kernel's route; RouteError is why there is none.
	Dev        string `json:"dev,omitempty"`
	Via        string `json:"via,omitempty"`
	RouteError string `json:"routeError,omitempty"`
	// Fixed is the link address that somebody wrote down for its next hop; empty where the
	// kernel asks for it.
	Fixed string `json:"fixed,omitempty"`
	// Blocked is the route that refuses it, as ip(8) prints it.
	Blocked string `json:"blocked,omitempty"`
	// Policies are those of IPsec that drop what is for it or from it, as ip-xfrm(8) takes them.
	Policies []string `json:"policies,omitempty"`
	// Sent and Answered are ICMP echoes.
	Sent     int `json:"sent"`
	Answered int `json:"answered"`
}

// Assigned is an address of a device.
type Assigned struct {
	Device string       `json:"device"`
	Prefix netip.Prefix `json:"prefix"`
}

// Mesh are the agent's probes through the tunnels.
type Mesh struct {
	Read
	// Ways is how many were probed: one for each other node and encapsulation.
	Ways int `json:"ways"`
}

// Host is the host's kernel.
type Host struct {
	// Conntrack is how many connections it tracks, ConntrackMax how many it may; 0: it
	// tracks none.
	Conntrack    int `json:"conntrack"`
	ConntrackMax int `json:"conntrackMax"`
	// NFTables is what 'nft -a list ruleset' prints, Legacy what iptables-legacy-save and
	// ip6tables-legacy-save do.
	Netfilter Read   `json:"netfilter"`
	NFTables  string `json:"nftables,omitempty"`
	Legacy    string `json:"legacy,omitempty"`
	Legacy6   string `json:"legacy6,omitempty"`
	// Forwards are ways that the kernel forwards packets of routed networks on.
	Forwards []Forward `json:"forwards,omitempty"`
	// Refusals are addresses of networks that are routed to which the kernel sends nothing.
	Refusals []Refusal `json:"refusals,omitempty"`
	// Leftovers are devices named as those of endpoints that belong to none.
	Leftovers []string `json:"leftovers,omitempty"`
}

// Forward is the way of packets from another node to this one's endpoints in a network
// that is routed.
type Forward struct {
	Network string     `json:"network"`
	Node    string     `json:"node"`
	From    netip.Addr `json:"from"`
	To      netip.Addr `json:"to"`
	In      string     `json:"in"`
	Out     string     `json:"out"`
}

// Refusal is where the kernel sends no packet to, though other nodes are there.
type Refusal struct {
	Network string `json:"network"`
	// Node has the address, where that is known; To is an address or a prefix.
	Node string `json:"node,omitempty"`
	To   string `json:"to"`
	Why  string `json:"why"`
	// Route is the one that refuses, as ip(8) prints it, where it is one of the main table.
	Route string `json:"route,omitempty"`
}

// Endpoint is an endpoint of this node, as it should be and as it is.
type Endpoint struct {
	Name    string       `json:"name"`
	Network string       `json:"network"`
	Port    string       `json:"port"`
	Netns   string       `json:"netns"`
	Ifname  string       `json:"ifname"`
	IPs     []netip.Addr `json:"ips"`
	MAC     string       `json:"mac"`
	// Allow are further prefixes that it may send from.
	Allow []netip.Prefix `json:"allow,omitempty"`
	// MTU is the network's, and Prefixes are.
	MTU      int            `json:"mtu"`
	Prefixes []netip.Prefix `json:"prefixes"`
	// Host is its end on the host, Inside the interface in its namespace.
	Host   Interface `json:"host"`
	Inside Interface `json:"inside"`
	// Inner is what the kernel of its namespace does with packets of the network.
	Inner Inner `json:"inner,omitzero"`
	// Engine is "docker" where a container's engine moves the interface, Container is what
	// it calls the container.
	Engine    string `json:"engine,omitempty"`
	Container string `json:"container,omitempty"`
}

// Inner is what is an endpoint's own: its routes, its neighbours, its firewall.
type Inner struct {
	// Ways are how its kernel sends packets to a few others of its network.
	Ways []InnerWay `json:"ways,omitempty"`
	// Fixed are neighbours whose link address somebody wrote down, another than theirs.
	Fixed []InnerNeighbour `json:"fixed,omitempty"`
	// NFTables is what 'nft -a list ruleset' prints there; empty where it filters nothing.
	NFTables string `json:"nftables,omitempty"`
}

// InnerWay is a way out of an endpoint.
type InnerWay struct {
	To  netip.Addr `json:"to"`
	Dev string     `json:"dev,omitempty"`
	Via netip.Addr `json:"via,omitzero"`
	// Error is why there is none, Blocked the route that refuses it, as ip(8) prints it.
	Error   string `json:"error,omitempty"`
	Blocked string `json:"blocked,omitempty"`
}

// InnerNeighbour is a neighbour with a link address that is not its own, which Is.
type InnerNeighbour struct {
	Addr netip.Addr `json:"addr"`
	MAC  string     `json:"mac"`
	Is   string     `json:"is"`
}

// Interface is a network device.
type Interface struct {
	// Read says why nothing is known of it: its namespace is gone, for example.
	Read
	// There: it exists.
	There bool           `json:"there"`
	Name  string         `json:"name,omitempty"`
	Up    bool           `json:"up"`
	MTU   int            `json:"mtu"`
	MAC   string         `json:"mac,omitempty"`
	Addrs []netip.Prefix `json:"addrs,omitempty"`
	// NoARP: it asks for no link address and answers no question for its own. Offload: its
	// kernel leaves checksums to it.
	NoARP   bool `json:"noARP,omitempty"`
	Offload bool `json:"offload,omitempty"`
}

// Engine is Docker.
type Engine struct {
	// Socket is where Docker finds the plugin. Stale: it is there, and nobody listens.
	Socket string `json:"socket"`
	There  bool   `json:"there"`
	Stale  bool   `json:"stale"`
}
