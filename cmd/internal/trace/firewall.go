package trace

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/ovs/forward"
)

// Filter are the rules of a host's packet filter that forwarded packets pass, as
// 'nft -j list ruleset' prints them (libnftables-json(5)). Rules of iptables-nft are
// among them.
type Filter struct {
	chains map[string]*chain
	// Unread says why the rules are not known.
	Unread string
}

type chain struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Hook   string `json:"hook"`
	Prio   int    `json:"prio"`
	Policy string `json:"policy"`
	Dev    any    `json:"dev"`
	rules  []filterRule
}

func (c *chain) where() string {
	return fmt.Sprintf("chain %s of table %s %s", c.Name, c.Family, c.Table)
}

type filterRule struct {
	Family string                       `json:"family"`
	Table  string                       `json:"table"`
	Chain  string                       `json:"chain"`
	Handle int                          `json:"handle"`
	Expr   []map[string]json.RawMessage `json:"expr"`
}

func chainKey(family, table, name string) string { return family + " " + table + " " + name }

// ParseFilter reads what 'nft -j list ruleset' prints.
func ParseFilter(ruleset []byte) (Filter, error) {
	f := Filter{chains: map[string]*chain{}}
	var doc struct {
		NFTables []struct {
			Chain *chain      `json:"chain"`
			Rule  *filterRule `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(ruleset, &doc); err != nil {
		return f, fmt.Errorf("rules of nftables: %w", err)
	}
	for _, x := range doc.NFTables {
		if x.Chain != nil {
			f.chains[chainKey(x.Chain.Family, x.Chain.Table, x.Chain.Name)] = x.Chain
		}
	}
	for _, x := range doc.NFTables {
		if r := x.Rule; r != nil {
			if c := f.chains[chainKey(r.Family, r.Table, r.Chain)]; c != nil {
				c.rules = append(c.rules, *r)
			}
		}
	}
	return f, nil
}

// Passing is a packet that a host forwards, the first of its connection, or that a
// namespace sends (without In) or receives (without Out).
type Passing struct {
	In, Out  string
	From, To netip.Addr
	Packet   forward.Packet
}

// Judgement is what a packet filter does with a packet.
type Judgement struct {
	Drop bool
	// Where names chain and rule that drop it.
	Where string
	// Unsure is a rule that may decide, and that is not understood.
	Unsure string
	// Hooks counts the chains that it passed.
	Hooks int
}

// hooks are those that a packet passes, in their order.
func (p Passing) hooks() []string {
	switch {
	case p.In == "":
		return []string{"output", "postrouting", "egress"}
	case p.Out == "":
		return []string{"ingress", "prerouting", "input"}
	}
	return []string{"ingress", "prerouting", "forward", "postrouting"}
}

// Judge sends a packet through the hooks (nft(8), "Address families").
func (f Filter) Judge(p Passing) Judgement {
	var j Judgement
	if f.Unread != "" {
		j.Unsure = f.Unread
		return j
	}
	var base []*chain
	hooks := p.hooks()
	for _, c := range f.chains {
		if slices.Contains(hooks, c.Hook) && c.sees(p) {
			base = append(base, c)
		}
	}
	slices.SortFunc(base, func(a, b *chain) int {
		return cmp.Or(cmp.Compare(slices.Index(hooks, a.Hook), slices.Index(hooks, b.Hook)), cmp.Compare(a.Prio, b.Prio),
			cmp.Compare(a.where(), b.where()))
	})
	for _, c := range base {
		j.Hooks++
		r := run{filter: f, packet: p, hook: c.Hook}
		verdict, where := r.chain(c, 0)
		if verdict == "" && c.Policy == "drop" {
			verdict, where = "drop", c.where()+", by its policy"
		}
		if r.unsure != "" && j.Unsure == "" {
			j.Unsure = r.unsure
		}
		if verdict == "drop" && r.unsure == "" {
			j.Drop, j.Where = true, where
			return j
		}
	}
	return j
}

// sees reports whether a chain is for packets of this kind.
func (c *chain) sees(p Passing) bool {
	switch c.Family {
	case "ip":
		return p.To.Is4()
	case "ip6":
		return p.To.Is6()
	case "inet":
		return c.Hook != "ingress"
	case "netdev":
		dev := p.In
		if c.Hook == "egress" {
			dev = p.Out
		}
		return fmt.Sprint(c.Dev) == dev || fmt.Sprint(c.Dev) == "["+dev+"]"
	}
	return false
}

// run is a packet on its way through the chains of one hook.
type run struct {
	filter Filter
	packet Passing
	hook   string
	unsure string
}

// maxJumps bounds chains that call each other (NFT_JUMP_STACK_SIZE).
const maxJumps = 16

func (r *run) chain(c *chain, depth int) (verdict, where string) {
	if c == nil || depth > maxJumps {
		return "", ""
	}
	for _, rule := range c.rules {
		if verdict, where, done := r.rule(c, rule, depth); done {
			return verdict, where
		}
	}
	return "", ""
}

// rule sends a packet through one rule, expression by expression; done: the chain
// is over.
func (r *run) rule(c *chain, rule filterRule, depth int) (verdict, where string, done bool) {
	known := true
	place := fmt.Sprintf("%s, rule %d", c.where(), rule.Handle)
	for _, expression := range rule.Expr {
		for what, body := range expression {
			switch e := r.effect(what, body); {
			case e.kind == another:
				return "", "", false
			case e.kind == notKnown:
				known = false
			case e.kind == mayDecide || e.kind == decides && !known:
				r.unsure = place
				return "", "", false
			case e.kind == decides:
				if verdict, where, done = r.decide(e.verdict, e.body, c, place, depth); done {
					return verdict, where, true
				}
			}
		}
	}
	return "", "", false
}

// effect is what an expression of a rule does to a packet.
type effect struct {
	kind effectKind
	// verdict and body are those of a statement that decides.
	verdict string
	body    json.RawMessage
}

type effectKind int

const (
	nothing   effectKind = iota // the rule goes on
	another                     // the rule is for other packets
	notKnown                    // nobody can say whether the rule is for this one
	mayDecide                   // nobody can say whether the packet gets further
	decides
)

// effect says what an expression does (libnftables-json(5), "STATEMENTS").
func (r *run) effect(what string, body json.RawMessage) effect {
	switch what {
	case "match":
		var m match
		m.read(body)
		switch ok, understood := m.matches(r.packet, r.hook); {
		case !understood:
			return effect{kind: notKnown}
		case !ok:
			return effect{kind: another}
		}
		return effect{kind: nothing}
	case "counter", "comment", "log", "notrack", "mangle":
		return effect{kind: nothing}
	case "accept", "drop", "reject", "return", "jump", "goto":
		return effect{decides, what, body}
	case "queue", "fwd", "synproxy", "tproxy":
		return effect{kind: mayDecide}
	case "vmap":
		return r.verdictMap(body)
	case "xt":
		return extension(body)
	}
	return effect{kind: notKnown}
}

// verdictMap looks the packet up in a map of verdicts.
func (r *run) verdictMap(body json.RawMessage) effect {
	var m struct {
		Key  operand `json:"key"`
		Data struct {
			Set [][2]json.RawMessage `json:"set"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &m) != nil { // one with a name, for example
		return effect{kind: mayDecide}
	}
	value, present, known := m.Key.value(r.packet, r.hook)
	if !known {
		return effect{kind: mayDecide}
	}
	for _, entry := range m.Data.Set {
		var key any
		var verdict map[string]json.RawMessage
		if json.Unmarshal(entry[0], &key) != nil || json.Unmarshal(entry[1], &verdict) != nil {
			return effect{kind: mayDecide}
		}
		is, understood := equals(key, value)
		if !understood {
			return effect{kind: mayDecide}
		}
		for what, body := range verdict {
			if is && present {
				return r.effect(what, body)
			}
		}
	}
	return effect{kind: nothing}
}

// passing are targets of iptables after which a packet goes on to the next rule, or
// that translate addresses (iptables-extensions(8)).
var passing = []string{
	"AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DNAT", "DSCP", "ECN", "HL", "HMARK", "LOG", "MARK",
	"MASQUERADE", "NETMAP", "NFLOG", "NOTRACK", "REDIRECT", "SECMARK", "SET", "SNAT", "TCPMSS", "TCPOPTSTRIP", "TEE",
	"TOS", "TRACE", "TTL",
}

// extension is a match or a target of iptables.
func extension(body json.RawMessage) effect {
	var x struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
	switch err := json.Unmarshal(body, &x); {
	case err != nil || x.Type != "target":
		return effect{kind: notKnown}
	case x.Name == "REJECT":
		return effect{kind: decides, verdict: "reject"}
	case slices.Contains(passing, x.Name):
		return effect{kind: nothing}
	}
	return effect{kind: mayDecide}
}

// decide does what a rule says; done: the chain is over.
func (r *run) decide(
	what string,
	body json.RawMessage,
	c *chain,
	place string,
	depth int,
) (verdict, where string, done bool) {
	switch what {
	case "accept":
		return "accept", place, true
	case "drop", "reject":
		return "drop", place, true
	case "return":
		return "", "", true
	}
	var target struct {
		Target string `json:"target"`
	}
	_ = json.Unmarshal(body, &target) // an unknown chain has no rules
	verdict, where = r.chain(r.filter.chains[chainKey(c.Family, c.Table, target.Target)], depth+1)
	return verdict, where, verdict != "" || what == "goto"
}

// match is a condition of a rule.
type match struct {
	Op    string  `json:"op"`
	Left  operand `json:"left"`
	Right any     `json:"right"`
}

// operand is what a condition, or a map, looks at.
type operand struct {
	Payload *struct {
		Protocol string `json:"protocol"`
		Field    string `json:"field"`
	} `json:"payload"`
	Meta *struct {
		Key string `json:"key"`
	} `json:"meta"`
	CT *struct {
		Key string `json:"key"`
	} `json:"ct"`
}

func (m *match) read(body json.RawMessage) {
	if json.Unmarshal(body, m) != nil {
		*m = match{} // matches says that it is not understood
	}
}

// matches reports whether the packet meets the condition, and whether the
// condition was understood.
func (m *match) matches(p Passing, hook string) (ok, understood bool) {
	value, present, known := m.Left.value(p, hook)
	if !known {
		return false, false
	}
	if !present {
		return m.Op == "!=", true
	}
	is, understood := equals(m.Right, value)
	switch m.Op {
	case "==", "in":
		return is, understood
	case "!=":
		return !is, understood
	}
	return false, false
}

// value is that of the packet; present is false where packets of this kind have no
// such field.
func (l operand) value(p Passing, hook string) (value string, present, known bool) {
	proto := p.Packet.Number(forward.IPProto)
	names := map[uint64]string{1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp"}
	switch {
	case l.Meta != nil:
		switch l.Meta.Key {
		case "iifname", "iif":
			return p.In, true, true
		case "oifname", "oif":
			return p.Out, hook == "forward" || hook == "postrouting", true
		case "l4proto":
			return names[proto], true, true
		case "nfproto":
			return map[bool]string{true: "ipv4", false: "ipv6"}[p.To.Is4()], true, true
		}
	case l.CT != nil && l.CT.Key == "state":
		return "new", true, true
	case l.Payload != nil:
		return l.payload(p, names[proto])
	}
	return "", false, false
}

func (l operand) payload(p Passing, proto string) (value string, present, known bool) {
	at := l.Payload
	switch family := map[bool]string{true: "ip", false: "ip6"}[p.To.Is4()]; {
	case at.Protocol == "ip" || at.Protocol == "ip6":
		switch at.Field {
		case "saddr":
			return p.From.String(), at.Protocol == family, true
		case "daddr":
			return p.To.String(), at.Protocol == family, true
		case "protocol", "nexthdr":
			return proto, at.Protocol == family, true
		}
	case at.Field == "dport" || at.Field == "sport":
		port := p.Packet.Number(forward.TPDst)
		if at.Field == "sport" {
			port = p.Packet.Number(forward.TPSrc)
		}
		return fmt.Sprint(port), at.Protocol == proto || at.Protocol == "th", true
	}
	return "", false, false
}

// equals compares a value with what a rule has on its right side.
func equals(right any, value string) (is, understood bool) {
	switch r := right.(type) {
	case string:
		if strings.HasPrefix(r, "@") {
			return false, false // a named set
		}
		if prefix, ok := strings.CutSuffix(r, "*"); ok {
			return strings.HasPrefix(value, prefix), true
		}
		return r == value, true
	case float64:
		return fmt.Sprint(r) == value, true
	case []any: // ct state new,established
		return anyOf(r, value)
	case map[string]any:
		if set, ok := r["set"].([]any); ok {
			return anyOf(set, value)
		}
		if p, ok := r["prefix"].(map[string]any); ok {
			prefix, err := netip.ParsePrefix(fmt.Sprintf("%v/%v", p["addr"], p["len"]))
			a, err2 := netip.ParseAddr(value)
			return err == nil && err2 == nil && prefix.Contains(a), err == nil && err2 == nil
		}
	}
	return false, false
}

func anyOf(list []any, value string) (is, understood bool) {
	understood = true
	for _, x := range list {
		one, ok := equals(x, value)
		is, understood = is || one, understood && ok
	}
	return is, is || understood
}
