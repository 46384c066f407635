package draw

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// A tree that names every host and tunnel is readable as long as there are few.
const (
	maxHosts   = 10
	maxTunnels = 10
)

// branch is one line of a tree with the lines below it.
type branch struct {
	text     string
	children []*branch
}

func (b *branch) add(format string, args ...any) *branch {
	c := &branch{text: strings.TrimRight(fmt.Sprintf(format, args...), " ")}
	b.children = append(b.children, c)
	return c
}

func (b *branch) write(out *strings.Builder, indent string) {
	for i, c := range b.children {
		mark, below := "├─ ", "│  "
		if i == len(b.children)-1 {
			mark, below = "└─ ", "   "
		}
		fmt.Fprintf(out, "%s%s%s\n", indent, mark, c.text)
		c.write(out, indent+below)
	}
}

// Tree writes the topology as text for people: each network with its nodes, their
// subnets and endpoints, and the tunnels. Many nodes are grouped by their state, and
// many tunnels counted, so that it fits a screen; full has all of them one by one.
func Tree(w io.Writer, t Topology, full bool) error {
	var out strings.Builder
	if len(t.Networks) == 0 {
		out.WriteString("no networks: create one with 'baize network create NAME --subnet 10.1.0.0/16'\n")
	}
	for i, n := range t.Networks {
		if i > 0 {
			out.WriteString("\n")
		}
		t.writeNetwork(&out, n, full || len(t.Nodes) <= maxHosts)
	}
	t.writeTunnels(&out, full)
	t.writeIdleNodes(&out, full || len(t.Nodes) <= maxHosts)
	for i, p := range t.Problems {
		if i == 0 {
			out.WriteString("\nproblems\n")
		}
		fmt.Fprintf(&out, "  %s\n", p)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (t Topology) writeNetwork(out *strings.Builder, n Network, full bool) {
	fmt.Fprintf(out, "%s  %s  VNI %d  %s  MTU %d", n.Name, join(n.Subnets, "  "), n.VNI, n.Transport, n.MTU)
	if len(n.Gateways) > 0 {
		fmt.Fprintf(out, "  gateway %s", join(n.Gateways, ", "))
	}
	if n.Deleting != "" {
		out.WriteString("  being deleted")
	}
	out.WriteString("\n")
	root := &branch{}
	if full {
		for _, m := range n.Members {
			t.memberBranch(root, m)
		}
		for _, p := range n.Reserved {
			root.add("%s  reserved", p)
		}
	} else {
		t.memberGroups(root, n)
	}
	if len(n.Members) == 0 {
		root.add("no node carries it yet")
	}
	if !n.Transport.Ethernet() {
		root.add("no tunnels: routed by the hosts")
	}
	root.write(out, "")
}

// memberGroups adds a line for the members of each state, and one for each of the
// other things that there may be many of.
func (t Topology) memberGroups(root *branch, n Network) {
	nodes := make([]Node, len(n.Members))
	var pinned int
	for i, m := range n.Members {
		nodes[i] = t.node(m.Node)
		pinned += len(m.Pins)
	}
	groups(root, nodes)
	for _, m := range n.Members {
		if len(m.Endpoints) > 0 {
			root.add("%s on %s", fault.Counted(len(m.Endpoints), "endpoint"), m.Node)
		}
	}
	if pinned > 0 {
		root.add("%s", fault.Counted(pinned, "pin"))
	}
	if len(n.Reserved) > 0 {
		root.add("%s reserved", fault.Counted(len(n.Reserved), "subnet"))
	}
}

// groups adds a line for the nodes of each state, those that are well first.
func groups(root *branch, nodes []Node) {
	byStatus := map[Status][]string{}
	for _, n := range nodes {
		byStatus[n.Status] = append(byStatus[n.Status], n.Name)
	}
	rank := func(s Status) int { return slices.Index([]Status{Down, Unknown, Ready}, s) }
	for _, s := range slices.SortedFunc(maps.Keys(byStatus), func(a, b Status) int {
		return cmp.Or(rank(b)-rank(a), strings.Compare(string(a), string(b)))
	}) {
		root.add("%d %s  %s", len(byStatus[s]), s, foldNames(byStatus[s], maxNames))
	}
}

// writeIdleNodes writes the nodes that carry no network.
func (t Topology) writeIdleNodes(out *strings.Builder, full bool) {
	carrying := map[string]bool{}
	for _, n := range t.Networks {
		for _, m := range n.Members {
			carrying[m.Node] = true
		}
	}
	idle := slices.DeleteFunc(slices.Clone(t.Nodes), func(n Node) bool { return carrying[n.Name] })
	if len(idle) == 0 {
		return
	}
	out.WriteString("\nnodes without a network\n")
	root := &branch{}
	if full {
		for _, n := range idle {
			root.add("%s", nodeLine(n))
		}
	} else {
		groups(root, idle)
	}
	root.write(out, "")
}

func (t Topology) memberBranch(root *branch, m Member) {
	node := root.add("%s", nodeLine(t.node(m.Node)))
	subnets := make([]*branch, len(m.Subnets))
	for i, p := range m.Subnets {
		subnets[i] = node.add("%s", p)
	}
	for _, e := range m.Endpoints {
		under := node
		if i := m.homeSubnet(e); i >= 0 {
			under = subnets[i]
		}
		under.add("%s", strings.Join(slices.DeleteFunc(
			[]string{e.Name, join(e.IPs, ", "), e.MAC, e.Container}, func(s string) bool { return s == "" }), "  "))
	}
	for _, p := range m.Pins {
		node.add("pin %s  %s", p.Address, p.MAC)
	}
}

func nodeLine(n Node) string {
	return fmt.Sprintf("%s  %s  %s", n.Name, join(n.VTEPs, ", "), n.Status)
}

// writeTunnels writes the tunnels, each once, whatever the number of networks in it;
// many as one line for those of an encapsulation.
func (t Topology) writeTunnels(out *strings.Builder, full bool) {
	if len(t.Tunnels) == 0 {
		return
	}
	out.WriteString("\ntunnels\n")
	root := &branch{}
	if full || len(t.Tunnels) <= maxTunnels {
		for _, x := range t.Tunnels {
			root.add("%s ↔ %s  %s  %s ↔ %s  %s", x.A, x.B, x.Encap, x.AddressA, x.AddressB, strings.Join(x.Networks, ", "))
		}
	} else {
		t.tunnelGroups(root)
	}
	for _, n := range t.Networks {
		if n.Transport.Ethernet() && n.Transport.Direct() == topology.DirectOnLink {
			root.add("in %s for what is not routed to a node on the same link", n.Name)
		}
	}
	root.write(out, "")
}

// tunnelGroups adds a line for the tunnels of each encapsulation.
func (t Topology) tunnelGroups(root *branch) {
	type group struct {
		tunnels         int
		nodes, networks map[string]bool
	}
	groups := map[topology.Transport]*group{}
	for _, x := range t.Tunnels {
		g := groups[x.Encap]
		if g == nil {
			g = &group{nodes: map[string]bool{}, networks: map[string]bool{}}
			groups[x.Encap] = g
		}
		g.tunnels++
		g.nodes[x.A], g.nodes[x.B] = true, true
		for _, n := range x.Networks {
			g.networks[n] = true
		}
	}
	for _, encap := range slices.Sorted(maps.Keys(groups)) {
		g := groups[encap]
		networks := slices.SortedFunc(maps.Keys(g.networks), topology.CompareNames)
		line := fmt.Sprintf("%d %s between %d nodes", g.tunnels, encap, len(g.nodes))
		if n := len(g.nodes); n > 2 && g.tunnels == n*(n-1)/2 {
			line += ", every one to every other"
		}
		root.add("%s  %s", line, foldNames(networks, maxNames))
	}
}

// join writes addresses or prefixes in one line.
func join[T netip.Addr | netip.Prefix](xs []T, sep string) string {
	parts := make([]string, len(xs))
	for i, x := range xs {
		parts[i] = fmt.Sprint(x)
	}
	return strings.Join(parts, sep)
}
