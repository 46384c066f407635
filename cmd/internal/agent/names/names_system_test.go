//go:build system

package names

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// container makes a network namespace with a loopback device and returns its
// path.
func container(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("bzt-%d-names", os.Getpid())
	ip := func(args ...string) {
		out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput()
		require.NoError(t, err, "ip %v: %s", args, out)
	}
	ip("netns", "add", name)
	t.Cleanup(func() {
		require.NoError(t, exec.Command("ip", "netns", "delete", name).Run())
	})
	ip("-n", name, "link", "set", "lo", "up")
	return filepath.Join("/run/netns", name)
}

// ask sends a query from inside a namespace, as Docker's resolver does.
func ask(t *testing.T, netns, protocol, name string) (m *dns.Msg, err error) {
	t.Helper()
	return askFor(t, 5*time.Second, netns, protocol, name)
}

func askFor(t *testing.T, patience time.Duration, netns, protocol, name string) (m *dns.Msg, err error) {
	t.Helper()
	require.NoError(t, hostnet.InNetns(netns, func() error {
		c := &dns.Client{Net: protocol, Timeout: patience}
		m, _, err = c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), net.JoinHostPort(Address.String(), "53"))
		return nil
	}))
	return m, err
}

func TestServers(t *testing.T) {
	netns := container(t)
	many := make([]netip.Addr, 100)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 1, 7, byte(i)})
	}
	d := directory{"blue/web": known["blue/web"], "blue/many": many}
	first := New(d, logrus.New())
	t.Cleanup(first.Close)
	_, err := ask(t, netns, "udp", "web.")
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "nobody is there yet")
	require.Empty(t, first.Sync(map[string][]string{netns: {"blue"}}))

	// The container's own name server may have its port on all addresses.
	require.NoError(t, hostnet.InNetns(netns, func() error {
		p, err := net.ListenPacket("udp4", "0.0.0.0:53")
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp4", "0.0.0.0:53")
		if err != nil {
			return errors.Join(err, p.Close())
		}
		t.Cleanup(func() { _ = errors.Join(p.Close(), l.Close()) })
		return nil
	}))

	answers := func() {
		for _, protocol := range []string{"udp", "tcp"} {
			m, err := ask(t, netns, protocol, "web.")
			require.NoError(t, err, protocol)
			require.Len(t, m.Answer, 1)
			require.Equal(t, "10.1.5.2", dns.Field(m.Answer[0], 1))
		}
	}
	answers()
	m, err := ask(t, netns, "udp", "many.")
	require.NoError(t, err)
	require.True(t, m.Truncated, "more than fits: asked again over TCP")
	m, err = ask(t, netns, "tcp", "many.")
	require.NoError(t, err)
	require.Len(t, m.Answer, len(many))

	// The container leaves one network and joins another.
	require.Empty(t, first.Sync(map[string][]string{netns: {"red"}}))
	m, err = ask(t, netns, "udp", "web.")
	require.NoError(t, err)
	require.Equal(t, dns.RcodeServerFailure, m.Rcode)

	// An agent that was killed left its rules; the next one comes.
	next := New(d, logrus.New())
	t.Cleanup(next.Close)
	require.Empty(t, next.Sync(map[string][]string{netns: {"blue"}}))
	answers()
	require.Empty(t, next.Sync(nil))
	_, err = ask(t, netns, "udp", "web.")
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "no waiting for a server that has ended")

	require.Len(t, next.Sync(map[string][]string{netns + "-gone": {"blue"}}), 1)
}

// Finding S3: a container that asks as fast as it can is answered at the limit's rate,
// and no goroutine waits for the rest.
func TestFloodOfQueries(t *testing.T) {
	netns := container(t)
	s := New(directory{"blue/web": known["blue/web"]}, logrus.New())
	t.Cleanup(s.Close)
	require.Empty(t, s.Sync(map[string][]string{netns: {"blue"}}))
	var conn net.Conn
	require.NoError(t, hostnet.InNetns(netns, func() (err error) {
		conn, err = net.Dial("udp", net.JoinHostPort(Address.String(), "53"))
		return err
	}))
	defer conn.Close()
	query, err := new(dns.Msg).SetQuestion("web.", dns.TypeA).Pack()
	require.NoError(t, err)
	before, most := runtime.NumGoroutine(), 0
	answers := make(chan int)
	go func() {
		n, buf := 0, make([]byte, 512)
		for {
			if _, err := conn.Read(buf); err != nil {
				answers <- n
				return
			}
			n++
		}
	}()
	begin, sent := time.Now(), 0
	for ; time.Since(begin) < time.Second; sent++ {
		_, _ = conn.Write(query)
		most = max(most, runtime.NumGoroutine())
	}
	took := time.Since(begin)
	require.NoError(t, conn.SetReadDeadline(time.Now()))
	n := <-answers
	t.Logf("%d queries, %d answered in %v; %d goroutines more at most", sent, n, took, most-before)
	require.Positive(t, n)
	require.LessOrEqual(t, float64(n), queriesAtOnce+queriesPerSecond*time.Since(begin).Seconds())
	require.Greater(t, sent, 2*n)
	require.Less(t, most-before, 2*queriesAtOnce)
	// It goes on: the one over TCP, too.
	for _, protocol := range []string{"udp", "tcp"} {
		testkit.Await(t, "an answer over "+protocol, func() (bool, string) {
			m, err := askFor(t, time.Second/2, netns, protocol, "web.")
			return err == nil && len(m.Answer) > 0, fmt.Sprint(err)
		})
	}
}
