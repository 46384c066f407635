package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func serve(t *testing.T, address string) (to string, results chan Bulk) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	results = make(chan Bulk, 16)
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, func(b Bulk, _ error) { results <- b }) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	return l.Addr().String(), results
}

func dial(t *testing.T, network, to string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout(network, to, 5*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestBothEndsAgreeOnWhatArrived(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, size := range []int64{0, 1, chunk, 3<<20 + 7} {
			to, results := serve(t, address)
			sent, err := Send(t.Context(), dial(t, "tcp", to), size)
			require.NoError(t, err)
			received := <-results
			assert.Equal(t, size, sent.Bytes)
			assert.Equal(t, received.SHA256, sent.SHA256)
			assert.Equal(t, received.Bytes, sent.Bytes)
			assert.Len(t, sent.SHA256, 64)
			assert.Positive(t, sent.Seconds)
		}
	}
}

func TestTwoExchangesNeverSendTheSame(t *testing.T) {
	to, _ := serve(t, "127.0.0.1:0")
	a, err := Send(t.Context(), dial(t, "tcp", to), 1000)
	require.NoError(t, err)
	b, err := Send(t.Context(), dial(t, "tcp", to), 1000)
	require.NoError(t, err)
	assert.NotEqual(t, a.SHA256, b.SHA256)
}

// damage forwards a connection and inverts one byte on the way.
func damage(t *testing.T, to string, at int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		in, err := l.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		go func() { _, _ = io.Copy(in, out) }()
		head := make([]byte, at+1)
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		head[at] ^= 0xff
		if _, err := out.Write(head); err == nil {
			_, _ = io.Copy(out, in)
		}
	}()
	return l.Addr().String()
}

func TestOneWrongByteIsFound(t *testing.T) {
	to, _ := serve(t, "127.0.0.1:0")
	_, err := Send(t.Context(), dial(t, "tcp", damage(t, to, 5000)), 100_000)
	require.ErrorIs(t, err, ErrDamaged)
}

func TestStrangersAreTurnedAway(t *testing.T) {
	to, results := serve(t, "127.0.0.1:0")
	conn := dial(t, "tcp", to)
	_, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	require.NoError(t, err)
	assert.Zero(t, (<-results).Bytes)
}

func TestACancelledExchangeEnds(t *testing.T) {
	// A server that takes the connection and reads nothing.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Send(ctx, dial(t, "tcp", l.Addr().String()), 64<<20)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// lossy drops, damages and repeats datagrams that are written to it.
type lossy struct {
	net.Conn
	n atomic.Int64
}

func (c *lossy) Write(b []byte) (int, error) {
	if b[len(udpMagic)] != kindData {
		return c.Conn.Write(b)
	}
	switch c.n.Add(1) {
	case 3:
		return len(b), nil
	case 4:
		b = bytes.Clone(b) // damaged is as good as lost
		b[len(b)/2] ^= 1
	case 5:
		_, _ = c.Conn.Write(b)
	}
	return c.Conn.Write(b)
}

func TestDatagramsAreCounted(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		conn, err := net.ListenPacket("udp", address)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- ServeUDP(ctx, conn) }()

		d, err := SendUDP(t.Context(), dial(t, "udp", conn.LocalAddr().String()), 50, 900, 0)
		require.NoError(t, err)
		assert.Equal(t, 50, d.Received)
		assert.Zero(t, d.Lost()+d.Duplicates)

		d, err = SendUDP(t.Context(), &lossy{Conn: dial(t, "udp", conn.LocalAddr().String())}, 50, 900, 0)
		require.NoError(t, err)
		assert.Equal(t, 48, d.Received)
		assert.Equal(t, 2, d.Lost())
		assert.Equal(t, 1, d.Duplicates)
		cancel()
		require.NoError(t, <-ended)
	}
}

// held keeps one datagram back until some queries have overtaken it.
type held struct {
	net.Conn
	late    []byte
	queries int
	pause   time.Duration // before each of them
}

func (c *held) Write(b []byte) (int, error) {
	if b[len(udpMagic)] == kindData {
		if c.late == nil {
			c.late = bytes.Clone(b)
			return len(b), nil
		}
		return c.Conn.Write(b)
	}
	time.Sleep(c.pause)
	if c.queries++; c.queries == 4 {
		if _, err := c.Conn.Write(c.late); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

func TestALateDatagramIsNotLost(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeUDP(ctx, conn) }()

	// A busy machine asks seldom.
	for _, pause := range []time.Duration{0, 400 * time.Millisecond} {
		d, err := SendUDP(t.Context(), &held{Conn: dial(t, "udp", conn.LocalAddr().String()), pause: pause}, 50, 900, 0)
		require.NoError(t, err)
		assert.Equal(t, 50, d.Received, pause)
		assert.Zero(t, d.Duplicates)
	}
	cancel()
	require.NoError(t, <-ended)
}

func TestCommands(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := ServeMain(ctx, []string{"--listen", "127.0.0.1:0", "--once"}, in)
		_ = in.Close()
		ended <- err
	}()
	t.Cleanup(cancel)
	dec := json.NewDecoder(out)
	line := make([]byte, 100)
	n, err := out.Read(line)
	require.NoError(t, err)
	to := strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "listening on "))

	var sent bytes.Buffer
	require.NoError(t, SendMain(t.Context(), []string{"--to", to, "--datagrams", "10", "--size", "100"}, &sent))
	assert.Contains(t, sent.String(), `"received":10`)

	sent.Reset()
	done := make(chan error, 1)
	go func() { done <- SendMain(t.Context(), []string{"--to", to, "--bytes", "64K"}, &sent) }()
	var received struct{ Result Bulk }
	require.NoError(t, dec.Decode(&received))
	require.NoError(t, <-done)
	go func() { _, _ = io.Copy(io.Discard, out) }()
	require.NoError(t, <-ended)
	assert.EqualValues(t, 64<<10, received.Result.Bytes)
	assert.Contains(t, sent.String(), received.Result.SHA256)
}

func TestCommandsRefuse(t *testing.T) {
	for name, args := range map[string][]string{
		"no destination": {},
		"unknown flag":   {"--frob"},
		"bad size":       {"--to", "127.0.0.1", "--bytes", "many"},
		"too many words": {"--to", "127.0.0.1", "now"},
	} {
		err := SendMain(t.Context(), args, io.Discard)
		var e *topology.Error
		require.True(t, errors.As(err, &e), "%s: %v", name, err)
		assert.ErrorIs(t, err, topology.ErrInvalid, name)
	}
	err := SendMain(t.Context(), []string{"--to", "127.0.0.1:1"}, io.Discard)
	assert.ErrorIs(t, err, topology.ErrUnavailable)
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "64K": 65536, "64k": 65536, "20M": 20 << 20, "20MB": 20 << 20, "1G": 1 << 30,
	} {
		got, err := ParseBytes(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "M", "-1", "1KM", "1.5M", "99999999999G"} {
		_, err := ParseBytes(in)
		assert.Error(t, err, in)
	}
}

func TestMedian(t *testing.T) {
	assert.Zero(t, Echoes{}.Median())
	assert.Equal(t, 2*time.Second, Echoes{RTTs: []time.Duration{time.Second, 2 * time.Second, 9 * time.Second}}.Median())
}

// FuzzParseDatagram: whatever arrives, the header is read or refused.
func FuzzParseDatagram(f *testing.F) {
	f.Add(datagram(kindData, 1, 2))
	f.Add([]byte("BZU1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, id, number, ok := parseDatagram(b)
		if ok {
			assert.Equal(t, b[:udpHeader], datagram(kind, id, number))
		}
	})
}
