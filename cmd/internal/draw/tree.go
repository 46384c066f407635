package draw

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/baize-net/baize/topology"
)

// maxTunnelLines is the largest number of tunnels of a network that a tree lists
// one by one.
const maxTunnelLines = 10

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

// Tree writes the topology as text for people: each network with its nodes,
// their subnets and endpoints, and its tunnels.
func Tree(w io.Writer, t Topology) error {
	var out strings.Builder
	if len(t.Networks) == 0 {
		out.WriteString("no networks: create one with 'baize network create NAME --subnet 10.1.0.0/16'\n")
	}
	for i, n := range t.Networks {
		if i > 0 {
			out.WriteString("\n")
		}
		t.writeNetwork(&out, n)
	}
	t.writeIdleNodes(&out)
	for i, p := range t.Problems {
		if i == 0 {
			out.WriteString("\nproblems\n")
		}
		fmt.Fprintf(&out, "  %s\n", p)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (t Topology) writeNetwork(out *strings.Builder, n Network) {
	fmt.Fprintf(out, "%s  %s  VNI %d  %s  MTU %d", n.Name, join(n.Subnets, "  "), n.VNI, n.Transport, n.MTU)
	if len(n.Gateways) > 0 {
		fmt.Fprintf(out, "  gateway %s", join(n.Gateways, ", "))
	}
	if n.Deleting != "" {
		out.WriteString("  being deleted")
	}
	out.WriteString("\n")
	root := &branch{}
	for _, m := range n.Members {
		t.memberBranch(root, m)
	}
	if len(n.Members) == 0 {
		root.add("no node carries it yet")
	}
	for _, p := range n.Reserved {
		root.add("%s  reserved", p)
	}
	t.tunnelBranch(root, n)
	root.write(out, "")
}

// writeIdleNodes writes the nodes that carry no network.
func (t Topology) writeIdleNodes(out *strings.Builder) {
	carrying := map[string]bool{}
	for _, n := range t.Networks {
		for _, m := range n.Members {
			carrying[m.Node] = true
		}
	}
	idle := &branch{}
	for _, n := range t.Nodes {
		if !carrying[n.Name] {
			idle.add("%s", nodeLine(n))
		}
	}
	if len(idle.children) > 0 {
		out.WriteString("\nnodes without a network\n")
		idle.write(out, "")
	}
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
		under.add("%s  %s  %s", e.Name, join(e.IPs, ", "), e.MAC)
	}
	for _, p := range m.Pins {
		node.add("pin %s  %s", p.Address, p.MAC)
	}
}

func nodeLine(n Node) string {
	return fmt.Sprintf("%s  %s  %s", n.Name, join(n.VTEPs, ", "), n.Status)
}

func (t Topology) tunnelBranch(root *branch, n Network) {
	var own []Tunnel
	for _, tun := range t.Tunnels {
		for _, name := range tun.Networks {
			if name == n.Name {
				own = append(own, tun)
			}
		}
	}
	switch {
	case !n.Transport.Ethernet():
		root.add("no tunnels: routed by the hosts")
		return
	case len(own) == 0:
		return
	case len(own) > maxTunnelLines && len(own) == len(n.Members)*(len(n.Members)-1)/2:
		root.add("%d %s tunnels, every node to every other", len(own), n.Transport)
		return
	case len(own) > maxTunnelLines:
		root.add("%d %s tunnels", len(own), n.Transport)
		return
	}
	what := string(own[0].Encap)
	if n.Transport.Direct() == topology.DirectOnLink {
		what += ", for what is not routed to a node on the same link"
	}
	b := root.add("tunnels  %s", what)
	for _, tun := range own {
		b.add("%s ↔ %s  %s ↔ %s", tun.A, tun.B, tun.AddressA, tun.AddressB)
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
