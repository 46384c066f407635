package bpf

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// code collects instructions; a label stands before the next one.
type code struct {
	ins   asm.Instructions
	label string
}

func (c *code) add(ins ...asm.Instruction) {
	for _, i := range ins {
		if c.label != "" {
			i, c.label = i.WithSymbol(c.label), ""
		}
		c.ins = append(c.ins, i)
	}
}

func (c *code) at(label string) { c.label = label }

// start leaves for "pass" with what is no packet of a family, and for its label
// with what is.
func (c *code) start() {
	c.add(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R0, asm.R6, skbVLAN, asm.Word),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R7, asm.R6, skbData, asm.Word),
		asm.LoadMem(asm.R0, asm.R6, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, ipv4.need),
		asm.JGT.Reg(asm.R1, asm.R0, "pass"),
	)
}

// whole checks that a packet is of a family, long enough and without options, and
// that its TTL survives. taken is how far the TTL sinks before it arrives.
func (c *code) whole(f family, taken int32) {
	if f.size == 16 {
		c.wholeIPv6(f)
	} else {
		c.add(
			asm.LoadMem(asm.R0, asm.R7, 14, asm.Byte),
			asm.JNE.Imm(asm.R0, 0x45, "pass"),
		)
	}
	c.add(
		asm.LoadMem(asm.R0, asm.R7, f.ttl, asm.Byte),
		asm.JLE.Imm(asm.R0, taken, "pass"),
		asm.JEq.Imm(asm.R0, 255, "pass"),
	)
}

func (c *code) wholeIPv6(f family) {
	c.add(
		asm.LoadMem(asm.R0, asm.R6, skbDataEnd, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Add.Imm(asm.R1, f.need),
		asm.JGT.Reg(asm.R1, asm.R0, "pass"),
		asm.LoadMem(asm.R0, asm.R7, 14, asm.Byte),
		asm.RSh.Imm(asm.R0, 4),
		asm.JNE.Imm(asm.R0, 6, "pass"),
		// Extension headers go the plain way; so does neighbour discovery, of which
		// guard looks into the message (types 133 to 137).
		asm.LoadMem(asm.R0, asm.R7, 20, asm.Byte),
		asm.JEq.Imm(asm.R0, unix.IPPROTO_TCP, "next6"),
		asm.JEq.Imm(asm.R0, unix.IPPROTO_UDP, "next6"),
		asm.JNE.Imm(asm.R0, unix.IPPROTO_ICMPV6, "pass"),
		asm.LoadMem(asm.R0, asm.R7, 54, asm.Byte),
		asm.Sub.Imm(asm.R0, 133),
		asm.JLE.Imm(asm.R0, 137-133, "pass"),
	)
	c.at("next6")
}

// equal compares size bytes of two places.
func (c *code) equal(a asm.Register, aOff int16, b asm.Register, bOff int16, size int32, other string) {
	for done := int32(0); done < size; {
		n, s := int32(4), asm.Word
		if size-done < 4 {
			n, s = 2, asm.Half
		}
		c.add(
			asm.LoadMem(asm.R0, a, aOff+int16(done), s),
			asm.LoadMem(asm.R1, b, bOff+int16(done), s),
			asm.JNE.Reg(asm.R0, asm.R1, other),
		)
		done += n
	}
}

// move copies bytes from one place to another, by words and halves.
func (c *code) move(to asm.Register, toOff int16, from asm.Register, fromOff int16, size int32) {
	for done := int32(0); done < size; {
		n, s := int32(4), asm.Word
		if size-done < 4 {
			n, s = 2, asm.Half
		}
		c.add(
			asm.LoadMem(asm.R0, from, fromOff+int16(done), s),
			asm.StoreMem(to, toOff+int16(done), asm.R0, s),
		)
		done += n
	}
}

// lookup looks a key on the stack up. R0 is the value; none leads to a label.
func (c *code) lookup(name string, key int16, none string) {
	c.add(
		asm.LoadMapPtr(asm.R1, 0).WithReference(name),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, int32(key)),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
	)
}

// longest looks for the longest prefix of an address of the packet.
func (c *code) longest(f family, off int16, none string) {
	c.add(asm.StoreImm(asm.R10, stackKey, int64(8*f.size), asm.Word))
	c.move(asm.R10, stackKey+4, asm.R7, off, f.size)
	c.lookup(f.hops, stackKey, none)
}

// fits leaves for "pass" where a packet, or the pieces that it will be cut into, is
// too large for the device whose index is in R2: the plain way answers.
func (c *code) fits() {
	c.add(
		asm.StoreImm(asm.R10, stackMTU, 0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, stackMTU),
		asm.Mov.Imm(asm.R4, 0),
		asm.Mov.Imm(asm.R5, mtuSegments),
		asm.FnCheckMtu.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
	)
}

