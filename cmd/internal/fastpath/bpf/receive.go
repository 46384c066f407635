package bpf

import (
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// toEndpoint is the program at a device of the underlay.
func toEndpoint() asm.Instructions {
	var c code
	c.start()
	c.add(
		asm.LoadMem(asm.R0, asm.R6, skbPktType, asm.Word),
		asm.JNE.Imm(asm.R0, unix.PACKET_HOST, "pass"),
	)
	c.families((*code).receive)
	return c.end()
}

// receive is the part of one family.
func (c *code) receive(f family) {
	c.whole(f, 1)
	c.move(asm.R10, stackKey, asm.R7, f.dst, f.size)
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
	c.move(asm.R7, 0, asm.R9, localMAC, 12)
	c.lower(f)
	c.countReceived()
	c.deliver()
}
