package bpf

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// The programs, put together with the assembler of cilium/ebpf: nothing has to be
// compiled, and what runs is what stands here. R6 is the context, R7 the packet,
// R8 the entry of the prefix (hop), R9 that of the port or of the local address.
// The verifier of the kernel checks them when they are loaded.

// Offsets in struct __sk_buff (linux/bpf.h).
const (
	skbLen     = 0
	skbPktType = 4
	skbVLAN    = 20
	skbIfindex = 40
	skbData    = 76
	skbDataEnd = 80
	skbGSOSegs = 164
	skbGSOSize = 176
)

// Offsets in the values of the maps: types portValue, localValue and hopValue.
const (
	portMAC     = 0
	portGateway = 8
	portNetwork = 16
	portHost    = 20
	portFlags   = 28
	portIPv4    = 32
	portIPv6    = 40

	localMAC     = 0
	localSrc     = 6
	localNetwork = 12
	localIfindex = 16
	localFlags   = 20

	hopNode    = 0
	hopNetwork = 8
	hopIfindex = 12
	hopMAC     = 16
	hopFlags   = 24
)

// Offsets in the values of mapRecent: type recentValue.
const (
	recentPort    = 0
	recentChange  = 4
	recentUntil   = 8
	recentDst     = 16
	recentNeigh   = 32
	recentOut     = 52
	recentMAC     = 56
	recentNode    = 64
	recentPackets = 72
	recentBytes   = 80
	recentMTU     = 88
)

// recentSlots are the slots of a processor, a power of two; recentFor is how long a
// decision is good for, in nanoseconds: a change of this host's routes by somebody
// else than the agent takes effect within it.
const (
	recentSlots = 256
	recentFor   = 100_000_000
)

// Flags in the values.
const (
	flagGateway = 1 // of a port: one MAC stands for all other nodes
	flagIPv4    = 2 // of a port: it has an address of the family
	flagIPv6    = 4
	flagPeer    = 1 // of a local address: its device takes redirected packets at once
	flagMAC     = 1 // of a hop: it has a MAC of its own
)

// Offsets in struct bpf_fib_lookup (linux/bpf.h), whose size is 64.
const (
	fibFamily  = 0
	fibProto   = 1
	fibLen     = 6
	fibIfindex = 8
	fibTOS     = 12
	fibSrc     = 16
	fibDst     = 32
	fibSize    = 64
	// fibNoNeigh: there is a route, and the neighbour is to be asked for.
	fibNoNeigh = 7
)

// Places on the stack, below the frame pointer.
const (
	stackFIB     = -64
	stackKey     = -88  // a key of any map: 20 bytes at most
	stackCount   = -104 // the key of a counter
	stackFirst   = -120 // and its first value
	stackNeigh   = -144 // struct bpf_redir_neigh, 20 bytes
	stackMTU     = -148
	stackRecent  = -168 // the slot of mapRecent
	stackChange  = -172 // the number in mapGeneration
	stackRewrite = -152 // a byte to write into the packet
)

// Verdicts of a classifier with direct action (linux/pkt_cls.h): the packet goes on
// to what comes next, other classifiers included.
const actUnspec = -1

// mtuSegments is BPF_MTU_CHK_SEGS: of a packet that is still to be cut, the pieces
// count. recomputeCsum is BPF_F_RECOMPUTE_CSUM.
const (
	mtuSegments   = 1
	recomputeCsum = 1
)

// Directions of counters.
const (
	dirSent     = 0 // to another node
	dirReceived = 1 // from another node
)

const hopsTaken = 2 // as the pipeline has it

// family is where things are in a packet of one family, Ethernet header included.
type family struct {
	name         string
	ethertype    uint16
	af           int32
	need         int32 // bytes that have to be there
	ttl          int16
	src, dst     int16
	size         int32 // of an address
	hops, locals string
	flag         int32
	port         int16 // where a port has its address
}

var (
	ipv4 = family{"4", 0x0800, unix.AF_INET, 34, 22, 26, 30, 4, mapHops4, mapLocals4, flagIPv4, portIPv4}
	ipv6 = family{"6", 0x86dd, unix.AF_INET6, 55, 21, 22, 38, 16, mapHops6, mapLocals6, flagIPv6, portIPv6}
)

