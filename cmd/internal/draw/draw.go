// Package draw shows a topology to people: as a tree of text, as a graph for
// Graphviz, as an SVG picture, and as the plain data behind them. It is pure:
// the same topology is always drawn the same way, byte by byte.
package draw

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Topology is what is drawn, and its JSON form. Everything is sorted.
type Topology struct {
	Networks []Network     `json:"networks"`
	Nodes    []Node        `json:"nodes"`
	Tunnels  []Tunnel      `json:"tunnels"`
	Problems []fault.Fault `json:"problems"`
}

// Network is one L2 domain.
type Network struct {
	Name      string             `json:"name"`
	VNI       uint32             `json:"vni"`
	Subnets   []netip.Prefix     `json:"subnets"`
	Transport topology.Transport `json:"transport"`
	MTU       int                `json:"mtu"`
	Gateways  []netip.Addr       `json:"gateways,omitempty"`
	// Deleting says that it is being deleted, and how.
	Deleting topology.Deletion `json:"deleting,omitempty"`
	// Members are the nodes that carry the network.
	Members []Member `json:"members"`
	// Reserved are the subnets held for nobody.
	Reserved []netip.Prefix `json:"reserved,omitempty"`
}

// Member is a node's part in a network.
type Member struct {
	Node      string         `json:"node"`
	Subnets   []netip.Prefix `json:"subnets"`
	Endpoints []Endpoint     `json:"endpoints,omitempty"`
	Pins      []Pin          `json:"pins,omitempty"`
	// Segments are the node's own Ethernets in the network, docker0 for example.
	Segments []Segment `json:"segments,omitempty"`
}

// Segment is an Ethernet of a node that has subnets of its own in a network.
type Segment struct {
	Name    string         `json:"name"`
	Subnets []netip.Prefix `json:"subnets"`
}

// Endpoint is a local attachment. Only a node's own agent knows them: in a
// topology drawn elsewhere they are missing.
type Endpoint struct {
	Name    string       `json:"name"`
	Node    string       `json:"node"`
	Network string       `json:"network"`
	IPs     []netip.Addr `json:"ips"`
	MAC     string       `json:"mac"`
	// Container is what the engine calls its container.
	Container string `json:"container,omitempty"`
}

// Pin is an address living outside its home subnet.
type Pin struct {
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac"`
}

// Status is whether a node's agent runs.
type Status string

// The states of a node.
const (
	// Ready: registered, and its agent holds its liveness key.
	Ready Status = "ready"
	// Down: registered, but its agent is not alive. The node may still forward.
	Down Status = "down"
	// Unknown: it owns subnets or is alive, but it is not registered.
	Unknown Status = "unknown"
)

// Node is one host.
type Node struct {
	Name     string       `json:"name"`
	Hostname string       `json:"hostname,omitempty"`
	Status   Status       `json:"status"`
	VTEPs    []netip.Addr `json:"vteps"`
	Datapath string       `json:"datapath,omitempty"`
}

// Tunnel joins two nodes, A before B by name, and carries one or more
// networks.
type Tunnel struct {
	A        string             `json:"a"`
	B        string             `json:"b"`
	Encap    topology.Transport `json:"encap"`
	AddressA netip.Addr         `json:"addressA"`
	AddressB netip.Addr         `json:"addressB"`
	Networks []string           `json:"networks"`
}

// StatusOf returns the state of a node by name.
func StatusOf(s *topology.Snapshot, node string) Status {
	_, registered := s.Nodes[node]
	_, alive := s.Alive[node]
	switch {
	case !registered:
		return Unknown
	case s.Nodes[node].Router != nil:
		return Status(s.Nodes[node].Layout) // what the host runs, not Baize
	case alive:
		return Ready
	}
	return Down
}

// NodesDown reports the nodes whose agent is not alive.
func NodesDown(snap *topology.Snapshot) []fault.Fault {
	var out []fault.Fault
	for _, n := range snap.SortedNodes() {
		if StatusOf(snap, n.Name) == Down {
			out = append(out, fault.Fault{
				Code: fault.NodeDown, Severity: fault.Warning,
				Item: "node " + n.Name, What: "its agent is not alive; its forwarding may go on",
				Remedy: fmt.Sprintf("look at the host and its agent, or give the node up with 'baize node remove %s'", n.Name),
			})
		}
	}
	return out
}

