package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
)

// Firewall is what Baize wants of the host's packet filter.
//
// What Baize decides on its own is in nftables tables named baize: inet for
// addresses (NAT), netdev for what must drop frames of any protocol (an ingress
// hook of the inet family lets ARP pass unseen). Accept alone is in iptables,
// because of other programs: Docker's policy of the chain FORWARD is DROP, in
// the filter table of iptables, and nothing that another table accepted helps
// there.
type Firewall struct {
	// NAT are the rules of the table inet baize, in their order.
	NAT []NATRule `json:"nat"`
	// Accept is what the chain FORWARD of iptables has to let pass.
	Accept []AcceptRule `json:"accept"`
	Drops  Drops        `json:"drops"`
	// Tunnels are the rules of the table inet baize-tunnels.
	Tunnels []TunnelPort `json:"tunnels,omitempty"`
}

// Drops are the devices that the kernel's own stack must take nothing from: the
// endpoints' host ends, where Open vSwitch forwards in user space and reads them
// by packet sockets.
type Drops struct {
	// Use: the datapath needs it. A drop of a device that is not in Devices is
	// then kept while the device is there: its endpoint may be in the making.
	Use     bool     `json:"use"`
	Devices []string `json:"devices"`
}

func (f Firewall) empty() bool {
	return len(f.NAT)+len(f.Accept)+len(f.Drops.Devices)+len(f.Tunnels) == 0
}

