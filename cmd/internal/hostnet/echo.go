package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Echo sends echo requests of ICMP (RFC 792) and ICMPv6 (RFC 4443) that no router
// may fragment, and receives the replies. Its methods may be called from any
// goroutine.
type Echo struct {
	id int

	mu    sync.Mutex
	seq   int
	conns map[bool]net.PacketConn // by whether it is for IPv6
}

// NewEcho returns an Echo whose requests have an identifier, by which the kernel's
// replies to them are told from others. It opens nothing.
func NewEcho(id uint16) *Echo { return &Echo{id: int(id)} }

// ErrEchoClosed is Send's error while Run does not run, or where the host lacks the
// address family.
var ErrEchoClosed = errors.New("no socket for echo requests")

// Run receives replies and calls received with the sender and the payload, which is
// received's to keep, until ctx ends; then it returns nil. It needs CAP_NET_RAW. A
// host without one of the address families has the other.
func (e *Echo) Run(ctx context.Context, received func(from netip.Addr, payload []byte)) error {
	conns := map[bool]net.PacketConn{}
	four, err4 := listenEcho("ip4:icmp", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	six, err6 := listenEcho("ip6:ipv6-icmp", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	if err4 == nil {
		conns[false] = four
	}
	if err6 == nil {
		conns[true] = six
	}
	if len(conns) == 0 {
		return fmt.Errorf("sockets for echo requests: %w", errors.Join(err4, err6))
	}
	e.set(conns)
	defer e.set(nil)
	g, ctx := errgroup.WithContext(ctx)
	for v6, conn := range conns {
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		g.Go(func() error { return e.read(conn, v6, received) })
	}
	err := g.Wait()
	for _, conn := range conns {
		_ = conn.Close()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (e *Echo) set(conns map[bool]net.PacketConn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conns = conns
}

// listenEcho opens a raw socket that gets replies only.
func listenEcho(network string, level, option, value int) (net.PacketConn, error) {
	conn, err := net.ListenPacket(network, "") //nolint:noctx // it opens at once
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.IPConn).SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), level, option, value)
			if err == nil && level == unix.IPPROTO_IP {
				// ICMP_FILTER of linux/icmp.h: a bit for each type that is not wanted.
				err = unix.SetsockoptInt(int(fd), unix.SOL_RAW, 1, ^(1 << int(ipv4.ICMPTypeEchoReply)))
			}
		})
		err = errors.Join(err, cerr)
	}
	if err == nil && level == unix.IPPROTO_IPV6 {
		var f ipv6.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv6.ICMPTypeEchoReply)
		err = ipv6.NewPacketConn(conn).SetICMPFilter(&f)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (e *Echo) read(conn net.PacketConn, v6 bool, received func(netip.Addr, []byte)) error {
	protocol := unix.IPPROTO_ICMP
	if v6 {
		protocol = unix.IPPROTO_ICMPV6
	}
	buf := make([]byte, 65536)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		m, err := icmp.ParseMessage(protocol, buf[:n])
		if err != nil || (m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply) {
			continue
		}
		echo, ok := m.Body.(*icmp.Echo)
		ip, isIP := from.(*net.IPAddr)
		if !ok || !isIP || echo.ID != e.id {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.IP); ok {
			received(a.Unmap(), append([]byte(nil), echo.Data...))
		}
	}
}

// Send sends a request. One that is larger than the link's MTU is an error.
func (e *Echo) Send(to netip.Addr, payload []byte) error {
	e.mu.Lock()
	conn := e.conns[to.Is6()]
	e.seq = (e.seq + 1) & 0xffff
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: e.id, Seq: e.seq, Data: payload}}
	e.mu.Unlock()
	if conn == nil {
		return ErrEchoClosed
	}
	if to.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest // the kernel fills in the checksum
	}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice()})
	return err
}