// network writes a number as it is in packets.
func network(v uint16) int32 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return int32(binary.NativeEndian.Uint16(b[:]))
}

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

// copyOut copies bytes of R7 or of a map's value to the stack, by words and halves.
func (c *code) copyOut(to int16, from asm.Register, off int16, size int32) {
	for done := int32(0); done < size; {
		n, s := int32(4), asm.Word
		if size-done < 4 {
			n, s = 2, asm.Half
		}
		c.add(
			asm.LoadMem(asm.R0, from, off+int16(done), s),
			asm.StoreMem(asm.R10, to+int16(done), asm.R0, s),
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
	c.copyOut(stackKey+4, asm.R7, off, f.size)
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

// count counts the packet for the device that sent it and the node of R8; inside:
// for this node, which is 0.
func (c *code) count(inside bool) {
	if inside {
		c.add(asm.Mov.Imm(asm.R0, 0))
	} else {
		c.add(asm.LoadMem(asm.R0, asm.R8, hopNode, asm.DWord))
	}
	c.add(
		asm.StoreMem(asm.R10, stackCount, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.R6, skbIfindex, asm.Word),
		asm.StoreMem(asm.R10, stackCount+8, asm.R0, asm.Word),
		asm.StoreImm(asm.R10, stackCount+12, dirSent, asm.Word),
	)
	c.lookup(mapCounters, stackCount, "first")
	c.add(
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.LoadMem(asm.R2, asm.R6, skbGSOSegs, asm.Word),
		asm.JGT.Imm(asm.R2, 0, "segments"),
		asm.Mov.Imm(asm.R2, 1),
	)
	c.at("segments")
	c.add(
		asm.Add.Reg(asm.R1, asm.R2),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
		asm.LoadMem(asm.R2, asm.R6, skbLen, asm.Word),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.StoreMem(asm.R0, 8, asm.R1, asm.DWord),
		asm.Ja.Label("counted"),
	)
	c.at("first")
	c.add(
		asm.LoadMem(asm.R2, asm.R6, skbGSOSegs, asm.Word),
		asm.JGT.Imm(asm.R2, 0, "many"),
		asm.Mov.Imm(asm.R2, 1),
	)
	c.at("many")
	c.add(
		asm.StoreMem(asm.R10, stackFirst, asm.R2, asm.DWord),
		asm.LoadMem(asm.R2, asm.R6, skbLen, asm.Word),
		asm.StoreMem(asm.R10, stackFirst+8, asm.R2, asm.DWord),
		asm.LoadMapPtr(asm.R1, 0).WithReference(mapCounters),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackCount),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, stackFirst),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
	)
	c.at("counted")
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

// fromEndpoint is the program at the host's end of an endpoint.
func fromEndpoint() asm.Instructions {
	var c code
	c.start()
	c.add(
		asm.LoadMem(asm.R0, asm.R6, skbIfindex, asm.Word),
		asm.StoreMem(asm.R10, stackKey, asm.R0, asm.Word),
	)
	c.lookup(mapPorts, stackKey, "pass")
	c.add(asm.Mov.Reg(asm.R9, asm.R0))
	c.equal(asm.R7, 6, asm.R9, portMAC, 6, "pass")
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
		x.send(f)
		c.ins = append(c.ins, labelled(f, x.ins)...)
	}
	return c.end()
}

// send is the part of one family.
func (c *code) send(f family) {
	c.whole(f, hopsTaken)
	// The endpoint's own address.
	c.add(
		asm.LoadMem(asm.R0, asm.R9, portFlags, asm.Word),
		asm.And.Imm(asm.R0, f.flag),
		asm.JEq.Imm(asm.R0, 0, "pass"),
	)
	c.equal(asm.R7, f.src, asm.R9, f.port, f.size, "pass")
	c.again(f)
	c.longest(f, f.dst, "here")
	c.add(
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R0, asm.R8, hopIfindex, asm.Word),
		asm.JEq.Imm(asm.R0, 0, "pass"),
	)
	c.equal(asm.R8, hopNetwork, asm.R9, portNetwork, 4, "pass")
	c.leadsThere(f)
	c.route(f)
	c.remember(f)
	c.lower(f)
	c.count(false)
	// The kernel knows the neighbour's link address, or asks for it.
	c.add(
		asm.LoadMem(asm.R1, asm.R8, hopIfindex, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackNeigh),
		asm.Mov.Imm(asm.R3, 20),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return(),
	)
	c.at("here")
	c.inside(f)
}

