package hostnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/packet"
)

// Announce tells the network who owns the addresses of an interface inside a
// namespace: an ARP announcement (RFC 5227 section 3) for each IPv4 address, an
// unsolicited neighbour advertisement (RFC 4861 section 7.2.6) for each IPv6
// one. RFC 5227 announces twice: it is for the caller to do so again.
func Announce(ctx context.Context, pathOrName, ifname string, mac net.HardwareAddr, addrs []netip.Addr) error {
	if len(mac) != 6 {
		return fmt.Errorf("announcing on %s: %q is not an Ethernet address", ifname, mac)
	}
	item := fmt.Sprintf("interface %s in network namespace %s", ifname, pathOrName)
	var conn *packet.Conn
	// A socket stays in the namespace it was opened in.
	err := InNetns(pathOrName, func() error {
		ifi, err := awaitRunning(ctx, ifname)
		if err != nil {
			return fmt.Errorf("%s: %w", item, err)
		}
		// Protocol 0: nothing is received.
		conn, err = packet.Listen(ifi, packet.Raw, 0, nil)
		return failed(item, "opening a packet socket", err)
	})
	if err != nil {
		return err
	}
	defer conn.Close()

	for _, a := range addrs {
		frame := arpAnnouncement(mac, a)
		if a.Unmap().Is6() {
			frame = neighbourAdvertisement(mac, a)
		}
		dst := net.HardwareAddr(frame[:6])
		if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: dst}); err != nil {
			return failed(item, "announcing "+a.String(), err)
		}
	}
	return nil
}

// runningLimit is how long an interface may take to run: its other end may be
// down for good.
const runningLimit = 2 * time.Second

// awaitRunning returns an interface that passes frames. The kernel gives a veth
// its queue a moment after both ends are up (link watch), and until then drops
// what is sent without a word.
func awaitRunning(ctx context.Context, ifname string) (*net.Interface, error) {
	limit := time.After(runningLimit)
	for {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil || ifi.Flags&net.FlagRunning != 0 {
			return ifi, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-limit:
			return ifi, nil
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// arpAnnouncement returns an Ethernet frame with the ARP request (RFC 826) whose
// sender and target address are both a.
func arpAnnouncement(mac net.HardwareAddr, a netip.Addr) []byte {
	ip := a.Unmap().AsSlice()
	f := make([]byte, 0, 60)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, mac...)
	f = append(f,
		0x08, 0x06, // EtherType ARP
		0, 1, // hardware: Ethernet
		0x08, 0x00, // protocol: IPv4
		6, 4,
		0, 1, // request
	)
	f = append(append(f, mac...), ip...)
	f = append(append(f, 0, 0, 0, 0, 0, 0), ip...)
	return f[:cap(f)] // Ethernet's smallest frame, without its checksum
}

// neighbourAdvertisement returns an Ethernet frame with the unsolicited
// advertisement of a, to all nodes, override flag set (RFC 4861 section 4.4).
func neighbourAdvertisement(mac net.HardwareAddr, a netip.Addr) []byte {
	allNodes := netip.MustParseAddr("ff02::1").As16()
	src := a.As16()

	icmp := make([]byte, 0, 32)
	icmp = append(icmp,
		136, 0, // neighbour advertisement
		0, 0, // checksum
		0x20, 0, 0, 0, // override
	)
	icmp = append(icmp, src[:]...)
	icmp = append(append(icmp, 2, 1), mac...) // target link-layer address, 8 bytes
	binary.BigEndian.PutUint16(icmp[2:], icmp6Checksum(src, allNodes, icmp))

	f := make([]byte, 0, 14+40+len(icmp))
	f = append(f, 0x33, 0x33, 0, 0, 0, 1) // RFC 2464 section 7
	f = append(f, mac...)
	f = append(f, 0x86, 0xdd)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255) // ICMPv6, hop limit 255
	f = append(append(f, src[:]...), allNodes[:]...)
	return append(f, icmp...)
}

// icmp6Checksum follows RFC 4443 section 2.3. payload has an even length.
func icmp6Checksum(src, dst [16]byte, payload []byte) uint16 {
	sum := uint32(len(payload)) + 58
	for _, part := range [][]byte{src[:], dst[:], payload} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
