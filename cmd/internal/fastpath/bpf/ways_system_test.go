//go:build system

package bpf

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// ways are two endpoints, a and b, on two hosts, ra and rb, with routes set by
// hand, and the programs that can be put before them; and a bare wire, w to x.
type ways struct {
	t     testing.TB
	name  string
	hosts map[string]*Host
	state map[string]fastpath.State
}

// The addresses of the endpoints, and of the wire.
var (
	addrB  = netip.MustParseAddr("10.3.2.2")
	addrB6 = netip.MustParseAddr("fd00:10:3:2::2")
	addrX  = netip.MustParseAddr("192.0.2.10")
)

func newWays(t testing.TB) *ways {
	t.Helper()
	w := &ways{t: t, name: fmt.Sprintf("bzw%d", os.Getpid()), hosts: map[string]*Host{}, state: map[string]fastpath.State{}}
	for _, n := range []string{"a", "ra", "rb", "b", "w", "x"} {
		testkit.IP(t, "netns add "+w.ns(n))
		t.Cleanup(func() { testkit.IP(t, "netns del "+w.ns(n)) })
		testkit.IP(t, "-n "+w.ns(n)+" link set lo up")
	}
	w.pair("a", "e0", "ra", "bz1")
	w.pair("rb", "bz1", "b", "e0")
	w.pair("ra", "out", "rb", "out")
	w.pair("w", "e0", "x", "e0")
	w.address("w", "e0", "192.0.2.9/30")
	w.address("x", "e0", "192.0.2.10/30")
	for i, h := range []string{"ra", "rb"} {
		end, me, other := []string{"a", "b"}[i], i+1, 2-i
		w.address(h, "out", fmt.Sprintf("192.0.2.%d/30", me), fmt.Sprintf("fd77::%d/64", me))
		w.address(h, "bz1", fmt.Sprintf("10.3.%d.1/24", me), fmt.Sprintf("fd00:10:3:%d::1/64", me))
		w.address(end, "e0", fmt.Sprintf("10.3.%d.2/24", me), fmt.Sprintf("fd00:10:3:%d::2/64", me))
		w.ip(end, fmt.Sprintf("route add default via 10.3.%d.1", me))
		w.ip(end, fmt.Sprintf("-6 route add default via fd00:10:3:%d::1", me))
		w.ip(h, fmt.Sprintf("route add 10.3.%d.0/24 via 192.0.2.%d", other, other))
		w.ip(h, fmt.Sprintf("-6 route add fd00:10:3:%d::/64 via fd77::%d", other, other))
		w.in(h, func() error {
			for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
				if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0); err != nil {
					return err
				}
			}
			return nil
		})
		w.hosts[h], w.state[h] = &Host{}, w.wanted(h, end, me, other)
	}
	return w
}

// wanted is what the programs of a host have.
func (w *ways) wanted(host, end string, me, other int) fastpath.State {
	s := fastpath.NewState()
	v4, v6 := netip.AddrFrom4([4]byte{10, 3, byte(me), 2}), netip.MustParseAddr(fmt.Sprintf("fd00:10:3:%d::2", me))
	mac, gateway := w.mac(end, "e0"), w.mac(host, "bz1")
	s.Ports["bz1"] = fastpath.Port{Network: 1, Host: "bz1", MAC: mac, IPv4: v4, IPv6: v6, Gateway: gateway}
	for _, a := range []netip.Addr{v4, v6} {
		s.Locals[a] = fastpath.Local{Network: 1, Dev: "bz1", MAC: mac, Src: gateway, Peer: true}
	}
	hop := fastpath.Hop{Network: 1, Node: uint64(other), Dev: "out"}
	s.Hops[netip.MustParsePrefix(fmt.Sprintf("10.3.%d.0/24", other))] = hop
	s.Hops[netip.MustParsePrefix(fmt.Sprintf("fd00:10:3:%d::/64", other))] = hop
	s.Uplinks["out"] = true
	return s
}

func (w *ways) ns(n string) string { return w.name + "-" + n }

func (w *ways) ip(ns, args string) { testkit.IP(w.t, "-n "+w.ns(ns)+" "+args) }

func (w *ways) pair(ns1, dev1, ns2, dev2 string) {
	testkit.IP(w.t, fmt.Sprintf("link add %s netns %s type veth peer name %s netns %s", dev1, w.ns(ns1), dev2, w.ns(ns2)))
	w.ip(ns1, "link set "+dev1+" up")
	w.ip(ns2, "link set "+dev2+" up")
}

