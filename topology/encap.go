package topology

import (
	"slices"
	"sync/atomic"
)

// Encapsulation is one way to carry Ethernet frames in IP, with the network's
// VNI as the tunnel key. All that Baize knows of it is in its row here.
type Encapsulation struct {
	// Name is the transport of networks that use it always, and Open vSwitch's
	// own name for the type of port.
	Name Transport
	// PortPrefix begins the names of its tunnel ports.
	PortPrefix string
	// OverheadIPv4 and OverheadIPv6 are how many bytes of the underlay's IP packet
	// are not the endpoint's IP packet, by the underlay's family: the outer IP
	// header (20 or 40), the encapsulation's own headers and the inner Ethernet
	// header (14).
	OverheadIPv4, OverheadIPv6 int
	// Port is its usual UDP port; 0 where it is not in UDP.
	Port int
	// ChecksumIPv6 says that it needs a checksum over an IPv6 underlay: kernels
	// drop UDP over IPv6 without one unless set to accept it (RFC 6936).
	ChecksumIPv6 bool
}

// registry is the rows and what follows from them. It is never changed, only
// replaced.
type registry struct {
	rows       []Encapsulation
	transports []Transport
	choices    map[Transport]Choice
}

// current is read atomically: tests add rows.
var current atomic.Pointer[registry]

func init() {
	current.Store(newRegistry([]Encapsulation{
		// 8 UDP + 8 VXLAN (RFC 7348).
		{Name: VXLAN, PortPrefix: "vx-", OverheadIPv4: 50, OverheadIPv6: 70, Port: 4789, ChecksumIPv6: true},
		// 4 GRE + 4 key (RFC 2784, RFC 2890).
		{Name: GRE, PortPrefix: "gr-", OverheadIPv4: 42, OverheadIPv6: 62},
		// 8 UDP + 8 Geneve without options (RFC 8926).
		{Name: Geneve, PortPrefix: "gn-", OverheadIPv4: 50, OverheadIPv6: 70, Port: 6081, ChecksumIPv6: true},
	}))
}

// newRegistry makes the transports of the rows: each encapsulation's own, Route,
// and those that encapsulate only what cannot go without.
func newRegistry(rows []Encapsulation) *registry {
	r := &registry{rows: rows, choices: make(map[Transport]Choice, 2*len(rows)+1)}
	add := func(name Transport, c Choice) {
		r.transports = append(r.transports, name)
		r.choices[name] = c
	}
	for _, e := range rows {
		add(e.Name, Choice{Encap: e.Name})
	}
	add(Route, Choice{Direct: DirectAlways, Gateway: GatewayNode})
	for _, e := range rows {
		name := Auto
		if e.Name != VXLAN { // it was the only one once, and records say no more
			name += "-" + e.Name
		}
		add(name, Choice{Encap: e.Name, Direct: DirectOnLink})
	}
	return r
}

// RegisterEncapsulation adds a row, which brings two transports: the
// encapsulation's own, and "auto-" and its name. It is to be called before
// anything reads the registry. The function returned removes the row again.
func RegisterEncapsulation(e Encapsulation) (remove func()) {
	before := current.Load()
	current.Store(newRegistry(append(slices.Clone(before.rows), e)))
	return func() { current.Store(before) }
}

// EncapsulationOf returns the row of an encapsulation; false where there is none.
func EncapsulationOf(t Transport) (Encapsulation, bool) {
	for _, e := range current.Load().rows {
		if e.Name == t {
			return e, true
		}
	}
	return Encapsulation{}, false
}

// DefaultPort returns the usual UDP port of an encapsulation; 0 where it has none.
func DefaultPort(t Transport) int {
	e, _ := EncapsulationOf(t)
	return e.Port
}

// Encapsulations lists the transports that are tunnels and nothing else.
func Encapsulations() []Transport {
	rows := current.Load().rows
	out := make([]Transport, len(rows))
	for i, e := range rows {
		out[i] = e.Name
	}
	return out
}
