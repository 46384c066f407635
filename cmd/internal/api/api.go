// Package api is the agent's local interface: HTTP and JSON over a unix socket
// that only root may open. The command line, the Docker plugin and the CNI
// plugin use it through Client; the agent implements Service.
//
//	GET    /v1/status              Status
//	GET    /v1/config              Config
//	GET    /v1/endpoints           []Endpoint
//	POST   /v1/endpoints           EndpointRequest → Endpoint
//	DELETE /v1/endpoints?name=NAME
//	POST   /v1/reconcile?audit=true
//	GET    /v1/attachments/availability?network=NAME  Availability
//	POST   /v1/attachments/check   Attachment → Endpoint
//	POST   /v1/attachments/detach  Detachment
//	POST   /v1/attachments/retain  Retention
//	GET    /v1/mesh                []Way
//	POST   /v1/ping                PingRequest → Pong
//	GET    /v1/points?name=NAME    Point
//	GET    /v1/events?follow=true  event.Query → a Streamed a line
//
// A refusal keeps its kind over the wire: errors.Is(err, topology.ErrNotFound)
// holds for the client as it does in the agent.
package api

import (
	"cmp"
	"context"
	"encoding"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/baize-net/baize/cmd/internal/event"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// DefaultSocket is where the agent listens unless told otherwise.
const DefaultSocket = "/run/baize/agent.sock"

// Service is what the agent does for its local clients. Errors for people are
// *topology.Error.
type Service interface {
	// AddEndpoint attaches a namespace to a network.
	AddEndpoint(ctx context.Context, req EndpointRequest) (Endpoint, error)
	// RemoveEndpoint detaches an endpoint of this node by name.
	RemoveEndpoint(ctx context.Context, name string) error
	// Endpoints lists those of this node.
	Endpoints(ctx context.Context) ([]Endpoint, error)
	// Status tells how the node is.
	Status(ctx context.Context) (Status, error)
	// Config tells what the agent was started with, secrets left out.
	Config(ctx context.Context) (Config, error)
	// Routes lists how the prefixes of other nodes are reached.
	Routes(ctx context.Context) ([]Route, error)
	// Reconcile brings OVS into the wanted state now; with audit it reads
	// everything back first. It returns when that is done.
	Reconcile(ctx context.Context, audit bool) error
	Attachments
	// Mesh lists what probes told of the ways between nodes: those from this node, and
	// those from the nodes that answer in time. Probes go faster for a while.
	Mesh(ctx context.Context) ([]Way, error)
	// Ping sends one probe to another node and waits for its answer.
	Ping(ctx context.Context, req PingRequest) (Pong, error)
	// Point returns where the packets of an endpoint, or those from and to another node,
	// can be captured.
	Point(ctx context.Context, name string) (Point, error)
	// Events calls show with the events of the node that q chooses, the oldest first.
	// With follow it goes on with those that come, until ctx ends or the agent does,
	// which is an error of kind ErrUnavailable. An error of show ends it.
	Events(ctx context.Context, q event.Query, follow bool, show func(event.Event) error) error
}

// EndpointRequest asks for an attachment. Only Network and Netns are required.
type EndpointRequest struct {
	// Name is unique on the node; empty: one is made up.
	Name    string `json:"name,omitempty"`
	Network string `json:"network"`
	// Netns is a path, or a name under /run/netns.
	Netns string `json:"netns"`
	// Ifname is the interface's name inside; empty: the agent's default.
	Ifname string `json:"ifname,omitempty"`
	// IPs are static addresses, at most one a family; a family that is left
	// out is allocated.
	IPs []netip.Addr `json:"ips,omitempty"`
	// MAC is the link address; empty: derived from the address.
	MAC string `json:"mac,omitempty"`
	// Allow are prefixes that the endpoint may send from beside its own addresses,
	// AllowTraffic kinds of traffic that it may send beside those its network allows.
	Allow        []netip.Prefix     `json:"allow,omitempty"`
	AllowTraffic []topology.Traffic `json:"allowTraffic,omitempty"`
	// MoveFrom is the node that has an endpoint of the same name with these addresses and
	// this MAC: it is moved here.
	MoveFrom string `json:"moveFrom,omitempty"`
	// DryRun asks only what endpoint it would be: see attach.Part. Where its addresses are
	// not known it has none.
	DryRun bool `json:"dryRun,omitempty"`
	// Attachment is what the endpoint is of where an engine's plugin asks for it: Name
	// and Ifname are empty then.
	Attachment *Attachment `json:"attachment,omitempty"`
	// Began is when the engine's request began: nanoseconds of the host's CLOCK_BOOTTIME
	// (clock_gettime(2)). A request that began before one for the end of the same
	// attachment, but comes after it, is refused.
	Began int64 `json:"began,omitempty"`
	// Container is what people call the container, Aliases are further names, which are
	// published where there are any.
	Container string   `json:"container,omitempty"`
	Aliases   []string `json:"aliases,omitempty"`
}

// Endpoint is an attachment of this node.
type Endpoint struct {
	Name    string       `json:"name"`
	Node    string       `json:"node"`
	Network string       `json:"network"`
	IPs     []netip.Addr `json:"ips"`
	MAC     string       `json:"mac"`
	// Allow are prefixes that it may send from beside its own addresses, AllowTraffic
	// kinds of traffic that it may send beside those its network allows.
	Allow        []netip.Prefix     `json:"allow,omitempty"`
	AllowTraffic []topology.Traffic `json:"allowTraffic,omitempty"`
	Netns        string             `json:"netns,omitempty"`
	Ifname       string             `json:"ifname,omitempty"`
	// Port is the port's name on the bridge.
	Port string `json:"port,omitempty"`
	// Engine is EngineDocker, EngineCNI or EngineNetavark where the endpoint is that of a
	// container.
	Engine string `json:"engine,omitempty"`
	// EngineNetwork and ContainerID are what CNI or netavark call the network and the
	// container.
	EngineNetwork string `json:"engineNetwork,omitempty"`
	ContainerID   string `json:"containerID,omitempty"`
	// Container, Service and Image are what this host's engine calls the container;
	// empty where there is none, and until the engine has answered. They are known
	// on the node alone. Service is that of compose, behind its project: "shop/web".
	Container string `json:"container,omitempty"`
	Service   string `json:"service,omitempty"`
	Image     string `json:"image,omitempty"`
}

// EngineDocker is the Engine of a container's endpoint.
const EngineDocker = "docker"

// EndpointsKind is the question for a node's endpoints of a name, which is the question's
// argument; the answer is a list of Endpoint.
const EndpointsKind = "endpoints"

// Is reports whether a name is the endpoint's, its network's before it or not, or its
// container's.
func (e Endpoint) Is(name string) bool {
	return name != "" && (name == e.Name || name == e.Network+"/"+e.Name || name == e.Container)
}

// EndpointOf turns what the bridge's port says into what clients see.
func EndpointOf(e ovs.Endpoint) Endpoint {
	ips := e.IPs
	if ips == nil {
		ips = []netip.Addr{}
	}
	return Endpoint{
		Name: e.Name, Node: e.Node, Network: e.Network, IPs: ips, MAC: e.MAC.String(), Allow: e.Allow,
		AllowTraffic: e.AllowTraffic,
		Netns:        e.Netns, Ifname: e.Ifname, Port: e.Port,
		Engine: e.Labels[LabelEngine], EngineNetwork: e.Labels[LabelNetwork], ContainerID: e.Labels[LabelID],
		Container: cmp.Or(e.Labels[LabelContainer], shortID(e.Labels[LabelID])),
	}
}

// OfSwitch turns it back into what the bridge's port says, but for labels.
func (e Endpoint) OfSwitch() ovs.Endpoint {
	mac, _ := net.ParseMAC(e.MAC) // there may be none
	return ovs.Endpoint{
		Name: e.Name, Node: e.Node, Network: e.Network, IPs: e.IPs, MAC: mac, Allow: e.Allow,
		AllowTraffic: e.AllowTraffic,
		Netns:        e.Netns, Ifname: e.Ifname, Port: e.Port,
	}
}

// shortID is a container's ID as engines show it.
func shortID(id string) string { return id[:min(12, len(id))] }

// Status is how a node is.
type Status struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	Bridge  string `json:"bridge"`
	// Datapath is "system" (kernel) or "netdev" (userspace); DatapathReason
	// says why it is that one.
	Datapath       string `json:"datapath"`
	DatapathReason string `json:"datapathReason,omitempty"`
	OVSVersion     string `json:"ovsVersion,omitempty"`
	Etcd           Etcd   `json:"etcd"`
	// Ready: the node forwards what it has to.
	Ready     bool       `json:"ready"`
	Networks  []Network  `json:"networks"`
	Peers     []Peer     `json:"peers"`
	Endpoints []Endpoint `json:"endpoints"`
	// Segments are local Ethernets that are a part of a network, such as docker0.
	Segments []Segment `json:"segments,omitempty"`
	// FastPath says of networks that the kernel forwards whether their packets go past
	// Open vSwitch, and why.
	FastPath []FastPath `json:"fastPath,omitempty"`
	// BGP are the sessions with the fabric's routers, where the agent has any.
	BGP []BGPSession `json:"bgp,omitempty"`
	// Flows and Ports count Baize's own on the bridge.
	Flows int `json:"flows"`
	Ports int `json:"ports"`
	// Drops are packets dropped on purpose, by reason ("spoofed").
	Drops map[string]uint64 `json:"drops,omitempty"`
	// Foreign are ports and flows on the bridge that Baize did not make and
	// does not touch: "port eth1".
	Foreign  []string      `json:"foreign,omitempty"`
	Problems []fault.Fault `json:"problems"`
	// LastReconcile is zero before the first.
	LastReconcile Reconcile `json:"lastReconcile"`
	Uptime        Duration  `json:"uptime"`
}

