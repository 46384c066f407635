// Package netfilter reads the rules of a host's packet filters as nft(8) and
// iptables-save(8) print them, and says which of them drop a packet for certain. A
// match that it does not know may hold or not: whatever depends on one is not certain,
// and is not reported.
package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Packet is what is asked about.
type Packet struct {
	// Hook is that of nft(8): prerouting, input, forward, output, ingress, egress.
	Hook string
	// Proto is "udp" or "gre", Port the destination port of the former. Of a packet whose
	// protocol no rule names Proto is empty; Any asks for what drops all protocols.
	Proto string
	Port  int
	// Src and Dst may be unknown.
	Src, Dst netip.Addr
	// In and Out are devices; empty: there is none on this hook.
	In, Out string
}

// Any is the protocol of packets of which nothing is known: a rule for one protocol may be
// for them.
const Any = "any"

// Drop is a rule, or a chain's policy, that drops a packet.
type Drop struct {
	// Where is the chain: "inet filter input".
	Where string
	// Rule is the rule as it is printed; "policy drop" where none of them decides.
	Rule string
	// Undo is the command that takes it away; empty where there is no safe one.
	Undo string
	// Policy: it is the chain's policy.
	Policy bool
}

// Ruleset is the chains of all tables.
type Ruleset struct{ chains []*chain }

type chain struct {
	family, table, name string
	// hook and devices are those of a base chain; without devices it is for all.
	hook    string
	devices []string
	drop    bool // its policy
	rules   []rule
	// legacy is the program that changes it: iptables-legacy; empty: nft.
	legacy string
}

type rule struct {
	text, handle string
	words        []string
}

// trool is whether a match holds.
type trool int

const (
	no trool = iota
	maybe
	yes
)

func (c *chain) where() string {
	if c.legacy != "" {
		return c.legacy + " " + c.table + " " + c.name
	}
	return c.family + " " + c.table + " " + c.name
}

// Drops returns what drops a packet for certain, a chain of each table at most. Tables
// named as one of skip are left out.
func (r Ruleset) Drops(p Packet, skip ...string) []Drop {
	var out []Drop
	for _, c := range r.chains {
		if c.hook != p.Hook || slices.Contains(skip, c.table) || !c.sees(p) {
			continue
		}
		w := walk{set: r, p: p, base: c}
		verdict, by := w.chain(c, 0)
		if verdict == accepted || w.doubt {
			continue
		}
		if verdict == dropped {
			out = append(out, Drop{Where: by.c.where(), Rule: by.r.text, Undo: by.c.delete(by.r)})
		} else if c.drop {
			out = append(out, Drop{Where: c.where(), Rule: "policy drop", Undo: c.open(), Policy: true})
		}
	}
	return out
}

// sees reports whether packets of a family and device come by a base chain.
func (c *chain) sees(p Packet) bool {
	a := p.Dst
	if !a.IsValid() {
		a = p.Src
	}
	switch c.family {
	case "ip":
		return !a.IsValid() || a.Is4()
	case "ip6":
		return !a.IsValid() || a.Is6()
	case "netdev", "inet":
		return len(c.devices) == 0 || slices.Contains(c.devices, p.In) || slices.Contains(c.devices, p.Out)
	}
	return false
}

func (c *chain) delete(r *rule) string {
	if c.legacy != "" {
		if strings.ContainsAny(r.text, "$`\\;&|<>") {
			return "" // a comment in it may mean something else to a shell
		}
		return fmt.Sprintf("%s -t %s -D %s", c.legacy, c.table, strings.TrimPrefix(r.text, "-A "))
	}
	return fmt.Sprintf("nft delete rule %s %s %s handle %s", c.family, c.table, c.name, r.handle)
}

func (c *chain) open() string {
	if c.legacy != "" {
		return fmt.Sprintf("%s -t %s -P %s ACCEPT", c.legacy, c.table, c.name)
	}
	return fmt.Sprintf("nft 'chain %s %s %s { policy accept; }'", c.family, c.table, c.name)
}

type verdict int

const (
	goesOn verdict = iota
	accepted
	dropped
)

// decider is the rule that decided.
type decider struct {
	c *chain
	r *rule
}

// walk is one packet's way through one base chain.
type walk struct {
	set  Ruleset
	p    Packet
	base *chain
	// doubt: something that may have accepted it came before.
	doubt bool
}

// deepest bounds jumps: the kernel allows 16.
const deepest = 16

