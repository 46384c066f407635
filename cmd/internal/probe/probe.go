// Package probe proves that traffic crosses a network unharmed: bulk TCP whose
// SHA-256 both ends compute and compare, UDP datagrams that are counted one by
// one, and ICMP echoes.
//
// The functions take sockets, so that a caller may have opened them in another
// network namespace.
package probe

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// The bulk exchange over one TCP connection, integers big endian:
//
//	client → server  "BZP1", 8 bytes: number of bytes that follow, the bytes
//	server → client  "BZR1", 8 bytes: number that arrived, 32 bytes: their SHA-256
//
// The bytes are a pseudo-random stream of a random seed: neither a stuck
// pattern nor frames out of order can go unnoticed.
const (
	bulkMagic  = "BZP1"
	replyMagic = "BZR1"
	headerLen  = len(bulkMagic) + 8
	replyLen   = headerLen + sha256.Size
	chunk      = 64 << 10
)

// idleTimeout ends a bulk exchange in which nothing moves: TCP itself would
// retry for minutes.
const idleTimeout = 10 * time.Second

// Bulk is the result of a bulk exchange, the same at both ends.
type Bulk struct {
	// From and To are the ends' addresses with ports.
	From string `json:"from"`
	To   string `json:"to"`
	// Bytes is how many arrived.
	Bytes int64 `json:"bytes"`
	// SHA256 is the hash of what arrived, in hex.
	SHA256 string `json:"sha256"`
	// Seconds is from the first byte sent until the answer.
	Seconds float64 `json:"seconds"`
}

// BitsPerSecond is the throughput.
func (b Bulk) BitsPerSecond() float64 {
	if b.Seconds <= 0 {
		return 0
	}
	return float64(b.Bytes) * 8 / b.Seconds
}

// Serve answers bulk exchanges on l until ctx is done; it closes l and waits
// for the exchanges that run. each, unless nil, is called after every exchange,
// from several goroutines. It returns nil when ctx ended it.
func Serve(ctx context.Context, l net.Listener, each func(Bulk, error)) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accepting on %s: %w", l.Addr(), err)
		}
		running.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			b, err := receive(conn)
			if each != nil {
				each(b, err)
			}
		})
	}
}

// receive is the server's side of one exchange.
func receive(conn net.Conn) (Bulk, error) {
	b := Bulk{From: conn.RemoteAddr().String(), To: conn.LocalAddr().String()}
	moving := &movingConn{Conn: conn}
	header := make([]byte, headerLen)
	start := time.Now()
	if _, err := io.ReadFull(moving, header); err != nil {
		return b, fmt.Errorf("header from %s: %w", b.From, err)
	}
	if string(header[:len(bulkMagic)]) != bulkMagic {
		return b, fmt.Errorf("%s does not speak the probe's protocol", b.From)
	}
	want := int64(binary.BigEndian.Uint64(header[len(bulkMagic):]))
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, io.LimitReader(moving, want), make([]byte, chunk))
	b.Bytes, b.SHA256 = n, hex.EncodeToString(sum.Sum(nil))
	if err != nil {
		return b, fmt.Errorf("after %d of %d bytes from %s: %w", n, want, b.From, err)
	}
	if n < want {
		return b, fmt.Errorf("%s sent %d of %d bytes: %w", b.From, n, want, io.ErrUnexpectedEOF)
	}
	reply := binary.BigEndian.AppendUint64([]byte(replyMagic), uint64(n))
	if _, err := moving.Write(sum.Sum(reply)); err != nil {
		return b, fmt.Errorf("answer to %s: %w", b.From, err)
	}
	b.Seconds = time.Since(start).Seconds()
	return b, nil
}

// Send sends size random bytes over conn, which leads to Serve, and compares
// what arrived with what was sent. It closes conn.
func Send(ctx context.Context, conn net.Conn, size int64) (Bulk, error) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	b, err := send(conn, size)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return b, err
}

func send(conn net.Conn, size int64) (Bulk, error) {
	b := Bulk{From: conn.LocalAddr().String(), To: conn.RemoteAddr().String()}
	if size < 0 {
		return b, fmt.Errorf("cannot send %d bytes", size)
	}
	moving := &movingConn{Conn: conn}
	start := time.Now()
	header := binary.BigEndian.AppendUint64([]byte(bulkMagic), uint64(size))
	if _, err := moving.Write(header); err != nil {
		return b, fmt.Errorf("to %s: %w", b.To, err)
	}
	sum := sha256.New()
	to := struct{ io.Writer }{io.MultiWriter(moving, sum)} // without ReadFrom: chunk is the size of writes
	sent, err := io.CopyBuffer(to, io.LimitReader(randomStream(), size), make([]byte, chunk))
	if err != nil {
		return b, fmt.Errorf("after %d of %d bytes to %s: %w", sent, size, b.To, err)
	}
	reply := make([]byte, replyLen)
	if _, err := io.ReadFull(moving, reply); err != nil {
		return b, fmt.Errorf("answer of %s after %d bytes: %w", b.To, sent, err)
	}
	b.Seconds = time.Since(start).Seconds()
	err = b.check(reply, sent, sum)
	return b, err
}

// check compares the answer with what was sent.
func (b *Bulk) check(reply []byte, sent int64, sum hash.Hash) error {
	if string(reply[:len(replyMagic)]) != replyMagic {
		return fmt.Errorf("%s does not speak the probe's protocol", b.To)
	}
	b.Bytes = int64(binary.BigEndian.Uint64(reply[len(replyMagic):]))
	b.SHA256 = hex.EncodeToString(reply[headerLen:])
	if mine := hex.EncodeToString(sum.Sum(nil)); b.Bytes != sent || b.SHA256 != mine {
		return fmt.Errorf("%w: %s received %d bytes with SHA-256 %.12s…, %d with %.12s… were sent",
			ErrDamaged, b.To, b.Bytes, b.SHA256, sent, mine)
	}
	return nil
}

// ErrDamaged says that what arrived is not what was sent.
var ErrDamaged = errors.New("data was damaged in transit")

func randomStream() io.Reader {
	var seed [32]byte
	for i := 0; i < len(seed); i += 8 {
		binary.BigEndian.PutUint64(seed[i:], rand.Uint64())
	}
	return rand.NewChaCha8(seed)
}

// movingConn gives every single read and write idleTimeout.
type movingConn struct{ net.Conn }

func (c *movingConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *movingConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