// Config is what an agent runs with. A secret has no value here: whoever was given
// the socket, a container for example, has no need of it and would keep it.
type Config struct {
	Settings []settings.Setting `json:"settings"`
}

// FastPath is what takes the fast path in one network.
type FastPath struct {
	Network string `json:"network"`
	// Used: what can takes it. Why says what that is, or why nothing does.
	Used bool   `json:"used"`
	Why  string `json:"why"`
	// Counters are by endpoint and node, since the endpoint is attached.
	Counters []FastPathCounter `json:"counters,omitempty"`
}

// FastPathCounter counts packets of an endpoint of this node that took the fast
// path.
type FastPathCounter struct {
	Endpoint string `json:"endpoint"`
	// Node is where the other end is: this node itself for another endpoint of it.
	Node string `json:"node"`
	// Direction is "sent" or "received", seen from the endpoint.
	Direction string `json:"direction"`
	Packets   uint64 `json:"packets"`
	// Bytes are with Ethernet headers; of packets that the kernel holds together and
	// cuts later, the headers count once.
	Bytes uint64 `json:"bytes"`
}

// BGPSession is a session with a router.
type BGPSession struct {
	Neighbor netip.Addr `json:"neighbor"`
	AS       uint32     `json:"as"`
	Up       bool       `json:"up"`
	// State is that of RFC 4271: "established".
	State string    `json:"state"`
	Since time.Time `json:"since"`
	// Last says why it went down last.
	Last string `json:"last,omitempty"`
}