func (w *walk) chain(c *chain, depth int) (verdict, decider) {
	for i := range c.rules {
		r := &c.rules[i]
		holds, action, target := w.match(r)
		if holds == no {
			continue
		}
		if holds == maybe {
			// It may accept, return, or go where it is accepted.
			w.doubt = w.doubt || action != "drop"
			continue
		}
		switch action {
		case "accept":
			return accepted, decider{c, r}
		case "drop":
			return dropped, decider{c, r}
		case "return":
			return goesOn, decider{}
		case "jump", "goto":
			next := w.set.find(c, target)
			if next == nil || depth > deepest {
				w.doubt = true
				continue
			}
			if v, by := w.chain(next, depth+1); v != goesOn || action == "goto" {
				return v, by
			}
		}
	}
	return goesOn, decider{}
}

func (r Ruleset) find(from *chain, name string) *chain {
	for _, c := range r.chains {
		if c.family == from.family && c.table == from.table && c.name == name && c.legacy == from.legacy {
			return c
		}
	}
	return nil
}

// match says whether a rule is for the packet, and what it does then: accept, drop,
// return, jump, goto, or nothing.
func (w *walk) match(r *rule) (holds trool, action, target string) {
	holds = yes
	words := r.words
	for len(words) > 0 {
		t, n, a, to := w.word(words)
		holds = min(holds, t)
		if a != "" {
			action, target = a, to
		}
		words = words[min(n, len(words)):]
	}
	return holds, action, target
}

// word reads the statement or match at the beginning of some words, n of them.
func (w *walk) word(words []string) (holds trool, n int, action, target string) {
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	switch words[0] {
	case "accept", "drop", "return", "continue":
		return yes, 1, strings.TrimPrefix(words[0], "continue"), ""
	case "reject":
		return yes, len(words), "drop", ""
	case "jump", "goto":
		return yes, 2, words[0], arg(1)
	case "counter":
		if arg(1) == "packets" {
			return yes, 5, "", ""
		}
		return yes, 1, "", ""
	case "comment":
		return yes, 1 + quoted(words[1:]), "", ""
	case "iifname", "iif":
		holds, n = compare(words[1:], w.p.In, name)
		return holds, n + 1, "", ""
	case "oifname", "oif":
		holds, n = compare(words[1:], w.p.Out, name)
		return holds, n + 1, "", ""
	case "udp", "tcp", "th":
		return w.dport(words)
	case "icmp", "icmpv6", "igmp", "sctp", "dccp", "udplite", "esp", "ah", "comp":
		return w.other(words)
	case "meta", "ip", "ip6", "ct", "ether":
		return w.field(words)
	}
	// Not known: whatever the rule does, it may do.
	return maybe, len(words), last(words), ""
}

// dport reads a match on the destination port: "udp dport 4789".
func (w *walk) dport(words []string) (holds trool, n int, action, target string) {
	if len(words) < 3 {
		return maybe, len(words), last(words), ""
	}
	if w.p.Proto == Any {
		return maybe, len(words), last(words), ""
	}
	if words[0] == "tcp" || (words[0] == "udp" && w.p.Proto != "udp") {
		_, n = compare(words[2:], "", name)
		return no, n + 2, "", ""
	}
	if words[1] != "dport" {
		return maybe, len(words), last(words), ""
	}
	holds, n = compare(words[2:], fmt.Sprint(w.p.Port), port)
	return holds, n + 2, "", ""
}

// other reads a match on a header of another protocol than those that are asked about.
func (w *walk) other(words []string) (holds trool, n int, action, target string) {
	if w.p.Proto == "udp" || w.p.Proto == "gre" {
		return no, len(words), "", ""
	}
	return maybe, len(words), last(words), ""
}

// last is the verdict at the end of a rule that is not understood: drop where it can be
// nothing else.
func last(words []string) string {
	drops := false
	for _, w := range words {
		switch w {
		case "drop", "reject":
			drops = true
		case "accept", "return", "jump", "goto", "vmap":
			return "accept"
		}
	}
	if drops {
		return "drop"
	}
	return "accept"
}

// quoted is how many words a text in quotes has.
func quoted(words []string) int {
	if len(words) == 0 || !strings.HasPrefix(words[0], `"`) {
		return 1
	}
	for i, w := range words {
		if len(w) > 1 && strings.HasSuffix(w, `"`) {
			return i + 1
		}
	}
	return len(words)
}

