package draw

import (
	"fmt"
	"io"
	"strings"
)

// DOT writes the topology as a graph for Graphviz (dot -Tsvg): hosts with their subnets,
// and tunnels. Few hosts are joined pair by pair. Of many, each network is a node of its
// own that its hosts hang on, in a cluster for each segment of the underlay: a line for
// every pair would be a black disc.
func DOT(w io.Writer, t Topology) error {
	var b strings.Builder
	b.WriteString("graph baize {\n")
	if len(t.Nodes) <= maxRow {
		b.WriteString("  layout=circo; overlap=false; splines=true; mindist=3.5;\n")
	} else {
		b.WriteString("  layout=dot; rankdir=LR; splines=line; ranksep=2; nodesep=0.1;\n")
	}
	b.WriteString("  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=11];\n")
	b.WriteString("  edge [fontname=\"sans-serif\", fontsize=9];\n")
	if len(t.Nodes) <= maxRow {
		t.dotPairs(&b)
	} else {
		t.dotMeshes(&b)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// dotPairs writes each host with all it has, and each tunnel.
func (t Topology) dotPairs(b *strings.Builder) {
	lines := map[string][]string{}
	for _, n := range t.Networks {
		for _, m := range n.Members {
			for _, p := range m.Subnets {
				lines[m.Node] = append(lines[m.Node], fmt.Sprintf("%s %s", n.Name, m.subnetText(p)))
			}
			for _, e := range m.Endpoints {
				lines[m.Node] = append(lines[m.Node], fmt.Sprintf("%s %s", e.shown(), join(e.IPs, " ")))
			}
		}
	}
	for _, n := range t.Nodes {
		dotHost(b, "  ", n, append([]string{join(n.VTEPs, " ")}, lines[n.Name]...))
	}
	for _, x := range t.Tunnels {
		fmt.Fprintf(b, "  %s -- %s [label=%s];\n", dotQuote(x.A), dotQuote(x.B),
			dotQuote(string(x.Encap)+" "+strings.Join(x.Networks, ", ")))
	}
}

// dotMeshes writes the hosts by segment, and joins each to its networks.
func (t Topology) dotMeshes(b *strings.Builder) {
	lines := map[string][]string{}
	for _, n := range t.Networks {
		for _, m := range n.Members {
			if len(m.Subnets) > 0 {
				lines[m.Node] = append(lines[m.Node], fmt.Sprintf("%s %s", n.Name, m.subnetText(m.Subnets[0])))
			}
		}
	}
	for i, a := range t.areas() {
		fmt.Fprintf(b, "  subgraph cluster_%d {\n    label=%s; style=rounded; fontname=\"sans-serif\"; fontsize=11;\n",
			i, dotQuote(a.title()))
		for _, n := range a.nodes {
			dotHost(b, "    ", n, lines[n.Name])
		}
		b.WriteString("  }\n")
	}
	for i, n := range t.Networks {
		fmt.Fprintf(b, "  network%d [shape=ellipse, label=%s];\n", i,
			dotQuote(fmt.Sprintf("%s\n%s, VNI %d\n%d hosts", n.Name, n.Transport, n.VNI, len(n.Members))))
		for _, m := range n.Members {
			fmt.Fprintf(b, "  %s:e -- network%d:w;\n", dotQuote(m.Node), i)
		}
	}
}

func dotHost(b *strings.Builder, indent string, n Node, lines []string) {
	label, style := n.Name, ""
	if n.Status != Ready {
		label += " (" + string(n.Status) + ")"
		style = ", style=\"rounded,dashed\""
	}
	text := strings.Join(append([]string{label}, lines...), "\n")
	fmt.Fprintf(b, "%s%s [label=%s%s];\n", indent, dotQuote(n.Name), dotQuote(text), style)
}

// dotQuote writes a DOT double-quoted string (Graphviz, "The DOT Language").
func dotQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
