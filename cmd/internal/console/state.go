package console

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// State is the cluster as the page shows it. Everything is sorted, no list is null,
// and its size grows with the records, not with the pairs of hosts.
type State struct {
	Version  string `json:"version"`
	Revision int64  `json:"revision"`
	// Stale says why this may be old; empty: it is not.
	Stale    string    `json:"stale,omitempty"`
	Hosts    []Host    `json:"hosts"`
	Networks []Network `json:"networks"`
	Faults   []Fault   `json:"faults"`
	// Tunnels are there for few hosts only (maxDrawn): others are counted by the
	// page, and listed host by host.
	Tunnels []draw.Tunnel `json:"tunnels,omitempty"`
	// Panels are the pages beside those of the topology.
	Panels []string `json:"panels"`
}

// AgentState is the section "agent".
type AgentState struct {
	// Status is nil where no agent answers on the console's own host.
	Status *api.Status `json:"status"`
	// Error says why an agent that is there does not answer.
	Error string `json:"error,omitempty"`
}

// Host is one node.
type Host struct {
	Name     string      `json:"name"`
	Hostname string      `json:"hostname,omitempty"`
	Status   draw.Status `json:"status"`
	// Segment is the part of the underlay that it is in; see draw.SegmentOf.
	Segment  string               `json:"segment"`
	VTEPs    []netip.Addr         `json:"vteps"`
	MAC      string               `json:"mac,omitempty"`
	MTU      int                  `json:"mtu,omitempty"` // of the underlay's link
	Encaps   []topology.Transport `json:"encaps"`
	Datapath string               `json:"datapath,omitempty"`
	Version  string               `json:"version,omitempty"`
	Leases   []Lease              `json:"leases"`
	Pins     []Pin                `json:"pins,omitempty"`
}

// Lease is a subnet that a host has.
type Lease struct {
	Network  string       `json:"network"`
	Prefix   netip.Prefix `json:"prefix"`
	Segment  string       `json:"segment,omitempty"` // an Ethernet of the host's own: docker0
	Reserved bool         `json:"reserved,omitempty"`
}

// Pin is an address that lives on a host, outside its home subnet.
type Pin struct {
	Network  string     `json:"network"`
	Address  netip.Addr `json:"address"`
	MAC      string     `json:"mac"`
	Endpoint string     `json:"endpoint,omitempty"`
}

// Network is one Ethernet.
type Network struct {
	Name      string             `json:"name"`
	VNI       uint32             `json:"vni"`
	Transport topology.Transport `json:"transport"`
	MTU       int                `json:"mtu"`
	Gateways  []netip.Addr       `json:"gateways"`
	Prefixes  []Prefix           `json:"prefixes"`
	// Members are the hosts that have a lease in it.
	Members  []string          `json:"members"`
	Deleting topology.Deletion `json:"deleting,omitempty"`
	// By is who created it, unless an operator did.
	By string `json:"by,omitempty"`
	// Unassigned are subnets reserved for nobody.
	Unassigned []netip.Prefix `json:"unassigned,omitempty"`
}

// Prefix is a prefix of a network, and how much of it is leased.
type Prefix struct {
	Prefix netip.Prefix `json:"prefix"`
	// SubnetLen is the length of the subnets it is leased in, Subnets their number.
	SubnetLen int     `json:"subnetLen"`
	Subnets   float64 `json:"subnets"`
	// Leased and Reserved count those that are taken; one reserved for a host is leased.
	Leased   int `json:"leased"`
	Reserved int `json:"reserved"`
}

// Fault is a fault with its subject, where it has one on the page.
type Fault struct {
	Code     fault.Code     `json:"code,omitempty"`
	Severity fault.Severity `json:"severity"`
	Item     string         `json:"item"`
	What     string         `json:"what"`
	Evidence string         `json:"evidence,omitempty"`
	Remedy   string         `json:"remedy,omitempty"`
	Since    time.Time      `json:"since,omitzero"`
	Host     string         `json:"host,omitempty"`
	Network  string         `json:"network,omitempty"`
}

// maxDrawn is up to how many hosts their tunnels are drawn.
const maxDrawn = 12

// NewState computes the page's state. It is pure.
func NewState(t Topology, agent Agent) State {
	s := State{Hosts: []Host{}, Networks: []Network{}, Faults: []Fault{}}
	if t.Err != nil {
		s.Stale = fault.Printable(t.Err.Error())
	}
	snap := t.Snapshot
	if snap == nil {
		snap = topology.NewSnapshot(0, nil)
	}
	s.Revision = snap.Revision
	s.addHosts(snap)
	s.addNetworks(snap)
	s.addLeases(snap)
	if len(s.Hosts) <= maxDrawn {
		s.Tunnels = draw.New(snap, nil).Tunnels
	}
	faults := fault.Merge(snap.Validate(), snap.Down()...)
	faults = fault.Merge(faults, snap.Deletions()...)
	if agent.Status != nil {
		faults = fault.Merge(agent.Status.Problems, faults...)
	}
	s.addFaults(faults)
	return s
}

