package draw

import (
	"fmt"
	"io"
	"strings"
)

// DOT writes the topology as a graph for Graphviz (dot -Tpng): nodes as
// records with their subnets, tunnels as edges.
func DOT(w io.Writer, t Topology) error {
	var b strings.Builder
	b.WriteString("graph baize {\n")
	b.WriteString("  layout=circo; overlap=false; splines=true;\n")
	b.WriteString("  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=11];\n")
	b.WriteString("  edge [fontname=\"sans-serif\", fontsize=9];\n")
	lines := map[string][]string{}
	for _, n := range t.Networks {
		for _, m := range n.Members {
			for _, p := range m.Subnets {
				lines[m.Node] = append(lines[m.Node], fmt.Sprintf("%s %s", n.Name, p))
			}
			for _, e := range m.Endpoints {
				lines[m.Node] = append(lines[m.Node], fmt.Sprintf("%s %s", e.Name, join(e.IPs, " ")))
			}
		}
	}
	for _, n := range t.Nodes {
		label := []string{n.Name, join(n.VTEPs, " ")}
		if n.Status != Ready {
			label[0] += " (" + string(n.Status) + ")"
		}
		style := ""
		if n.Status != Ready {
			style = ", style=\"rounded,dashed\""
		}
		label = append(label, lines[n.Name]...)
		fmt.Fprintf(&b, "  %s [label=%s%s];\n", dotQuote(n.Name), dotQuote(strings.Join(label, "\n")), style)
	}
	for _, x := range t.Tunnels {
		fmt.Fprintf(&b, "  %s -- %s [label=%s];\n", dotQuote(x.A), dotQuote(x.B),
			dotQuote(string(x.Encap)+"\n"+strings.Join(x.Networks, ", ")))
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// dotQuote writes a DOT double-quoted string (Graphviz, "The DOT Language").
func dotQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