// again takes the packet where one of the same endpoint to the same address and MAC
// was taken a moment ago, on this processor, and is counted there. What was decided
// has the port's addresses checked before it, so the packet's own does not matter.
func (c *code) again(f family) {
	c.add(
		asm.LoadMem(asm.R0, asm.R7, f.dst+int16(f.size)-1, asm.Byte),
		asm.LoadMem(asm.R1, asm.R7, f.dst+int16(f.size)/2, asm.Byte),
		asm.Xor.Reg(asm.R0, asm.R1),
		asm.StoreMem(asm.R10, stackKey, asm.R0, asm.Word),
	)
	c.lookup(mapRecent, stackKey, "pass")
	c.add(
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.StoreMem(asm.R10, stackRecent, asm.R8, asm.DWord),
		asm.StoreImm(asm.R10, stackKey, 0, asm.Word),
	)
	c.lookup(mapGeneration, stackKey, "pass")
	c.add(
		asm.LoadMem(asm.R0, asm.R0, 0, asm.Word),
		asm.StoreMem(asm.R10, stackChange, asm.R0, asm.Word),
		asm.LoadMem(asm.R1, asm.R8, recentChange, asm.Word),
		asm.JNE.Reg(asm.R0, asm.R1, "anew"),
		asm.LoadMem(asm.R0, asm.R6, skbGSOSize, asm.Word),
		asm.JNE.Imm(asm.R0, 0, "anew"),
		asm.LoadMem(asm.R0, asm.R8, recentNeigh, asm.Word),
		asm.JNE.Imm(asm.R0, f.af, "anew"),
	)
	c.equal(asm.R8, recentPort, asm.R6, skbIfindex, 4, "anew")
	c.equal(asm.R8, recentDst, asm.R7, f.dst, f.size, "anew")
	c.equal(asm.R8, recentMAC, asm.R7, 0, 6, "anew")
	c.length(f)
	c.add(
		asm.LoadMem(asm.R1, asm.R8, recentMTU, asm.Word),
		asm.JGT.Reg(asm.R2, asm.R1, "anew"),
		asm.FnKtimeGetCoarseNs.Call(),
		asm.LoadMem(asm.R1, asm.R8, recentUntil, asm.DWord),
		asm.JGE.Reg(asm.R0, asm.R1, "anew"),
	)
	var x code
	x.lower(f)
	c.inner(x, ".again")
	c.add(
		asm.LoadMem(asm.R0, asm.R8, recentPackets, asm.DWord),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R8, recentPackets, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.R8, recentBytes, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, skbLen, asm.Word),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.StoreMem(asm.R8, recentBytes, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R8, recentOut, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.Add.Imm(asm.R2, recentNeigh),
		asm.Mov.Imm(asm.R3, 20),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return(),
	)
	c.at("anew")
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

// remember keeps what was decided, for again. What was counted there goes to the
// counters first.
func (c *code) remember(f family) {
	c.add(
		asm.LoadMem(asm.R0, asm.R6, skbGSOSize, asm.Word),
		asm.JNE.Imm(asm.R0, 0, "remembered"),
		asm.LoadMem(asm.R9, asm.R10, stackRecent, asm.DWord),
	)
	c.settle(asm.R9, dirSent)
	c.add(
		asm.FnKtimeGetCoarseNs.Call(),
		asm.Add.Imm(asm.R0, recentFor),
		asm.StoreMem(asm.R9, recentUntil, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.R8, hopNode, asm.DWord),
		asm.StoreMem(asm.R9, recentNode, asm.R0, asm.DWord),
		// Where the neighbour is not known yet, this is the packet's own length.
		asm.LoadMem(asm.R0, asm.R10, stackFIB+fibLen, asm.Half),
		asm.StoreMem(asm.R9, recentMTU, asm.R0, asm.Word),
	)
	move := func(to int16, from asm.Register, off int16, size int32) {
		for done := int32(0); done < size; {
			n, s := int32(4), asm.Word
			if size-done < 4 {
				n, s = 2, asm.Half
			}
			c.add(
				asm.LoadMem(asm.R0, from, off+int16(done), s),
				asm.StoreMem(asm.R9, to+int16(done), asm.R0, s),
			)
			done += n
		}
	}
	move(recentPort, asm.R6, skbIfindex, 4)
	move(recentChange, asm.R10, stackChange, 4)
	move(recentDst, asm.R7, f.dst, f.size)
	move(recentNeigh, asm.R10, stackNeigh, 20)
	move(recentOut, asm.R8, hopIfindex, 4)
	move(recentMAC, asm.R7, 0, 6)
	c.at("remembered")
}

// settle puts what a slot has counted to the counters, and begins anew.
func (c *code) settle(slot asm.Register, dir int64) {
	c.add(
		asm.LoadMem(asm.R0, slot, recentPackets, asm.DWord),
		asm.JEq.Imm(asm.R0, 0, "settled"),
		asm.LoadMem(asm.R0, slot, recentNode, asm.DWord),
		asm.StoreMem(asm.R10, stackCount, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, slot, recentPort, asm.Word),
		asm.StoreMem(asm.R10, stackCount+8, asm.R0, asm.Word),
		asm.StoreImm(asm.R10, stackCount+12, dir, asm.Word),
	)
	c.lookup(mapCounters, stackCount, "uncounted")
	for i := int16(0); i < 16; i += 8 { // packets, bytes
		c.add(
			asm.LoadMem(asm.R1, asm.R0, i, asm.DWord),
			asm.LoadMem(asm.R2, slot, recentPackets+i, asm.DWord),
			asm.Add.Reg(asm.R1, asm.R2),
			asm.StoreMem(asm.R0, i, asm.R1, asm.DWord),
		)
	}
	c.add(asm.Ja.Label("settled"))
	c.at("uncounted")
	c.add(
		asm.LoadMapPtr(asm.R1, 0).WithReference(mapCounters),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackCount),
		asm.Mov.Reg(asm.R3, slot),
		asm.Add.Imm(asm.R3, recentPackets),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
	)
	c.at("settled")
	c.add(
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(slot, recentPackets, asm.R0, asm.DWord),
		asm.StoreMem(slot, recentBytes, asm.R0, asm.DWord),
	)
}

