// Package fastpath is the model of the fast path: of what programs in the kernel
// (package bpf) forward past Open vSwitch and past the kernel's own IP stack, in
// networks of the transports route and auto, and of what they need to know for
// it. Wanted computes a State from the node's view, its endpoints and what its
// kernel routes; package bpf reads what the programs have; Diff compares the two.
// Everything here is pure.
//
// The fast path takes a packet only where Open vSwitch and the kernel would send
// it to the same place: from the endpoint's own MAC and address (table guard), to
// a prefix that is routed without encapsulation, by a MAC that leads there (tables
// direct, steer, exact), with a TTL that survives. Everything else goes on as if
// there were no fast path, so an entry that is missing costs speed and no packet.
package fastpath

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
)

// MAC is an Ethernet address, comparable; zero: none.
type MAC [6]byte

// String writes the address with colons.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MACOf returns an Ethernet address of 6 bytes; anything else is none.
func MACOf(m net.HardwareAddr) (out MAC) {
	if len(m) == len(out) {
		copy(out[:], m)
	}
	return out
}

// Port is the host's end of an endpoint, for what the endpoint sends.
type Port struct {
	// Network is the network's number, its VNI.
	Network uint32 `json:"network"`
	// Host is the host's own port in the network: packets are routed as if they
	// came in by it.
	Host string `json:"host"`
	// MAC and the addresses are those that the endpoint may send from; an address
	// is invalid where it has none of the family.
	MAC  MAC        `json:"mac"`
	IPv4 netip.Addr `json:"ipv4,omitzero"`
	IPv6 netip.Addr `json:"ipv6,omitzero"`
	// Gateway is the MAC that stands for all other nodes (GatewayNode); zero: each
	// address has a MAC of its own.
	Gateway MAC `json:"gateway,omitzero"`
}

// Local is an address of an endpoint, for what is sent to it.
type Local struct {
	Network uint32 `json:"network"`
	// Dev is the host's end of the endpoint.
	Dev string `json:"dev"`
	// MAC is the endpoint's, Src the one that routed packets come from.
	MAC MAC `json:"mac"`
	Src MAC `json:"src"`
	// Peer: the endpoint's own end is in another network namespace, and may be
	// given the packet at once.
	Peer bool `json:"peer"`
}

// Hop is where a prefix that lives on another node is.
type Hop struct {
	Network uint32 `json:"network"`
	// Node is a number of the node's name: NodeID.
	Node uint64 `json:"node"`
	// Dev is the device of the underlay; empty: packets for the prefix, and from it,
	// go the plain way.
	Dev string `json:"dev,omitempty"`
	// MAC is that of a pinned address; zero: MACs are derived from addresses.
	MAC MAC `json:"mac,omitzero"`
}

// State is what the programs have, or are to have.
type State struct {
	// Ports are the host's ends of endpoints, by device.
	Ports map[string]Port
	// Locals are the endpoints' addresses.
	Locals map[netip.Addr]Local
	// Hops are the prefixes of other nodes. The longest one that contains an address
	// counts.
	Hops map[netip.Prefix]Hop
	// Uplinks are the devices by which packets of other nodes arrive.
	Uplinks map[string]bool
}

// NewState returns an empty state.
func NewState() State {
	return State{
		Ports: map[string]Port{}, Locals: map[netip.Addr]Local{}, Hops: map[netip.Prefix]Hop{}, Uplinks: map[string]bool{},
	}
}

// Empty reports whether nothing takes the fast path.
func (s State) Empty() bool { return len(s.Ports)+len(s.Locals)+len(s.Hops)+len(s.Uplinks) == 0 }

// Devices are those that have a program, sorted: what endpoints send, what the
// underlay brings.
func (s State) Devices() []string {
	all := maps.Clone(s.Uplinks)
	for d := range s.Ports {
		all[d] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// String lists the state, one entry a line, sorted.
func (s State) String() string {
	var b strings.Builder
	for _, dev := range slices.Sorted(maps.Keys(s.Ports)) {
		p := s.Ports[dev]
		fmt.Fprintf(&b, "from %s network %d %s", dev, p.Network, p.MAC)
		for _, a := range []netip.Addr{p.IPv4, p.IPv6} {
			if a.IsValid() {
				fmt.Fprintf(&b, " %s", a)
			}
		}
		if p.Gateway != (MAC{}) {
			fmt.Fprintf(&b, " by %s", p.Gateway)
		}
		fmt.Fprintf(&b, " as %s\n", p.Host)
	}
	for _, a := range slices.SortedFunc(maps.Keys(s.Locals), netip.Addr.Compare) {
		l := s.Locals[a]
		fmt.Fprintf(&b, "to %s network %d dev %s %s from %s\n", a, l.Network, l.Dev, l.MAC, l.Src)
	}
	for _, p := range slices.SortedFunc(maps.Keys(s.Hops), topology.ComparePrefixes) {
		h := s.Hops[p]
		fmt.Fprintf(&b, "hop %s network %d node %x dev %s", p, h.Network, h.Node, cmp.Or(h.Dev, "none"))
		if h.MAC != (MAC{}) {
			fmt.Fprintf(&b, " %s", h.MAC)
		}
		b.WriteByte('\n')
	}
	for _, d := range slices.Sorted(maps.Keys(s.Uplinks)) {
		fmt.Fprintf(&b, "uplink %s\n", d)
	}
	return b.String()
}

// NodeID is the number by which programs count packets of a node: 64 bits of
// FNV-1a over its name.
func NodeID(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}

// Change is what leads from one state to another. Entries are removed before
// others are added, but those of a key that stays are replaced in one step.
type Change struct {
	Remove, Add State
}

// Empty reports whether there is nothing to do.
func (c Change) Empty() bool { return c.Remove.Empty() && c.Add.Empty() }

// String lists the change, with a sign before each line.
func (c Change) String() string {
	var b bytes.Buffer
	for _, x := range []struct {
		sign string
		s    State
	}{{"-", c.Remove}, {"+", c.Add}} {
		for line := range strings.Lines(x.s.String()) {
			b.WriteString(x.sign + " " + line)
		}
	}
	return b.String()
}

// Diff compares. Remove has the entries whose key is not wanted, Add those that
// are missing or differ. It is pure.
func Diff(want, have State) Change {
	var c Change
	c.Remove.Ports, c.Add.Ports = diff(want.Ports, have.Ports)
	c.Remove.Locals, c.Add.Locals = diff(want.Locals, have.Locals)
	c.Remove.Hops, c.Add.Hops = diff(want.Hops, have.Hops)
	c.Remove.Uplinks, c.Add.Uplinks = diff(want.Uplinks, have.Uplinks)
	return c
}

func diff[K, V comparable](want, have map[K]V) (remove, add map[K]V) {
	remove, add = map[K]V{}, map[K]V{}
	for k, v := range have {
		if _, ok := want[k]; !ok {
			remove[k] = v
		}
	}
	for k, v := range want {
		if old, ok := have[k]; !ok || old != v {
			add[k] = v
		}
	}
	return remove, add
}
