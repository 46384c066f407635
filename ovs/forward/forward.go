// Package forward says what flows do with a packet: which flow of each table it
// matches, how that changes it, and where it leaves. It is pure, and does what
// Open vSwitch does: OpenFlow 1.4 section 5.1, ovs-actions(7), ovs-fields(7). The
// fake switch of the tests forwards with it, and 'baize trace' explains with it.
package forward

import (
	"cmp"
	"slices"

	"github.com/baize-net/baize/ovs"
)

// maxDepth is how deep tables may lead into one another: MAX_DEPTH of Open vSwitch.
const maxDepth = 64

// Tables are the flows of a switch, ready for packets.
type Tables struct{ byTable map[int][]*Rule }

// NewTables puts rules into their order. Of two that match and have one priority,
// OpenFlow leaves open which it is; here it is the first.
func NewTables(rules []*Rule) Tables {
	t := Tables{map[int][]*Rule{}}
	for _, r := range rules {
		t.byTable[r.Flow.Table] = append(t.byTable[r.Flow.Table], r)
	}
	for _, rs := range t.byTable {
		slices.SortStableFunc(rs, func(a, b *Rule) int { return cmp.Compare(b.Flow.Priority, a.Flow.Priority) })
	}
	return t
}

// Step is one look into a table.
type Step struct {
	Table int
	// Rule is the flow that the packet matched; nil: none did, and it goes no further.
	Rule *Rule
	// Packet is the packet as it came to the table.
	Packet Packet
	// Unsure are the rules of the table that come before Rule, and of which nobody
	// can say whether the packet matches them.
	Unsure []*Rule
}

// Output is a packet that leaves the switch.
type Output struct {
	// Port is the number of the OpenFlow port.
	Port   int
	Packet Packet
	// Back: it leaves by the port that it came in by, as an answer does.
	Back bool
}

// Trace is what the tables do with a packet.
type Trace struct {
	Steps   []Step
	Outputs []Output
}

// Forward sends a packet, which came in by a port, through the tables from the
// first. Packets do not go back out of the port that they came from, unless they
// are told to (ovs-actions(7), "in_port").
func (t Tables) Forward(in int, p Packet) Trace {
	p.Set(InPort, uint64(in))
	e := execution{tables: t, packet: p}
	e.table(0, 0)
	return e.trace
}

// execution is a packet on its way through the tables.
type execution struct {
	tables Tables
	trace  Trace
	packet Packet
	stack  []value
}

// table looks a packet up in a table, to which depth others have led.
func (e *execution) table(n, depth int) {
	if depth > maxDepth {
		return
	}
	step := Step{Table: n, Packet: e.packet}
	for _, r := range e.tables.byTable[n] {
		if !e.packet.matches(r.match) {
			continue
		}
		if r.unknownMatch != "" {
			step.Unsure = append(step.Unsure, r)
			continue
		}
		step.Rule = r
		break
	}
	e.trace.Steps = append(e.trace.Steps, step)
	if step.Rule != nil {
		e.do(step.Rule.actions, depth)
	}
}

func (e *execution) do(actions []action, depth int) {
	in := int(e.packet.fields[InPort].lo)
	for _, a := range actions {
		switch a.kind {
		case "output", "output_part":
			port := a.port
			if a.kind == "output_part" {
				port = int(e.packet.get(a.from).lo)
			}
			if port != in {
				e.trace.Outputs = append(e.trace.Outputs, Output{Port: port, Packet: e.packet})
			}
		case "in_port":
			e.trace.Outputs = append(e.trace.Outputs, Output{Port: in, Packet: e.packet, Back: true})
		case "goto", "resubmit":
			e.table(a.table, depth+1)
		case "dec_ttl":
			if !e.packet.DecTTL() {
				return
			}
		default:
			e.change(a)
		}
	}
}

// change does an action that changes the packet.
func (e *execution) change(a action) {
	switch a.kind {
	case "set":
		old := e.packet.fields[a.set.field]
		e.packet.set(a.set.field, old.and(a.set.mask.not()).or(a.set.value.and(a.set.mask)))
	case "move":
		e.packet.put(a.to, e.packet.get(a.from))
	case "push":
		e.stack = append(e.stack, e.packet.get(a.from))
	case "pop":
		if n := len(e.stack); n > 0 {
			e.packet.put(a.to, e.stack[n-1])
			e.stack = e.stack[:n-1]
		}
	}
}

// Flows returns the flows that a packet matched, in its order.
func (t Trace) Flows() []ovs.BoundFlow {
	out := make([]ovs.BoundFlow, 0, len(t.Steps))
	for _, s := range t.Steps {
		if s.Rule != nil {
			out = append(out, s.Rule.Flow)
		}
	}
	return out
}

// Lookup returns the rule of one table that a packet matches; nil where none does.
func (t Tables) Lookup(table int, p Packet) *Rule {
	for _, r := range t.byTable[table] {
		if r.unknownMatch == "" && p.matches(r.match) {
			return r
		}
	}
	return nil
}