// accepts returns the rules of one family as iptables prints them.
func (f Firewall) accepts(family topology.Family) []string {
	var out []string
	for _, r := range f.Accept {
		if s := r.String() + " -j ACCEPT"; r.Family == family && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// NATRule is a rule of the table inet baize: packets that match get the host's
// own address, or, with Return, stay as they are.
type NATRule struct {
	// Src and Dst are zero where any address matches.
	Src netip.Prefix `json:"src,omitzero"`
	Dst netip.Prefix `json:"dst,omitzero"`
	// NotDst: Dst must not match.
	NotDst bool `json:"notDst,omitempty"`
	Return bool `json:"return,omitempty"`
}

// String writes the rule as nft(8) does.
func (r NATRule) String() string {
	var w []string
	match := func(field string, p netip.Prefix, not bool) {
		if !p.IsValid() {
			return
		}
		family, op := "ip ", ""
		if p.Addr().Is6() {
			family = "ip6 "
		}
		if not {
			op = "!= "
		}
		w = append(w, family+field+" "+op+prefixText(p))
	}
	match("saddr", r.Src, false)
	match("daddr", r.Dst, r.NotDst)
	if r.Return {
		return strings.Join(append(w, "return"), " ")
	}
	return strings.Join(append(w, "masquerade"), " ")
}

func prefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// Names and places of Baize's nftables tables. NAT comes before that of others
// (srcnat, 100).
const (
	Table        = "baize"
	NATChain     = "postrouting"
	NATPriority  = 99
	DropPriority = -500
)

// NATTable writes the table as 'nft list table inet baize' does; empty for no
// rules.
func NATTable(rules []string) string {
	if len(rules) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(
		&b,
		"table inet %s {\n\tchain %s {\n\t\ttype nat hook postrouting priority %d; policy accept;\n",
		Table,
		NATChain,
		NATPriority,
	)
	for _, r := range rules {
		fmt.Fprintf(&b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

func natTexts(rules []NATRule) []string {
	out := make([]string, len(rules))
	for i, r := range rules {
		out[i] = r.String()
	}
	return out
}

// masquerade gives packets that leave a network the host's own address, and
// those that enter it from elsewhere, as --ip-masq asks for: own are this
// host's parts of it, whose containers see who sends to them.
func masquerade(network netip.Prefix, own []netip.Prefix) []NATRule {
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	if network.Addr().Is6() {
		multicast = netip.MustParsePrefix("ff00::/8")
	}
	out := []NATRule{{Src: network, Dst: network, Return: true}}
	for _, p := range own {
		out = append(out, NATRule{Dst: p, Return: true})
	}
	return append(out, NATRule{Src: network, Dst: multicast, NotDst: true}, NATRule{Dst: network})
}

// AcceptRule is a rule of the chain BAIZE-FORWARD. Zero fields match anything.
type AcceptRule struct {
	Family topology.Family `json:"family"`
	Src    netip.Prefix    `json:"src,omitzero"`
	Dst    netip.Prefix    `json:"dst,omitzero"`
	In     string          `json:"in,omitempty"`
	Out    string          `json:"out,omitempty"`
	// Valid: packets that conntrack finds no place for do not match.
	Valid bool `json:"valid,omitempty"`
}

// String writes the match as iptables(8) prints it.
func (r AcceptRule) String() string {
	var w []string
	for _, x := range []struct{ flag, value string }{
		{"-s", text(r.Src)}, {"-d", text(r.Dst)}, {"-i", r.In}, {"-o", r.Out},
	} {
		if x.value != "" {
			w = append(w, x.flag, x.value)
		}
	}
	if r.Valid {
		w = append(w, "-m conntrack ! --ctstate INVALID")
	}
	return strings.Join(w, " ")
}

func text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// IPTables is what one tool shows.
type IPTables struct {
	// Tool is the command: "iptables", "ip6tables-legacy".
	Tool   string
	Family topology.Family
	// Filter is what 'Tool -t filter -S' prints; NAT that of the table nat, read
	// only where the version before left something there.
	Filter, NAT string
}

func tool(f topology.Family) string {
	if f == topology.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// Chain is one of Baize's own in a table of iptables, called from one of the
// kernel's.
type Chain struct {
	Table, Parent, Name string
	// Behind is the chain that comes before it in the parent, if it is there.
	Behind string
}

// Baize's chains.
var (
	// AcceptChain is in front of Docker's rules and behind DOCKER-USER, which is the
	// operator's.
	AcceptChain = Chain{"filter", "FORWARD", "BAIZE-FORWARD", "DOCKER-USER"}
	// MasqChain is of earlier versions, and only removed.
	MasqChain = Chain{"nat", "POSTROUTING", "BAIZE-MASQ", ""}
)

// Forces reports whether rules, as 'iptables -S' prints them, say anything about
// packets that the host forwards, Baize's own chain apart.
func (c Chain) Forces(rules string) bool {
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		if line == "-A "+c.Parent+" -j "+c.Name {
			continue
		}
		if strings.HasPrefix(line, "-A "+c.Parent+" ") ||
			(strings.HasPrefix(line, "-P "+c.Parent+" ") && line != "-P "+c.Parent+" ACCEPT") {
			return true
		}
	}
	return false
}

// read takes from what 'iptables -S' prints the chain's own rules, those of its
// parent, and whether the chain is there.
func (c Chain) read(have string) (ours, parent []string, there bool) {
	for line := range strings.Lines(have) {
		line = strings.TrimSpace(line)
		there = there || line == "-N "+c.Name
		if rule, ok := strings.CutPrefix(line, "-A "+c.Name+" "); ok {
			ours = append(ours, rule)
		}
		if rule, ok := strings.CutPrefix(line, "-A "+c.Parent+" "); ok {
			parent = append(parent, rule)
		}
	}
	return ours, parent, there
}

// Change returns what iptables-restore is to do, given what 'iptables -S'
// prints; empty where all is as it has to be. No rules at all remove the chain.
func (c Chain) Change(have string, want []string) string {
	ours, parent, there := c.read(have)
	jump := "-j " + c.Name
	isJump := func(r string) bool { return r == jump }
	// Counted without the jumps, which are deleted first.
	rest := slices.DeleteFunc(slices.Clone(parent), isJump)
	jumps := len(parent) - len(rest)
	place := slices.Index(rest, "-j "+c.Behind) + 1
	inPlace := jumps == 1 && parent[place] == jump
	if len(want) == 0 && !there && jumps == 0 || len(want) > 0 && inPlace && slices.Equal(ours, want) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n", c.Table, c.Name)
	for _, r := range want {
		fmt.Fprintf(&b, "-A %s %s\n", c.Name, r)
	}
	for range jumps {
		fmt.Fprintf(&b, "-D %s %s\n", c.Parent, jump)
	}
	if len(want) == 0 {
		fmt.Fprintf(&b, "-X %s\n", c.Name)
	} else {
		fmt.Fprintf(&b, "-I %s %d %s\n", c.Parent, place+1, jump)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}
