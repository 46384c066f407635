package testkit

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Socket is a packet socket on a device. It keeps every frame that it sees, in
// either direction.
type Socket struct {
	conn  *packet.Conn
	ended chan struct{}
	mu    sync.Mutex
	seen  [][]byte
}

// Listen opens a socket on a device of the namespace that in runs a function in
// (nil: the caller's); it is closed with the test.
func Listen(t testing.TB, in func(func() error) error, device string) *Socket {
	t.Helper()
	if in == nil {
		in = func(f func() error) error { return f() }
	}
	s := &Socket{ended: make(chan struct{})}
	require.NoError(t, in(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		s.conn, err = packet.Listen(dev, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	}))
	go func() {
		defer close(s.ended)
		buf := make([]byte, 65536)
		for {
			n, _, err := s.conn.ReadFrom(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.seen = append(s.seen, bytes.Clone(buf[:n]))
			s.mu.Unlock()
		}
	}()
	t.Cleanup(s.Close)
	return s
}

// Close makes it see no more; what it has seen stays. It may be called again.
func (s *Socket) Close() {
	_ = s.conn.Close()
	<-s.ended
}

// Send sends a frame.
func (s *Socket) Send(t testing.TB, frame []byte) {
	t.Helper()
	_, err := s.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	require.NoError(t, err)
}

// Frames returns those seen so far that contain all of the parts.
func (s *Socket) Frames(parts ...[]byte) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out [][]byte
frames:
	for _, f := range s.seen {
		for _, p := range parts {
			if !bytes.Contains(f, p) {
				continue frames
			}
		}
		out = append(out, f)
	}
	return out
}

// Count returns how many frames contain all of the parts.
func (s *Socket) Count(parts ...[]byte) int { return len(s.Frames(parts...)) }
