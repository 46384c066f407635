package ovsfake

import (
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
)

// Output is a packet that leaves a switch.
type Output struct {
	// Port is the port's name; "" when its number is nobody's.
	Port   string
	Packet forward.Packet
}

// Trace is what a switch did with a packet.
type Trace struct {
	Outputs []Output
	// Flows are those that it went by.
	Flows []ovs.BoundFlow
}

// Receive returns what the switch does with a packet that comes in by a port.
func (f *Switch) Receive(port string, p forward.Packet) Trace {
	f.mu.Lock()
	defer f.mu.Unlock()
	in, there := f.Ports[port]
	var t Trace
	if !there || !in.Live() || !f.vswitchd {
		return t
	}
	names := map[int]string{}
	for _, o := range f.Ports {
		if o.Live() {
			names[o.OFPort] = o.Name
		}
	}
	done := f.ready().Forward(in.OFPort, p)
	for _, o := range done.Outputs {
		t.Outputs = append(t.Outputs, Output{names[o.Port], o.Packet})
	}
	t.Flows = done.Flows()
	return t
}

// ready returns the flows as packets pass them. It needs f.mu.
func (f *Switch) ready() forward.Tables {
	if f.tables == nil {
		rules := make([]*forward.Rule, 0, len(f.Table))
		for id, flow := range f.Table {
			r := f.rules[id]
			if r == nil { // put there by a test
				r, _ = forward.Parse(flow)
				f.rules[id] = r
			}
			rules = append(rules, r)
		}
		tables := forward.NewTables(rules)
		f.tables = &tables
	}
	return *f.tables
}
