package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"time"
)

// Every datagram begins with "BZU1", a kind, the session (8 bytes) and a
// number (8 bytes); data is filled up to the size asked for, and ends with a
// CRC-32C of what precedes it: UDP's own sum may be left to a device. A query
// carries how many were sent; its answer the datagrams that arrived undamaged,
// then duplicates.
const (
	udpMagic   = "BZU1"
	kindData   = 'd'
	kindQuery  = 'q'
	kindAnswer = 'a'
	udpHeader  = len(udpMagic) + 1 + 8 + 8
	udpData    = udpHeader + crc32.Size
	answerLen  = udpHeader + 8
	// maxDatagrams bounds the server's memory of one session.
	maxDatagrams = 1 << 20
	maxSessions  = 256
)

const (
	queryEvery   = 100 * time.Millisecond
	queryTimeout = 5 * time.Second
	// queryQuiet is for how long nothing more arrives before the rest is taken
	// for lost, and quietAnswers how many answers in a row have to say so: a
	// busy machine may ask seldom. Datagrams that take the detour by
	// ovs-vswitchd are overtaken by the queries behind them.
	queryQuiet   = time.Second
	quietAnswers = 6
)

// Datagrams is the result of a UDP probe.
type Datagrams struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Sent is the number of datagrams sent, Received that of different ones
	// that arrived, Duplicates how many arrived again.
	Sent       int `json:"sent"`
	Received   int `json:"received"`
	Duplicates int `json:"duplicates"`
	// Size is that of a datagram's payload in bytes.
	Size    int     `json:"size"`
	Seconds float64 `json:"seconds"`
}

// Lost is how many did not arrive.
func (d Datagrams) Lost() int { return d.Sent - d.Received }

type session struct {
	seen       map[uint64]struct{}
	duplicates uint64
}

// ServeUDP counts datagrams on conn until ctx is done; it closes conn. It
// returns nil when ctx ended it.
func ServeUDP(ctx context.Context, conn net.PacketConn) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	sessions := map[uint64]*session{}
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("receiving on %s: %w", conn.LocalAddr(), err)
			}
			continue // an ICMP error of an earlier answer
		}
		kind, id, number, ok := parseDatagram(buf[:n])
		if !ok {
			continue
		}
		s := sessions[id]
		if s == nil {
			if len(sessions) >= maxSessions {
				clear(sessions)
			}
			s = &session{seen: map[uint64]struct{}{}}
			sessions[id] = s
		}
		switch kind {
		case kindData:
			if !intact(buf[:n]) {
				continue
			}
			if _, again := s.seen[number]; again {
				s.duplicates++
			} else if len(s.seen) < maxDatagrams {
				s.seen[number] = struct{}{}
			}
		case kindQuery:
			answer := binary.BigEndian.AppendUint64(datagram(kindAnswer, id, uint64(len(s.seen))), s.duplicates)
			// A lost answer is asked for again.
			_, _ = conn.WriteTo(answer, from)
		}
	}
}

// SendUDP sends count datagrams of size bytes over conn, which leads to
// ServeUDP, with a pause of interval between them, and asks what arrived. It
// closes conn. Loss is no error; a server that never answers is one.
func SendUDP(ctx context.Context, conn net.Conn, count, size int, interval time.Duration) (Datagrams, error) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	d := Datagrams{From: conn.LocalAddr().String(), To: conn.RemoteAddr().String(), Size: max(size, udpData)}
	if count < 0 || count > maxDatagrams {
		return d, fmt.Errorf("cannot count %d datagrams: at most %d", count, maxDatagrams)
	}
	id := rand.Uint64()
	start := time.Now()
	for i := range count {
		// Errors of single datagrams (a full queue, an ICMP error of an
		// earlier one) are loss.
		if _, err := conn.Write(data(id, uint64(i), d.Size)); err == nil || ctx.Err() == nil {
			d.Sent++
		}
		if interval > 0 && !sleep(ctx, interval) {
			break
		}
	}
	d.Seconds = time.Since(start).Seconds()
	if err := ctx.Err(); err != nil {
		return d, err
	}
	err := d.ask(ctx, conn, id)
	return d, err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// data is a datagram of size bytes.
func data(id, number uint64, size int) []byte {
	b := datagram(kindData, id, number)
	for len(b) < size-crc32.Size {
		b = append(b, byte(number)+byte(len(b)))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// intact reports whether data arrived as it was sent.
func intact(b []byte) bool {
	if len(b) < udpData {
		return false
	}
	end := len(b) - crc32.Size
	return crc32.Checksum(b[:end], castagnoli) == binary.BigEndian.Uint32(b[end:])
}

// ask repeats the query until all have arrived or the count stands still: datagrams
// may still be on their way at the first ones.
func (d *Datagrams) ask(ctx context.Context, conn net.Conn, id uint64) error {
	answered, last, still := false, -1, 0
	var since time.Time // the count is last, in still answers
	for deadline := time.Now().Add(queryTimeout); time.Now().Before(deadline); {
		ok, err := d.query(conn, id)
		if err != nil {
			return err
		}
		answered = answered || ok
		if ok && d.Received != last {
			last, since, still = d.Received, time.Now(), 0
		}
		if ok {
			still++
		}
		if ok && (d.Received == d.Sent || still >= quietAnswers && time.Since(since) >= queryQuiet) {
			return nil
		}
		if !sleep(ctx, queryEvery) {
			break
		}
	}
	if answered {
		return nil
	}
	return fmt.Errorf("%s does not answer what arrived of %d datagrams", d.To, d.Sent)
}

// query asks once and takes the answer. ok is false where none came within
// queryEvery: that is no error, and neither is what else was received.
func (d *Datagrams) query(conn net.Conn, id uint64) (ok bool, err error) {
	_, _ = conn.Write(datagram(kindQuery, id, uint64(d.Sent)))
	if err := conn.SetReadDeadline(time.Now().Add(queryEvery)); err != nil {
		return false, err
	}
	buf := make([]byte, answerLen)
	n, err := conn.Read(buf)
	if err != nil {
		return false, nil //nolint:nilerr // it is asked again
	}
	kind, got, number, parsed := parseDatagram(buf[:n])
	if !parsed || kind != kindAnswer || got != id || n < answerLen {
		return false, nil
	}
	d.Received, d.Duplicates = int(number), int(binary.BigEndian.Uint64(buf[udpHeader:]))
	return true, nil
}

func datagram(kind byte, id, number uint64) []byte {
	b := append([]byte(udpMagic), kind)
	b = binary.BigEndian.AppendUint64(b, id)
	return binary.BigEndian.AppendUint64(b, number)
}

func parseDatagram(b []byte) (kind byte, id, number uint64, ok bool) {
	if len(b) < udpHeader || string(b[:len(udpMagic)]) != udpMagic {
		return 0, 0, 0, false
	}
	return b[len(udpMagic)], binary.BigEndian.Uint64(
			b[len(udpMagic)+1:],
		), binary.BigEndian.Uint64(
			b[len(udpMagic)+9:],
		), true
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