// Etcd is how the agent stands with the store.
type Etcd struct {
	// Unused: the agent has no etcd, and its topology from elsewhere.
	Unused    bool     `json:"unused,omitempty"`
	Connected bool     `json:"connected"`
	Endpoints []string `json:"endpoints"`
	// Revision is that of the snapshot in force, which may be older than
	// etcd's while there is no connection.
	Revision int64  `json:"revision"`
	Error    string `json:"error,omitempty"`
}

// Network is one network as this node carries it.
type Network struct {
	Name      string             `json:"name"`
	VNI       uint32             `json:"vni"`
	Transport topology.Transport `json:"transport"`
	MTU       int                `json:"mtu"`
	// Subnets are those this node leases.
	Subnets []netip.Prefix `json:"subnets"`
	// Peers counts the other nodes in the network, Endpoints those of this node.
	Peers     int `json:"peers"`
	Endpoints int `json:"endpoints"`
}

// Segment is a local Ethernet whose hosts Baize does not know one by one.
type Segment struct {
	Name    string `json:"name"`
	Network string `json:"network"`
	// Port is the port's name on the bridge.
	Port string `json:"port"`
	// Subnets are those leased for it.
	Subnets []netip.Prefix `json:"subnets"`
}

// Peer is another node as this one reaches it: one for each encapsulation.
type Peer struct {
	Node  string       `json:"node"`
	VTEPs []netip.Addr `json:"vteps"`
	// Port is the tunnel port on the bridge, OFPort its number: 0 while it has none.
	Port   string             `json:"port,omitempty"`
	OFPort int                `json:"ofport,omitempty"`
	Encap  topology.Transport `json:"encap,omitempty"`
	// Alive: its agent says so in etcd. Forwarding does not depend on it.
	Alive bool `json:"alive"`
	// Layout is the topology source that the node comes from, which does not say whether
	// anything runs there; empty where it is Baize's own records.
	Layout string `json:"layout,omitempty"`
	Error  string `json:"error,omitempty"`
	// Probed is what probes tell of the tunnel; null where there are none.
	Probed *Probed `json:"probed,omitempty"`
}

