package labkit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// Netns is the path of an endpoint's (host1/c1) network namespace, or of a
// host's, as seen from outside.
func (l *Lab) Netns(target string) string {
	l.T.Helper()
	host, endpoint, inside := strings.Cut(target, "/")
	if inside {
		path, err := l.Host(host).Endpoint(endpoint).NetnsPath()
		require.NoError(l.T, err)
		return path
	}
	pid, err := l.Host(host).PID()
	require.NoError(l.T, err)
	return fmt.Sprintf("/proc/%d/ns/net", pid)
}

// Listen opens a packet socket on a device of a namespace.
func (l *Lab) Listen(netns, device string) *testkit.Socket {
	l.T.Helper()
	return testkit.Listen(l.T, func(f func() error) error { return hostnet.InNetns(netns, f) }, device)
}

// Inside opens a socket in an endpoint.
func (l *Lab) Inside(e lab.EndpointStatus) *testkit.Socket {
	l.T.Helper()
	return l.Listen(l.Netns(e.String()), "eth0")
}

// Wire opens a socket on the fabric's port to a host.
func (l *Lab) Wire(host string) *testkit.Socket {
	l.T.Helper()
	return l.Listen(l.Netns("fabric"), host)
}

// Reaches waits until one endpoint reaches another one's addresses.
func (l *Lab) Reaches(from string, to lab.EndpointStatus) {
	l.T.Helper()
	for _, ip := range to.IPs {
		l.AwaitRun(fmt.Sprintf("%s reaches %s", from, ip), from, "ping", "-c", "1", "-W", "1", ip.String())
	}
}

// Pings are pings that run.
type Pings struct {
	*probe.Pings
	// Name says from where to where.
	Name string
	t    *testing.T
}

// Ping pings from a network namespace until the end of the test at the latest.
// It returns when there are answers: what is lost later was an established flow.
func (l *Lab) Ping(netns string, to netip.Addr, interval time.Duration) Pings {
	l.T.Helper()
	running, err := lab.StartPings(netns, to, interval)
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _, _ = running.End() })
	p := Pings{running, fmt.Sprintf("pings from %s to %s", netns, to), l.T}
	p.Goes(5)
	return p
}

// PingEndpoint is Ping between two endpoints, to the first address.
func (l *Lab) PingEndpoint(from, to string, interval time.Duration) Pings {
	l.T.Helper()
	p := l.Ping(l.Netns(from), l.Endpoint(to).IPs[0], interval)
	p.Name = from + " to " + to
	return p
}

// Goes waits for the answers to n more.
func (p Pings) Goes(n int) {
	p.t.Helper()
	GoOn(n, p)
}

