package command

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// networkItem is a network in JSON and YAML.
type networkItem struct {
	Name          string             `json:"name"`
	VNI           uint32             `json:"vni"`
	Subnets       []netip.Prefix     `json:"subnets"`
	SubnetLenIPv4 int                `json:"subnetLenIPv4,omitempty"`
	SubnetLenIPv6 int                `json:"subnetLenIPv6,omitempty"`
	Transport     topology.Transport `json:"transport"`
	// Limits says what the transport cannot carry.
	Limits string `json:"limits,omitempty"`
	// Router says that the nodes' kernels are routers in it, Layout whose keys
	// in etcd it is in, unless Baize's own.
	Router bool   `json:"router,omitempty"`
	Layout string `json:"layout,omitempty"`
	// CreatedBy is "docker" where an engine asked for it.
	CreatedBy string `json:"createdBy,omitempty"`
	// Deleting says that it is being deleted, and how; Holders are the nodes that it
	// waits for then.
	Deleting topology.Deletion `json:"deleting,omitempty"`
	Holders  []topology.Holder `json:"holders,omitempty"`
	MTU      int               `json:"mtu"`
	// MTUDefault says that nobody chose the MTU, MTUNode which node's link makes it
	// smaller then.
	MTUDefault bool         `json:"mtuDefault,omitempty"`
	MTUNode    string       `json:"mtuNode,omitempty"`
	Gateways   []netip.Addr `json:"gateways"`
	// Allow are the kinds of traffic that all endpoints may send. BUM is how many
	// broadcast, multicast and unknown unicast frames a second one may; 0: any number.
	Allow []topology.Traffic `json:"allow,omitempty"`
	BUM   int                `json:"bum"`
	// IPFIX says where records of the network's flows go.
	IPFIX *ipfixItem `json:"ipfix,omitempty"`

	LeasesIPv4     *leases       `json:"leasesIPv4,omitempty"`
	LeasesIPv6     *leases       `json:"leasesIPv6,omitempty"`
	Nodes          []networkNode `json:"nodes"`
	CreateRevision int64         `json:"createRevision,omitempty"`
	ModRevision    int64         `json:"modRevision,omitempty"`
}

// ipfixItem is where records of a network's flows go: of one of Sampling packets, after
// Cache seconds; 0: at once.
type ipfixItem struct {
	Collectors []string `json:"collectors"`
	Sampling   int      `json:"sampling"`
	Cache      int      `json:"cache"`
}

// leases counts the subnets of a network that are leased or reserved, out of
// those that can be.
type leases struct {
	Used  uint64 `json:"used"`
	Total uint64 `json:"total"`
}

func (l *leases) String() string { return fmt.Sprintf("%d/%d", l.Used, l.Total) }

type networkNode struct {
	Node    string         `json:"node"`
	Subnets []netip.Prefix `json:"subnets"`
}

func newNetworkItem(s *topology.Snapshot, n topology.Network) networkItem {
	n, least := n.WithMTU(s.Underlay())
	item := networkItem{
		Name: n.Name, VNI: n.VNI, Subnets: n.Prefixes(), SubnetLenIPv4: n.SubnetLenIPv4, SubnetLenIPv6: n.SubnetLenIPv6,
		Transport: n.Transport, Limits: n.Transport.Limits(), Router: n.Router, Layout: n.Layout, MTU: n.MTU,
		CreatedBy: n.CreatedBy, MTUDefault: n.MTUDefault, MTUNode: least, Allow: n.AllowTraffic, BUM: n.BUMRate(),
		Gateways: []netip.Addr{}, Nodes: []networkNode{}, Deleting: n.Deleting,
		CreateRevision: n.CreateRevision, ModRevision: n.ModRevision,
	}
	if x := n.Sampled(); len(x.Collectors) > 0 {
		item.IPFIX = &ipfixItem{x.Collectors, x.Sampling, x.Cache}
	}
	if n.Deleting != "" {
		item.Holders = s.Holders(n.Name)
	}
	used := map[topology.Family]uint64{}
	byNode := map[string][]netip.Prefix{}
	for _, sub := range s.SortedSubnets() {
		if sub.Network != n.Name {
			continue
		}
		used[topology.FamilyOf(sub.Prefix.Addr())]++
		if sub.Node != "" {
			byNode[sub.Node] = append(byNode[sub.Node], sub.Prefix)
		}
	}
	for _, f := range n.Families() {
		// The first subnet of a network is never leased.
		l := &leases{Used: used[f], Total: max(topology.SubnetCount(n, f), 1) - 1}
		if f == topology.IPv6 {
			item.LeasesIPv6 = l
		} else {
			item.LeasesIPv4 = l
		}
		if g := n.Gateway(f); g.IsValid() {
			item.Gateways = append(item.Gateways, g)
		}
	}
	for _, node := range sortedNames(byNode) {
		item.Nodes = append(item.Nodes, networkNode{node, byNode[node]})
	}
	return item
}

