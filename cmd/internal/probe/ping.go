package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Protocol numbers of IANA that icmp.ParseMessage wants.
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// pingPayload is what ping(8) sends; the first 8 bytes tell our own echoes
// from those of others.
const pingPayload = 56

// Echoes is the result of Ping.
type Echoes struct {
	To       string `json:"to"`
	Sent     int    `json:"sent"`
	Received int    `json:"received"`
	// RTTs are the round trips of those received, sorted.
	RTTs []time.Duration `json:"rttsNanoseconds,omitempty"`
}

// Median returns the median round trip; 0 where nothing came back.
func (e Echoes) Median() time.Duration {
	if len(e.RTTs) == 0 {
		return 0
	}
	return e.RTTs[len(e.RTTs)/2]
}

// ListenICMP opens a raw socket for Ping in the calling thread's network
// namespace. It needs CAP_NET_RAW.
func ListenICMP(to netip.Addr) (*icmp.PacketConn, error) {
	if to.Unmap().Is4() {
		return icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	}
	return icmp.ListenPacket("ip6:ipv6-icmp", "::")
}

// Ping sends count echo requests over conn (of ListenICMP), one after the
// other, each awaited for at most timeout. Loss is no error. conn stays open.
func Ping(ctx context.Context, conn *icmp.PacketConn, to netip.Addr, count int, timeout time.Duration) (Echoes, error) {
	to = to.Unmap()
	e := Echoes{To: to.String()}
	id := int(rand.Uint32() & 0xffff)
	payload := make([]byte, pingPayload)
	binary.BigEndian.PutUint64(payload, rand.Uint64())
	request := icmp.Message{Type: ipv4.ICMPTypeEcho}
	if to.Is6() {
		request.Type = ipv6.ICMPTypeEchoRequest // the kernel fills in the checksum
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	for seq := 1; seq <= count; seq++ {
		if ctx.Err() != nil {
			return e, ctx.Err()
		}
		request.Body = &icmp.Echo{ID: id, Seq: seq, Data: payload}
		b, err := request.Marshal(nil)
		if err != nil {
			return e, err
		}
		start := time.Now()
		if err := conn.SetReadDeadline(start.Add(timeout)); err != nil {
			return e, err
		}
		e.Sent++
		if _, err := conn.WriteTo(b, &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}); err != nil {
			return e, fmt.Errorf("ping %s: %w", to, err)
		}
		ok, err := awaitEcho(conn, to, id, seq, payload[:8])
		if err != nil {
			return e, fmt.Errorf("ping %s: %w", to, err)
		}
		if ok {
			e.Received++
			e.RTTs = append(e.RTTs, time.Since(start))
		}
	}
	slices.Sort(e.RTTs)
	return e, ctx.Err()
}

// awaitEcho reads until the reply or the deadline.
func awaitEcho(conn *icmp.PacketConn, to netip.Addr, id, seq int, token []byte) (bool, error) {
	protocol := protocolICMP
	if to.Is6() {
		protocol = protocolICMPv6
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		m, err := icmp.ParseMessage(protocol, buf[:n])
		if err != nil || (m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply) {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == id && echo.Seq == seq && len(echo.Data) >= 8 && slices.Equal(echo.Data[:8], token) {
			return true, nil
		}
	}
}
