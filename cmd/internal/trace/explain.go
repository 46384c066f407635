package trace

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// Explanation says what something on a node is for.
type Explanation struct {
	// Kind is "flow", "port", "fault" or "drop".
	Kind    string `json:"kind"`
	Subject string `json:"subject"`
	Text    string `json:"text"`
	// Details are further facts, in their order.
	Details []Detail `json:"details"`
	Remedy  string   `json:"remedy,omitempty"`
}

// Detail is one fact.
type Detail struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (e *Explanation) add(name, format string, args ...any) {
	e.Details = append(e.Details, Detail{name, fmt.Sprintf(format, args...)})
}

// Flow explains flows of the node by a line of 'ovs-ofctl dump-flows', or by a
// cookie; false where the text is neither.
func (f Facts) Flow(text string) ([]Explanation, bool) {
	b := f.bridge()
	if cookie, err := strconv.ParseUint(strings.TrimPrefix(text, "cookie="), 0, 64); err == nil && cookie > 1<<16 {
		return f.byCookie(b, cookie), true
	}
	flow, ok := openflow.ParseFlow(b.numbered(text))
	if !ok {
		return nil, false
	}
	rule := forward.Read(flow.BoundFlow)
	if flow.Cookie == 0 { // a line without: the same flow by its text
		for _, want := range b.rules {
			if rule.Same(want) {
				return []Explanation{f.ours(b, want)}, true
			}
		}
		return []Explanation{f.foreign(b, rule)}, true
	}
	if ovs.OwnCookie(flow.Cookie) {
		want, wanted := b.rules[flow.ID()]
		if !wanted {
			return []Explanation{f.stale(b, rule)}, true
		}
		e := f.ours(b, want)
		if !rule.Same(want) {
			e.add("changed", "by hand: it should be %s", b.text(want))
			e.Remedy = "a running agent restores it: 'baize status'"
		}
		return []Explanation{e}, true
	}
	return []Explanation{f.foreign(b, rule)}, true
}

// byCookie explains all flows with a cookie.
func (f Facts) byCookie(b *bridge, cookie uint64) (out []Explanation) {
	byTable := func(x, y ovs.FlowID) int { return cmp.Compare(x.Table, y.Table) }
	for _, id := range slices.SortedFunc(maps.Keys(b.rules), byTable) {
		if id.Cookie == cookie {
			out = append(out, f.ours(b, b.rules[id]))
		}
	}
	if f.Observed != nil && len(out) == 0 {
		for _, flow := range f.Observed.Flows {
			rule := forward.Read(flow.BoundFlow)
			switch {
			case flow.Cookie != cookie:
			case ovs.OwnCookie(cookie):
				out = append(out, f.stale(b, rule))
			default:
				out = append(out, f.foreign(b, rule))
			}
		}
	}
	if len(out) == 0 {
		whose := "it is not Baize's: those begin with 0xba12"
		if ovs.OwnCookie(cookie) {
			whose = "it has Baize's mark"
		}
		out = []Explanation{{
			Kind: "flow", Subject: fmt.Sprintf("cookie %#x", cookie), Details: []Detail{},
			Text: "no flow that this node has, or should have, has this cookie; " + whose,
		}}
	}
	return out
}

var quotedPort = regexp.MustCompile(`"([^"]+)"`)

// numbered puts numbers in the place of the names of ports, as far as they are
// quoted or known.
func (b *bridge) numbered(text string) string {
	number := func(name, otherwise string) string {
		if n, ok := b.numbers[name]; ok {
			return strconv.Itoa(n)
		}
		return otherwise
	}
	text = quotedPort.ReplaceAllStringFunc(text, func(q string) string { return number(strings.Trim(q, `"`), q) })
	for _, before := range []string{"in_port=", "output:"} {
		parts := strings.Split(text, before)
		for i := 1; i < len(parts); i++ {
			end := strings.IndexAny(parts[i]+",", ", \t")
			parts[i] = number(parts[i][:end], parts[i][:end]) + parts[i][end:]
		}
		text = strings.Join(parts, before)
	}
	return text
}

// about begins the explanation of a flow.
func (b *bridge) about(r *forward.Rule, text string) Explanation {
	e := Explanation{Kind: "flow", Subject: b.text(r), Text: text, Details: []Detail{}}
	table := pipeline.TableName(r.Flow.Table)
	for _, t := range pipeline.Tables() {
		if t.Name == table {
			e.add("table", "%d %s: %s", r.Flow.Table, t.Name, t.Purpose)
		}
	}
	if table == "" {
		e.add("table", "%d, which Baize does not use: no flow of Baize's leads there", r.Flow.Table)
	}
	return e
}

