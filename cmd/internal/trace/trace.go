// Package trace follows a packet across hosts: through the tables of each switch,
// with the reason of every flow, through tunnels or the kernels' routes, to where
// it ends. It is pure: what a host has is a value (Facts), and a node is asked by
// an Asker, whose answer may be observed on the host or computed from etcd.
package trace

import (
	"cmp"
	"net"
	"net/netip"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
)

// Party is one end of a trace.
type Party struct {
	Node     string     `json:"node,omitempty"`
	Network  string     `json:"network"`
	Endpoint string     `json:"endpoint,omitempty"`
	Address  netip.Addr `json:"address,omitzero"`
	MAC      string     `json:"mac,omitempty"`
	// Container is what people call it, where it is a container.
	Container string `json:"container,omitempty"`
	// Known: an endpoint has the address. Otherwise that is taken for granted, and
	// the MAC is the one that such an endpoint would have.
	Known bool `json:"known"`
}

// String is "c1 (10.1.5.2)", or the address alone.
func (p Party) String() string {
	name := cmp.Or(p.Container, p.Endpoint)
	switch {
	case !p.Address.IsValid():
		return name
	case name == "" || name == p.Address.String():
		return p.Address.String()
	}
	return name + " (" + p.Address.String() + ")"
}

// from is the party as somebody on a node calls it: "host3/c1 (10.1.5.2)" where it is on
// another one.
func (p Party) from(node string) string {
	text := p.String()
	if text == p.Address.String() || p.Node == node || p.Node == "" {
		return text
	}
	return p.Node + "/" + text
}

func (p Party) mac() net.HardwareAddr {
	m, err := net.ParseMAC(p.MAC)
	if err != nil {
		return nil
	}
	return m
}

// assumed is the endpoint that a party stands for where no record says so.
func (p Party) assumed() ovs.Endpoint {
	e := ovs.Endpoint{Name: p.Endpoint, Node: p.Node, Network: p.Network, MAC: p.mac(), Port: "(" + p.String() + ")"}
	if p.Address.IsValid() {
		e.IPs = []netip.Addr{p.Address}
	}
	if e.Name == "" {
		e.Name = p.String()
	}
	return e
}

// QuestionKind is what a Question is called where other nodes are asked by way of etcd
// (topology.Question); the answer is a Hop.
const QuestionKind = "trace"

// Question asks a node what becomes of a packet that comes to it.
type Question struct {
	Node    string         `json:"node"`
	Network string         `json:"network"`
	Packet  forward.Packet `json:"packet"`
	// From is the endpoint or local bridge that sends it; empty: it comes from
	// another node.
	From string `json:"from,omitempty"`
	// Tunnel is set where it comes encapsulated, Routed where a kernel routed it.
	Tunnel *Tunnel `json:"tunnel,omitempty"`
	Routed bool    `json:"routed,omitempty"`
	// Peer is the node that it comes from.
	Peer string `json:"peer,omitempty"`
	// Assume are ends that the node is to take for granted where its endpoints are
	// not known.
	Assume []Party `json:"assume,omitempty"`
}

// Tunnel is what tells one tunnel from another: encapsulation and both ends, as
// the sender has them.
type Tunnel struct {
	Encap  string     `json:"encap"`
	Local  netip.Addr `json:"local"`
	Remote netip.Addr `json:"remote"`
	// Port is the UDP port; 0: the usual one, or none.
	Port int `json:"port,omitempty"`
}

// Hop is what becomes of a packet on one node.
type Hop struct {
	Node string `json:"node"`
	// Observed: the steps are what the host does now. Otherwise they are computed
	// from etcd.
	Observed bool `json:"observed"`
	// Note says why the host was not asked.
	Note string `json:"note,omitempty"`
	// Packet is the packet as it came, in the words of ovs-fields(7).
	Packet string `json:"packet"`
	Steps  []Step `json:"steps"`
	Exits  []Exit `json:"exits"`
}

// State says whether a step is as it should be.
type State string

// The states of steps.
const (
	Good    State = "ok"
	Drops   State = "drops"   // on purpose: the flow is one that should be there
	Broken  State = "broken"  // something is missing, foreign or changed by hand
	Unknown State = "unknown" // nobody can say
)

