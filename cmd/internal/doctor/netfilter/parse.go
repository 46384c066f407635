package netfilter

import (
	"slices"
	"strings"
)

// ParseNFT reads what 'nft -a list ruleset' prints.
func ParseNFT(text string) Ruleset {
	var p parser
	for line := range strings.Lines(text) {
		line, handle, _ := strings.Cut(strings.TrimSpace(line), " # handle ")
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			p.line(words, rule{text: line, handle: strings.TrimSpace(handle), words: words})
		}
	}
	return p.out
}

// parser is what has been read so far.
type parser struct {
	out           Ruleset
	depth         int // of braces
	family, table string
	chain         *chain // nil in a set, and the like
}

// line reads a line: "table inet filter {", "chain input {", the line that makes a chain
// a base chain, a rule, or the end of one of them.
func (p *parser) line(words []string, r rule) {
	opens := words[len(words)-1] == "{"
	switch {
	case words[0] == "}":
		p.depth--
		return
	case opens && p.depth == 0 && len(words) >= 4:
		p.family, p.table = words[1], words[2]
	case opens && p.depth == 1:
		p.chain = nil
		if words[0] == "chain" && len(words) >= 3 {
			p.chain = &chain{family: p.family, table: p.table, name: words[1]}
			p.out.chains = append(p.out.chains, p.chain)
		}
	case p.depth == 2 && p.chain != nil && words[0] == "type":
		p.chain.base(words)
	case p.depth == 2 && p.chain != nil:
		p.chain.rules = append(p.chain.rules, r)
	}
	if opens {
		p.depth++
	}
}

// base reads "type filter hook input priority filter; policy drop;", with "device eth0" or
// "devices = { eth0, eth1 }" of some hooks.
func (c *chain) base(words []string) {
	for i, w := range words {
		next := ""
		if i+1 < len(words) {
			next = strings.Trim(words[i+1], `";`)
		}
		switch w {
		case "hook":
			c.hook = next
		case "device":
			c.devices = []string{next}
		case "devices":
			for _, d := range words[min(i+3, len(words)):] {
				if d == "}" {
					break
				}
				c.devices = append(c.devices, strings.Trim(d, `",`))
			}
		case "policy":
			c.drop = next == "drop"
		}
	}
}

// hooks are those of the chains of iptables.
var hooks = map[string]string{
	"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "POSTROUTING": "postrouting",
}

// ParseSave reads what iptables-save(8) prints. tool is the program that changes the
// rules, family "ip" or "ip6".
func ParseSave(text, tool, family string) Ruleset {
	var out Ruleset
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || line[0] == '#':
		case line[0] == '*':
			table = line[1:]
		case line[0] == ':' && len(words) >= 2:
			out.chains = append(out.chains, &chain{
				family: family, table: table, name: words[0][1:], hook: hooks[words[0][1:]], drop: words[1] == "DROP", legacy: tool,
			})
		case words[0] == "-A" && len(words) >= 2:
			i := slices.IndexFunc(out.chains, func(c *chain) bool { return c.table == table && c.name == words[1] })
			if i >= 0 {
				out.chains[i].rules = append(out.chains[i].rules, rule{text: line, words: translate(words[2:])})
			}
		}
	}
	return out
}

// Join returns the chains of several rulesets.
func Join(sets ...Ruleset) Ruleset {
	var out Ruleset
	for _, s := range sets {
		out.chains = append(out.chains, s.chains...)
	}
	return out
}

// translate puts the words of iptables(8) into those of nft(8). What it does not know
// stays, and is not understood later either.
func translate(words []string) []string {
	var out []string
	negated := false
	for i := 0; i < len(words); i++ {
		arg := func() []string {
			i++
			if i >= len(words) {
				return []string{"?"}
			}
			if negated {
				negated = false
				return []string{"!=", words[i]}
			}
			return []string{words[i]}
		}
		add := func(field ...string) { out = append(append(out, field...), arg()...) }
		switch words[i] {
		case "!":
			negated = true
		case "-p":
			add("meta", "l4proto")
		case "-s":
			add("ip", "saddr")
		case "-d":
			add("ip", "daddr")
		case "-i":
			add("iifname")
		case "-o":
			add("oifname")
		case "-m":
			i++ // names what follows
		case "--dport":
			out = append(append(out, "th", "dport"), strings.ReplaceAll(strings.Join(arg(), " "), ":", "-"))
		case "--ctstate", "--state":
			out = append(append(out, "ct", "state"), strings.ToLower(strings.Join(arg(), " ")))
		case "--comment":
			add("comment")
		case "-j", "-g":
			out = append(out, target(words[i:])...)
			return out
		default:
			out = append(out, words[i])
		}
	}
	return out
}

func target(words []string) []string {
	if len(words) < 2 {
		return nil
	}
	switch to := words[1]; to {
	case "ACCEPT", "DROP", "RETURN", "REJECT":
		return []string{strings.ToLower(to)}
	case "LOG", "MARK", "CONNMARK", "NOTRACK", "CT", "TCPMSS", "CHECKSUM", "NFLOG":
		return []string{"continue"} // they decide nothing
	default:
		return []string{map[string]string{"-j": "jump", "-g": "goto"}[words[0]], to}
	}
}