func (f Facts) ours(b *bridge, r *forward.Rule) Explanation {
	w := r.Flow
	text := w.Class
	if w.Drops() {
		text = "drops, and counts: " + w.Class
	}
	e := b.about(r, text)
	if m := pipeline.DropMeaning(w.Class); m != "" {
		e.add("meaning", "%s", m)
	}
	if w.Reason.Key != "" {
		e.add("because of", "%s", w.Reason)
	} else {
		e.add("because of", "nothing: every node has it")
	}
	switch {
	case f.Observed == nil:
	case b.there(r):
		e.add("packets", "%d", b.counters[r.Flow.ID()])
	default:
		e.add("missing", "the switch does not have it")
		e.Remedy = "a running agent adds it: 'baize status'"
	}
	return e
}

// stale explains a flow with Baize's mark that should not be there.
func (f Facts) stale(b *bridge, r *forward.Rule) Explanation {
	e := b.about(r, "a flow with Baize's mark that this node should not have now")
	f.shadows(b, &e, r)
	e.Remedy = "a running agent removes it: 'baize status'"
	return e
}

func (f Facts) foreign(b *bridge, r *forward.Rule) Explanation {
	e := b.about(r, "not a flow of Baize's: it is left alone, and shown by 'baize status'")
	if match, action := r.Unknown(); match != "" || action != "" {
		e.add(
			"not understood",
			"%s",
			strings.Join(slices.DeleteFunc([]string{match, action}, func(s string) bool { return s == "" }), ", "),
		)
	}
	f.shadows(b, &e, r)
	e.Remedy = fmt.Sprintf("'ovs-ofctl -O OpenFlow14 del-flows %s cookie=%#x/-1,table=%d', if nobody needs it",
		f.Wanted.Bridge.Name, r.Flow.Cookie, r.Flow.Table)
	return e
}

// shadows says which of Baize's flows do not see the packets that a rule takes.
func (f Facts) shadows(b *bridge, e *Explanation, r *forward.Rule) {
	classes := map[string]int{}
	for id, w := range b.rules {
		if w.Flow.Priority <= r.Flow.Priority && id != r.Flow.ID() && r.Overlaps(w) {
			classes[w.Flow.Class]++
		}
	}
	if len(classes) == 0 {
		e.add("shadows", "nothing: no flow of Baize's that comes later matches the same packets")
		return
	}
	for _, c := range slices.Sorted(maps.Keys(classes)) {
		e.add("shadows", "%s (%d flows, in whole or in part)", c, classes[c])
	}
}

// Port explains a port of the bridge by its name or its OpenFlow number; false
// where there is none.
func (f Facts) Port(text string) (Explanation, bool) {
	b := f.bridge()
	name := text
	if n, err := strconv.Atoi(text); err == nil && b.names[n] != "" {
		name = b.names[n]
	}
	p, wanted := f.port(name)
	if p.Name == "" {
		return Explanation{}, false
	}
	e := Explanation{Kind: "port", Subject: name, Details: []Detail{}}
	id := p.ExternalIDs
	switch {
	case !p.Owned():
		e.Text = "not a port of Baize's: frames from it are dropped, and counted as " + strconv.Quote(
			pipeline.DropForeignPort,
		)
		e.Remedy = fmt.Sprintf("'ovs-vsctl del-port %s %s', if nobody needs it", f.Wanted.Bridge.Name, name)
	case p.Role() == ovs.RoleTunnel:
		f.tunnelPort(&e, p)
	case p.Role() == ovs.RoleEndpoint:
		e.Text = fmt.Sprintf("endpoint %s in network %s", id[ovs.KeyEndpoint], id[ovs.KeyNetwork])
		e.add("addresses", "%s", cmp.Or(id[ovs.KeyIPs], "not known: it may send from any"))
		e.add("MAC", "%s", cmp.Or(id[ovs.KeyMAC], "not known"))
		if id[ovs.KeyAllow] != "" {
			e.add("may send from", "%s", id[ovs.KeyAllow])
		}
		e.add("namespace", "%s, interface %s", cmp.Or(id[ovs.KeyNetns], "-"), cmp.Or(id[ovs.KeyIfname], "-"))
	case p.Role() == ovs.RoleSegment:
		e.Text = fmt.Sprintf(
			"leads to the local bridge %s, which is a part of network %s",
			id[ovs.KeySegment],
			id[ovs.KeyNetwork],
		)
	case p.Role() == ovs.RoleHost:
		e.Text = fmt.Sprintf(
			"this host's own port in network %s: what its kernel routes for the network passes it",
			id[ovs.KeyNetwork],
		)
		e.add("addresses", "%s", cmp.Or(id[ovs.KeyIPs], "none"))
		e.add("MAC", "%s", id[ovs.KeyMAC])
	}
	f.portState(b, &e, p, wanted)
	return e, true
}

