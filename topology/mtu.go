package topology

// Overhead returns how many bytes of the underlay's IP packet are not the
// endpoint's IP packet, for one transport over one underlay family:
// the outer IP header (20 or 40), the encapsulation's own headers and the
// inner Ethernet header (14).
//
//	VXLAN   8 UDP + 8 VXLAN               RFC 7348
//	GRE     4 GRE + 4 key                 RFC 2890
//	Geneve  8 UDP + 8 Geneve, no options  RFC 8926
//
// Route has none; Auto has that of its tunnel, which some packets take.
func Overhead(t Transport, underlay Family) int {
	if t = t.Tunnel(); t == "" {
		return 0
	}
	const ethernet = 14
	ip := 20
	if underlay == IPv6 {
		ip = 40
	}
	encap := 16
	if t == GRE {
		encap = 8
	}
	return ip + encap + ethernet
}

// MTU returns the largest IP packet an endpoint may send when the underlay
// carries packets of underlayMTU bytes.
func MTU(t Transport, underlay Family, underlayMTU int) int {
	return underlayMTU - Overhead(t, underlay)
}

// DefaultUnderlayMTU is assumed of a link nobody has told us about (Ethernet,
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
