package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

// Deletion is how a network goes. A value that this version does not know is
// like DeleteUnused.
type Deletion string

// The ways in which a network goes. Either way nothing new is leased or attached
// in it, and its record goes when no node has a part of it.
const (
	// DeleteUnused: a node gives its part up when nothing there uses the network.
	DeleteUnused Deletion = "when-unused"
	// DeleteNow: a node detaches what uses the network, and gives its part up.
	DeleteNow Deletion = "now"
)

// MaxUsedBy bounds Subnet.UsedBy.
const MaxUsedBy = 8

// CheckOpen refuses what is new in a network that is being deleted.
func (n Network) CheckOpen() error {
	if n.Deleting == "" {
		return nil
	}
	return &Error{
		Kind: ErrConflict, Code: fault.NetworkDeleting, Item: "network " + n.Name,
		What:   "it is being deleted: nothing new is leased or attached in it",
		Remedy: "choose another network, or keep this one with 'baize network delete --cancel " + n.Name + "'",
	}
}

// Holder is a node that has a part of a network: a lease, a reservation that it
// uses, a pin.
type Holder struct {
	Node       string         `json:"node"`
	Registered bool           `json:"registered"`
	Alive      bool           `json:"alive"`
	Subnets    []netip.Prefix `json:"subnets"`
	Pins       []netip.Addr   `json:"pins"`
	// UsedBy and More are what the node answered to the deletion of the network.
	UsedBy []string `json:"usedBy"`
	More   int      `json:"more,omitempty"`
}

// Why says in words why the node has not given its part up.
func (h Holder) Why() string {
	switch {
	case len(h.UsedBy) > 0 && h.More > 0:
		return fmt.Sprintf("%s and %d more", strings.Join(h.UsedBy, ", "), h.More)
	case len(h.UsedBy) > 0:
		return strings.Join(h.UsedBy, ", ")
	case !h.Registered:
		return "the node is not registered"
	case !h.Alive:
		return "its agent does not run"
	case len(h.Subnets) == 0:
		return "it has addresses pinned"
	}
	return "its agent has not answered"
}

// Holders returns the nodes that have a part of a network, by name. A
// reservation that its node has let go of is nobody's, and so is one for a node
// that there is not.
func (s *Snapshot) Holders(network string) []Holder {
	byNode := map[string]*Holder{}
	holder := func(node string) *Holder {
		h := byNode[node]
		if h == nil {
			h = &Holder{Node: node, Subnets: []netip.Prefix{}, Pins: []netip.Addr{}, UsedBy: []string{}}
			_, h.Registered = s.Nodes[node]
			_, h.Alive = s.Alive[node]
			byNode[node] = h
		}
		return h
	}
	for id, sub := range s.Subnets {
		if id.Network != network || sub.Node == "" || s.Unheld(sub) {
			continue
		}
		h := holder(sub.Node)
		h.Subnets = append(h.Subnets, id.Prefix)
		if len(sub.UsedBy) > 0 {
			h.UsedBy, h.More = sub.UsedBy, sub.UsedByMore
		}
	}
	for id, p := range s.Pins {
		if id.Network == network {
			h := holder(p.Node)
			h.Pins = append(h.Pins, id.Addr)
		}
	}
	var out []Holder
	for _, name := range slices.SortedFunc(maps.Keys(byNode), CompareNames) {
		h := byNode[name]
		slices.SortFunc(h.Subnets, ComparePrefixes)
		slices.SortFunc(h.Pins, netip.Addr.Compare)
		out = append(out, *h)
	}
	return out
}

// Unheld reports whether a reservation is one that no node uses.
func (s *Snapshot) Unheld(sub Subnet) bool {
	if !sub.Reserved {
		return false
	}
	_, registered := s.Nodes[sub.Node]
	_, alive := s.Alive[sub.Node]
	return sub.Node == "" || sub.LetGo || (!registered && !alive)
}

// Deletions reports the networks that are being deleted, and what each waits for.
func (s *Snapshot) Deletions() []fault.Fault {
	var out []fault.Fault
	for _, n := range s.SortedNetworks() {
		if n.Deleting == "" {
			continue
		}
		f := fault.Fault{
			Code: fault.NetworkDeleting, Item: "network " + n.Name,
			What:   "it is being deleted",
			Remedy: "keep it with 'baize network delete --cancel " + n.Name + "'",
		}
		if holders := s.Holders(n.Name); len(holders) > 0 {
			f.What += ", and waits for " + describeHolders(holders)
			f.Remedy = "remove what uses it, or 'baize network delete --force " + n.Name + "'; " + f.Remedy
		}
		out = append(out, f)
	}
	return out
}

func describeHolders(holders []Holder) string {
	const most = 8
	var parts []string
	for _, h := range holders[:min(len(holders), most)] {
		parts = append(parts, fmt.Sprintf("%s (%s)", h.Node, h.Why()))
	}
	if more := len(holders) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more nodes", more))
	}
	return strings.Join(parts, ", ")
}

// Answer returns a node's subnet with its answer to a deletion in it, or without
// one. The first of the node's subnets has it.
func Answer(sub Subnet, usedBy []string, first bool) Subnet {
	sub.LetGo, sub.UsedBy, sub.UsedByMore = false, nil, 0
	if first && len(usedBy) > 0 {
		most := min(len(usedBy), MaxUsedBy)
		sub.UsedBy, sub.UsedByMore = slices.Clone(usedBy[:most]), len(usedBy)-most
	}
	return sub
}
