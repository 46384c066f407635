package topology

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
)

// macPrefix is what Docker has used for containers since its first bridge
// driver: locally administered, then the IPv4 address.
var macPrefix = [2]byte{0x02, 0x42}

// MACOf returns the link address Baize gives the owner of an address:
// 02:42 followed by the four bytes of an IPv4 address. An IPv6-only endpoint
// gets 02:42 and a 32-bit FNV-1a hash of its address.
func MACOf(a netip.Addr) net.HardwareAddr {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return append(net.HardwareAddr(macPrefix[:]), b[:]...)
	}
	h := fnv.New32a()
	b := a.As16()
	h.Write(b[:])
	return h.Sum(net.HardwareAddr{macPrefix[0], macPrefix[1]})
}

// MACRange returns the link addresses of a whole IPv4 subnet as an address
// and a mask, so that one flow steers them all.
func MACRange(p netip.Prefix) (addr, mask net.HardwareAddr) {
	mask = net.HardwareAddr{0xff, 0xff, 5: 0}
	binary.BigEndian.PutUint32(mask[2:], ^uint32(0)<<(32-p.Bits()))
	return MACOf(p.Masked().Addr()), mask
}

// AddrOfMAC returns the IPv4 address a MAC was made of by MACOf; ok is false
// for other MACs.
func AddrOfMAC(s string) (a netip.Addr, ok bool) {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 || m[0] != macPrefix[0] || m[1] != macPrefix[1] {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(m[2:])), true
}

// ParseMAC reads a 48-bit unicast Ethernet address.
func ParseMAC(s string) (net.HardwareAddr, error) {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		return nil, fmt.Errorf("%q is not an Ethernet address", s)
	}
	if m[0]&1 != 0 {
		return nil, fmt.Errorf("%s is a multicast Ethernet address", m)
	}
	if m.String() == "00:00:00:00:00:00" {
		return nil, fmt.Errorf("%s is no Ethernet address of an endpoint", m)
	}
	return m, nil
}
