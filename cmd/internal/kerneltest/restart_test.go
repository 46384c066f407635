//go:build kernel

package kerneltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

const pingEvery = 10 * time.Millisecond

// startPing pings from an endpoint ("host1/c1") until ended, and returns once
// there are answers: what it finds lost later was an established flow.
func startPing(l *labkit.Lab, from string, to netip.Addr) labkit.Pings {
	l.T.Helper()
	return l.Ping(l.Netns(from), to, pingEvery)
}

// goOn waits for the answers to as many more as are sent in a time: while it
// waits, traffic flows.
func goOn(d time.Duration, all ...labkit.Pings) { labkit.GoOn(int(d/pingEvery), all...) }

// stream is a TCP connection whose server sends back what it gets, with a
// record on its way at every moment.
type stream struct {
	cancel context.CancelFunc
	ended  chan error
	count  atomic.Int64
	stall  time.Duration // of the slowest record
}

// startStream opens one; the first record has come back when it returns.
func startStream(t *testing.T, l *labkit.Lab, from, to string, addr netip.Addr) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var listener net.Listener
	require.NoError(t, hostnet.InNetns(l.Netns(to), func() (err error) {
		var lc net.ListenConfig
		listener, err = lc.Listen(ctx, "tcp", net.JoinHostPort(addr.String(), "0"))
		return err
	}))
	go func() {
		defer listener.Close()
		if conn, err := listener.Accept(); err == nil {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}
	}()
	var conn net.Conn
	require.NoError(t, hostnet.InNetns(l.Netns(from), func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp", listener.Addr().String())
		return err
	}))
	s := &stream{cancel: cancel, ended: make(chan error, 1)}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	first := make(chan struct{})
	go func() { s.ended <- s.exchange(ctx, conn, first) }()
	select {
	case <-first:
	case err := <-s.ended:
		require.NoError(t, err)
	case <-time.After(wait):
		t.Fatal("no answer by TCP")
	}
	return s
}

func (s *stream) exchange(ctx context.Context, conn net.Conn, first chan struct{}) error {
	record, back := make([]byte, 4000), make([]byte, 4000)
	for i := range record {
		record[i] = byte(i * 7)
	}
	for ctx.Err() == nil {
		begin := time.Now()
		n := s.count.Load()
		record[0], record[1] = byte(n), byte(n>>8)
		_ = conn.SetDeadline(begin.Add(wait))
		if _, err := conn.Write(record); err != nil && ctx.Err() == nil {
			return err
		}
		if _, err := io.ReadFull(conn, back); err != nil && ctx.Err() == nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		if !bytes.Equal(record, back) {
			return errors.New("what came back is not what was sent")
		}
		switch n {
		case 20:
			close(first)
			s.stall = 0
		default:
			s.stall = max(s.stall, time.Since(begin))
		}
		s.count.Add(1)
	}
	return nil
}

// end ends it, when a record more has come back.
func (s *stream) end(t *testing.T) {
	t.Helper()
	n := s.count.Load()
	assert.Eventually(
		t,
		func() bool { return s.count.Load() > n+1 },
		wait,
		20*time.Millisecond,
		"the TCP stream does not go on",
	)
	s.cancel()
	require.NoError(t, <-s.ended)
	t.Logf("TCP: %d records there and back, the slowest in %v", s.count.Load(), s.stall.Round(time.Millisecond))
}

// traffic are established flows: inside host1, from host1 to another host, and
// between others.
type traffic struct {
	local, remote, others labkit.Pings
	localTCP, remoteTCP   *stream
}

func startTraffic(t *testing.T, l *labkit.Lab) *traffic {
	t.Helper()
	all := endpoints(l)
	v4 := func(e string) netip.Addr {
		for _, ip := range all[e].IPs {
			if ip.Is4() {
				return ip
			}
		}
		t.Fatalf("%s has no IPv4 address", e)
		return netip.Addr{}
	}
	tr := &traffic{
		local:  startPing(l, "host1/c1", v4("host1/c2")),
		remote: startPing(l, "host1/c1", v4("host2/c1")),
		others: startPing(l, "host2/c1", v4("host3/c1")),
		localTCP: startStream(
			t,
			l,
			"host1/c1",
			"host1/c2",
			v4("host1/c2"),
		), remoteTCP: startStream(t, l, "host2/c1", "host1/c1", v4("host1/c1")),
	}
	// What is established has its entry in the kernel.
	tr.goOn()
	return tr
}

// goOn lets all of it flow for a second.
func (tr *traffic) goOn() {
	goOn(time.Second, tr.local, tr.remote, tr.others)
}

