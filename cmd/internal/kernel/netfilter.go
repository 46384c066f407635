package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
)

// Netfilter is what looks at packets that this host forwards, Baize's own tables
// apart: what the fast path would pass by.
type Netfilter struct {
	// Tables are those of iptables that have rules or a policy, of either kind.
	Tables []IPTable
	// Chains are base chains of other tables of nftables that have rules or a policy:
	// "table inet filter, chain forward".
	Chains []string
	// Ingress are chains that see what devices bring before the kernel does, by device.
	Ingress map[string]string
	// Policies are those of IPsec (ip-xfrm(8)).
	Policies int
}

// IPTable is one table of iptables.
type IPTable struct {
	Tool   string
	Family topology.Family
	Name   string
	// Rules is what 'Tool -t Name -S' prints.
	Rules string
}

// forwarded are the chains that packets pass that are forwarded.
var forwarded = []string{"PREROUTING", "FORWARD", "POSTROUTING"}

// Concerns says what may have to see packets of a network, whose prefixes these
// are, between these devices of the host; "" where nothing does. What it does not
// understand may.
func (n Netfilter) Concerns(prefixes []netip.Prefix, devs []string) string {
	if n.Policies > 0 {
		return fmt.Sprintf("IPsec of this host has policies (ip xfrm policy): %d", n.Policies)
	}
	for _, d := range devs {
		if c := n.Ingress[d]; c != "" {
			return c + " of nftables sees what " + d + " brings"
		}
	}
	if len(n.Chains) > 0 {
		return n.Chains[0] + " of nftables has rules or a policy"
	}
	for _, t := range n.Tables {
		for _, p := range prefixes {
			if topology.FamilyOf(p.Addr()) != t.Family {
				continue
			}
			x := ruleReader{prefix: p, devs: devs, chains: map[string][]string{}, seen: map[string]bool{}}
			if rule := x.concerned(t.Rules); rule != "" {
				return fmt.Sprintf("%s -t %s: %s", t.Tool, t.Name, rule)
			}
		}
	}
	return ""
}

// ruleReader reads the rules of one table for one prefix.
type ruleReader struct {
	prefix netip.Prefix
	devs   []string
	chains map[string][]string
	seen   map[string]bool
}

// concerned returns the first rule, or policy, that may concern the prefix.
func (x ruleReader) concerned(rules string) string {
	policies := map[string]string{}
	for line := range strings.Lines(rules) {
		w := strings.Fields(line)
		switch {
		case len(w) >= 3 && w[0] == "-P":
			policies[w[1]] = w[2]
		case len(w) >= 2 && w[0] == "-N":
			x.chains[w[1]] = nil
		case len(w) >= 2 && w[0] == "-A":
			x.chains[w[1]] = append(x.chains[w[1]], strings.TrimSpace(line))
		}
	}
	for _, chain := range forwarded {
		rule, passed := x.chain(chain)
		if rule != "" {
			return rule
		}
		if p := policies[chain]; !passed && p != "" && p != "ACCEPT" {
			return "-P " + chain + " " + p
		}
	}
	return ""
}

// chain reads one chain; passed: Baize's own accepts the packets there, and nothing
// behind it sees them.
func (x ruleReader) chain(name string) (rule string, passed bool) {
	if x.seen[name] {
		return "", false
	}
	x.seen[name] = true
	for _, line := range x.chains[name] {
		r := parseRule(line)
		switch {
		case r.target == AcceptChain.Name:
			return "", true
		case x.excluded(r) || r.target == "ACCEPT" || r.target == "RETURN":
			continue
		}
		if _, own := x.chains[r.target]; own {
			if rule, _ := x.chain(r.target); rule != "" {
				return rule, false
			}
			continue
		}
		return line, false
	}
	return "", false
}

// parsedRule is what is understood of a rule.
type parsedRule struct {
	src, dst       netip.Prefix
	notSrc, notDst bool
	in, out        string
	toHost         bool // --dst-type LOCAL
	target         string
}

func parseRule(line string) parsedRule {
	var r parsedRule
	w := strings.Fields(line)
	for i := 0; i+1 < len(w); i++ {
		not, v := i > 0 && w[i-1] == "!", w[i+1]
		switch w[i] {
		case "-s":
			r.src, r.notSrc = parsePrefix(v), not
		case "-d":
			r.dst, r.notDst = parsePrefix(v), not
		case "-i":
			if !not {
				r.in = v
			}
		case "-o":
			if !not {
				r.out = v
			}
		case "--dst-type":
			r.toHost = r.toHost || v == "LOCAL" && !not
		case "-j", "-g":
			r.target = v
		}
	}
	return r
}

func parsePrefix(s string) netip.Prefix {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return single(a)
	}
	return netip.Prefix{}
}

// excluded reports whether no packet within the prefix matches a rule.
func (x ruleReader) excluded(r parsedRule) bool {
	other := func(p netip.Prefix, not bool) bool {
		switch {
		case !p.IsValid():
			return false
		case not:
			return p.Bits() <= x.prefix.Bits() && p.Contains(x.prefix.Addr())
		}
		return !p.Overlaps(x.prefix)
	}
	elsewhere := func(dev string) bool {
		return dev != "" && !slices.ContainsFunc(x.devs, func(d string) bool {
			start, wild := strings.CutSuffix(dev, "+")
			return d == dev || wild && strings.HasPrefix(d, start)
		})
	}
	return r.toHost || other(r.src, r.notSrc) || other(r.dst, r.notDst) || elsewhere(r.in) || elsewhere(r.out)
}
