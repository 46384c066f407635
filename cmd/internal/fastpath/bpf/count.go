package bpf

import (
	"github.com/cilium/ebpf/asm"
)

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
