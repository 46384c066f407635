package ovsfake

import (
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
)

// Packet is a frame, and what a switch knows of it on its way.
type Packet struct{ fields [fieldCount]value }

func macValue(m net.HardwareAddr) value {
	var out uint64
	for _, b := range m {
		out = out<<8 | uint64(b)
	}
	return value{0, out}
}

// FromMAC returns the source's MAC.
func (p Packet) FromMAC() net.HardwareAddr {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], p.fields[ethSrc].lo)
	return b[2:]
}

// Broadcast is everybody's MAC.
var Broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// IP is a packet from one address to another, TTL 64.
func IP(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr) Packet {
	var p Packet
	p.set(ethSrc, macValue(fromMAC))
	p.set(ethDst, macValue(toMAC))
	p.set(ipProto, value{0, 17})
	p.set(ipTTL, value{0, 64})
	if from.Is4() {
		p.set(ethType, value{0, typeIPv4})
		p.set(ip4Src, addrValue(from))
		p.set(ip4Dst, addrValue(to))
		return p
	}
	p.set(ethType, value{0, typeIPv6})
	p.set(ip6Src, addrValue(from))
	p.set(ip6Dst, addrValue(to))
	return p
}

// Who asks for the owner of an address: an ARP request or a neighbour
// solicitation.
func Who(fromMAC net.HardwareAddr, from, target netip.Addr) Packet {
	var p Packet
	p.set(ethSrc, macValue(fromMAC))
	if from.Is4() {
		p.set(ethDst, macValue(Broadcast))
		p.set(ethType, value{0, typeARP})
		p.set(arpOp, value{0, 1})
		p.set(arpSPA, addrValue(from))
		p.set(arpTPA, addrValue(target))
		p.set(arpSHA, macValue(fromMAC))
		return p
	}
	t := target.As16()
	group := [16]byte{0xff, 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}
	p = IP(fromMAC, net.HardwareAddr{0x33, 0x33, 0xff, t[13], t[14], t[15]}, from, netip.AddrFrom16(group))
	p.set(ipProto, value{0, protoICMP6})
	p.set(ipTTL, value{0, 255})
	p.set(icmpType, value{0, 135})
	p.set(ndTarget, addrValue(target))
	p.set(ndSLL, macValue(fromMAC))
	return p
}

func (p *Packet) set(f field, v value) { p.fields[f] = v }

func (p *Packet) matches(cs []constraint) bool {
	for _, c := range cs {
		if p.fields[c.field].and(c.mask) != c.value {
			return false
		}
	}
	return true
}

func (p *Packet) get(x part) value { return p.fields[x.field].shr(x.first).and(ones(x.bits)) }

func (p *Packet) put(x part, v value) {
	mask := ones(x.bits).shl(x.first)
	p.fields[x.field] = p.fields[x.field].and(mask.not()).or(v.shl(x.first).and(mask))
}

// Output is a packet that leaves a switch.
type Output struct {
	// Port is the port's name; "" when its number is nobody's.
	Port   string
	Packet Packet
}

// Trace is what a switch did with a packet.
type Trace struct {
	Outputs []Output
	// Flows are those that it went by.
	Flows []ovs.BoundFlow
}

// Receive returns what the switch does with a packet that comes in by a port.
func (f *Switch) Receive(port string, p Packet) Trace {
	f.mu.Lock()
	defer f.mu.Unlock()
	in, there := f.Ports[port]
	var t Trace
	if !there || !in.Live() || !f.vswitchd {
		return t
	}
	p.set(inPort, value{0, uint64(in.OFPort)})
	names := map[int]string{}
	for _, o := range f.Ports {
		if o.Live() {
			names[o.OFPort] = o.Name
		}
	}
	e := execution{f: f, names: names, trace: &t, p: p}
	e.table(0, 0)
	return t
}

// rulesOf returns a table's rules, the highest priority first. It needs f.mu.
func (f *Switch) rulesOf(table int) []*rule {
	if f.byTable == nil {
		f.byTable = map[int][]*rule{}
		for id, flow := range f.Table {
			r := f.rules[id]
			if r == nil { // put there by a test
				r, _ = parseRule(flow)
				f.rules[id] = r
			}
			f.byTable[flow.Table] = append(f.byTable[flow.Table], r)
		}
		for _, rs := range f.byTable {
			slices.SortFunc(rs, func(a, b *rule) int { return cmp.Compare(b.flow.Priority, a.flow.Priority) })
		}
	}
	return f.byTable[table]
}

// execution is a packet on its way through the tables.
type execution struct {
	f     *Switch
	names map[int]string
	trace *Trace
	p     Packet
	stack []value
}

const maxDepth = 64

func (e *execution) table(n, depth int) {
	for _, r := range e.f.rulesOf(n) {
		if e.p.matches(r.match) {
			e.trace.Flows = append(e.trace.Flows, r.flow)
			e.do(r.actions, depth)
			return
		}
	}
}

func (e *execution) do(actions []action, depth int) {
	if depth > maxDepth {
		return
	}
	in := int(e.p.fields[inPort].lo)
	for _, a := range actions {
		switch a.kind {
		case "output", "output_part":
			port := a.port
			if a.kind == "output_part" {
				port = int(e.p.get(a.from).lo)
			}
			// Never back out of the port it came from.
			if port != in {
				e.send(port)
			}
		case "in_port":
			e.send(in)
		case "goto", "resubmit":
			e.table(a.table, depth+1)
		case "dec_ttl":
			if !e.p.older() {
				return
			}
		default:
			e.change(a)
		}
	}
}

// older lowers the TTL, and reports whether the packet lives on.
func (p *Packet) older() bool {
	ttl := p.fields[ipTTL].lo
	if ttl <= 1 {
		return false
	}
	p.set(ipTTL, value{0, ttl - 1})
	return true
}

// change does an action that changes the packet.
func (e *execution) change(a action) {
	switch a.kind {
	case "set":
		old := e.p.fields[a.set.field]
		e.p.set(a.set.field, old.and(a.set.mask.not()).or(a.set.value.and(a.set.mask)))
	case "move":
		e.p.put(a.to, e.p.get(a.from))
	case "push":
		e.stack = append(e.stack, e.p.get(a.from))
	case "pop":
		if n := len(e.stack); n > 0 {
			e.p.put(a.to, e.stack[n-1])
			e.stack = e.stack[:n-1]
		}
	}
}

func (e *execution) send(port int) {
	e.trace.Outputs = append(e.trace.Outputs, Output{e.names[port], e.p})
}
