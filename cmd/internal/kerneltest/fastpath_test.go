//go:build kernel

package kerneltest

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// TestFastPath: packets of networks that are routed go past Open vSwitch and the
// kernel's IP stack, both ways, and what must not, does not. What is done to the
// lab gets rougher from top to bottom.
func TestFastPath(t *testing.T) {
	c := lab.Config{Hosts: 2, ProofBytes: proofBytes, Networks: []lab.NetworkSpec{
		spec(topology.Auto, 1), spec(topology.Route, 2),
	}}
	l := labkit.Up(t, c)
	require.Empty(t, l.Proof.Failed())
	for _, x := range []struct{ network, name string }{{"auto", "c1"}, {"route", "route-c1"}} {
		t.Run(x.network, func(t *testing.T) {
			l := l.In(t)
			fastBulk(t, l, x.network, x.name)
			fastTTL(t, l, x.network, x.name)
			exactMTU(t, l, x.name, endpoints(l)["host1/"+x.name].MTU)
		})
	}
	if t.Failed() {
		return
	}
	t.Run("same host", func(t *testing.T) { fastInside(t, l.In(t)) })
	t.Run("agent dies meanwhile", func(t *testing.T) { fastAgentDies(t, l.In(t)) })
	t.Run("ovs-vswitchd restart", func(t *testing.T) { fastVswitchd(t, l.In(t)) })
	t.Run("a rule has to see", func(t *testing.T) { fastRule(t, l.In(t)) })
	t.Run("cleanup", func(t *testing.T) { fastCleanup(t, l.In(t)) })
}

// fast counts what took the fast path in a network of host1 to or from a node.
func fast(l *labkit.Lab, network, node, direction string) (packets, bytes uint64) {
	l.T.Helper()
	return fastOn(l, "host1", network, node, direction)
}

// fastOn is fast for any host.
func fastOn(l *labkit.Lab, host, network, node, direction string) (packets, bytes uint64) {
	l.T.Helper()
	for _, c := range fastPath(l, host, network).Counters {
		if c.Node == node && c.Direction == direction {
			packets, bytes = packets+c.Packets, bytes+c.Bytes
		}
	}
	return packets, bytes
}

func fastPath(l *labkit.Lab, host, network string) api.FastPath {
	l.T.Helper()
	for _, f := range l.AgentStatus(host).FastPath {
		if f.Network == network {
			return f
		}
	}
	return api.FastPath{}
}

// awaitFast waits until a network has the fast path on host1.
func awaitFast(l *labkit.Lab, network string, used bool) {
	l.T.Helper()
	l.Await("the fast path of "+network, func() (bool, string) {
		f := fastPath(l, "host1", network)
		return f.Used == used && f.Network != "", f.Why
	})
}

// statistic reads one of a device of host1.
func statistic(l *labkit.Lab, device, name string) int {
	l.T.Helper()
	out := l.Must("host1", "cat", "/sys/class/net/"+device+"/statistics/"+name)
	n, err := strconv.Atoi(strings.TrimSpace(out))
	require.NoError(l.T, err)
	return n
}

// fastBulk sends a bulk of TCP to the other host and requires that the host's own port,
// through which routed packets pass the plain way, carried next to nothing of it.
func fastBulk(t *testing.T, l *labkit.Lab, network, name string) {
	t.Helper()
	const size = 4 << 20
	awaitFast(l, network, true)
	require.True(t, fastPath(l, "host2", network).Used)
	l.Serve("host2/" + name)
	for _, ip := range endpoints(l)["host2/"+name].IPs {
		send := func(bytes int64) error {
			_, err := l.Probe("host1/"+name, ip, probe.SendOptions{Bytes: bytes})
			return err
		}
		l.Await("the endpoint answers probes", func() (bool, string) {
			err := send(1 << 10)
			return err == nil, fmt.Sprint(err)
		})
		_, sent := fast(l, network, "host2", "sent")
		_, received := fastOn(l, "host2", network, "host1", "received")
		plain := statistic(l, "bn-"+network, "rx_bytes") + statistic(l, "bn-"+network, "tx_bytes")
		require.NoError(t, send(size))
		_, sentNow := fast(l, network, "host2", "sent")
		_, receivedNow := fastOn(l, "host2", network, "host1", "received")
		assert.GreaterOrEqual(t, sentNow-sent, uint64(size), ip)
		assert.GreaterOrEqual(t, receivedNow-received, uint64(size), ip)
		now := statistic(l, "bn-"+network, "rx_bytes") + statistic(l, "bn-"+network, "tx_bytes")
		assert.Less(t, now-plain, size/10, "%s: bytes through Open vSwitch and the kernel's stack", ip)
	}
}