// secondEndpoint gives host1 a neighbour in the first network.
func secondEndpoint(t *testing.T, l *labkit.Lab) {
	t.Helper()
	if _, there := endpoints(l)["host1/c2"]; there {
		return
	}
	_, err := l.Host("host1").AddEndpoint(t.Context(), l.Networks()[0].Name, "c2")
	require.NoError(t, err)
}

func agentRestart(t *testing.T, l *labkit.Lab) {
	secondEndpoint(t, l)
	h := l.Host("host1")
	tr := startTraffic(t, l)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		require.NoError(t, h.Kill(t.Context(), lab.ServiceAgent, sig))
		require.NoError(t, h.AwaitService(t.Context(), lab.ServiceAgent))
	}
	tr.goOn()
	for _, p := range []labkit.Pings{tr.local, tr.remote, tr.others} {
		missing := p.Ends().Missing
		assert.Empty(t, missing, p.Name)
	}
	tr.localTCP.end(t)
	tr.remoteTCP.end(t)
	_, dropped := lost(l, h)
	assert.Zero(t, dropped)
}

// restoreWait is what the database says of flow-restore-wait.
func restoreWait(l *labkit.Lab, h *lab.Host) bool {
	l.T.Helper()
	out := l.Must(h.Name(), "ovs-vsctl", "--timeout=5", "get", "Open_vSwitch", ".", "other_config", "external_ids")
	return strings.Contains(out, "flow-restore-wait")
}

// keepsTunnels reports whether a restart of this Open vSwitch leaves the
// kernel's tunnel devices alone. Up to 3.1.0 (2.17.5, 3.0.3) a starting
// ovs-vswitchd took them for leftovers and made them anew (upstream commit
// b5313a8ceca8, "Fix re-creation of tunnel backing interfaces on restart").
func keepsTunnels(version string) bool {
	var major, minor, patch int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch)
	switch {
	case major == 2 && minor == 17:
		return patch >= 6
	case major == 3 && minor == 0:
		return patch >= 4
	case major == 3 && minor == 1:
		return patch >= 1
	}
	return major > 3 || major == 3 && minor > 1
}

func vswitchdRestart(t *testing.T, l *labkit.Lab) {
	secondEndpoint(t, l)
	h := l.Host("host1")
	keeps := keepsTunnels(l.AgentStatus(h.Name()).OVSVersion)
	for _, c := range []struct {
		name string
		end  func(*labkit.Lab, *traffic) (time.Time, error) // and when the next one starts
	}{
		{"SIGKILL", func(*labkit.Lab, *traffic) (time.Time, error) {
			return time.Now(), h.Kill(t.Context(), lab.ServiceVswitchd, unix.SIGKILL)
		}},
		// As 'ovs-ctl stop' does it, and so systemd; it takes some seconds to
		// come back.
		{"planned", func(l *labkit.Lab, tr *traffic) (time.Time, error) {
			l.Must(h.Name(), "ovs-appctl", "exit")
			if err := h.StopService(t.Context(), lab.ServiceVswitchd); err != nil {
				return time.Time{}, err
			}
			goOn(2*time.Second, tr.local)
			return time.Now(), h.StartService(t.Context(), lab.ServiceVswitchd)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := l.In(t)
			tr := startTraffic(t, l)
			begin, err := c.end(l, tr)
			require.NoError(t, err)
			require.NoError(t, h.AwaitService(t.Context(), lab.ServiceVswitchd))
			l.Await("flow-restore-wait is cleared, and the agent is ready", func() (bool, string) {
				return !restoreWait(l, h) && l.AgentStatus(h.Name()).Ready, ""
			})
			starting := time.Since(begin)
			tr.goOn()

			for _, p := range []labkit.Pings{tr.local, tr.others} {
				missing := p.Ends().Missing
				assert.Empty(t, missing, p.Name)
			}
			remote := tr.remote.Ends()
			missing, row := remote.Missing, remote.Row()
			if keeps {
				assert.Empty(t, missing, tr.remote.Name)
			} else {
				// Once, from the device's new number to the new flows, and not
				// while nobody is there: how long that is depends on the processor.
				assert.Less(t, time.Duration(row)*pingEvery, starting, tr.remote.Name)
				assert.Equal(t, row, len(missing), "lost at more than one moment: %v", missing)
			}
			tr.localTCP.end(t)
			tr.remoteTCP.end(t)
		})
	}
	requireNewFlows(t, l)
}