// The states of a way (Probed.State).
const (
	// StateOK: frames of all sizes arrive in both directions.
	StateOK = "ok"
	// StateSilent: nothing arrives from there.
	StateSilent = "no answer"
	// StateDeaf: what is sent there does not arrive, though frames from there do.
	StateDeaf = "one way only"
	// StateLossy: a part of the frames is lost.
	StateLossy = "lossy"
	// StateNarrow: frames of the size that networks need do not arrive there.
	StateNarrow = "small frames only"
	// StateSlow: even the fastest answers take long.
	StateSlow = "slow"
	// StateMisled: frames of another node come out of the tunnel.
	StateMisled = "another node answers"
	// StateUnknown: nothing has been counted yet.
	StateUnknown = "not known yet"
	// StateUnasked: the agent there does not answer probes.
	StateUnasked = "not probed"
	// StateDown: the agent there does not run, and nobody answers.
	StateDown = "agent down"
)

// States are all states of a way.
func States() []string {
	return append([]string{
		StateOK, StateSilent, StateDeaf, StateLossy, StateNarrow, StateSlow, StateMisled,
	}, StatesUnknown()...)
}

// StatesUnknown are the states of a way that say nothing about it.
func StatesUnknown() []string { return []string{StateUnknown, StateUnasked, StateDown} }

// Probed is what probes tell of the way to another node.
type Probed struct {
	// State is one of the states above.
	State string `json:"state"`
	// Since is when the state became what it is.
	Since time.Time `json:"since,omitzero"`
	// LossOut and LossIn are the percentages of small frames that were lost on the way
	// there and on the way back, of those of the last minutes; null: not known.
	LossOut *int `json:"lossOut,omitempty"`
	LossIn  *int `json:"lossIn,omitempty"`
	// RTT is the median of the last answers' times, RTTMax the longest; 0: not known.
	RTT    Duration `json:"rtt,omitempty"`
	RTTMax Duration `json:"rttMax,omitempty"`
	// Passes is the largest IP packet of an endpoint that was proven to pass, in
	// bytes, Needed the largest MTU of the networks on this way; 0: not known.
	Passes int `json:"passes,omitempty"`
	Needed int `json:"needed,omitempty"`
}

// Way is what probes tell of the way from one node to another.
type Way struct {
	From  string             `json:"from"`
	To    string             `json:"to"`
	Encap topology.Transport `json:"encap"`
	Probed
}

// PingRequest asks for a probe.
type PingRequest struct {
	Node string `json:"node"`
	// Encap says by which tunnel, where the node has several.
	Encap topology.Transport `json:"encap,omitempty"`
	// Size is that of an endpoint's IP packet, in bytes; 0 for the least.
	Size int `json:"size,omitempty"`
	// Timeout is how long the answer is waited for; 0: a second.
	Timeout Duration `json:"timeout,omitempty"`
}

// Pong is what became of a probe.
type Pong struct {
	Node  string             `json:"node"`
	Encap topology.Transport `json:"encap"`
	// Size is the IP packet's that an endpoint would have sent, in bytes.
	Size int `json:"size"`
	// RTT is the time of the answer; 0: none came in time.
	RTT Duration `json:"rtt,omitempty"`
	// There says of a probe without an answer whether it arrived: yes, no or unknown.
	There string `json:"there,omitempty"`
}

// Route is how a prefix of another node is reached.
type Route struct {
	Network string       `json:"network"`
	Prefix  netip.Prefix `json:"prefix"`
	Node    string       `json:"node"`
	// Pin: the prefix is a single address that lives away from home.
	Pin bool `json:"pin,omitempty"`
	// Kind is "route" (not encapsulated), "tunnel" or "none".
	Kind string `json:"way"`
	// Via and Device are the next hop of a route, Encap the encapsulation of a
	// tunnel.
	Via    string             `json:"via,omitempty"`
	Device string             `json:"device,omitempty"`
	Encap  topology.Transport `json:"encap,omitempty"`
	// Why says in words why it is this way.
	Why string `json:"why"`
}

// Reconcile is one run of the agent's loop.
type Reconcile struct {
	At   time.Time `json:"at,omitzero"`
	Took Duration  `json:"took"`
	// Changes counts ports and flows that were added, changed or removed.
	Changes int    `json:"changes"`
	Error   string `json:"error,omitempty"`
}

// Duration is a time.Duration that is text in JSON, as time.ParseDuration
// reads it: "1h2m3.5s".
type Duration time.Duration

var (
	_ encoding.TextMarshaler   = Duration(0)
	_ encoding.TextUnmarshaler = (*Duration)(nil)
)

// String formats like time.Duration.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("a duration: %w", err)
	}
	*d = Duration(v)
	return nil
}
