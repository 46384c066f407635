package topology

// Overhead returns how many bytes of the underlay's IP packet are not the
// endpoint's IP packet, for one transport over one underlay family. A transport
// without an encapsulation has none; one that encapsulates some packets has that
// of its tunnel.
func Overhead(t Transport, underlay Family) int {
	e, _ := EncapsulationOf(t.Tunnel())
	if underlay == IPv6 {
		return e.OverheadIPv6
	}
	return e.OverheadIPv4
}

// MTU returns the largest IP packet an endpoint may send when the underlay
// carries packets of underlayMTU bytes.
func MTU(t Transport, underlay Family, underlayMTU int) int {
	return underlayMTU - Overhead(t, underlay)
}

// DefaultUnderlayMTU is assumed of a link whose MTU is not known (Ethernet,
// RFC 894).
const DefaultUnderlayMTU = 1500

// MinMTU is the smallest MTU a network may have: IPv6 needs 1280 bytes
// (RFC 8200 section 5), IPv4 576 (RFC 791).
func (n Network) MinMTU() int {
	if n.IPv6.IsValid() {
		return 1280
	}
	return 576
}