// fastTTL: what two routers would change too much, or must answer, goes the plain
// way and arrives as ever.
func fastTTL(t *testing.T, l *labkit.Lab, network, name string) {
	t.Helper()
	to := endpoints(l)["host2/"+name].IPs[0].String()
	ping := func(ttl int) (uint64, error) {
		before, _ := fast(l, network, "host2", "sent")
		_, err := l.Run("host1/"+name, "ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", "-t", strconv.Itoa(ttl), to)
		after, _ := fast(l, network, "host2", "sent")
		return after - before, err
	}
	taken, err := ping(64)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, taken, uint64(3))
	taken, err = ping(255)
	require.NoError(t, err)
	assert.Less(t, taken, uint64(3))
	taken, err = ping(2)
	assert.Less(t, taken, uint64(3))
	if network == "auto" {
		require.NoError(t, err, "it takes the tunnel")
	} else {
		require.Error(t, err, "the second router answers")
	}
}

// fastInside: two endpoints of one host.
func fastInside(t *testing.T, l *labkit.Lab) {
	l.Must("host1", "ip", "netns", "add", "near")
	l.Must("host1", "baize", "endpoint", "add", "near", "--network", "auto", "--netns", "near")
	var to netip.Addr
	for _, e := range l.AgentStatus("host1").Endpoints {
		if e.Name == "near" {
			to = e.IPs[0]
		}
	}
	before, _ := fast(l, "auto", "host1", "sent")
	l.Await("pings to the other endpoint take the fast path", func() (bool, string) {
		out, err := l.Run("host1/c1", "ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", to.String())
		after, _ := fast(l, "auto", "host1", "sent")
		return err == nil && after >= before+6, out // both directions
	})
	l.Must("host1", "baize", "endpoint", "remove", "near")
	l.Await("nothing of it is left", func() (bool, string) {
		for _, c := range fastPath(l, "host1", "auto").Counters {
			if c.Endpoint == "near" {
				return false, "a counter"
			}
		}
		return true, ""
	})
}

// fastAgentDies: neither packets nor counts are lost with an agent.
func fastAgentDies(t *testing.T, l *labkit.Lab) {
	h := l.Host("host1")
	p := startPing(l, "host1/c1", endpoints(l)["host2/c1"].IPs[0])
	before, _ := fast(l, "auto", "host2", "sent")
	require.NoError(t, h.Kill(t.Context(), lab.ServiceAgent, unix.SIGKILL))
	require.NoError(t, h.AwaitService(t.Context(), lab.ServiceAgent))
	awaitFast(l, "auto", true)
	p.Goes(20)
	assert.Empty(t, p.Ends().Missing)
	after, _ := fast(l, "auto", "host2", "sent")
	assert.Greater(t, after, before)
}

// fastVswitchd: Open vSwitch removes queueing from its ports when it starts, and
// the programs with it; they are put back.
func fastVswitchd(t *testing.T, l *labkit.Lab) {
	h := l.Host("host1")
	require.NoError(t, h.Kill(t.Context(), lab.ServiceVswitchd, unix.SIGKILL))
	require.NoError(t, h.AwaitService(t.Context(), lab.ServiceVswitchd))
	to := endpoints(l)["host2/c1"].IPs[0].String()
	l.Await("pings take the fast path again", func() (bool, string) {
		before, _ := fast(l, "auto", "host2", "sent")
		out, err := l.Run("host1/c1", "ping", "-n", "-c", "3", "-i", "0.1", "-W", "2", to)
		after, _ := fast(l, "auto", "host2", "sent")
		return err == nil && after >= before+3, out
	})
}

// fastRule: what has to see packets turns the fast path off, and on again with its
// end.
func fastRule(t *testing.T, l *labkit.Lab) {
	l.Must("host1", "nft", "table inet mine { chain f { type filter hook forward priority 0; counter; }; }")
	awaitFast(l, "auto", false)
	assert.Contains(t, fastPath(l, "host1", "auto").Why, "table inet mine, chain f")
	l.Must("host1", "ping", "-c", "1", "192.168.77.12")
	l.Must("host1", "nft", "delete table inet mine")
	awaitFast(l, "auto", true)
}

// fastCleanup: nothing is left.
func fastCleanup(t *testing.T, l *labkit.Lab) {
	h := l.Host("host1")
	require.NoError(t, h.StopService(t.Context(), lab.ServiceAgent))
	require.Contains(t, l.Must("host1", "tc", "filter", "show", "dev", "eth0", "ingress"), "baize_to")
	assert.Contains(t, l.Must("host1", "baize", "agent", "cleanup"), "removed the fast path of")
	assert.Empty(t, l.Must("host1", "tc", "filter", "show", "dev", "eth0", "ingress"))
	assert.NotContains(t, l.Must("host1", "tc", "qdisc", "show"), "clsact")
}
