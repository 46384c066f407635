//go:build system

package domaintest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// Networks of every transport side by side on two hosts. Two of them at a time,
// in every combination, carry traffic both ways: bulk TCP and UDP arrive whole,
// each datagram is on the wire once, and encapsulated as its network says.
func TestTransportMatrix(t *testing.T) {
	t.Parallel()
	transports := topology.Transports()
	var networks []lab.NetworkSpec
	for i, tr := range transports {
		networks = append(
			networks,
			lab.NetworkSpec{
				Name:      string(tr),
				Transport: tr,
				Prefixes:  []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(20 + i), 0, 0}), 16)},
			},
		)
	}
	d := up(t, topology.VXLAN, lab.Config{Hosts: 2, Networks: networks, NoProof: true})
	m := matrix{d, map[topology.Transport][2]lab.EndpointStatus{}}
	for _, tr := range transports {
		var pair [2]lab.EndpointStatus
		for _, e := range d.Endpoints(string(tr)) {
			pair[e.Node[len(e.Node)-1]-'1'] = e
			d.Serve(e.String())
		}
		m.pairs[tr] = pair
		for i, e := range pair {
			d.Await("a server answers over "+string(tr), func() (bool, string) {
				err := m.send(e, pair[1-i], probe.SendOptions{Datagrams: 1})
				return err == nil, fmt.Sprint(err)
			})
		}
	}
	for _, tr := range transports {
		if tr.Direct() == topology.DirectOnLink {
			t.Run(string(tr)+" encapsulates", func(t *testing.T) { matrix{d.in(t), m.pairs}.encapsulated(tr) })
		}
	}
	for i, a := range transports {
		for _, b := range transports[i+1:] {
			t.Run(fmt.Sprintf("%s and %s", a, b), func(t *testing.T) {
				m := matrix{d.in(t), m.pairs}
				m.datagrams(a, b)
				m.bulk(a, b)
			})
		}
	}
	if t.Failed() {
		d.Explain()
	}
}

type matrix struct {
	*domain
	pairs map[topology.Transport][2]lab.EndpointStatus
}

func (m matrix) send(from, to lab.EndpointStatus, o probe.SendOptions) error {
	_, err := m.Probe(from.String(), to.IPs[0], o)
	return err
}

// both runs a probe in both networks, both ways, at once.
func (m matrix) both(a, b topology.Transport, o probe.SendOptions) {
	m.T.Helper()
	var g errgroup.Group
	for _, tr := range []topology.Transport{a, b} {
		for i, from := range m.pairs[tr] {
			g.Go(func() error {
				if err := m.send(from, m.pairs[tr][1-i], o); err != nil {
					return fmt.Errorf("%s from %s: %w", tr, from.Node, err)
				}
				return nil
			})
		}
	}
	require.NoError(m.T, g.Wait())
}

// encapsulated sends what stays in the tunnel, a TTL of 255, and looks at what it
// comes in.
func (m matrix) encapsulated(tr topology.Transport) {
	from, to := m.pairs[tr][0], m.pairs[tr][1]
	wire := m.Wire(to.Node)
	m.Must(from.Node+"/"+from.Name, "ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "5", "-t", "255", to.IPs[0].String())
	m.Await("the capture has all", func() (bool, string) {
		have := carried(wire, from.IPs[0], to.IPs[0], 1, 0)
		return len(have) == 1 && have[string(tr.Tunnel())] == 3, fmt.Sprint(have)
	})
}

// datagrams counts them on the wire of the receiver's host.
func (m matrix) datagrams(a, b topology.Transport) {
	const each, size = 100, 800
	wires := map[string]*testkit.Socket{"host1": m.Wire("host1"), "host2": m.Wire("host2")}
	m.both(a, b, probe.SendOptions{Datagrams: each, Size: size, Interval: time.Millisecond})
	for _, tr := range []topology.Transport{a, b} {
		for i, from := range m.pairs[tr] {
			to := m.pairs[tr][1-i]
			want := map[string]int{outer(tr): each}
			var have map[string]int
			m.Await("the capture to have all", func() (bool, string) {
				have = carried(wires[to.Node], from.IPs[0], to.IPs[0], 17, size+8)
				n := 0
				for _, x := range have {
					n += x
				}
				return n >= each, fmt.Sprint(have)
			})
			assert.Equal(m.T, want, have, "datagrams of %s from %s, by what they came in", tr, from.Node)
		}
	}
}

// bulk checks SHA-256 of what arrived, and what TCP came in.
func (m matrix) bulk(a, b topology.Transport) {
	wires := map[string]*testkit.Socket{"host1": m.Wire("host1"), "host2": m.Wire("host2")}
	m.both(a, b, probe.SendOptions{Bytes: 1 << 20})
	for _, tr := range []topology.Transport{a, b} {
		for i, from := range m.pairs[tr] {
			to := m.pairs[tr][1-i]
			var have map[string]int
			m.Await("the capture to have some", func() (bool, string) {
				have = carried(wires[to.Node], from.IPs[0], to.IPs[0], 6, 0)
				return len(have) > 0, fmt.Sprint(have)
			})
			assert.Len(m.T, have, 1, "TCP of %s from %s: %v", tr, from.Node, have)
			assert.Positive(m.T, have[outer(tr)], "TCP of %s from %s: %v", tr, from.Node, have)
		}
	}
}

const plain = "nothing"

// outer is what a transport puts around unicast IP between hosts of one link.
func outer(t topology.Transport) string {
	if t.Routed() {
		return plain
	}
	return string(t)
}

// carried counts IPv4 packets between two addresses by what they are carried
// in. length, unless 0, is that of their UDP header.
func carried(s *testkit.Socket, from, to netip.Addr, protocol byte, length int) map[string]int {
	out := map[string]int{}
	addrs := append(from.AsSlice(), to.AsSlice()...)
	for _, f := range s.Frames() {
		i := bytes.Index(f, addrs)
		if i < 26 || i+14 > len(f) || f[i-3] != protocol || (length > 0 && int(binary.BigEndian.Uint16(f[i+12:])) != length) {
			continue
		}
		switch port := binary.BigEndian.Uint16(f[36:]); {
		case i == 26:
			out[plain]++
		case f[23] == 47:
			out[string(topology.GRE)]++
		case f[23] == 17 && port == 4789:
			out[string(topology.VXLAN)]++
		case f[23] == 17 && port == 6081:
			out[string(topology.Geneve)]++
		default:
			out[fmt.Sprintf("protocol %d, port %d", f[23], port)]++
		}
	}
	return out
}
