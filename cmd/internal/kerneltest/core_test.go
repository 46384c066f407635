//go:build kernel

package kerneltest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// proofBytes: every path is proven several times, on an emulated processor.
const proofBytes = 256 << 10

// spec is a network of one transport, named after it.
func spec(t topology.Transport, n int) lab.NetworkSpec {
	return lab.NetworkSpec{
		Name: string(t), Transport: t,
		Prefixes: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", n)),
			netip.MustParsePrefix(fmt.Sprintf("fd00:10:%d::/48", n)),
		},
	}
}

// TestKernel has one lab with a network of each transport; what is done to it
// gets rougher from top to bottom.
func TestKernel(t *testing.T) {
	c := lab.Config{Hosts: 3, ProofBytes: proofBytes}
	for i, tr := range topology.Transports() {
		c.Networks = append(c.Networks, spec(tr, i+1))
	}
	// Up proves every path: pings and TCP with checksums, IPv4 and IPv6.
	l := labkit.Up(t, c)
	require.Len(t, l.Proof.Paths, len(c.Networks)*3*2*2)
	require.Empty(t, l.Proof.Failed())

	for i, tr := range topology.Transports() {
		name := "c1"
		if i > 0 {
			name = string(tr) + "-c1"
		}
		t.Run(string(tr), func(t *testing.T) {
			l := l.In(t)
			if tr != topology.Route {
				broadcastOnce(t, l, name)
			}
			exactMTU(t, l, name, topology.MTU(tr, topology.IPv4, 1500))
			for _, h := range l.Hosts() {
				requireKernel(t, l, h, tr, name)
			}
			if tr.Routed() {
				plainBulk(t, l, name, string(tr))
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Run("a storm", func(t *testing.T) {
		l.In(t).Storm("vxlan", [2]string{"host2/c1", "host3/c1"}, [2]string{"host3/c1", "host1/quiet"},
			[2]string{"host1/geneve-c1", "host2/geneve-c1"})
	})
	t.Run("agent restart", func(t *testing.T) { agentRestart(t, l.In(t)) })
	t.Run("ovs-vswitchd restart", func(t *testing.T) { vswitchdRestart(t, l.In(t)) })
	t.Run("agent dies meanwhile", func(t *testing.T) { agentDiesMeanwhile(t, l.In(t)) })
	t.Run("cleanup", func(t *testing.T) { cleanupClears(t, l.In(t)) })
}

func TestIPv6Underlay(t *testing.T) {
	t.Parallel()
	c := lab.Config{
		Hosts:        2,
		IPv6Underlay: true,
		ProofBytes:   proofBytes,
		Networks:     []lab.NetworkSpec{spec(topology.VXLAN, 1), spec(topology.Geneve, 2)},
	}
	l := labkit.Up(t, c)
	require.Len(t, l.Proof.Paths, 2*2*2)
	for i, tr := range []topology.Transport{topology.VXLAN, topology.Geneve} {
		name := []string{"c1", "geneve-c1"}[i]
		exactMTU(t, l, name, topology.MTU(tr, topology.IPv6, 1500))
		for _, h := range l.Hosts() {
			requireKernel(t, l, h, tr, name)
			require.Contains(t, l.Must(h.Name(), "ovs-appctl", "dpctl/dump-flows"), "ipv6_dst=fd77::")
		}
	}
}

// plainBulk sends a bulk of TCP to another host and requires that the network's
// tunnels carried next to nothing of it.
func plainBulk(t *testing.T, l *labkit.Lab, name, network string) {
	t.Helper()
	const size = 8 << 20
	require.Contains(t, l.Must("host1", "baize", "route", "list", "--network", network), "route via 192.168.77.12")
	tunnelled := func() int {
		out := l.Must("host1", "cat", "/sys/class/net/vxlan_sys_4789/statistics/tx_bytes")
		n, err := strconv.Atoi(strings.TrimSpace(out))
		require.NoError(t, err)
		return n
	}
	l.Serve("host2/" + name)
	to := endpoints(l)["host2/"+name].IPs[0]
	send := func(bytes int64) error {
		_, err := l.Probe("host1/"+name, to, probe.SendOptions{Bytes: bytes})
		return err
	}
	l.Await("the endpoint answers probes", func() (bool, string) {
		err := send(1 << 10)
		return err == nil, fmt.Sprint(err)
	})
	before := tunnelled()
	require.NoError(t, send(size))
	assert.Less(t, tunnelled()-before, size/10, "bytes in tunnels, of %d", size)
}

// broadcastOnce sends broadcasts from host1 and requires one copy of each at
// every other endpoint of the name.
func broadcastOnce(t *testing.T, l *labkit.Lab, name string) {
	t.Helper()
	const port, count = 7100, 5
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	listen := func(endpoint string) net.PacketConn {
		t.Helper()
		var conn net.PacketConn
		require.NoError(t, hostnet.InNetns(l.Netns(endpoint), func() (err error) {
			var lc net.ListenConfig
			conn, err = lc.ListenPacket(ctx, "udp4", ":"+strconv.Itoa(port))
			return err
		}))
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	from := listen("host1/" + name)
	var mu sync.Mutex
	seen := map[string]map[string]int{}
	var receivers sync.WaitGroup
	for _, h := range l.Hosts() {
		conn, who := from, h.Name()
		seen[who] = map[string]int{}
		if who != "host1" {
			conn = listen(who + "/" + name)
		}
		receivers.Go(func() {
			buf := make([]byte, 100)
			for {
				n, _, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				mu.Lock()
				seen[who][string(buf[:n])]++
				mu.Unlock()
			}
		})
		defer func() { _ = conn.Close() }()
	}
	var to netip.Addr
	for _, ip := range endpoints(l)["host1/"+name].IPs {
		if ip.Is4() {
			b := ip.As4()
			to = netip.AddrFrom4([4]byte{b[0], b[1], 255, 255})
		}
	}
	send := func(text string) {
		_, err := from.WriteTo([]byte(text), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
		require.NoError(t, err)
	}
	for i := range count {
		send(fmt.Sprint("broadcast ", i))
	}
	// Frames of one flow stay in order: after the last one there are no more.
	// The first ones went the slow way, so some lasts may be needed.
	last := 0
	require.Eventually(t, func() bool {
		last++
		send(fmt.Sprint("last ", last))
		mu.Lock()
		defer mu.Unlock()
		return seen["host2"]["last 3"] > 0 && seen["host3"]["last 3"] > 0
	}, wait, 50*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	for i := range count {
		text := fmt.Sprint("broadcast ", i)
		assert.Equal(t, 1, seen["host2"][text], text)
		assert.Equal(t, 1, seen["host3"][text], text)
		// The sender's own kernel gives it a copy; one that came back would be
		// refused there, and so is not looked for.
		assert.Equal(t, 1, seen["host1"][text], text)
	}
}

// exactMTU: a packet of the endpoints' MTU crosses whole, one more byte does
// not, with the limit of the sender's device out of the way.
func exactMTU(t *testing.T, l *labkit.Lab, name string, want int) {
	t.Helper()
	all := endpoints(l)
	require.Equal(t, want, all["host1/"+name].MTU)
	e := l.Host("host1").Endpoint(name)
	ping := func(to netip.Addr, size int) error {
		header := 28
		if to.Is6() {
			header = 48
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		_, err := e.Exec(
			ctx,
			"ping",
			"-n",
			"-c",
			"2",
			"-i",
			"0.1",
			"-W",
			"1",
			"-M",
			"do",
			"-s",
			strconv.Itoa(size-header),
			to.String(),
		)
		return err
	}
	for _, to := range all["host2/"+name].IPs {
		require.NoError(t, ping(to, want))
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	devices, err := e.Exec(ctx, "ip", "-o", "link", "show", "type", "veth")
	require.NoError(t, err)
	_, device, _ := strings.Cut(devices, ": ")
	device, _, _ = strings.Cut(device, "@")
	for _, mtu := range []int{want + 50, want} {
		_, err = e.Exec(ctx, "ip", "link", "set", device, "mtu", strconv.Itoa(mtu))
		require.NoError(t, err)
		if mtu > want {
			for _, to := range all["host2/"+name].IPs {
				assert.Error(t, ping(to, want+1), "%s: the MTU could be larger", to)
			}
		}
	}
}
