package fastpath

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

var prefix = netip.MustParsePrefix

// world is host1 of three, of which host2 is on its link, in a network.
func world(t *testing.T, n topology.Network, pins ...topology.Pin) Input {
	t.Helper()
	var kvs []topology.KV
	put := func(r topology.Record) {
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: int64(len(kvs) + 1)},
		})
	}
	put(n.Defaults())
	for i, host := range []string{"host1", "host2", "host3"} {
		put(topology.Node{
			Name: host, ID: host, Encapsulations: topology.Encapsulations(),
			VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 9, byte(i + 1)})},
		})
		put(topology.Subnet{Network: n.Name, Prefix: topology.SubnetAt(n.Defaults(), topology.IPv4, uint64(i+1)), Node: host})
	}
	for _, p := range pins {
		put(p)
	}
	in := Input{
		View: topology.NewSnapshot(1, kvs).View("host1"), HostPorts: map[string]string{n.Name: "bn-" + n.Name},
		OnLink: topology.OnLink{netip.MustParseAddr("192.168.9.2"): "eth0"}, Direct: map[topology.SubnetID]bool{},
		Devices: map[string]Device{"eth0": {Ethernet: true}, "bn-" + n.Name: {}, "bz1": {Away: true}, "bz2": {}},
		Endpoints: []ovs.Endpoint{
			{Name: "c1", Network: n.Name, Port: "bz1", IPs: []netip.Addr{netip.MustParseAddr("10.1.1.2")}, MAC: topology.MACOf(netip.MustParseAddr("10.1.1.2"))},
		},
	}
	require.Empty(t, in.View.Problems)
	for _, v := range in.View.Networks {
		for _, p := range v.Paths(in.OnLink, nil) {
			if p.Kind == topology.PathRoute {
				in.Direct[topology.SubnetID{Network: v.Name, Prefix: p.Prefix}] = true
			}
		}
	}
	return in
}

func blue(tr topology.Transport) topology.Network {
	return topology.Network{Name: "blue", VNI: 100, IPv4: prefix("10.1.0.0/16"), Transport: tr}
}

const (
	fromBZ1 = "from bz1 network 100 02:42:0a:01:01:02 10.1.1.2 as bn-blue\n"
	toC1    = "to 10.1.1.2 network 100 dev bz1 02:42:0a:01:01:02 from 02:42:0a:01:01:01\n"
)

// nodes writes names for the numbers of nodes.
func nodes(s State) string {
	out := s.String()
	for _, n := range []string{"host1", "host2", "host3"} {
		out = strings.ReplaceAll(out, fmt.Sprintf("node %x ", NodeID(n)), "node "+n+" ")
	}
	return out
}