// countReceived counts the packet for the endpoint of R9 and the node of R8, in a
// slot of this processor behind those of again.
func (c *code) countReceived() {
	c.add(
		asm.LoadMem(asm.R0, asm.R9, localIfindex, asm.Word),
		asm.LoadMem(asm.R1, asm.R8, hopNode, asm.Word),
		asm.Xor.Reg(asm.R0, asm.R1),
		asm.And.Imm(asm.R0, recentSlots-1),
		asm.Add.Imm(asm.R0, recentSlots),
		asm.StoreMem(asm.R10, stackKey, asm.R0, asm.Word),
	)
	c.lookup(mapRecent, stackKey, "pass")
	c.add(asm.Mov.Reg(asm.R7, asm.R0))
	c.equal(asm.R7, recentNode, asm.R8, hopNode, 8, "other")
	c.equal(asm.R7, recentPort, asm.R9, localIfindex, 4, "other")
	c.add(asm.Ja.Label("same"))
	c.at("other")
	c.settle(asm.R7, dirReceived)
	c.add(
		asm.LoadMem(asm.R0, asm.R8, hopNode, asm.DWord),
		asm.StoreMem(asm.R7, recentNode, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.R9, localIfindex, asm.Word),
		asm.StoreMem(asm.R7, recentPort, asm.R0, asm.Word),
	)
	c.at("same")
	c.add(
		asm.LoadMem(asm.R1, asm.R6, skbGSOSegs, asm.Word),
		asm.JGT.Imm(asm.R1, 0, "segments"),
		asm.Mov.Imm(asm.R1, 1),
	)
	c.at("segments")
	c.add(
		asm.LoadMem(asm.R0, asm.R7, recentPackets, asm.DWord),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.StoreMem(asm.R7, recentPackets, asm.R0, asm.DWord),
		asm.LoadMem(asm.R0, asm.R7, recentBytes, asm.DWord),
		asm.LoadMem(asm.R1, asm.R6, skbLen, asm.Word),
		asm.Add.Reg(asm.R0, asm.R1),
		asm.StoreMem(asm.R7, recentBytes, asm.R0, asm.DWord),
	)
}

