package bpf

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

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