func TestWanted(t *testing.T) {
	pin := func(addr, node, mac string) topology.Pin {
		return topology.Pin{Network: "blue", Addr: netip.MustParseAddr(addr), Node: node, MAC: mac}
	}
	all := fromBZ1 + toC1 + "hop 10.1.2.0/24 network 100 node host2 dev eth0\nuplink eth0\n"
	for _, c := range []struct {
		name   string
		tr     topology.Transport
		pins   []topology.Pin
		change func(*Input)
		want   string
		why    string
	}{
		{name: "auto", tr: topology.Auto, want: all, why: "prefixes of other nodes: 1, endpoints: 1"},
		{
			name: "route", tr: topology.Route, why: "prefixes of other nodes: 1, endpoints: 1",
			want: "from bz1 network 100 02:42:0a:01:01:02 10.1.1.2 by 02:42:0a:01:00:01 as bn-blue\n" +
				"to 10.1.1.2 network 100 dev bz1 02:42:0a:01:01:02 from 02:42:0a:01:00:01\n" +
				"hop 10.1.2.0/24 network 100 node host2 dev eth0\nuplink eth0\n",
		},
		{
			name: "pins", tr: topology.Auto, why: "prefixes of other nodes: 2, endpoints: 1",
			pins: []topology.Pin{
				pin("10.1.2.9", "host3", "02:42:0a:01:02:09"), pin("10.1.3.9", "host2", "02:aa:00:00:00:09"),
				pin("10.1.3.8", "host1", "02:42:0a:01:03:08"),
			},
			want: fromBZ1 + toC1 + "hop 10.1.2.0/24 network 100 node host2 dev eth0\n" +
				"hop 10.1.2.9/32 network 100 node host3 dev none\nhop 10.1.3.8/32 network 100 node host1 dev none\n" +
				"hop 10.1.3.9/32 network 100 node host2 dev eth0 02:aa:00:00:00:09\nuplink eth0\n",
		},
		{
			name: "an address of the endpoint is pinned elsewhere", tr: topology.Auto,
			pins: []topology.Pin{pin("10.1.1.2", "host3", "02:42:0a:01:01:02")},
			why:  "prefixes of other nodes: 1, endpoints: 1",
			want: fromBZ1 + "hop 10.1.1.2/32 network 100 node host3 dev none\n" +
				"hop 10.1.2.0/24 network 100 node host2 dev eth0\nuplink eth0\n",
		},
		{
			name: "the route is not in place", tr: topology.Auto, change: func(in *Input) { clear(in.Direct) },
			why: "no prefix of another node is routed by a device with Ethernet headers",
		},
		{
			name: "no Ethernet", tr: topology.Auto, change: func(in *Input) { in.Devices["eth0"] = Device{} },
			why: "no prefix of another node is routed by a device with Ethernet headers",
		},
		{
			name: "two have the address", tr: topology.Auto, why: "prefixes of other nodes: 1, endpoints: 2",
			change: func(in *Input) {
				e := in.Endpoints[0]
				e.Name, e.Port = "c2", "bz2"
				in.Endpoints = append(in.Endpoints, e)
			},
			want: fromBZ1 + strings.Replace(fromBZ1, "bz1", "bz2", 1) +
				"hop 10.1.2.0/24 network 100 node host2 dev eth0\nuplink eth0\n",
		},
		{
			name: "no device yet", tr: topology.Auto, change: func(in *Input) { delete(in.Devices, "bz1") },
			why: "no endpoint whose addresses are known",
		},
		{
			name: "Open vSwitch has what they send", tr: topology.Auto, change: func(in *Input) { in.Switch = "it reads it" },
			why:  "only what endpoints receive: it reads it; prefixes of other nodes: 1, endpoints: 1",
			want: strings.TrimPrefix(all, fromBZ1),
		},
		{
			name: "IPFIX", tr: topology.Auto,
			change: func(in *Input) { in.View.Networks[0].IPFIX = &topology.IPFIX{Collectors: []string{"192.0.2.9"}} },
			why:    "only what endpoints receive: Open vSwitch samples what they send (IPFIX); prefixes of other nodes: 1, endpoints: 1",
			want:   strings.TrimPrefix(all, fromBZ1),
		},
		{name: "off", tr: topology.Auto, change: func(in *Input) { in.Off = "switched off" }, why: "switched off"},
		{
			name: "a firewall", tr: topology.Auto, change: func(in *Input) { in.Kept = map[string]string{"blue": "a rule"} },
			why: "a rule",
		},
		{
			name: "no host port", tr: topology.Auto, change: func(in *Input) { clear(in.HostPorts) },
			why: "the host's own port is not there yet",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := world(t, blue(c.tr), c.pins...)
			if c.change != nil {
				c.change(&in)
			}
			s, networks := Wanted(in)
			assert.Equal(t, c.want, nodes(s))
			require.Len(t, networks, 1)
			assert.Equal(t, c.why, networks[0].Why)
			assert.Equal(t, strings.Contains(c.want, "to ") || strings.Contains(c.want, "from "), networks[0].Used)
		})
	}
	s, networks := Wanted(world(t, blue(topology.VXLAN)))
	assert.True(t, s.Empty())
	assert.Empty(t, networks, "nothing is routed there")
}

func TestDiff(t *testing.T) {
	want, _ := Wanted(world(t, blue(topology.Auto)))
	assert.Equal(t, Change{Remove: NewState(), Add: want}, Diff(want, NewState()))
	assert.Equal(t, Change{Remove: want, Add: NewState()}, Diff(NewState(), want))
	assert.True(t, Diff(want, want).Empty())
	have := NewState()
	have.Ports["bz1"], have.Uplinks["eth0"] = Port{}, false
	have.Hops[prefix("10.1.9.0/24")] = Hop{Network: 100, Dev: "#7"}
	c := Diff(want, have)
	assert.Equal(t, "hop 10.1.9.0/24 network 100 node 0 dev #7\n", c.Remove.String())
	assert.Equal(t, want, c.Add, "of another version, or of a device that is gone")
	assert.Contains(t, c.String(), "- hop 10.1.9.0/24")
	assert.Contains(t, c.String(), "+ from bz1")
}