// GoOn waits for the answers to n more of each.
func GoOn(n int, all ...Pings) {
	t := all[0].t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*testkit.Patience)
	defer cancel()
	var g errgroup.Group
	for _, p := range all {
		g.Go(func() error {
			if err := p.Await(ctx, n); err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
}

// Ends ends them, waits for what is outstanding, and says what became of all.
func (p Pings) Ends() probe.Echoes {
	p.t.Helper()
	e, err := p.End()
	require.NoError(p.t, err, p.Name)
	p.t.Logf("%s: %d sent, %d lost %v, the slowest back after %v",
		p.Name, e.Sent, len(e.Missing), e.Missing, e.Slowest().Round(time.Millisecond))
	if e.Unsent != nil {
		p.t.Logf("%s: could not be sent: %v", p.Name, e.Unsent)
	}
	return e
}

// Lost pings every 10 ms from before something happens until after it, and for
// five seconds at least; it returns how many answers were missing.
func (l *Lab) Lost(from, to string, during func()) int {
	l.T.Helper()
	p := l.PingEndpoint(from, to, 10*time.Millisecond)
	during()
	p.Goes(max(100, 500-p.Sent()))
	return len(p.Ends().Missing)
}

// Serve answers probes in an endpoint until the test ends.
func (l *Lab) Serve(target string) {
	l.T.Helper()
	l.Start(target, "baize", "probe", "serve")
}

// Probe is 'baize probe send' in an endpoint, without a process of its own: there
// are many. It returns what that prints.
func (l *Lab) Probe(from string, to netip.Addr, o probe.SendOptions) (string, error) {
	l.T.Helper()
	o.To = to.String()
	if o.Timeout == 0 {
		o.Timeout = testkit.Patience
	}
	host, endpoint, _ := strings.Cut(from, "/")
	path, err := l.Host(host).Endpoint(endpoint).NetnsPath()
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = hostnet.InNetns(path, func() error { return probe.RunSend(l.T.Context(), o, &out) })
	return out.String(), err
}

// Stream begins to send random bytes by TCP from one endpoint to another. The
// function returned calls during, and then verifies that every byte arrived.
func (l *Lab) Stream(from, to lab.EndpointStatus, ip netip.Addr) func(during func()) {
	l.T.Helper()
	return l.StreamInto(l.Netns(from.String()), l.Netns(to.String()), ip)
}

// StreamInto is Stream between network namespaces.
func (l *Lab) StreamInto(from, to string, ip netip.Addr) func(during func()) {
	l.T.Helper()
	stream := l.stream(from, to, ip, 32<<10)
	return func(during func()) { l.T.Logf("%s to %s: %d bytes", from, ip, stream(during)) }
}

// Trickle is Stream that sends 50 kB a second: what the sockets of a userspace datapath have
// room for while it is busy.
func (l *Lab) Trickle(from, to lab.EndpointStatus, ip netip.Addr) func(during func()) {
	l.T.Helper()
	stream := l.stream(l.Netns(from.String()), l.Netns(to.String()), ip, 256)
	return func(during func()) { stream(during) }
}

// stream returns a function that says how many bytes there were.
func (l *Lab) stream(from, to string, ip netip.Addr, chunk int) func(during func()) int64 {
	l.T.Helper()
	ctx, cancel := context.WithTimeout(l.T.Context(), 2*testkit.Patience)
	l.T.Cleanup(cancel)
	var listener net.Listener
	require.NoError(l.T, hostnet.InNetns(to, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", ":0")
		return err
	}))
	received, sent := make(chan sum, 1), make(chan sum, 1)
	go func() { received <- receive(ctx, listener) }()
	var conn net.Conn
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	require.NoError(l.T, hostnet.InNetns(from, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), port))
		return err
	}))
	stop := make(chan struct{})
	go func() { sent <- send(ctx, conn, stop, chunk) }()
	return func(during func()) int64 {
		l.T.Helper()
		during()
		close(stop)
		s, r := <-sent, <-received
		require.NoError(l.T, s.err)
		require.NoError(l.T, r.err)
		require.Equal(l.T, s, r)
		return r.n
	}
}

// sum is what went one way of a connection.
type sum struct {
	sum [sha256.Size]byte
	n   int64
	err error
}

func receive(ctx context.Context, listener net.Listener) sum {
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	conn, err := listener.Accept()
	if err != nil {
		return sum{err: err}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	h := sha256.New()
	n, err := io.Copy(h, conn)
	return sum{[sha256.Size]byte(h.Sum(nil)), n, err}
}

// send sends a chunk every 5 ms until stop, and 32 at least.
func send(ctx context.Context, conn net.Conn, stop <-chan struct{}, size int) sum {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	h, chunk, n := sha256.New(), make([]byte, size), int64(0)
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for last := false; !last; {
		select {
		case <-stop:
			last = n >= int64(32*size)
		case <-ticks.C:
		}
		_, _ = rand.Read(chunk)
		if _, err := conn.Write(chunk); err != nil {
			return sum{err: err}
		}
		h.Write(chunk)
		n += int64(len(chunk))
	}
	return sum{[sha256.Size]byte(h.Sum(nil)), n, conn.(*net.TCPConn).CloseWrite()}
}
