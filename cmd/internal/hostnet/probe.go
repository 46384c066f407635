package hostnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// probeCount and probeInterval: RFC 5227 section 1.1 probes three times, a second or
	// two apart, on an Ethernet that may lose frames. Here it is a veth pair, whose other
	// end answers at once, and a container is waiting.
	probeCount    = 3
	probeInterval = 100 * time.Millisecond
)

// Occupant is who has an address, as a probe found.
type Occupant struct {
	// Device of this host is what the answer came in by.
	Device string
	MAC    net.HardwareAddr
}

// ProbeAddress asks behind each of the devices whether somebody has an address: by ARP
// probes (RFC 5227 section 2.1.1), or the neighbour solicitations of duplicate address
// detection (RFC 4862 section 5.4.2). It passes by whatever switch the devices are ports of:
// frames go out of the device itself, and answers are seen before the switch has them. The
// first who answers is returned, nil where nobody does. Devices that are gone have nobody
// behind them.
func ProbeAddress(ctx context.Context, devices []string, a netip.Addr) (*Occupant, error) {
	ctx, cancel := context.WithTimeout(ctx, probeCount*probeInterval)
	defer cancel()
	a = a.Unmap()
	var mu sync.Mutex
	var found *Occupant
	var errs []error
	var all sync.WaitGroup
	for _, device := range devices {
		all.Go(func() {
			mac, err := probeDevice(ctx, device, a)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("probe for %s: %w", a, failed("device "+device, "asking who has it", err)))
			}
			if mac != nil && found == nil {
				found = &Occupant{device, mac}
				cancel()
			}
		})
	}
	all.Wait()
	if found != nil {
		return found, nil
	}
	return nil, errors.Join(errs...)
}

// probeDevice returns the MAC that answers for an address behind a device; nil where none
// does until ctx ends.
func probeDevice(ctx context.Context, device string, a netip.Addr) (net.HardwareAddr, error) {
	if !LinkExists(device) {
		return nil, nil
	}
	ifi, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(probeFilter(a))
	if err != nil {
		return nil, err
	}
	// With all protocols it sees frames before Open vSwitch takes them.
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
	if err != nil {
		return nil, unlessGone(err)
	}
	defer conn.Close()
	frame := ProbeFrame(ifi.HardwareAddr, a)
	to := &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])}
	buf := make([]byte, 256)
	for ctx.Err() == nil {
		if _, err := conn.WriteTo(frame, to); err != nil {
			return nil, unlessGone(err)
		}
		until, _ := ctx.Deadline()
		if next := time.Now().Add(probeInterval); next.Before(until) {
			until = next
		}
		if err := conn.SetReadDeadline(until); err != nil {
			return nil, err
		}
		for {
			n, _, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, unlessGone(err)
			}
			if mac := Claimant(buf[:n], a); mac != nil && !bytes.Equal(mac, ifi.HardwareAddr) {
				return mac, nil
			}
		}
	}
	return nil, nil
}

// unlessGone is an error, unless it is that of a device that is removed or is down.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENETDOWN) {
		return nil
	}
	return err
}

// Offsets in an Ethernet frame.
const (
	offEtherType   = 12
	offARPSender   = 22 // the link address; the protocol address follows
	offNextHeader  = 20
	offICMP6       = 54
	offNDTarget    = 62
	typeNeighbour  = 136 // neighbour advertisement, RFC 4861 section 4.4
	typeSolicit    = 135
	protocolICMPv6 = 58
)

// probeFilter lets through what may answer a probe.
func probeFilter(a netip.Addr) []bpf.Instruction {
	accept, ignore := bpf.RetConstant{Val: 256}, bpf.RetConstant{Val: 0}
	if a.Is4() {
		return []bpf.Instruction{
			bpf.LoadAbsolute{Off: offEtherType, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipFalse: 1},
			accept, ignore,
		}
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offEtherType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipFalse: 5},
		bpf.LoadAbsolute{Off: offNextHeader, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: protocolICMPv6, SkipFalse: 3},
		bpf.LoadAbsolute{Off: offICMP6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: typeNeighbour, SkipFalse: 1},
		accept, ignore,
	}
}

// ProbeFrame is the frame that a probe for an address consists of.
func ProbeFrame(mac net.HardwareAddr, a netip.Addr) []byte {
	if a.Is6() {
		return neighbourSolicitation(mac, a)
	}
	return arpProbe(mac, a)
}

// Claimant returns the MAC of whoever says in a frame that it has an address: any ARP packet
// with the address as its sender's (RFC 5227 section 2.1.1), an advertisement of it.
func Claimant(frame []byte, a netip.Addr) net.HardwareAddr {
	is := func(off int, b []byte) bool {
		return len(frame) >= off+len(b) && bytes.Equal(frame[off:off+len(b)], b)
	}
	if a.Is4() {
		if is(offEtherType, []byte{0x08, 0x06}) && is(offARPSender+6, a.AsSlice()) {
			return net.HardwareAddr(bytes.Clone(frame[offARPSender : offARPSender+6]))
		}
		return nil
	}
	if is(offEtherType, []byte{0x86, 0xdd}) && is(offNextHeader, []byte{protocolICMPv6}) &&
		is(offICMP6, []byte{typeNeighbour}) && is(offNDTarget, a.AsSlice()) {
		return net.HardwareAddr(bytes.Clone(frame[6:12]))
	}
	return nil
}

// arpProbe returns an Ethernet frame with an ARP probe: a request whose sender's address is
// all zero, so that no cache learns from it.
func arpProbe(mac net.HardwareAddr, a netip.Addr) []byte {
	f := arpAnnouncement(mac, a)
	clear(f[offARPSender+6 : offARPSender+10])
	return f
}

// neighbourSolicitation returns an Ethernet frame with a solicitation for duplicate address
// detection: from the unspecified address, without a link address.
func neighbourSolicitation(mac net.HardwareAddr, a netip.Addr) []byte {
	target := a.As16()
	group := netip.MustParseAddr("ff02::1:ff00:0").As16() // RFC 4291 section 2.7.1
	copy(group[13:], target[13:])

	icmp := append([]byte{typeSolicit, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	binary.BigEndian.PutUint16(icmp[2:], icmp6Checksum([16]byte{}, group, icmp))

	f := make([]byte, 0, 14+40+len(icmp))
	f = append(append(f, 0x33, 0x33), group[12:]...) // RFC 2464 section 7
	f = append(f, mac...)
	f = append(f, 0x86, 0xdd)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(icmp)), protocolICMPv6, 255)
	f = append(append(f, make([]byte, 16)...), group[:]...)
	return append(f, icmp...)
}