func (w *ways) address(ns, dev string, addrs ...string) {
	for _, a := range addrs {
		nodad := ""
		if strings.Contains(a, ":") {
			nodad = " nodad"
		}
		w.ip(ns, "address add "+a+" dev "+dev+nodad)
	}
}

func (w *ways) in(ns string, f func() error) {
	w.t.Helper()
	require.NoError(w.t, hostnet.InNetns("/run/netns/"+w.ns(ns), f))
}

func (w *ways) mac(ns, dev string) (m fastpath.MAC) {
	w.in(ns, func() error {
		i, err := net.InterfaceByName(dev)
		if err == nil {
			m = fastpath.MACOf(i.HardwareAddr)
		}
		return err
	})
	return m
}

// programs puts the fast path before the routes of both hosts, or takes it away.
func (w *ways) programs(on bool) {
	w.t.Helper()
	for _, h := range []string{"ra", "rb"} {
		w.set(h, w.hosts[h], on)
	}
}

func (w *ways) set(host string, b *Host, on bool) {
	w.t.Helper()
	want := fastpath.NewState()
	if on {
		want = w.state[host]
	}
	w.in(host, func() error {
		seen, err := b.Observe(w.t.Context())
		if err != nil {
			return err
		}
		return b.Apply(w.t.Context(), fastpath.Diff(want, seen.State))
	})
}

// counted are the packets of a host's fast path.
func (w *ways) counted(host, direction string) (n uint64) {
	w.t.Helper()
	w.in(host, func() error {
		all, err := w.hosts[host].Counters()
		for _, c := range all {
			if c.Direction == direction {
				n += c.Packets
			}
		}
		return err
	})
	return n
}

// connect opens a TCP connection from a namespace to another.
func (w *ways) connect(from, to string, addr netip.Addr) (client, server net.Conn) {
	w.t.Helper()
	var l net.Listener
	w.in(to, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(w.t.Context(), "tcp", ":0")
		return err
	})
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	w.in(from, func() (err error) {
		client, err = (&net.Dialer{Timeout: testkit.Patience}).DialContext(w.t.Context(), "tcp", net.JoinHostPort(addr.String(), port))
		return err
	})
	server, err := l.Accept()
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}

// bulk sends bytes.
func bulk(t testing.TB, client, server net.Conn, size int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 256<<10)
		var n int
		for n < size {
			k, err := server.Read(buf)
			if n += k; err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := make([]byte, 256<<10)
	for n := 0; n < size; n += len(buf) {
		_, err := client.Write(buf)
		require.NoError(t, err)
	}
	require.NoError(t, <-done)
}

// requests are answered one after the other.
func requests(t testing.TB, client, server net.Conn, count int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 1)
		for range count {
			if _, err := io.ReadFull(server, buf); err != nil {
				done <- err
				return
			}
			if _, err := server.Write(buf); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := make([]byte, 1)
	for range count {
		_, err := client.Write(buf)
		require.NoError(t, err)
		_, err = io.ReadFull(client, buf)
		require.NoError(t, err)
	}
	require.NoError(t, <-done)
}

