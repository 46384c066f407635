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
	// drop UDP over IPv6 without one unless told otherwise (RFC 6936).
	ChecksumIPv6 bool
}

// encapsulations is the registry. Tests add rows, so it is read atomically.
var encapsulations atomic.Pointer[[]Encapsulation]

func init() { //nolint:gochecknoinits // an atomic pointer has no literal
	encapsulations.Store(&[]Encapsulation{
		// 8 UDP + 8 VXLAN (RFC 7348).
		{Name: VXLAN, PortPrefix: "vx-", OverheadIPv4: 50, OverheadIPv6: 70, Port: 4789, ChecksumIPv6: true},
		// 4 GRE + 4 key (RFC 2784, RFC 2890).
		{Name: GRE, PortPrefix: "gr-", OverheadIPv4: 42, OverheadIPv6: 62},
		// 8 UDP + 8 Geneve without options (RFC 8926).
		{Name: Geneve, PortPrefix: "gn-", OverheadIPv4: 50, OverheadIPv6: 70, Port: 6081, ChecksumIPv6: true},
	})
}

// RegisterEncapsulation adds a row, which brings two transports: the
// encapsulation's own and, for all but VXLAN, "auto-" and its name. It is to be
// called before anything reads the registry. The function returned removes the
// row again.
func RegisterEncapsulation(e Encapsulation) (remove func()) {
	before := encapsulations.Load()
	rows := append(slices.Clone(*before), e)
	encapsulations.Store(&rows)
	return func() { encapsulations.Store(before) }
}

// EncapsulationOf returns the row of an encapsulation; false where there is none.
func EncapsulationOf(t Transport) (Encapsulation, bool) {
	for _, e := range *encapsulations.Load() {
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
	rows := *encapsulations.Load()
	out := make([]Transport, len(rows))
	for i, e := range rows {
		out[i] = e.Name
	}
	return out
}