// newAgentState leaves out what changes at every look although nothing happened.
func newAgentState(a Agent) (out AgentState) {
	if a.Err != nil {
		out.Error = fault.Printable(a.Err.Error())
	}
	if a.Status != nil {
		s := *a.Status
		s.Uptime, s.LastReconcile, s.Problems = 0, api.Reconcile{}, []fault.Fault{}
		out.Status = &s
	}
	return out
}

func (s *State) addHosts(snap *topology.Snapshot) {
	for _, n := range snap.SortedNodes() {
		s.Hosts = append(s.Hosts, Host{
			Name: n.Name, Hostname: n.Hostname, Status: draw.StatusOf(snap, n.Name), Segment: draw.SegmentOf(n.VTEPs),
			VTEPs: list(n.VTEPs), MAC: n.VTEPMAC, MTU: n.UnderlayMTU, Encaps: list(n.Encapsulations),
			Datapath: n.Datapath, Version: n.Version, Leases: []Lease{},
		})
	}
}

func (s *State) addNetworks(snap *topology.Snapshot) {
	underlay := snap.Underlay()
	for _, n := range snap.SortedNetworks() {
		n, _ = n.WithMTU(underlay)
		out := Network{
			Name: n.Name, VNI: n.VNI, Transport: n.Transport, MTU: n.MTU, Deleting: n.Deleting, By: n.CreatedBy,
			Gateways: []netip.Addr{}, Members: []string{}, Prefixes: []Prefix{},
		}
		if n.Layout != "" {
			out.By = n.Layout
		}
		for _, f := range n.Families() {
			p, length := n.Prefix(f), n.SubnetLen(f)
			// The first one is never leased.
			out.Prefixes = append(out.Prefixes, Prefix{
				Prefix: p, SubnetLen: length, Subnets: max(0, math.Ldexp(1, length-p.Bits())-1),
			})
			if g := n.Gateway(f); g.IsValid() {
				out.Gateways = append(out.Gateways, g)
			}
		}
		s.Networks = append(s.Networks, out)
	}
}

// addLeases enters subnets and pins at their hosts and networks.
func (s *State) addLeases(snap *topology.Snapshot) {
	hosts := index(s.Hosts, func(h Host) string { return h.Name })
	networks := index(s.Networks, func(n Network) string { return n.Name })
	for _, sub := range snap.SortedSubnets() {
		n := networks[sub.Network]
		if n == nil {
			continue
		}
		for i := range n.Prefixes {
			if p := &n.Prefixes[i]; p.Prefix.Overlaps(sub.Prefix) {
				if sub.Node == "" {
					p.Reserved++
				} else {
					p.Leased++
				}
			}
		}
		if sub.Node == "" {
			n.Unassigned = append(n.Unassigned, sub.Prefix)
			continue
		}
		h := hosts[sub.Node]
		if h == nil {
			continue // said by a fault
		}
		h.Leases = append(h.Leases, Lease{
			Network: sub.Network, Prefix: sub.Prefix, Segment: sub.Segment, Reserved: sub.Reserved,
		})
		if !slices.Contains(n.Members, h.Name) {
			n.Members = append(n.Members, h.Name)
		}
	}
	for i := range s.Networks {
		slices.SortFunc(s.Networks[i].Members, topology.CompareNames)
	}
	for _, p := range snap.SortedPins() {
		if h := hosts[p.Node]; h != nil {
			h.Pins = append(h.Pins, Pin{Network: p.Network, Address: p.Addr, MAC: p.MAC, Endpoint: p.Endpoint})
		}
	}
}

// addFaults enters faults, errors first, with the host and the network that their
// item names: "node host3", ".../subnets/blue/10.1.5.0-24".
func (s *State) addFaults(faults []fault.Fault) {
	hosts := index(s.Hosts, func(h Host) string { return h.Name })
	networks := index(s.Networks, func(n Network) string { return n.Name })
	for _, f := range faults {
		if f.Severity == "" {
			f.Severity = f.Code.Severity()
		}
		out := Fault{
			Code: f.Code, Severity: f.Severity, Item: fault.Printable(f.Item), What: fault.Printable(f.What),
			Evidence: fault.Printable(f.Evidence), Remedy: fault.Printable(f.Remedy), Since: f.Since,
		}
		for _, word := range strings.FieldsFunc(f.Item, func(r rune) bool { return strings.ContainsRune(" /,:;()", r) }) {
			if out.Host == "" && hosts[word] != nil {
				out.Host = word
			}
			if out.Network == "" && networks[word] != nil {
				out.Network = word
			}
		}
		s.Faults = append(s.Faults, out)
	}
	slices.SortStableFunc(s.Faults, func(a, b Fault) int {
		return strings.Compare(string(a.Severity), string(b.Severity)) // error, warning
	})
}

// index finds items by name, to change them in place.
func index[T any](items []T, name func(T) string) map[string]*T {
	out := make(map[string]*T, len(items))
	for i := range items {
		out[name(items[i])] = &items[i]
	}
	return out
}

// list is never null in JSON.
func list[T any](items []T) []T { return append([]T{}, items...) }
