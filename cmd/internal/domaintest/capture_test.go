//go:build system

package domaintest

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// captureNetworks are one of each way that packets go.
func captureNetworks() []lab.NetworkSpec {
	var out []lab.NetworkSpec
	for i, tr := range []topology.Transport{topology.VXLAN, topology.GRE, topology.Geneve, topology.Route} {
		out = append(out, lab.NetworkSpec{Name: string(tr), Transport: tr, Prefixes: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(20 + i), 0, 0}), 16),
		}})
	}
	return out
}

// Packets are seen where they are, on this host and on another, in the order of time, and
// nothing is left of it.
func TestCapture(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Hosts: 2, Networks: captureNetworks()})
	before := packetSockets(d, "host1") + packetSockets(d, "host2")
	for _, network := range captureNetworks() {
		from, to := d.endpointOf("host1", network.Name), d.endpointOf("host2", network.Name)
		pings := d.Ping(d.Netns(from.String()), to.IPs[0], 20*time.Millisecond)
		t.Run(network.Name, func(t *testing.T) {
			d := d.in(t)
			t.Run("lines", func(*testing.T) { captureLines(d, from, to) })
			t.Run("both ends", func(t *testing.T) { captureBothEnds(d.in(t), from, to) })
			t.Run("both endpoints", func(t *testing.T) { captureEndpoints(d.in(t), from, to) })
		})
		require.Empty(t, pings.Ends().Missing, "a capture costs no packet")
	}
	t.Run("killed", func(t *testing.T) { captureKilled(d.in(t), before) })
}

// endpointOf is an endpoint of a host in a network.
func (d *domain) endpointOf(host, network string) lab.EndpointStatus {
	for _, e := range d.Endpoints(network) {
		if e.Node == host {
			return e
		}
	}
	require.Fail(d.T, "no endpoint of "+host+" in "+network)
	return lab.EndpointStatus{}
}

// packetSockets counts those of a host.
func packetSockets(d *domain, host string) int {
	return strings.Count(d.Must(host, "cat", "/proc/net/packet"), "\n") - 1
}

func captureLines(d *domain, from, to lab.EndpointStatus) {
	d.T.Helper()
	// So many that an answer that is late is among them.
	out := d.Must("host1", "baize", "capture", from.Name, "--proto", "icmp", "--host", to.IPs[0].String(), "--count", "40")
	assert.Contains(d.T, out, fmt.Sprintf("%s  out  %s > %s ICMP EchoRequest", from, from.IPs[0], to.IPs[0]))
	assert.Contains(d.T, out, fmt.Sprintf("%s  in   %s > %s ICMP EchoReply", from, to.IPs[0], from.IPs[0]))
	assert.Contains(d.T, out, from.String()+": 40 packets captured")
	out, err := d.Run("host1", "baize", "capture", from.Name, "--both-ends")
	assert.Error(d.T, err)
	assert.Contains(d.T, out, "name both endpoints")
	out = d.Must("host1", "baize", "capture", from.Name, "--proto", "tcp", "--duration", "1s")
	assert.Contains(d.T, out, from.String()+": 0 packets captured", "the end of the time is no error")
	// What reads from a pipe reads it as well.
	out = d.Must("host1", "sh", "-c", "baize capture host2 --proto icmp --count 4 --write - | tcpdump -n -r -")
	assert.Contains(d.T, out, fmt.Sprintf("IP %s > %s: ICMP echo request", from.IPs[0], to.IPs[0]))
	assert.Contains(d.T, out, "4 packets captured")
}

// seen is a packet in a file: where, and which.
type seen struct{ at, what string }

// readCapture reads a file, whose packets are by time.
func readCapture(t *testing.T, file string) (out []seen) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	r, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.DefaultNgReaderOptions)
	require.NoError(t, err)
	var last time.Time
	for {
		data, info, err := r.ReadPacketData()
		if err != nil {
			break
		}
		assert.False(t, info.Timestamp.Before(last), "%s is before %s", info.Timestamp, last)
		last = info.Timestamp
		i, err := r.Interface(info.InterfaceIndex)
		require.NoError(t, err)
		if len(data) >= 14+20+8 {
			out = append(out, seen{i.Name, fmt.Sprintf("%x", data[14+20:14+20+8])}) // the ICMP header: type and sequence
		}
	}
	require.NotEmpty(t, out)
	return out
}

// sameAtAll requires that an echo request was seen at all places, in their order.
func sameAtAll(t *testing.T, list []seen, places ...string) {
	t.Helper()
	found := 0
	for _, first := range list {
		if !strings.HasPrefix(first.what, "0800") {
			continue
		}
		var at []string
		for _, s := range list {
			if s.what == first.what {
				at = append(at, s.at)
			}
		}
		if len(at) == len(places) {
			assert.Equal(t, places, at)
			found++
		}
	}
	require.Positive(t, found, "%v", list)
}

func captureBothEnds(d *domain, from, to lab.EndpointStatus) {
	file := filepath.Join(d.T.TempDir(), "tunnel.pcapng")
	out := d.Must("host1", "baize", "capture", "host2", "--both-ends", "--proto", "icmp", "--count", "40", "--write", file)
	require.Contains(d.T, out, "capturing at host2/host1: device ")
	sameAtAll(d.T, readCapture(d.T, file), "host1/host2"+ofNetwork(from), "host2/host1"+ofNetwork(to))
	info, err := os.Stat(file)
	require.NoError(d.T, err)
	require.Equal(d.T, os.FileMode(0o600), info.Mode().Perm())
}

// ofNetwork is how the interface of a network ends; a routed packet has nothing that says
// of which it is.
func ofNetwork(e lab.EndpointStatus) string {
	if e.Network == string(topology.Route) {
		return ""
	}
	return "/" + e.Network
}

func captureEndpoints(d *domain, from, to lab.EndpointStatus) {
	file := filepath.Join(d.T.TempDir(), "endpoints.pcapng")
	out := d.Must("host1", "baize", "capture", from.Name, to.String(), "--both-ends", "--proto", "icmp", "--count", "40",
		"--write", file)
	require.Contains(d.T, out, "capturing at "+to.String()+": device ")
	sameAtAll(d.T, readCapture(d.T, file), from.String(), to.String())
}

// Whoever is killed leaves nothing, neither here nor on the other host.
func captureKilled(d *domain, before int) {
	stop, out := d.Start("host1", "baize", "capture", "host2", "--both-ends", "--write", "/dev/null")
	d.Await("it captures", func() (bool, string) {
		now := packetSockets(d, "host1") + packetSockets(d, "host2")
		return now >= before+2, fmt.Sprint(now, out)
	})
	stop() // SIGKILL
	d.Await("nothing is left", func() (bool, string) {
		now := packetSockets(d, "host1") + packetSockets(d, "host2")
		return now == before, fmt.Sprint(now)
	})
}