// leadsThere checks that the frame's MAC is one of the prefix's node: that of all
// nodes, the pin's, or one derived from an IPv4 address of the same node (tables
// direct and exact).
func (c *code) leadsThere(f family) {
	c.add(
		asm.LoadMem(asm.R0, asm.R9, portFlags, asm.Word),
		asm.And.Imm(asm.R0, flagGateway),
		asm.JEq.Imm(asm.R0, 0, "ethernet"),
	)
	c.equal(asm.R7, 0, asm.R9, portGateway, 6, "pass")
	c.add(asm.Ja.Label("leads"))
	c.at("ethernet")
	c.add(
		asm.LoadMem(asm.R0, asm.R8, hopFlags, asm.Word),
		asm.JEq.Imm(asm.R0, 0, "derived"),
	)
	c.equal(asm.R7, 0, asm.R8, hopMAC, 6, "pass")
	c.add(asm.Ja.Label("leads"))
	c.at("derived")
	c.add(
		asm.LoadMem(asm.R0, asm.R7, 0, asm.Half),
		asm.JNE.Imm(asm.R0, network(0x0242), "pass"),
	)
	if f.size == 4 {
		c.equal(asm.R7, 2, asm.R7, f.dst, 4, "pass")
	} else {
		c.longest(ipv4, 2, "pass")
		c.add(
			asm.LoadMem(asm.R1, asm.R0, hopFlags, asm.Word),
			asm.JNE.Imm(asm.R1, 0, "pass"),
			asm.LoadMem(asm.R1, asm.R0, hopIfindex, asm.Word),
			asm.JEq.Imm(asm.R1, 0, "pass"),
			asm.Mov.Reg(asm.R3, asm.R0),
		)
		c.equal(asm.R3, hopNode, asm.R8, hopNode, 8, "pass")
		c.equal(asm.R3, hopNetwork, asm.R8, hopNetwork, 4, "pass")
	}
	c.at("leads")
}