// Stages of a packet on a host that are no tables.
const (
	StageEndpoint = "endpoint"
	StagePort     = "port"
	StageTunnel   = "encapsulation"
	StageFastPath = "fast path"
	StageKernel   = "kernel"
	StageFirewall = "firewall"
	StageUnderlay = "underlay"
)

// Step is one thing that happens to a packet on a host.
type Step struct {
	// Stage is the name of a table, or one of the stages.
	Stage string `json:"stage"`
	State State  `json:"state"`
	// Text says in words what happens, Key and Revision which record that is for.
	Text     string `json:"text"`
	Key      string `json:"key,omitempty"`
	Revision int64  `json:"revision,omitempty"`
	// Table, Cookie and Flow are those of the flow; Wanted is the flow that should
	// have taken the packet, where it was another.
	Table  int    `json:"table"`
	Cookie string `json:"cookie,omitempty"`
	Flow   string `json:"flow,omitempty"`
	Wanted string `json:"wanted,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	// Packets counts what took the flow so far, where it was observed, Counted what
	// took it while a live trace lasted.
	Packets uint64 `json:"packets,omitempty"`
	Counted uint64 `json:"counted,omitempty"`
}

// Kind says how a packet leaves a host, or does not.
type Kind string

// The kinds of exits.
const (
	Delivered Kind = "delivered" // to an endpoint, a local bridge or the host itself
	Answered  Kind = "answered"  // the switch or the kernel answers the sender itself
	Tunnelled Kind = "tunnel"    // into a tunnel
	Forwarded Kind = "routed"    // by the kernel's routes
	Dropped   Kind = "dropped"
	Uncertain Kind = "unknown"
)

// Exit is how a packet leaves a host, or where it ends on it.
type Exit struct {
	Kind   Kind           `json:"kind"`
	Packet forward.Packet `json:"packet"`
	// Port is the port of the bridge.
	Port string `json:"port,omitempty"`
	// Endpoint is who gets it, Container what people call it where it is a container;
	// Host: the host itself.
	Endpoint  string       `json:"endpoint,omitempty"`
	Container string       `json:"container,omitempty"`
	MAC       string       `json:"mac,omitempty"`
	IPs       []netip.Addr `json:"ips,omitempty"`
	Host      bool         `json:"host,omitempty"`
	// Bridge: the endpoint is a local bridge, whose hosts are not known.
	Bridge bool `json:"bridge,omitempty"`
	// Peer is the node that it goes to, by Tunnel or by routes.
	Peer   string  `json:"peer,omitempty"`
	Tunnel *Tunnel `json:"tunnel,omitempty"`
	// Stage, Text and Remedy say where and why it ends.
	Stage  string `json:"stage,omitempty"`
	Text   string `json:"text,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// Who is what people call the endpoint that gets it.
func (x Exit) Who() string { return cmp.Or(x.Container, x.Endpoint) }

// Phase is a packet that has to get through for the one that was asked about.
type Phase struct {
	// Name is "question" (who has the address?), "answer", or "packet".
	Name string `json:"name"`
	// About says in words what the packet is.
	About string `json:"about"`
	Hops  []Hop  `json:"hops"`
	// Arrived: it got where it has to.
	Arrived bool `json:"arrived"`
}

// Verdict is the outcome.
type Verdict struct {
	// Outcome is "delivered", "dropped" or "unknown".
	Outcome Kind `json:"outcome"`
	// Observed: every host on the way said what it does. Otherwise a part of the way
	// is computed from etcd.
	Observed bool `json:"observed"`
	// Node and Stage are where it ends.
	Node  string `json:"node,omitempty"`
	Stage string `json:"stage,omitempty"`
	Text  string `json:"text"`
	// Remedy says what to do.
	Remedy string `json:"remedy,omitempty"`
	// Live says how far real packets came while a live trace lasted.
	Live string `json:"live,omitempty"`
	// Notes are what the verdict takes for granted.
	Notes []string `json:"notes"`
}

// Result is a whole trace.
type Result struct {
	Source      Party   `json:"source"`
	Destination Party   `json:"destination"`
	Protocol    string  `json:"protocol"`
	Phases      []Phase `json:"phases"`
	Verdict     Verdict `json:"verdict"`
}