// lower lowers the TTL by one. In IPv4 the checksum makes up for it (RFC 1141), so
// that the sum of all bytes, which a device may have computed, stays as it is. In
// IPv6 the kernel has to correct that sum, and R7 is no packet after it.
func (c *code) lower(f family) {
	c.add(
		asm.LoadMem(asm.R0, asm.R7, f.ttl, asm.Byte),
		asm.Sub.Imm(asm.R0, 1),
	)
	if f.size == 16 {
		c.add(
			asm.StoreMem(asm.R10, stackRewrite, asm.R0, asm.Byte),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, int32(f.ttl)),
			asm.Mov.Reg(asm.R3, asm.R10),
			asm.Add.Imm(asm.R3, stackRewrite),
			asm.Mov.Imm(asm.R4, 1),
			asm.Mov.Imm(asm.R5, recomputeCsum),
			asm.FnSkbStoreBytes.Call(),
			asm.JNE.Imm(asm.R0, 0, "pass"),
		)
		return
	}
	c.add(
		asm.StoreMem(asm.R7, f.ttl, asm.R0, asm.Byte),
		asm.LoadMem(asm.R0, asm.R7, f.ttl+2, asm.Half),
		asm.Add.Imm(asm.R0, network(0x0100)),
		asm.JLT.Imm(asm.R0, 0xffff, "whole"),
		asm.Add.Imm(asm.R0, 1),
	)
	c.at("whole")
	c.add(asm.StoreMem(asm.R7, f.ttl+2, asm.R0, asm.Half))
}

// deliver gives the packet to the endpoint of R9 and ends the program.
func (c *code) deliver() {
	c.add(
		asm.LoadMem(asm.R1, asm.R9, localIfindex, asm.Word),
		asm.Mov.Imm(asm.R2, 0),
		asm.LoadMem(asm.R0, asm.R9, localFlags, asm.Word),
		asm.JEq.Imm(asm.R0, 0, "queue"),
		asm.FnRedirectPeer.Call(),
		asm.Return(),
	)
	c.at("queue")
	c.add(asm.FnRedirect.Call(), asm.Return())
}

// end is where packets go on as if there were no program.
func (c *code) end() asm.Instructions {
	c.at("pass")
	c.add(asm.Mov.Imm(asm.R0, actUnspec), asm.Return())
	return c.ins
}

// families is the part of each family, behind a look at which one a packet is of.
func (c *code) families(part func(*code, family)) {
	c.add(
		asm.LoadMem(asm.R0, asm.R7, 12, asm.Half),
		asm.JEq.Imm(asm.R0, network(ipv6.ethertype), "ipv6"),
		asm.JNE.Imm(asm.R0, network(ipv4.ethertype), "pass"),
	)
	for _, f := range []family{ipv4, ipv6} {
		var x code
		if f.size == 16 {
			x.at("ipv6")
		}
		part(&x, f)
		c.ins = append(c.ins, labelled(f, x.ins)...)
	}
}

// labelled gives labels of one family names of their own.
func labelled(f family, ins asm.Instructions) asm.Instructions {
	own := func(s string) string {
		switch s {
		case "", "pass", "ipv4", "ipv6", mapPorts, mapCounters, mapHops4, mapHops6, mapLocals4, mapLocals6, mapRecent,
			mapGeneration:
			return s
		}
		return s + "." + f.name
	}
	for i := range ins {
		if s := own(ins[i].Symbol()); s != "" {
			ins[i] = ins[i].WithSymbol(s)
		}
		if r := own(ins[i].Reference()); r != "" {
			ins[i] = ins[i].WithReference(r)
		}
	}
	return ins
}

// length leaves the length of an IP packet in R2.
func (c *code) length(f family) {
	if f.size == 4 {
		c.add(asm.LoadMem(asm.R2, asm.R7, 16, asm.Half), asm.HostTo(asm.BE, asm.R2, asm.Half))
		return
	}
	c.add(
		asm.LoadMem(asm.R2, asm.R7, 18, asm.Half),
		asm.HostTo(asm.BE, asm.R2, asm.Half),
		asm.Add.Imm(asm.R2, 40),
	)
}

// inner adds code whose labels may be used already, with a suffix.
func (c *code) inner(x code, suffix string) {
	for _, i := range x.ins {
		switch s := i.Symbol(); s {
		case "":
		default:
			i = i.WithSymbol(s + suffix)
		}
		switch r := i.Reference(); r {
		case "", "pass", mapCounters:
		default:
			i = i.WithReference(r + suffix)
		}
		c.add(i)
	}
}