// route asks the kernel for the way, as if the packet came in by the host's own
// port. Where it does not lead out of the device that the prefix is known by, the
// packet goes the plain way, and so does one that is too large. The next hop is
// then at stackNeigh.
func (c *code) route(f family) {
	c.add(asm.Mov.Imm(asm.R0, 0))
	for off := int16(0); off < fibSize; off += 8 {
		c.add(asm.StoreMem(asm.R10, stackFIB+off, asm.R0, asm.DWord))
	}
	c.add(asm.StoreImm(asm.R10, stackFIB+fibFamily, int64(f.af), asm.Byte))
	c.copyOut(stackFIB+fibSrc, asm.R7, f.src, f.size)
	c.copyOut(stackFIB+fibDst, asm.R7, f.dst, f.size)
	if f.size == 4 {
		c.add(
			asm.LoadMem(asm.R0, asm.R7, 15, asm.Byte),
			asm.StoreMem(asm.R10, stackFIB+fibTOS, asm.R0, asm.Byte),
			asm.LoadMem(asm.R0, asm.R7, 23, asm.Byte),
		)
	} else {
		c.add(
			asm.LoadMem(asm.R0, asm.R7, 14, asm.Word),
			asm.And.Imm(asm.R0, int32(binary.NativeEndian.Uint32([]byte{0x0f, 0xff, 0xff, 0xff}))),
			asm.StoreMem(asm.R10, stackFIB+fibTOS, asm.R0, asm.Word),
			asm.LoadMem(asm.R0, asm.R7, 20, asm.Byte),
		)
	}
	c.length(f)
	c.add(
		asm.StoreMem(asm.R10, stackFIB+fibProto, asm.R0, asm.Byte),
		// The kernel looks at the length of what is one packet; the pieces of others are
		// looked at below.
		asm.LoadMem(asm.R0, asm.R6, skbGSOSize, asm.Word),
		asm.JNE.Imm(asm.R0, 0, "pieces"),
		asm.StoreMem(asm.R10, stackFIB+fibLen, asm.R2, asm.Half),
	)
	c.at("pieces")
	c.add(
		asm.LoadMem(asm.R0, asm.R9, portHost, asm.Word),
		asm.StoreMem(asm.R10, stackFIB+fibIfindex, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackFIB),
		asm.Mov.Imm(asm.R3, fibSize),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnFibLookup.Call(),
		asm.JEq.Imm(asm.R0, 0, "routed"),
		asm.JNE.Imm(asm.R0, fibNoNeigh, "pass"),
	)
	c.at("routed")
	c.add(
		asm.LoadMem(asm.R0, asm.R10, stackFIB+fibFamily, asm.Byte),
		asm.JNE.Imm(asm.R0, f.af, "pass"),
		asm.LoadMem(asm.R0, asm.R10, stackFIB+fibIfindex, asm.Word),
		asm.LoadMem(asm.R2, asm.R8, hopIfindex, asm.Word),
		asm.JNE.Reg(asm.R0, asm.R2, "pass"),
		asm.LoadMem(asm.R0, asm.R6, skbGSOSize, asm.Word),
		asm.JEq.Imm(asm.R0, 0, "fits"),
	)
	c.fits()
	c.at("fits")
	c.add(asm.StoreImm(asm.R10, stackNeigh, int64(f.af), asm.Word))
	for off := int16(0); off < 16; off += 4 {
		if int32(off) >= f.size {
			c.add(asm.StoreImm(asm.R10, stackNeigh+4+off, 0, asm.Word))
			continue
		}
		c.add(
			asm.LoadMem(asm.R0, asm.R10, stackFIB+fibDst+off, asm.Word),
			asm.StoreMem(asm.R10, stackNeigh+4+off, asm.R0, asm.Word),
		)
	}
}

// inside delivers to another endpoint of the network on this node, as a switch
// does: nothing of the frame changes.
func (c *code) inside(f family) {
	c.copyOut(stackKey, asm.R7, f.dst, f.size)
	c.lookup(f.locals, stackKey, "pass")
	c.add(asm.Mov.Reg(asm.R8, asm.R0))
	c.equal(asm.R8, localNetwork, asm.R9, portNetwork, 4, "pass")
	c.equal(asm.R7, 0, asm.R8, localMAC, 6, "pass")
	c.add(
		asm.Mov.Reg(asm.R9, asm.R8),
		asm.LoadMem(asm.R2, asm.R9, localIfindex, asm.Word),
		// Not back to where it came from.
		asm.LoadMem(asm.R0, asm.R6, skbIfindex, asm.Word),
		asm.JEq.Reg(asm.R0, asm.R2, "pass"),
	)
	c.fits()
	c.add(
		// The host's end took the frame for one of somebody else's.
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, unix.PACKET_HOST),
		asm.FnSkbChangeType.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
	)
	var x code
	x.count(true)
	x.deliver()
	c.inner(x, ".inside")
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

// toEndpoint is the program at a device of the underlay.
func toEndpoint() asm.Instructions {
	var c code
	c.start()
	c.add(
		asm.LoadMem(asm.R0, asm.R6, skbPktType, asm.Word),
		asm.JNE.Imm(asm.R0, unix.PACKET_HOST, "pass"),
		asm.LoadMem(asm.R0, asm.R7, 12, asm.Half),
		asm.JEq.Imm(asm.R0, network(ipv6.ethertype), "ipv6"),
		asm.JNE.Imm(asm.R0, network(ipv4.ethertype), "pass"),
	)
	for _, f := range []family{ipv4, ipv6} {
		var x code
		if f.size == 16 {
			x.at("ipv6")
		}
		x.receive(f)
		c.ins = append(c.ins, labelled(f, x.ins)...)
	}
	return c.end()
}