// TestForwards: TCP of both families, whole and in bulk, crosses two hosts by the
// programs; what two agents after each other do changes nothing of it; and nothing
// is left at the end.
func TestForwards(t *testing.T) {
	w := newWays(t)
	for _, to := range []netip.Addr{addrB, addrB6} {
		c, s := w.connect("a", "b", to)
		bulk(t, c, s, 1<<20) // neighbours are known
		require.Zero(t, w.counted("ra", "sent"))
		w.programs(true)
		for _, end := range []net.Conn{c, s} {
			require.NoError(t, end.SetDeadline(time.Now().Add(testkit.Patience)))
		}
		bulk(t, c, s, 8<<20)
		requests(t, c, s, 100)
		assert.Greater(t, w.counted("ra", "sent"), uint64(5000), "packets of the wire are counted, and not what the kernel holds together")
		assert.Greater(t, w.counted("rb", "received"), uint64(5000))
		assert.Greater(t, w.counted("rb", "sent"), uint64(100))
		assert.Greater(t, w.counted("ra", "received"), uint64(100))
		w.programs(false)
		requests(t, c, s, 100)
	}
	w.programs(true)
	c, s := w.connect("a", "b", addrB)
	requests(t, c, s, 10)
	before := w.counted("ra", "sent")
	require.NotZero(t, before)
	// Another agent finds all of it as it is to be.
	w.hosts["ra"] = &Host{}
	w.in("ra", func() error {
		seen, err := w.hosts["ra"].Observe(t.Context())
		assert.Empty(t, fastpath.Diff(w.state["ra"], seen.State).String())
		return err
	})
	assert.GreaterOrEqual(t, w.counted("ra", "sent"), before, "what was counted stays; an acknowledgement may follow")
	requests(t, c, s, 10)
	assert.GreaterOrEqual(t, w.counted("ra", "sent"), before+10)
	// The endpoint is gone: so are its entries and its counters.
	w.in("ra", func() error {
		seen, err := w.hosts["ra"].Observe(t.Context())
		require.NoError(t, err)
		want := w.state["ra"]
		want.Ports, want.Locals = nil, nil
		return w.hosts["ra"].Apply(t.Context(), fastpath.Diff(want, seen.State))
	})
	assert.Zero(t, w.counted("ra", "sent"))
	requests(t, c, s, 10)
	w.programs(false)
	w.in("ra", func() error {
		h, err := handle()
		require.NoError(t, err)
		defer h.Close()
		with, err := hooked(h)
		assert.Empty(t, with, "places for classifiers")
		return err
	})
}

// What was decided a moment ago does not outlive a change: one of the agent's ends it
// at once, one of this host's routes by somebody else soon.
func TestDecidedAnew(t *testing.T) {
	w := newWays(t)
	w.programs(true)
	c, s := w.connect("a", "b", addrB)
	requests(t, c, s, 100)
	taken := w.counted("ra", "sent")
	require.GreaterOrEqual(t, taken, uint64(100))
	// The prefix goes the plain way: a pin has moved, for example.
	want := w.state["ra"]
	plain := want
	plain.Hops = map[netip.Prefix]fastpath.Hop{}
	for p, h := range want.Hops {
		h.Dev = ""
		plain.Hops[p] = h
	}
	w.state["ra"] = plain
	w.set("ra", w.hosts["ra"], true)
	taken = w.counted("ra", "sent")
	requests(t, c, s, 100)
	assert.Equal(t, taken, w.counted("ra", "sent"))
	w.state["ra"] = want
	w.set("ra", w.hosts["ra"], true)
	requests(t, c, s, 100)
	assert.GreaterOrEqual(t, w.counted("ra", "sent"), taken+100)

	// Another program sends the address elsewhere.
	w.ip("ra", "route add "+addrB.String()+"/32 dev bz1")
	var datagrams net.Conn
	w.in("a", func() (err error) {
		datagrams, err = (&net.Dialer{}).DialContext(t.Context(), "udp", net.JoinHostPort(addrB.String(), "9"))
		return err
	})
	defer datagrams.Close()
	of100 := func() int {
		before := w.counted("ra", "sent")
		for range 100 {
			_, _ = datagrams.Write([]byte("nobody listens"))
		}
		return int(w.counted("ra", "sent") - before)
	}
	testkit.Await(t, "the plain way is taken", func() (bool, string) { n := of100(); return n == 0, fmt.Sprint(n) })
	w.ip("ra", "route del "+addrB.String()+"/32")
	testkit.Await(t, "and left again", func() (bool, string) { n := of100(); return n > 50, fmt.Sprint(n) })
}

// An agent of another version replaces the programs in one step: no packet is lost,
// and none of the old ones is left.
func TestReplaces(t *testing.T) {
	w := newWays(t)
	w.programs(true)
	c, s := w.connect("a", "b", addrB)
	requests(t, c, s, 10)
	mine := version()
	defer func(old func() string) { version = old }(version)
	version = func() string { return "0ld0ld00" }
	require.NotEqual(t, mine, version())
	next := &Host{}
	w.set("ra", next, true)
	w.hosts["ra"] = next
	requests(t, c, s, 10)
	assert.GreaterOrEqual(t, w.counted("ra", "sent"), uint64(10), "by the new programs")
	w.in("ra", func() error {
		h, err := handle()
		require.NoError(t, err)
		defer h.Close()
		l, err := see(h)
		for dev, a := range l.programs {
			assert.Equal(t, "0ld0ld00", strings.TrimPrefix(a.name, a.role()+"-"), dev)
		}
		assert.Len(t, l.programs, 2)
		return err
	})
}