// leaseText is the scarcer family's count: IPv4's where there is one.
func (n networkItem) leaseText() string {
	if n.LeasesIPv4 != nil {
		return n.LeasesIPv4.String()
	}
	if n.LeasesIPv6 != nil {
		return n.LeasesIPv6.String()
	}
	return ""
}

var networks = kind[networkItem]{
	name: "network",
	key:  func(n networkItem) string { return n.Name },
	none: "no networks: create one with 'baize network create NAME --subnet 10.1.0.0/16'",
	columns: []column[networkItem]{
		{"NAME", plain, func(n networkItem) any { return n.Name }},
		{"VNI", plain, func(n networkItem) any { return n.VNI }},
		{"SUBNETS", plain, func(n networkItem) any { return n.Subnets }},
		{"TRANSPORT", plain, func(n networkItem) any { return n.Transport }},
		{"MTU", plain, func(n networkItem) any { return n.MTU }},
		{"GATEWAY", plain, func(n networkItem) any { return n.Gateways }},
		{"LEASES", plain, func(n networkItem) any { return n.leaseText() }},
		{"STATUS", state, func(n networkItem) any {
			if n.Deleting != "" {
				return "deleting"
			}
			return ""
		}},
		{"SUBNET-LEN", wide, func(n networkItem) any {
			var out []string
			for _, l := range []int{n.SubnetLenIPv4, n.SubnetLenIPv6} {
				if l != 0 {
					out = append(out, "/"+strconv.Itoa(l))
				}
			}
			return out
		}},
		{"LEASES-V6", wide, func(n networkItem) any {
			if n.LeasesIPv6 == nil {
				return ""
			}
			return n.LeasesIPv6.String()
		}},
		{"NODES", wide, func(n networkItem) any { return len(n.Nodes) }},
	},
}

// mtuText says where the MTU is from.
func (n networkItem) mtuText() string {
	out := strconv.Itoa(n.MTU)
	switch {
	case n.MTUNode != "":
		out += ", which is what the link of node " + n.MTUNode + " carries"
	case n.MTUDefault:
		out += ", the default"
	}
	return out
}

// bumText says how much an endpoint may flood.
func (n networkItem) bumText() string {
	if n.BUM == 0 {
		return "not limited"
	}
	return fmt.Sprintf("%d frames a second from an endpoint", n.BUM)
}

func (n networkItem) describe() []field {
	out := []field{
		{"Name", n.Name}, {"VNI", strconv.FormatUint(uint64(n.VNI), 10)}, {"Subnets", joined(n.Subnets)},
		{"Transport", string(n.Transport)}, {"MTU", n.mtuText()}, {"Gateway", joined(n.Gateways)},
	}
	if n.Deleting != "" {
		out = append(out, field{"Status", "being deleted; it waits for " + fault.Counted(len(n.Holders), "node")})
	}
	for _, h := range n.Holders {
		out = append(out, field{"Held by " + h.Node, h.Why()})
	}
	if n.Limits != "" {
		out = append(out, field{"Limits", n.Limits})
	}
	if len(n.Allow) > 0 {
		out = append(out, field{"Allowed", joined(n.Allow)})
	}
	out = append(out, field{"Flooding", n.bumText()})
	if x := n.IPFIX; x != nil {
		out = append(out, field{"IPFIX", fmt.Sprintf("1 of %d packets to %s, records of %d s", x.Sampling,
			joined(x.Collectors), x.Cache)})
	}
	if n.Router {
		out = append(out, field{"Router", "the nodes' kernels; a docker0 with the node's subnet is reached through its host"})
	}
	if n.Layout != "" {
		out = append(out, field{"Layout", n.Layout + "'s keys, until 'baize migrate " + n.Layout + "'"})
	}
	if n.CreatedBy == topology.CreatedByDocker {
		out = append(out, field{"Created by", "Docker; it goes with the last node that uses it"})
	}
	if n.LeasesIPv4 != nil {
		out = append(out, field{"Leases IPv4", fmt.Sprintf("%s of /%d", n.LeasesIPv4, n.SubnetLenIPv4)})
	}
	if n.LeasesIPv6 != nil {
		out = append(out, field{"Leases IPv6", fmt.Sprintf("%s of /%d", n.LeasesIPv6, n.SubnetLenIPv6)})
	}
	for _, node := range n.Nodes {
		out = append(out, field{"Node " + node.Node, joined(node.Subnets)})
	}
	return out
}