// field reads a match on a field of two words: "ip saddr 10.0.0.0/8".
func (w *walk) field(words []string) (holds trool, n int, action, target string) {
	if len(words) < 3 {
		return maybe, len(words), last(words), ""
	}
	p := w.p
	switch words[0] + " " + words[1] {
	case "meta l4proto", "ip protocol", "ip6 nexthdr":
		if p.Proto == Any {
			return maybe, len(words), last(words), ""
		}
		holds, n = compare(words[2:], p.Proto, protocol)
	case "meta protocol", "meta nfproto", "ether type":
		family := map[bool]string{true: "ip", false: "ip6"}[p.Dst.Is4()]
		holds, n = compare(words[2:], family, func(a, b string) bool { return strings.Replace(a, "ipv", "ip", 1) == b })
	case "meta iifname":
		holds, n = compare(words[2:], p.In, name)
	case "meta oifname":
		holds, n = compare(words[2:], p.Out, name)
	case "ip saddr", "ip6 saddr":
		holds, n = compareAddr(words[2:], p.Src)
	case "ip daddr", "ip6 daddr":
		holds, n = compareAddr(words[2:], p.Dst)
	case "ct state":
		holds, n = compare(words[2:], "new", state)
	case "ct status": // nobody has answered the first packet, or translated its addresses
		holds, n = compare(words[2:], "", name)
	default:
		return maybe, len(words), last(words), ""
	}
	return holds, n + 2, "", ""
}

func name(pattern, value string) bool {
	pattern = strings.Trim(pattern, `"`)
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(value, prefix)
	}
	return pattern == value
}

func port(pattern, value string) bool {
	from, to, isRange := strings.Cut(pattern, "-")
	if !isRange {
		return pattern == value
	}
	var a, b, v int
	_, _ = fmt.Sscan(from, &a)
	_, _ = fmt.Sscan(to, &b)
	_, _ = fmt.Sscan(value, &v)
	return a <= v && v <= b
}

// numbers are protocols as they may be written (IANA).
var numbers = map[string]string{"17": "udp", "47": "gre", "6": "tcp", "1": "icmp", "132": "sctp", "58": "ipv6-icmp"}

func protocol(pattern, value string) bool {
	if n := numbers[pattern]; n != "" {
		pattern = n
	}
	return pattern == value
}

// state: "established,related" and "new".
func state(pattern, value string) bool { return slices.Contains(strings.Split(pattern, ","), value) }

// operators are what may stand between a field and its pattern and is not looked into: a
// map of verdicts, a second field, bits, a comparison of sizes.
var operators = []string{"vmap", ".", "&", "|", "^", "and", "or", "xor", "<<", ">>", "<", ">", "<=", ">=", "=="}

// compare compares a value with a pattern, "!= PATTERN" or "{ PATTERN, PATTERN }", and
// returns how many words that was. A set by name may have anything in it, and so may
// what an operator stands before, up to the end of the rule.
func compare(words []string, value string, same func(pattern, value string) bool) (holds trool, n int) {
	if len(words) == 0 {
		return maybe, 0
	}
	i, negated := 0, false
	if words[0] == "!=" {
		i, negated = 1, true
	}
	if i >= len(words) {
		return maybe, i
	}
	if slices.Contains(operators, words[i]) {
		return maybe, len(words)
	}
	patterns, n := []string{words[i]}, i+1
	if words[i] == "{" {
		patterns = nil
		for n < len(words) && words[n] != "}" {
			patterns = append(patterns, strings.TrimSuffix(words[n], ","))
			n++
		}
		n++
	}
	is := slices.ContainsFunc(patterns, func(p string) bool { return same(p, value) })
	switch {
	case strings.HasPrefix(patterns[0], "@"):
		return maybe, n
	case is != negated:
		return yes, n
	}
	return no, n
}

func compareAddr(words []string, a netip.Addr) (holds trool, n int) {
	holds, n = compare(words, a.String(), func(pattern, _ string) bool {
		if p, err := netip.ParsePrefix(pattern); err == nil {
			return p.Contains(a)
		}
		from, to, isRange := strings.Cut(pattern, "-")
		if !isRange {
			to = from
		}
		least, err := netip.ParseAddr(from)
		most, err2 := netip.ParseAddr(to)
		return err == nil && err2 == nil && least.Compare(a) <= 0 && a.Compare(most) <= 0
	})
	if !a.IsValid() {
		return maybe, n
	}
	return holds, n
}
