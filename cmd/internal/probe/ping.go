package probe

import (
	"bytes"
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

// pingPayload is how much ping(8) sends.
const pingPayload = 56

// Echoes is the result of Ping and Pings.
type Echoes struct {
	To   string `json:"to"`
	Sent int    `json:"sent"`
	// Received is how many were answered, Missing the numbers, from 1 and
	// ascending, of those that were not.
	Received int   `json:"received"`
	Missing  []int `json:"missing,omitempty"`
	// RTTs are the round trips of those received, sorted.
	RTTs []time.Duration `json:"rttsNanoseconds,omitempty"`
	// Unsent is the last error of a request that could not be sent; it is
	// missing like one that was lost.
	Unsent error `json:"-"`
}

// Median returns the median round trip; 0 where nothing came back.
func (e Echoes) Median() time.Duration {
	if len(e.RTTs) == 0 {
		return 0
	}
	return e.RTTs[len(e.RTTs)/2]
}

// Slowest returns the longest round trip; 0 where nothing came back.
func (e Echoes) Slowest() time.Duration {
	if len(e.RTTs) == 0 {
		return 0
	}
	return e.RTTs[len(e.RTTs)-1]
}

// Row returns how many are missing in a row, where that is most.
func (e Echoes) Row() int {
	longest, here := 0, 0
	for i, n := range e.Missing {
		if i == 0 || n != e.Missing[i-1]+1 {
			here = 0
		}
		here++
		longest = max(longest, here)
	}
	return longest
}

// ListenICMP opens a raw socket for Ping in the calling thread's network
// namespace. It needs CAP_NET_RAW.
func ListenICMP(to netip.Addr) (*icmp.PacketConn, error) {
	if to.Unmap().Is4() {
		return icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	}
	return icmp.ListenPacket("ip6:ipv6-icmp", "::")
}

// request is what the echo requests of one sender have in common.
type request struct {
	to       netip.Addr
	id       int
	protocol int
	kind     icmp.Type
	// The payload begins with a random token; the number of the request
	// follows, which the header has 16 bits for only.
	token [tokenLen]byte
}

const tokenLen, numberedLen = 8, 16

func newRequest(to netip.Addr) request {
	r := request{to: to, id: int(rand.Uint32() & 0xffff), protocol: protocolICMP, kind: ipv4.ICMPTypeEcho}
	binary.BigEndian.PutUint64(r.token[:], rand.Uint64())
	if to.Is6() {
		r.protocol, r.kind = protocolICMPv6, ipv6.ICMPTypeEchoRequest // the kernel fills in the checksum
	}
	return r
}

// write sends one; the first has the number 1.
func (r request) write(conn net.PacketConn, number int) error {
	payload := make([]byte, pingPayload)
	copy(payload, r.token[:])
	binary.BigEndian.PutUint64(payload[tokenLen:], uint64(number))
	m := icmp.Message{Type: r.kind, Body: &icmp.Echo{ID: r.id, Seq: number & 0xffff, Data: payload}}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	_, err = conn.WriteTo(b, &net.IPAddr{IP: r.to.AsSlice(), Zone: r.to.Zone()})
	return err
}

// answered reads the number of the request that a message answers.
func (r request) answered(b []byte) (number int, ok bool) {
	m, err := icmp.ParseMessage(r.protocol, b)
	if err != nil || (m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply) {
		return 0, false
	}
	echo, ok := m.Body.(*icmp.Echo)
	if !ok || echo.ID != r.id || len(echo.Data) < numberedLen || !bytes.Equal(echo.Data[:tokenLen], r.token[:]) {
		return 0, false
	}
	number = int(binary.BigEndian.Uint64(echo.Data[tokenLen:]))
	return number, number > 0
}

// Ping sends count echo requests over conn (of ListenICMP), one after the
// other, each awaited for at most timeout. Loss is no error. conn stays open.
func Ping(ctx context.Context, conn net.PacketConn, to netip.Addr, count int, timeout time.Duration) (Echoes, error) {
	to = to.Unmap()
	e := Echoes{To: to.String()}
	r := newRequest(to)
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	for number := 1; number <= count; number++ {
		if ctx.Err() != nil {
			return e, ctx.Err()
		}
		start := time.Now()
		if err := conn.SetReadDeadline(start.Add(timeout)); err != nil {
			return e, err
		}
		e.Sent++
		if err := r.write(conn, number); err != nil {
			return e, fmt.Errorf("ping %s: %w", to, err)
		}
		ok, err := awaitEcho(conn, r, number)
		if err != nil {
			return e, fmt.Errorf("ping %s: %w", to, err)
		}
		if !ok {
			e.Missing = append(e.Missing, number)
			continue
		}
		e.Received++
		e.RTTs = append(e.RTTs, time.Since(start))
	}
	slices.Sort(e.RTTs)
	return e, ctx.Err()
}

// awaitEcho reads until the reply or the deadline.
func awaitEcho(conn net.PacketConn, r request, number int) (bool, error) {
	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if got, ok := r.answered(buf[:n]); ok && got == number {
			return true, nil
		}
	}
}