// requireNewFlows: what the kernel does not know yet is forwarded too.
func requireNewFlows(t *testing.T, l *labkit.Lab) {
	t.Helper()
	p, err := l.Prove(t.Context())
	require.NoError(t, err)
	require.Empty(t, p.Failed())
	for _, h := range l.Hosts() {
		// What probes have lost meanwhile is known to have been an interruption soon after.
		l.Await("nothing is wrong on "+h.Name(), func() (bool, string) {
			problems := l.AgentStatus(h.Name()).Problems
			return len(problems) == 0, fmt.Sprint(problems)
		})
		require.False(t, restoreWait(l, h))
	}
}

// stopEstablished stops ovs-vswitchd on host1 while pings to another endpoint of the host
// have their flow in the kernel, and returns these. Where all is slow, Open vSwitch deletes
// flows instead of looking whether they are still right, and makes them anew with their
// next packet: one that is deleted in the moment in which it ends stays away, whatever
// Baize does, and then it is tried again.
func stopEstablished(t *testing.T, l *labkit.Lab, to netip.Addr) labkit.Pings {
	h := l.Host("host1")
	const tries = 3
	for n := 1; ; n++ {
		pings := startPing(l, "host1/c1", to)
		goOn(time.Second, pings)
		require.NoError(t, h.StopService(t.Context(), lab.ServiceVswitchd))
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience/3)
		err := pings.Await(ctx, 10)
		cancel()
		if err == nil {
			return pings
		}
		t.Logf("without ovs-vswitchd: %v; the kernel has\n%s", err, l.Must(h.Name(), "ovs-dpctl", "dump-flows"))
		require.Less(t, n, tries, "the kernel's flows are gone with ovs-vswitchd, each time")
		pings.Ends()
		require.NoError(t, h.StartService(t.Context(), lab.ServiceVswitchd))
		l.Await("flow-restore-wait is cleared", func() (bool, string) { return !restoreWait(l, h), "" })
	}
}

// agentDiesMeanwhile kills the agent while it holds flow-restore-wait: its next
// start clears it, and nothing that was established notices any of it.
func agentDiesMeanwhile(t *testing.T, l *labkit.Lab) {
	secondEndpoint(t, l)
	h := l.Host("host1")
	all := endpoints(l)
	var to netip.Addr
	for _, ip := range all["host1/c2"].IPs {
		if ip.Is4() {
			to = ip
		}
	}
	local := stopEstablished(t, l, to)
	l.Await("flow-restore-wait is set", func() (bool, string) { return restoreWait(l, h), "" })
	// A stopped process does not hear that it is to end: it is killed.
	require.NoError(t, h.Kill(t.Context(), lab.ServiceAgent, unix.SIGSTOP))
	require.NoError(t, h.StopService(t.Context(), lab.ServiceAgent))
	require.True(t, restoreWait(l, h), "nobody is there to clear it")

	require.NoError(t, h.StartService(t.Context(), lab.ServiceVswitchd))
	require.True(t, restoreWait(l, h))
	goOn(time.Second, local)
	require.NoError(t, h.StartService(t.Context(), lab.ServiceAgent))
	l.Await("flow-restore-wait is cleared", func() (bool, string) { return !restoreWait(l, h), "" })
	// Only now ovs-vswitchd takes note, empties the kernel's table and gets every
	// packet until the flows are there anew.
	goOn(time.Second, local)
	missing := local.Ends().Missing
	assert.Empty(t, missing, local.Name)

	// An agent that is asked to end clears it itself.
	require.NoError(t, h.StopService(t.Context(), lab.ServiceVswitchd))
	l.Await("flow-restore-wait is set", func() (bool, string) { return restoreWait(l, h), "" })
	require.NoError(t, h.StopService(t.Context(), lab.ServiceAgent))
	require.False(t, restoreWait(l, h))
	require.NoError(t, h.StartService(t.Context(), lab.ServiceVswitchd))
	require.NoError(t, h.StartService(t.Context(), lab.ServiceAgent))
	requireNewFlows(t, l)
}

// cleanupClears: 'baize agent cleanup' leaves nothing set either.
func cleanupClears(t *testing.T, l *labkit.Lab) {
	h := l.Host("host3")
	require.NoError(t, h.StopService(t.Context(), lab.ServiceAgent))
	l.Must(
		h.Name(),
		"ovs-vsctl",
		"set",
		"Open_vSwitch",
		".",
		"other_config:flow-restore-wait=true",
		"external_ids:baize-flow-restore-wait=v1",
	)
	out := l.Must(h.Name(), "baize", "agent", "cleanup")
	assert.Contains(t, out, "flow-restore-wait")
	assert.False(t, restoreWait(l, h))
	assert.NotContains(t, l.Must(h.Name(), "ovs-vsctl", "list-br"), "br-baize")
}