func (f Facts) tunnelPort(e *Explanation, p ovs.Port) {
	id, _ := p.TunnelID()
	e.Text = fmt.Sprintf("the %s tunnel to node %s", id.Encap, id.Node)
	e.add("ends", "%s → %s", cmp.Or(p.Options["local_ip"], "any"), p.Options["remote_ip"])
	var networks []string
	for _, n := range f.View.Networks {
		for i := range n.Peers {
			if peer := &n.Peers[i]; peer.Node == id.Node && peer.Encap == id.Encap {
				networks = append(
					networks,
					fmt.Sprintf("%s (VNI %d, %s)", n.Name, n.VNI, strings.Trim(fmt.Sprint(peer.Subnets), "[]")),
				)
				if len(networks) == 1 {
					e.add("because of", "%s", ovs.Reason{Key: topology.NodeKey(peer.Node), Revision: peer.Revision})
				}
			}
		}
	}
	e.add("networks", "%s", cmp.Or(strings.Join(networks, ", "), "none"))
}

// portState says how the port is, and what concerns it.
func (f Facts) portState(b *bridge, e *Explanation, p ovs.Port, wanted bool) {
	if p.Owned() && !wanted {
		e.add("superfluous", "this node should not have it now")
		e.Remedy = "a running agent removes it: 'baize status'"
	}
	if f.Observed != nil {
		have, there := f.Observed.Switch.Ports[p.Name]
		switch {
		case !there:
			e.add("missing", "the bridge does not have it")
			e.Remedy = "a running agent makes it: 'baize status'"
		case !have.Live():
			e.add("error", "%s", cmp.Or(have.Error, "it has no OpenFlow number yet"))
		default:
			e.add("OpenFlow number", "%d", have.OFPort)
			e.add("link", "%s", map[bool]string{true: "up", false: "down"}[have.Up || have.Type != ""])
			if have.Statistics != nil {
				e.add("packets", "%d received, %d sent", have.Statistics["rx_packets"], have.Statistics["tx_packets"])
			}
		}
	}
	flows := 0
	for _, w := range f.Wanted.Flows {
		if strings.Contains(w.Match+w.Actions, `"`+p.Name+`"`) {
			flows++
		}
	}
	e.add("flows", "%d name it", flows)
}

// Drop explains the label of a counter of dropped packets, as 'baize status' shows
// it; false where there is none of that name.
func (f Facts) Drop(label string) (Explanation, bool) {
	label = strings.TrimSuffix(strings.TrimPrefix(label, "dropped "), ":")
	e := Explanation{Kind: "drop", Subject: label, Text: pipeline.DropMeaning(label), Details: []Detail{}}
	if what, down := ovs.DownPort(label); down && e.Text == "" {
		e.Text = fmt.Sprintf("The port of this is not there, or Open vSwitch cannot forward through it: %s.", what)
		e.Remedy = "'baize status' names the port and what is wrong with it"
	}
	if e.Text == "" {
		return e, false
	}
	b := f.bridge()
	var packets uint64
	for id, w := range b.rules {
		if w.Flow.Class != label {
			continue
		}
		packets += b.counters[id]
		e.add("flow", "%s", b.text(w))
	}
	slices.SortFunc(e.Details, func(x, y Detail) int { return cmp.Compare(x.Value, y.Value) })
	const most = 5
	if n := len(e.Details); n > most {
		e.Details = e.Details[:most]
		e.add("flow", "and %d more", n-most)
	}
	if len(e.Details) == 0 {
		e.add("flow", "none on this node now")
	} else if f.Observed != nil {
		e.add("packets", "%d", packets)
	}
	return e, true
}
