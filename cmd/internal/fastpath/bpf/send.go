package bpf

import (
	"encoding/binary"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/fastpath"
)

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
	c.families((*code).send)
	return c.end()
}

// send is the part of one family.
func (c *code) send(f family) {
	c.whole(f, fastpath.HopsTaken)
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
	c.takeAgain(f)
	c.at("anew")
}

// takeAgain counts the packet in the slot of R8 and sends it as that says.
func (c *code) takeAgain(f family) {
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
	c.move(asm.R9, recentPort, asm.R6, skbIfindex, 4)
	c.move(asm.R9, recentChange, asm.R10, stackChange, 4)
	c.move(asm.R9, recentDst, asm.R7, f.dst, f.size)
	c.move(asm.R9, recentNeigh, asm.R10, stackNeigh, 20)
	c.move(asm.R9, recentOut, asm.R8, hopIfindex, 4)
	c.move(asm.R9, recentMAC, asm.R7, 0, 6)
	c.at("remembered")
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
	c.question(f)
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
	c.neighbour(f)
}

// neighbour writes the next hop of the kernel's answer to stackNeigh.
func (c *code) neighbour(f family) {
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

// question fills in what the kernel is asked.
func (c *code) question(f family) {
	c.add(asm.Mov.Imm(asm.R0, 0))
	for off := int16(0); off < fibSize; off += 8 {
		c.add(asm.StoreMem(asm.R10, stackFIB+off, asm.R0, asm.DWord))
	}
	c.add(asm.StoreImm(asm.R10, stackFIB+fibFamily, int64(f.af), asm.Byte))
	c.move(asm.R10, stackFIB+fibSrc, asm.R7, f.src, f.size)
	c.move(asm.R10, stackFIB+fibDst, asm.R7, f.dst, f.size)
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
}

// inside delivers to another endpoint of the network on this node, as a switch
// does: nothing of the frame changes.
func (c *code) inside(f family) {
	c.move(asm.R10, stackKey, asm.R7, f.dst, f.size)
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