// What somebody removed is found missing, and put back.
func TestRestored(t *testing.T) {
	w := newWays(t)
	w.programs(true)
	for _, dev := range []string{"bz1", "out"} {
		testkit.Run(t, "tc", "-n", w.ns("ra"), "qdisc", "del", "dev", dev, "clsact")
	}
	w.programs(true)
	c, s := w.connect("a", "b", addrB)
	before := w.counted("ra", "sent")
	requests(t, c, s, 10)
	assert.GreaterOrEqual(t, w.counted("ra", "sent"), before+10)
}

// cpu is what this process has used of processors, its network traffic included.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// small sends datagrams of 64 bytes and returns how many arrived.
func (w *ways) small(from, to string, addr netip.Addr, count int) int {
	w.t.Helper()
	var server net.PacketConn
	w.in(to, func() (err error) {
		server, err = (&net.ListenConfig{}).ListenPacket(w.t.Context(), "udp", ":0")
		return err
	})
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.LocalAddr().String())
	var client net.Conn
	w.in(from, func() (err error) {
		client, err = (&net.Dialer{}).DialContext(w.t.Context(), "udp", net.JoinHostPort(addr.String(), port))
		return err
	})
	defer client.Close()
	got := make(chan int, 1)
	go func() {
		n, buf := 0, make([]byte, 100)
		for {
			k, _, err := server.ReadFrom(buf)
			if err != nil || k == 1 {
				got <- n
				return
			}
			n++
		}
	}()
	buf := make([]byte, 64)
	for range count {
		_, err := client.Write(buf)
		require.NoError(w.t, err)
	}
	for { // the end may be lost
		_, err := client.Write(buf[:1])
		require.NoError(w.t, err)
		select {
		case n := <-got:
			return n
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// BenchmarkWays measures the wire, routes set by hand and the fast path before the
// same routes, one after the other, in rounds, and prints what each does in a second
// of processor time as a ratio to the routes: medians, and the spread of the middle
// half.
func BenchmarkWays(b *testing.B) {
	w := newWays(b)
	type way struct {
		name, from, to string
		addr           netip.Addr
		programs       bool
	}
	all := []way{
		{"wire", "w", "x", addrX, false}, {"routes by hand", "a", "b", addrB, false}, {"fast path", "a", "b", addrB, true},
	}
	measures := []struct {
		name string
		run  func(way) float64
	}{
		{"bulk", func(x way) float64 {
			c, s := w.connect(x.from, x.to, x.addr)
			bulk(b, c, s, 4<<20)
			return perSecond(b, func() int { bulk(b, c, s, 512<<20); return 512 << 20 })
		}},
		{"requests", func(x way) float64 {
			c, s := w.connect(x.from, x.to, x.addr)
			requests(b, c, s, 100)
			return perSecond(b, func() int { requests(b, c, s, 20000); return 20000 })
		}},
		{"small packets", func(x way) float64 {
			return perSecond(b, func() int { return w.small(x.from, x.to, x.addr, 200000) })
		}},
	}
	const rounds = 7
	for b.Loop() {
		for _, m := range measures {
			got := map[string][]float64{}
			for range rounds {
				var base float64
				round := map[string]float64{}
				for _, x := range all {
					w.programs(x.programs)
					round[x.name] = m.run(x)
				}
				base = round["routes by hand"]
				for name, v := range round {
					got[name] = append(got[name], v/base)
				}
				w.programs(false)
			}
			for _, x := range all {
				v := got[x.name]
				slices.Sort(v)
				b.Logf("%-14s %-15s %.2f of routes by hand (%.2f to %.2f), per processor second", m.name, x.name,
					v[rounds/2], v[rounds/4], v[rounds-1-rounds/4])
				if x.programs {
					b.ReportMetric(v[rounds/2], strings.ReplaceAll(m.name, " ", "-")+"/routes")
				}
			}
		}
	}
}

// perSecond is how much is done in a second of processor time.
func perSecond(b *testing.B, f func() int) float64 {
	b.Helper()
	before := cpu(b)
	n := f()
	return float64(n) / (cpu(b) - before).Seconds()
}
