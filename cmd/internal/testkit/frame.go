package testkit

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// EtherTypes for experiments, IEEE 802.
const (
	Experimental      = 0x88b5
	OtherExperimental = 0x88b6
)

// Broadcast is the address of everybody.
var Broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// MAC parses an Ethernet address.
func MAC(t testing.TB, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	require.NoError(t, err)
	return m
}

// Frame is an Ethernet frame, padded to the least length.
func Frame(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := append(append(append([]byte{}, dst...), src...), byte(etherType>>8), byte(etherType))
	f = append(f, payload...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// ARPRequest is that of RFC 826, to everybody.
func ARPRequest(src, sha net.HardwareAddr, spa, tpa netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	p = append(append(p, sha...), spa.AsSlice()...)
	p = append(append(p, 0, 0, 0, 0, 0, 0), tpa.AsSlice()...)
	return Frame(Broadcast, src, 0x0806, p)
}

// IPv4 is a UDP datagram, without a checksum of its own, with a payload that can
// be found again.
func IPv4(dst, src net.HardwareAddr, from, to netip.Addr, payload string) []byte {
	return IPv4Of(dst, src, from.AsSlice(), to.AsSlice(), 17, UDP(0x3039, 0x3039, []byte(payload)))
}

// UDP is a datagram without a checksum (RFC 768).
func UDP(from, to uint16, payload []byte) []byte {
	header := []byte{byte(from >> 8), byte(from), byte(to >> 8), byte(to), 0, byte(8 + len(payload)), 0, 0}
	return append(header, payload...)
}

// IPv4Of is a packet of some protocol, 200 bytes at the most.
func IPv4Of(dst, src net.HardwareAddr, from, to []byte, protocol byte, payload []byte) []byte {
	h := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 0, 0, 0, 64, protocol, 0, 0}
	h = append(append(h, from...), to...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum>>16 + sum)
	h[10], h[11] = byte(sum>>8), byte(sum)
	return Frame(dst, src, 0x0800, append(h, payload...))
}

// IPv6 is a packet of some protocol (RFC 8200), 200 bytes at the most, hop limit 255.
func IPv6(dst, src net.HardwareAddr, from, to []byte, protocol byte, payload []byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, byte(len(payload)), protocol, 255}
	return Frame(dst, src, 0x86dd, append(append(append(h, from...), to...), payload...))
}
