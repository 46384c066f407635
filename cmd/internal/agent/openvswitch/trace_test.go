package openvswitch

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
)

// traced is host1 of three on a real Open vSwitch with a dummy datapath.
type traced struct {
	t     *testing.T
	flows *openflow.Client
	ports map[string]int
	names map[string]string
}

func newTraced(t *testing.T) traced {
	sw := ovstest.Start(t)
	var kvs []topology.KV
	put := func(r topology.Record) { kvs = append(kvs, topology.KV{Key: r.Key(), Value: topology.Encode(r)}) }
	put(topology.Network{Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48")}.Defaults())
	put(topology.Network{Name: "red", VNI: 200, IPv4: netip.MustParsePrefix("10.1.0.0/16")}.Defaults())
	for i := 1; i <= 3; i++ {
		host := fmt.Sprintf("host%d", i)
		put(topology.Node{Name: host, ID: host, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 9, byte(i)})}, Encapsulations: topology.Encapsulations()})
		put(topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", i)), Node: host})
		put(topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:10:1:%d::/64", i)), Node: host})
	}
	for _, p := range []string{"10.1.11.0/24", "fd00:10:1:11::/64"} {
		put(topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix(p), Node: "host1", Segment: "docker0"})
	}
	put(topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.12.0/24"), Node: "host2", Segment: "docker0"})
	put(topology.Subnet{Network: "red", Prefix: netip.MustParsePrefix("10.1.1.0/24"), Node: "host1"})
	put(topology.Subnet{Network: "red", Prefix: netip.MustParsePrefix("10.1.2.0/24"), Node: "host2"})
	put(topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.1.77"), Node: "host3", MAC: "02:42:0a:01:01:4d"})

	end := func(name, network string, ips ...string) ovs.Endpoint {
		e := ovs.Endpoint{Name: name, Network: network, Port: name}
		for _, ip := range ips {
			e.IPs = append(e.IPs, netip.MustParseAddr(ip))
		}
		e.MAC = topology.MACOf(e.IPs[0])
		return e
	}
	endpoints := []ovs.Endpoint{
		end("c1", "blue", "10.1.1.2", "fd00:10:1:1::2"), end("c2", "blue", "10.1.1.3", "fd00:10:1:1::3"),
		end("r1", "red", "10.1.1.2"),
	}
	want := pipeline.Build(topology.NewSnapshot(1, kvs).View("host1"), endpoints, pipeline.Options{
		Bridge: "br-baize", Datapath: "system", Segments: []ovs.Segment{{Name: "docker0", Network: "blue", Port: "d0"}},
	})

	db, err := vswitch.New(vswitch.Config{Endpoint: sw.Endpoint(), Bridge: "br-baize", Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	flows := openflow.New(openflow.Config{Bridge: "br-baize", RunDir: sw.RunDir(), Timeout: time.Minute})
	observed, err := db.Observe(t.Context())
	require.NoError(t, err)
	c := newConverger(db, flows, &flowWatch{})
	out, err := c.converge(t.Context(), want, observed, false)
	require.NoError(t, err)
	require.Empty(t, out.Problems)
	require.Empty(t, portProblems(out))
	x := traced{t: t, flows: flows, ports: out.Observed.OFPorts(), names: map[string]string{}}
	for name, n := range x.ports {
		x.names[fmt.Sprint(n)] = name
	}

	// What was installed must be what is read back, text by text.
	audit, err := flows.Audit(t.Context(), out.Bound)
	require.NoError(t, err)
	require.Empty(t, audit.Lines)
	again, err := c.converge(t.Context(), want, out.Observed, true)
	require.NoError(t, err)
	require.Zero(t, again.Changes)
	return x
}

var outputRE = regexp.MustCompile(`(?m)^\s*(?:\d+\. .*\n)?\s+(?:output:|-> output port is )(\d+)`)

// trace returns the ports a frame leaves by and the megaflow.
func (x traced) trace(port, flow string) (out []string, megaflow string) {
	x.t.Helper()
	text, err := x.flows.Trace(x.t.Context(), fmt.Sprintf("in_port=%d,%s", x.ports[port], flow))
	require.NoError(x.t, err)
	for _, m := range outputRE.FindAllStringSubmatch(text, -1) {
		// OVS says so itself when it would send a frame back.
		if name := x.names[m[1]]; name != port {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	for line := range strings.Lines(text) {
		if m, ok := strings.CutPrefix(line, "Megaflow: "); ok {
			megaflow = strings.TrimSpace(m)
		}
	}
	return out, megaflow
}

const (
	macC1 = "02:42:0a:01:01:02"
	macC2 = "02:42:0a:01:01:03"
	bcast = "ff:ff:ff:ff:ff:ff"
	// Containers on docker0 have any MAC.
	random   = "be:ef:00:00:00:01"
	toRandom = "dl_dst=be:ef:00:00:00:02"
)

func TestDecisions(t *testing.T) {
	x := newTraced(t)
	arp := func(sha, spa, tpa string) string {
		return fmt.Sprintf("dl_src=%s,dl_dst=%s,arp,arp_op=1,arp_sha=%s,arp_spa=%s,arp_tpa=%s", sha, bcast, sha, spa, tpa)
	}
	for name, c := range map[string]struct {
		port, flow string
		want       []string
	}{
		"ARP for a remote address":    {"c1", arp(macC1, "10.1.1.2", "10.1.2.9"), []string{"vx-host2"}},
		"ARP for a local address":     {"c1", arp(macC1, "10.1.1.2", "10.1.1.3"), []string{"c2"}},
		"ARP for a pin":               {"c1", arp(macC1, "10.1.1.2", "10.1.1.77"), []string{"vx-host3"}},
		"ARP for nobody here":         {"c1", arp(macC1, "10.1.1.2", "10.1.1.99"), nil},
		"ARP for an unleased address": {"c1", arp(macC1, "10.1.1.2", "10.1.200.1"), nil},
		"ARP outside the network": {
			"c1", arp(macC1, "10.1.1.2", "172.16.0.1"), []string{"c2", "d0", "vx-host2", "vx-host3"},
		},
		"gratuitous ARP": {
			"c1", arp(macC1, "10.1.1.2", "10.1.1.2"), []string{"c2", "d0", "vx-host2", "vx-host3"},
		},
		"ARP probe":                       {"c1", arp(macC1, "0.0.0.0", "10.1.2.9"), []string{"vx-host2"}},
		"ARP with a lie about the sender": {"c1", arp(macC1, "10.1.1.3", "10.1.2.9"), nil},
		"ARP with a lie about the MAC":    {"c1", arp(macC2, "10.1.1.2", "10.1.2.9"), nil},
		"ARP reply to an unknown MAC": {"c1", "dl_src=" + macC1 + ",dl_dst=02:aa:00:00:00:01,arp,arp_op=2,arp_sha=" + macC1 + ",arp_spa=10.1.1.2,arp_tpa=10.1.2.9",
			[]string{"vx-host2"}},
		"ND for a remote address": {"c1", "dl_src=" + macC1 + ",dl_dst=33:33:ff:00:00:09,icmp6,ipv6_src=fd00:10:1:1::2,ipv6_dst=ff02::1:ff00:9,icmpv6_code=0,icmpv6_type=135,nd_target=fd00:10:1:2::9,nd_sll=" + macC1,
			[]string{"vx-host2"}},
		"ND with a lie about the MAC": {
			"c1",
			"dl_src=" + macC1 + ",dl_dst=33:33:ff:00:00:09,icmp6,ipv6_src=fd00:10:1:1::2,ipv6_dst=ff02::1:ff00:9,icmpv6_code=0,icmpv6_type=135,nd_target=fd00:10:1:2::9,nd_sll=" + macC2,
			nil,
		},
		"ND advertisement of another's address": {
			"c1",
			"dl_src=" + macC1 + ",dl_dst=33:33:00:00:00:01,icmp6,ipv6_src=fd00:10:1:1::2,ipv6_dst=ff02::1,icmpv6_code=0,icmpv6_type=136,nd_target=fd00:10:1:2::9,nd_tll=" + macC1,
			nil,
		},
		"ND answer without its option": {"c1", "dl_src=" + macC1 + ",dl_dst=02:42:0a:01:02:09,icmp6,ipv6_src=fd00:10:1:1::2,ipv6_dst=fd00:10:1:2::9,icmpv6_code=0,icmpv6_type=136,nd_target=fd00:10:1:1::2",
			[]string{"vx-host2"}},
		"ND for a local link-local address": {"c1", "dl_src=" + macC1 + ",dl_dst=33:33:ff:01:01:03,icmp6,ipv6_src=fd00:10:1:1::2,ipv6_dst=ff02::1:ff01:103,icmpv6_code=0,icmpv6_type=135,nd_target=fe80::42:aff:fe01:103,nd_sll=" + macC1,
			[]string{"c2"}},
		"duplicate address detection": {
			"c1",
			"dl_src=" + macC1 + ",dl_dst=33:33:ff:00:00:02,icmp6,ipv6_src=::,ipv6_dst=ff02::1:ff00:2,icmpv6_code=0,icmpv6_type=135,nd_target=fd00:10:1:1::2",
			nil,
		},
		"unicast by derived MAC": {
			"c1", "dl_src=" + macC1 + ",dl_dst=02:42:0a:01:02:09,tcp,nw_src=10.1.1.2,nw_dst=10.1.2.9", []string{"vx-host2"},
		},
		"unicast to a local MAC": {
			"c1", "dl_src=" + macC1 + ",dl_dst=" + macC2 + ",tcp,nw_src=10.1.1.2,nw_dst=10.1.1.3", []string{"c2"},
		},
		"by MAC first: a router's": {
			"c1", "dl_src=" + macC1 + ",dl_dst=" + macC2 + ",tcp,nw_src=10.1.1.2,nw_dst=10.1.2.9", []string{"c2"},
		},
		"unicast to a pinned MAC": {
			"c1", "dl_src=" + macC1 + ",dl_dst=02:42:0a:01:01:4d,tcp,nw_src=10.1.1.2,nw_dst=10.1.1.77", []string{"vx-host3"},
		},
		"unknown MAC, IP of a node": {
			"c1", "dl_src=" + macC1 + ",dl_dst=02:aa:00:00:00:01,tcp,nw_src=10.1.1.2,nw_dst=10.1.2.9", []string{"vx-host2"},
		},
		"unknown MAC, IPv6 of a node": {
			"c1", "dl_src=" + macC1 + ",dl_dst=02:aa:00:00:00:01,tcp6,ipv6_src=fd00:10:1:1::2,ipv6_dst=fd00:10:1:3::9",
			[]string{"vx-host3"},
		},
		"unknown unicast, not IP": {
			"c1", "dl_src=" + macC1 + ",dl_dst=02:aa:00:00:00:01,dl_type=0x88b5", []string{"c2", "d0", "vx-host2", "vx-host3"},
		},
		"broadcast": {
			"c1", "dl_src=" + macC1 + ",dl_dst=" + bcast + ",dl_type=0x88b5", []string{"c2", "d0", "vx-host2", "vx-host3"},
		},
		"IP multicast": {
			"c1", "dl_src=" + macC1 + ",dl_dst=01:00:5e:01:02:03,udp,nw_src=10.1.1.2,nw_dst=239.1.2.3",
			[]string{"c2", "d0", "vx-host2", "vx-host3"},
		},
		"spoofed IPv4": {
			"c1", "dl_src=" + macC1 + ",dl_dst=" + macC2 + ",tcp,nw_src=10.1.1.4,nw_dst=10.1.1.3", nil,
		},
		"spoofed IPv6": {
			"c1", "dl_src=" + macC1 + ",dl_dst=" + macC2 + ",tcp6,ipv6_src=fd00:10:1:1::4,ipv6_dst=fd00:10:1:1::3", nil,
		},
		"spoofed MAC": {"c1", "dl_src=" + macC2 + ",dl_dst=" + bcast + ",dl_type=0x88b5", nil},
		"IPv6 without an IPv6 address": {
			"r1", "dl_src=" + macC1 + ",dl_dst=33:33:00:00:00:01,udp6,ipv6_src=fe80::1,ipv6_dst=ff02::1", nil,
		},
		"the other network, same prefix": {"r1", arp(macC1, "10.1.1.2", "10.1.2.9"), []string{"vx-host2"}},
		"the other network's broadcast": {
			"r1", "dl_src=" + macC1 + ",dl_dst=" + bcast + ",dl_type=0x88b5", []string{"vx-host2"},
		},
		"no neighbour in the other network": {"r1", arp(macC1, "10.1.1.2", "10.1.1.3"), nil},

		"from a tunnel to a local MAC": {
			"vx-host2", "tun_id=100,dl_src=02:42:0a:01:02:09,dl_dst=" + macC1 + ",tcp,nw_src=10.1.2.9,nw_dst=10.1.1.2",
			[]string{"c1"},
		},
		"the same MAC in the other network": {
			"vx-host2", "tun_id=200,dl_src=02:42:0a:01:02:09,dl_dst=" + macC1 + ",tcp,nw_src=10.1.2.9,nw_dst=10.1.1.2",
			[]string{"r1"},
		},
		"ARP from a tunnel": {
			"vx-host2", "tun_id=100," + arp("02:42:0a:01:02:09", "10.1.2.9", "10.1.1.3"), []string{"c2"},
		},
		"broadcast from a tunnel: split horizon": {
			"vx-host2", "tun_id=100,dl_src=02:42:0a:01:02:09,dl_dst=" + bcast + ",dl_type=0x88b5", []string{"c1", "c2", "d0"},
		},
		"unicast for a third node": {
			"vx-host2", "tun_id=100,dl_src=02:42:0a:01:02:09,dl_dst=02:42:0a:01:03:09,tcp,nw_src=10.1.2.9,nw_dst=10.1.3.9", nil,
		},

		"ARP for docker0":            {"c1", arp(macC1, "10.1.1.2", "10.1.11.1"), []string{"d0"}},
		"ARP for docker0 of another": {"c1", arp(macC1, "10.1.1.2", "10.1.12.1"), []string{"vx-host2"}},
		"ND for docker0": {
			"c1",
			"dl_src=" + macC1 + ",dl_dst=33:33:ff:00:00:09,icmp6,ipv6_src=fd00:10:1:1::2,ipv6_dst=ff02::1:ff00:9,icmpv6_code=0,icmpv6_type=135,nd_target=fd00:10:1:11::9,nd_sll=" + macC1,
			[]string{"d0"},
		},
		"derived MAC on docker0": {
			"c1", "dl_src=" + macC1 + ",dl_dst=02:42:0a:01:0b:00,tcp,nw_src=10.1.1.2,nw_dst=10.1.11.0", []string{"d0"},
		},
		"random MAC on docker0": {
			"c1", "dl_src=" + macC1 + "," + toRandom + ",tcp,nw_src=10.1.1.2,nw_dst=10.1.11.5", []string{"d0"},
		},
		"random MAC on docker0 of another": {
			"c1", "dl_src=" + macC1 + "," + toRandom + ",tcp,nw_src=10.1.1.2,nw_dst=10.1.12.5", []string{"vx-host2"},
		},
		"ARP from docker0 for a remote address": {"d0", arp(random, "10.1.11.5", "10.1.12.9"), []string{"vx-host2"}},
		"ARP from docker0 for an endpoint":      {"d0", arp(random, "10.1.11.5", "10.1.1.2"), []string{"c1"}},
		"ARP inside docker0 stays there":        {"d0", arp(random, "10.1.11.5", "10.1.11.4"), nil},
		"ARP inside docker0, from its .0":       {"d0", arp(random, "10.1.11.0", "10.1.11.128"), nil},
		"gratuitous ARP from docker0": {
			"d0", arp(random, "10.1.11.5", "10.1.11.5"), []string{"c1", "c2", "vx-host2", "vx-host3"},
		},
		"ARP probe from docker0 stays there": {"d0", arp(random, "0.0.0.0", "10.1.11.5"), nil},
		"ARP from docker0 with a lie":        {"d0", arp(random, "10.1.1.2", "10.1.12.9"), nil},
		"ARP from docker0 with a theft":      {"d0", arp("02:42:0a:01:0c:05", "10.1.11.5", "10.1.12.9"), nil},
		"broadcast from docker0": {
			"d0", "dl_src=" + random + ",dl_dst=" + bcast + ",dl_type=0x88b5", []string{"c1", "c2", "vx-host2", "vx-host3"},
		},
		"unicast from docker0 to an endpoint": {
			"d0", "dl_src=" + random + ",dl_dst=" + macC1 + ",tcp,nw_src=10.1.11.5,nw_dst=10.1.1.2", []string{"c1"},
		},
		"unicast from docker0 to another docker0": {
			"d0", "dl_src=02:42:0a:01:0b:05," + toRandom + ",tcp,nw_src=10.1.11.5,nw_dst=10.1.12.5", []string{"vx-host2"},
		},
		"unicast flooded inside docker0": {
			"d0", "dl_src=" + random + "," + toRandom + ",tcp,nw_src=10.1.11.5,nw_dst=10.1.11.6", nil,
		},
		"spoofed address from docker0": {
			"d0", "dl_src=" + random + ",dl_dst=" + macC1 + ",tcp,nw_src=10.1.1.3,nw_dst=10.1.1.2", nil,
		},
		"IPv6 from docker0": {
			"d0", "dl_src=" + random + ",dl_dst=" + macC1 + ",tcp6,ipv6_src=fd00:10:1:11::5,ipv6_dst=fd00:10:1:1::2",
			[]string{"c1"},
		},
		"spoofed IPv6 from docker0": {
			"d0", "dl_src=" + random + ",dl_dst=" + macC1 + ",tcp6,ipv6_src=fd00:10:1:12::5,ipv6_dst=fd00:10:1:1::2", nil,
		},
		"advertisement of another's from docker0": {
			"d0",
			"dl_src=" + random + ",dl_dst=33:33:00:00:00:01,icmp6,ipv6_src=fe80::5,ipv6_dst=ff02::1,icmpv6_code=0,icmpv6_type=136,nd_target=fd00:10:1:1::2",
			nil,
		},
		"advertisement from docker0": {
			"d0",
			"dl_src=" + random + ",dl_dst=33:33:00:00:00:01,icmp6,ipv6_src=fe80::5,ipv6_dst=ff02::1,icmpv6_code=0,icmpv6_type=136,nd_target=fd00:10:1:11::2",
			[]string{"c1", "c2", "vx-host2", "vx-host3"},
		},
		"docker0's own fe80::1": {
			"d0",
			"dl_src=" + random + ",dl_dst=33:33:ff:00:00:01,icmp6,ipv6_src=::,ipv6_dst=ff02::1:ff00:1,icmpv6_code=0,icmpv6_type=135,nd_target=fe80::1",
			nil,
		},
		"from a tunnel to docker0": {
			"vx-host2", "tun_id=100,dl_src=" + random + "," + toRandom + ",tcp,nw_src=10.1.12.9,nw_dst=10.1.11.5",
			[]string{"d0"},
		},
		"ARP from a tunnel for docker0": {
			"vx-host2", "tun_id=100," + arp(random, "10.1.12.9", "10.1.11.0"), []string{"d0"},
		},
		"unknown unicast from a tunnel": {
			"vx-host2", "tun_id=100,dl_src=" + random + "," + toRandom + ",dl_type=0x88b5", []string{"d0"},
		},

		"unknown tunnel key": {"vx-host2", "tun_id=300,dl_src=02:42:0a:01:02:09,dl_dst=" + bcast + ",dl_type=0x88b5", nil},
	} {
		t.Run(name, func(t *testing.T) {
			x.t = t
			got, megaflow := x.trace(c.port, c.flow)
			require.Equal(t, c.want, got, megaflow)
		})
	}
}

// The datapath's cache must grow with nodes, not with remote containers.
func TestMegaflowsMatchSubnets(t *testing.T) {
	x := newTraced(t)
	_, m := x.trace(
		"c1", "dl_src="+macC1+",dl_dst=02:42:0a:01:02:09,tcp,nw_src=10.1.1.2,nw_dst=10.1.2.9,tp_src=1,tp_dst=2",
	)
	require.Contains(t, m, "dl_dst=02:42:0a:01:02:00/ff:ff:ff:ff:ff:00")
	require.NotContains(t, m, "tp_")
	require.NotContains(t, m, "nw_dst=10.1.2.9")
	_, m = x.trace("c1", "dl_src="+macC1+",dl_dst=02:aa:00:00:00:01,tcp,nw_src=10.1.1.2,nw_dst=10.1.2.9")
	require.Contains(t, m, "nw_dst=10.1.2.0/24")
}