// receive is the part of one family.
func (c *code) receive(f family) {
	c.whole(f, 1)
	c.copyOut(stackKey, asm.R7, f.dst, f.size)
	c.lookup(f.locals, stackKey, "pass")
	c.add(asm.Mov.Reg(asm.R9, asm.R0))
	// From a prefix of another node of the network, by the device that leads there.
	c.longest(f, f.src, "pass")
	c.add(
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.LoadMem(asm.R0, asm.R8, hopIfindex, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, skbIfindex, asm.Word),
		asm.JNE.Reg(asm.R0, asm.R1, "pass"),
	)
	c.equal(asm.R8, hopNetwork, asm.R9, localNetwork, 4, "pass")
	c.add(asm.LoadMem(asm.R2, asm.R9, localIfindex, asm.Word))
	c.fits()
	for off := int16(0); off < 12; off += 4 {
		c.add(
			asm.LoadMem(asm.R0, asm.R9, localMAC+off, asm.Word),
			asm.StoreMem(asm.R7, off, asm.R0, asm.Word),
		)
	}
	c.lower(f)
	c.countReceived()
	c.deliver()
}

// license is what the kernel is told. It lends bpf_fib_lookup and bpf_check_mtu to
// programs only that may be had under the GPL; these two, made of the instructions
// above, may be had under it as well as under the licence of the project.
const license = "Dual BSD/GPL"

// The names of the maps.
const (
	mapPorts    = "baize_ports"
	mapLocals4  = "baize_locals4"
	mapLocals6  = "baize_locals6"
	mapHops4    = "baize_hops4"
	mapHops6    = "baize_hops6"
	mapCounters = "baize_count"
	// mapRecent has, for each processor, what was decided a moment ago, and behind it
	// what was received and is not in the counters yet. mapGeneration the number of the
	// agent's last change: what was decided before it does not count.
	mapRecent     = "baize_recent"
	mapGeneration = "baize_change"
)

// Most entries of the maps. More are left out and go the plain way.
const (
	maxPorts    = 8192
	maxLocals   = 16384
	maxHops     = 65536
	maxCounters = 65536
)

// spec is the whole: maps and programs.
func spec() *ebpf.CollectionSpec {
	m := func(name string, t ebpf.MapType, key, value, most, flags uint32) *ebpf.MapSpec {
		return &ebpf.MapSpec{Name: name, Type: t, KeySize: key, ValueSize: value, MaxEntries: most, Flags: flags}
	}
	p := func(name string, ins asm.Instructions) *ebpf.ProgramSpec {
		return &ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, Instructions: ins, License: license}
	}
	const lazy = unix.BPF_F_NO_PREALLOC
	return &ebpf.CollectionSpec{
		Maps: map[string]*ebpf.MapSpec{
			mapPorts:      m(mapPorts, ebpf.Hash, 4, 56, maxPorts, lazy),
			mapLocals4:    m(mapLocals4, ebpf.Hash, 4, 24, maxLocals, lazy),
			mapLocals6:    m(mapLocals6, ebpf.Hash, 16, 24, maxLocals, lazy),
			mapHops4:      m(mapHops4, ebpf.LPMTrie, 8, 32, maxHops, lazy),
			mapHops6:      m(mapHops6, ebpf.LPMTrie, 20, 32, maxHops, lazy),
			mapCounters:   m(mapCounters, ebpf.PerCPUHash, 16, 16, maxCounters, lazy),
			mapRecent:     m(mapRecent, ebpf.PerCPUArray, 4, 96, 2*recentSlots, 0),
			mapGeneration: m(mapGeneration, ebpf.Array, 4, 4, 1, 0),
		},
		Programs: map[string]*ebpf.ProgramSpec{
			progFrom: p(progFrom, fromEndpoint()),
			progTo:   p(progTo, toEndpoint()),
		},
	}
}

const (
	progFrom = "baize_from"
	progTo   = "baize_to"
)
