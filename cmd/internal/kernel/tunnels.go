package kernel

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
)

// The kernel takes tunnelled packets for the datapath by any device: those of a
// container of this host, too, which may send them from a peer's address. So they are
// dropped where they come in by a device that does not lead back to their sender
// (reverse path, as in RFC 3704 section 2.3; one of several ways back is enough).

// TunnelPort is what a tunnel's packets are: UDP to a port, or GRE.
type TunnelPort struct {
	// UDP is the port; 0: GRE.
	UDP int `json:"udp,omitempty"`
}

// String writes the rule as nft(8) does, without what it counts.
func (p TunnelPort) String() string {
	match := "meta l4proto gre"
	if p.UDP != 0 {
		match = fmt.Sprintf("udp dport %d", p.UDP)
	}
	return match + " fib saddr . iif oif missing counter drop"
}

// Names and places of the table of tunnels. It comes before what tracks connections.
const (
	TunnelTable    = "baize-tunnels"
	TunnelChain    = "input"
	TunnelPriority = -300
)

// TunnelTableText writes the table as 'nft list table inet baize-tunnels' does, but for
// the counters; empty for no rules.
func TunnelTableText(rules []string) string {
	if len(rules) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n\tchain %s {\n\t\ttype filter hook input priority %d; policy accept;\n",
		TunnelTable, TunnelChain, TunnelPriority)
	for _, r := range rules {
		fmt.Fprintf(&b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

func tunnelTexts(ports []TunnelPort) []string {
	out := make([]string, len(ports))
	for i, p := range ports {
		out[i] = p.String()
	}
	return out
}

// tunnels returns what the tunnels of a view's networks are: none where Open vSwitch
// takes their packets itself.
func (in Input) tunnels() []TunnelPort {
	if in.Userspace {
		return nil
	}
	var out []TunnelPort
	add := func(p TunnelPort) {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, n := range in.View.Networks {
		for i := range n.Peers {
			peer := &n.Peers[i]
			row, ok := topology.EncapsulationOf(peer.Encap)
			switch {
			case !ok:
			case row.Port == 0:
				add(TunnelPort{})
			case peer.Router != nil:
				add(TunnelPort{UDP: cmp.Or(peer.Router.Port, row.Port)})
			default:
				add(TunnelPort{UDP: cmp.Or(in.TunnelPorts[peer.Encap], row.Port)})
			}
		}
	}
	slices.SortFunc(out, func(a, b TunnelPort) int { return cmp.Compare(a.UDP, b.UDP) })
	return out
}
