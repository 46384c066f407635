package bpf

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// The programs, put together with the assembler of cilium/ebpf: nothing has to be
// compiled, and what runs is what stands here. R6 is the context, R7 the packet,
// R8 the entry of the prefix (hop), R9 that of the port or of the local address.
// The verifier of the kernel checks them when they are loaded.

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