// New computes the picture of a snapshot. endpoints may be nil; those of networks
// or nodes that are not in the snapshot are left out.
func New(s *topology.Snapshot, endpoints []Endpoint) Topology {
	t := Topology{
		Networks: []Network{}, Nodes: []Node{}, Tunnels: []Tunnel{},
		Problems: append([]fault.Fault{}, s.Validate()...),
	}
	members := map[[2]string]*Member{} // network, node
	views := make(map[string]topology.View, len(s.Nodes))
	for _, n := range s.SortedNodes() {
		t.Nodes = append(t.Nodes, Node{
			Name: n.Name, Hostname: n.Hostname, Status: StatusOf(s, n.Name), VTEPs: n.VTEPs, Datapath: n.Datapath,
		})
		views[n.Name] = s.View(n.Name)
		for _, nv := range views[n.Name].Networks {
			m := &Member{Node: n.Name, Subnets: nv.OwnSubnets()}
			for _, s := range nv.Segments {
				m.Segments = append(m.Segments, Segment{Name: s.Name, Subnets: s.Subnets})
			}
			members[[2]string{nv.Name, n.Name}] = m
		}
	}
	for _, e := range endpoints {
		if m := members[[2]string{e.Network, e.Node}]; m != nil {
			m.Endpoints = append(m.Endpoints, e)
		}
	}
	for _, p := range s.SortedPins() {
		if m := members[[2]string{p.Network, p.Node}]; m != nil {
			m.Pins = append(m.Pins, Pin{Address: p.Addr, MAC: p.MAC})
		}
	}
	underlay := s.Underlay()
	for _, n := range s.SortedNetworks() {
		n, _ = n.WithMTU(underlay)
		net := Network{
			Name: n.Name, VNI: n.VNI, Subnets: n.Prefixes(), Transport: n.Transport, MTU: n.MTU, Members: []Member{},
			Deleting: n.Deleting,
		}
		for _, f := range n.Families() {
			if g := n.Gateway(f); g.IsValid() {
				net.Gateways = append(net.Gateways, g)
			}
		}
		for _, node := range t.Nodes {
			if m := members[[2]string{n.Name, node.Name}]; m != nil {
				slices.SortFunc(m.Endpoints, func(a, b Endpoint) int { return topology.CompareNames(a.Name, b.Name) })
				net.Members = append(net.Members, *m)
			}
		}
		t.Networks = append(t.Networks, net)
	}
	for _, sub := range s.SortedSubnets() {
		if sub.Node != "" {
			continue
		}
		if i := slices.IndexFunc(t.Networks, func(n Network) bool { return n.Name == sub.Network }); i >= 0 {
			t.Networks[i].Reserved = append(t.Networks[i].Reserved, sub.Prefix)
		}
	}
	t.Tunnels = append(t.Tunnels, tunnels(t.Nodes, views)...)
	return t
}

// tunnels collects the peers of every node's view, each pair once.
func tunnels(nodes []Node, views map[string]topology.View) []Tunnel {
	type id struct {
		a, b  string
		encap topology.Transport
	}
	at := map[id]int{}
	var out []Tunnel
	for _, n := range nodes {
		for _, nv := range views[n.Name].Networks {
			for _, p := range nv.Peers {
				if p.Encap == "" || topology.CompareNames(n.Name, p.Node) > 0 {
					continue
				}
				k := id{n.Name, p.Node, p.Encap}
				i, known := at[k]
				if !known {
					i = len(out)
					at[k] = i
					out = append(out, Tunnel{A: n.Name, B: p.Node, Encap: p.Encap, AddressA: p.Local, AddressB: p.Remote})
				}
				out[i].Networks = append(out[i].Networks, nv.Name)
			}
		}
	}
	slices.SortFunc(out, func(x, y Tunnel) int {
		return cmp.Or(topology.CompareNames(x.A, y.A), topology.CompareNames(x.B, y.B), cmp.Compare(x.Encap, y.Encap))
	})
	return out
}

// node returns a node by name.
func (t Topology) node(name string) Node {
	for _, n := range t.Nodes {
		if n.Name == name {
			return n
		}
	}
	return Node{Name: name, Status: Unknown}
}

// homeSubnet returns the subnet of the member that the endpoint is listed
// under: the first that holds one of its addresses, -1 for none.
func (m Member) homeSubnet(e Endpoint) int {
	return slices.IndexFunc(m.Subnets, func(p netip.Prefix) bool { return slices.ContainsFunc(e.IPs, p.Contains) })
}
