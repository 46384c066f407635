//go:build system

package bpf

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
)

func TestMain(m *testing.M) { os.Exit(testkit.InNamespaces(m, nil)) }

// Every packet of a table goes both ways: through the programs, on this kernel, and
// through the flows, on a real Open vSwitch. What the programs take, the flows send
// to the same place; what the flows refuse, or send elsewhere, the programs leave.

// packet is one of the table.
type packet struct {
	name     string
	from     string // the endpoint's port
	src, dst string // addresses
	// mac is the frame's destination, sender its source; empty: that of the address,
	// and the endpoint's own.
	mac, sender string
	ttl         int // 0: 64
	// proto is the protocol, 0 UDP; icmp a type of ICMPv6. What else is odd of it:
	proto, icmp byte
	vlan        bool
	options     bool
	fragment    bool
	size        int // of the IP packet, 0: 100 bytes
	// fast is where the fast path sends it: "host2", the port of an endpoint, or
	// nowhere.
	fast string
}

var packets = []packet{
	{name: "to a node on the link", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", fast: "host2"},
	{name: "TCP", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", proto: 6, fast: "host2"},
	{name: "any other protocol", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", proto: 132, fast: "host2"},
	{name: "a fragment", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", fragment: true, fast: "host2"},
	{name: "options", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", options: true},
	{name: "as large as the link takes", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", size: 1500, fast: "host2"},
	{name: "too large", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", size: 1501},
	{name: "another MAC of the node", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", mac: "02:42:0a:01:02:63"},
	{name: "the MAC of another node", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", mac: "02:42:0a:01:03:05"},
	{name: "the MAC of an endpoint here", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", mac: "02:42:0a:01:01:03"},
	{name: "an unknown MAC", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", mac: "02:00:00:00:00:01"},
	{name: "a VLAN", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", vlan: true},
	{name: "not its MAC", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", sender: "02:42:0a:01:01:03"},
	{name: "not its address", from: "c1", src: "10.1.1.3", dst: "10.1.2.5"},
	{name: "no address", from: "c1", src: "0.0.0.0", dst: "10.1.2.5"},
	{name: "an allowed address", from: "c1", src: "172.30.0.9", dst: "10.1.2.5"},
	{name: "TTL 3", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", ttl: 3, fast: "host2"},
	{name: "TTL 2", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", ttl: 2},
	{name: "TTL 1", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", ttl: 1},
	{name: "TTL 255", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", ttl: 255},
	{name: "TTL 254", from: "c1", src: "10.1.1.2", dst: "10.1.2.5", ttl: 254, fast: "host2"},
	{name: "a node behind a router", from: "c1", src: "10.1.1.2", dst: "10.1.3.5"},
	{name: "nobody's", from: "c1", src: "10.1.1.2", dst: "10.1.9.5"},
	{name: "outside", from: "c1", src: "10.1.1.2", dst: "192.0.2.9", mac: "02:42:0a:01:02:05"},
	{name: "the underlay", from: "c1", src: "10.1.1.2", dst: "192.168.9.2", mac: "02:42:0a:01:02:05"},
	{name: "multicast", from: "c1", src: "10.1.1.2", dst: "224.0.0.9", mac: "01:00:5e:00:00:09"},
	{name: "broadcast", from: "c1", src: "10.1.1.2", dst: "10.1.255.255", mac: "ff:ff:ff:ff:ff:ff"},
	{name: "another network", from: "c1", src: "10.1.1.2", dst: "10.2.2.5", mac: "02:42:0a:02:02:05"},
	{name: "pinned behind the router", from: "c1", src: "10.1.1.2", dst: "10.1.2.77"},
	{name: "pinned to the node on the link", from: "c1", src: "10.1.1.2", dst: "10.1.3.88", fast: "host2"},
	{name: "its MAC alone", from: "c1", src: "10.1.1.2", dst: "10.1.3.9", mac: "02:42:0a:01:03:58"},
	{name: "from here to there, with a MAC of its own", from: "c1", src: "10.1.1.2", dst: "10.1.1.99", mac: "02:aa:00:00:00:63", fast: "host2"},
	{name: "the same with a derived MAC", from: "c1", src: "10.1.1.2", dst: "10.1.1.99"},
	{name: "pinned here", from: "c1", src: "10.1.1.2", dst: "10.1.2.50"},
	{name: "an endpoint that is pinned here sends", from: "c3", src: "10.1.2.50", sender: "02:42:0a:01:02:32", dst: "10.1.2.5", fast: "host2"},
	{name: "beside it", from: "c1", src: "10.1.1.2", dst: "10.1.1.3", fast: "c2"},
	{name: "beside it, TTL 1", from: "c1", src: "10.1.1.2", dst: "10.1.1.3", ttl: 1},
	{name: "beside it, with another MAC", from: "c1", src: "10.1.1.2", dst: "10.1.1.3", mac: "02:42:0a:01:01:02"},
	{name: "beside it, of another network", from: "c1", src: "10.1.1.2", dst: "10.2.1.2", mac: "02:42:0a:02:01:02"},
	{name: "to itself", from: "c1", src: "10.1.1.2", dst: "10.1.1.2"},
	{name: "IPv6", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", fast: "host2"},
	{name: "IPv6, TCP", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", proto: 6, fast: "host2"},
	{name: "IPv6, another MAC of the node", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:77", fast: "host2"},
	{name: "IPv6, a pin's MAC", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:03:58"},
	{name: "IPv6, the MAC of another node", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:03:05"},
	{name: "IPv6, too large", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", size: 1501},
	{name: "IPv6, as large as the link takes", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", size: 1500, fast: "host2"},
	{name: "IPv6, hop limit 2", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", ttl: 2},
	{name: "IPv6, hop limit 255", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", ttl: 255},
	{name: "IPv6, echo", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", proto: 58, icmp: 128, fast: "host2"},
	{name: "IPv6, neighbour discovery", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", proto: 58, icmp: 135},
	{name: "IPv6, a redirect", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", proto: 58, icmp: 137},
	{name: "IPv6, extension header", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", proto: 60},
	{name: "IPv6, a fragment", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05", proto: 44},
	{name: "IPv6, not its address", from: "c1", src: "fd00:10:1:1::3", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05"},
	{name: "IPv6, link-local", from: "c1", src: "fe80::42:aff:fe01:102", dst: "fd00:10:1:2::5", mac: "02:42:0a:01:02:05"},
	{name: "IPv6, multicast", from: "c1", src: "fd00:10:1:1::2", dst: "ff02::1", mac: "33:33:00:00:00:01"},
	{name: "IPv6, behind a router", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:3::5", mac: "02:42:0a:01:03:05"},
	{name: "IPv6, beside it", from: "c1", src: "fd00:10:1:1::2", dst: "fd00:10:1:1::3", mac: "02:42:0a:01:01:03", fast: "c2"},
	{name: "route", from: "r1", src: "10.2.1.2", dst: "10.2.2.5", mac: "02:42:0a:02:00:01", fast: "host2"},
	{name: "route, a derived MAC", from: "r1", src: "10.2.1.2", dst: "10.2.2.5"},
	{name: "route, TTL 2", from: "r1", src: "10.2.1.2", dst: "10.2.2.5", mac: "02:42:0a:02:00:01", ttl: 2},
	{name: "route, a node without a way", from: "r1", src: "10.2.1.2", dst: "10.2.3.5", mac: "02:42:0a:02:00:01"},
	{name: "route, another network", from: "r1", src: "10.2.1.2", dst: "10.1.2.5", mac: "02:42:0a:02:00:01"},
	{name: "route, spoofed", from: "r1", src: "10.2.1.3", dst: "10.2.2.5", mac: "02:42:0a:02:00:01"},
}

// bytes writes the packet.
func (p packet) bytes(t *testing.T, endpoints []ovs.Endpoint) []byte {
	t.Helper()
	src, dst := netip.MustParseAddr(p.src), netip.MustParseAddr(p.dst)
	var sender net.HardwareAddr
	for _, e := range endpoints {
		if e.Port == p.from {
			sender = e.MAC
		}
	}
	if p.sender != "" {
		sender = testkit.MAC(t, p.sender)
	}
	to := topology.MACOf(dst)
	if p.mac != "" {
		to = testkit.MAC(t, p.mac)
	}
	ttl, size, proto := byte(64), 100, byte(17)
	if p.ttl != 0 {
		ttl = byte(p.ttl)
	}
	if p.size != 0 {
		size = p.size
	}
	if p.proto != 0 {
		proto = p.proto
	}
	b := make([]byte, size)
	etherType := uint16(0x0800)
	if src.Is4() {
		b[0] = 0x45
		if p.options {
			b[0] = 0x46
			b[20] = 1 // no operation
			b[21], b[22], b[23] = 1, 1, 0
		}
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		if p.fragment {
			b[6] = 0x20
		}
		b[8], b[9] = ttl, proto
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^sum(b[:4*int(b[0]&15)]))
	} else {
		etherType = 0x86dd
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], uint16(size-40))
		b[6], b[7] = proto, ttl
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		b[40] = p.icmp
	}
	if p.vlan {
		b = append([]byte{0, 7, byte(etherType >> 8), byte(etherType)}, b...)
		etherType = 0x8100
	}
	return testkit.Frame(to, sender, etherType, b)
}

// model is the packet without its bytes; false where those say more.
func (p packet) model(t *testing.T, endpoints []ovs.Endpoint) (forward.Packet, bool) {
	t.Helper()
	frame := p.bytes(t, endpoints)
	m := forward.IP(frame[6:12], frame[:6], netip.MustParseAddr(p.src), netip.MustParseAddr(p.dst))
	m.Set(forward.IPProto, uint64(cmp.Or(p.proto, 17)))
	m.Set(forward.IPTTL, uint64(cmp.Or(p.ttl, 64)))
	if p.proto == 58 {
		m.Set(forward.ICMPType, uint64(p.icmp))
	}
	return m, !p.vlan && !p.options && p.size == 0
}

// sum is the Internet checksum before its complement (RFC 1071).
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// rig is host1 of three: the devices and routes of its kernel, the programs, and an
// Open vSwitch with its flows.
type rig struct {
	endpoints []ovs.Endpoint
	host      *Host
	state     fastpath.State
	seen      Seen
	ports     map[string]int
	// runDir is where Open vSwitch listens.
	runDir string
}

func newRig(t *testing.T) rig {
	t.Helper()
	view, endpoints := world(t)
	r := rig{endpoints: endpoints, host: &Host{}}
	devices(t)
	onLink := topology.OnLink{}
	for _, a := range []string{"192.168.9.1", "192.168.9.2", "fd77::1", "fd77::2"} {
		onLink[netip.MustParseAddr(a)] = "eth0"
	}
	direct := map[topology.SubnetID]bool{}
	for _, n := range view.Networks {
		for _, p := range n.Paths(onLink, nil) {
			if p.Kind == topology.PathRoute {
				direct[topology.SubnetID{Network: n.Name, Prefix: p.Prefix}] = true
			}
		}
	}
	seen, err := r.host.Observe(t.Context())
	require.NoError(t, err)
	var networks []fastpath.Network
	r.state, networks = fastpath.Wanted(fastpath.Input{
		View: view, Endpoints: endpoints, Direct: direct, OnLink: onLink, Devices: seen.Devices,
		HostPorts: map[string]string{"blue": "bn-blue", "red": "bn-red"},
	})
	for _, n := range networks {
		require.True(t, n.Used, n)
	}
	require.NoError(t, r.host.Apply(t.Context(), fastpath.Diff(r.state, seen.State)))
	r.seen, err = r.host.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, fastpath.Diff(r.state, r.seen.State).String())

	sw := ovstest.Start(t)
	db, err := vswitch.New(vswitch.Config{Endpoint: sw.Endpoint(), Bridge: "br-baize", Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	r.runDir = sw.RunDir()
	flows := openflow.New(openflow.Config{Bridge: "br-baize", RunDir: r.runDir, Timeout: time.Minute})
	observed, err := db.Observe(t.Context())
	require.NoError(t, err)
	want := pipeline.Build(view, endpoints, pipeline.Options{Bridge: "br-baize", Datapath: "system", Direct: direct})
	change, _, problems := ovs.DiffDB(want, observed)
	require.Empty(t, problems)
	require.NoError(t, db.Apply(t.Context(), change))
	var missing []string
	testkit.Await(t, "all ports have numbers", func() (bool, string) {
		observed, err = db.Observe(t.Context())
		require.NoError(t, err)
		r.ports = observed.OFPorts()
		var bound []ovs.BoundFlow
		if bound, missing = want.Bind(r.ports); len(missing) > 0 {
			return false, fmt.Sprint(missing)
		}
		require.NoError(t, flows.SetMeters(t.Context(), want.BindMeters(r.ports), nil))
		require.NoError(t, flows.Apply(t.Context(), bound, nil))
		return true, ""
	})
	return r
}

// world is the topology as host1 sees it, and its endpoints.
func world(t *testing.T) (topology.View, []ovs.Endpoint) {
	t.Helper()
	var kvs []topology.KV
	put := func(r topology.Record) {
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: int64(len(kvs) + 1)},
		})
	}
	prefix := netip.MustParsePrefix
	put(topology.Network{
		Name: "blue", VNI: 100, IPv4: prefix("10.1.0.0/16"), IPv6: prefix("fd00:10:1::/48"), Transport: topology.Auto,
	}.Defaults())
	put(topology.Network{Name: "red", VNI: 200, IPv4: prefix("10.2.0.0/16"), Transport: topology.Route}.Defaults())
	for i := 1; i <= 3; i++ {
		host := fmt.Sprintf("host%d", i)
		put(topology.Node{
			Name: host, ID: host, Encapsulations: topology.Encapsulations(),
			VTEPs: []netip.Addr{
				netip.MustParseAddr(fmt.Sprintf("192.168.9.%d", i)), netip.MustParseAddr(fmt.Sprintf("fd77::%d", i)),
			},
		})
		put(topology.Subnet{Network: "blue", Prefix: prefix(fmt.Sprintf("10.1.%d.0/24", i)), Node: host})
		put(topology.Subnet{Network: "blue", Prefix: prefix(fmt.Sprintf("fd00:10:1:%d::/64", i)), Node: host})
		put(topology.Subnet{Network: "red", Prefix: prefix(fmt.Sprintf("10.2.%d.0/24", i)), Node: host})
	}
	for addr, x := range map[string][2]string{
		"10.1.2.77": {"host3", "02:42:0a:01:02:4d"}, "10.1.3.88": {"host2", "02:42:0a:01:03:58"},
		"10.1.1.99": {"host2", "02:aa:00:00:00:63"}, "10.1.2.50": {"host1", "02:42:0a:01:02:32"},
	} {
		put(topology.Pin{Network: "blue", Addr: netip.MustParseAddr(addr), Node: x[0], MAC: x[1]})
	}
	end := func(name, network string, ips ...string) ovs.Endpoint {
		e := ovs.Endpoint{Name: name, Network: network, Port: name}
		for _, ip := range ips {
			e.IPs = append(e.IPs, netip.MustParseAddr(ip))
		}
		e.MAC = topology.MACOf(e.IPs[0])
		return e
	}
	router := end("c1", "blue", "10.1.1.2", "fd00:10:1:1::2")
	router.Allow = []netip.Prefix{prefix("172.30.0.0/16")}
	view := topology.NewSnapshot(1, kvs).View("host1")
	require.Empty(t, view.Problems)
	return view, []ovs.Endpoint{
		router, end("c2", "blue", "10.1.1.3", "fd00:10:1:1::3"), end("c3", "blue", "10.1.2.50"), end("r1", "red", "10.2.1.2"),
	}
}

// devices are those of host1, with the routes of its kernel.
func devices(t *testing.T) {
	t.Helper()
	pair := func(name string) {
		testkit.IP(t, "link add "+name+" type veth peer name x-"+name)
		testkit.IP(t, "link set x-"+name+" up")
		testkit.IP(t, "link set "+name+" up")
		t.Cleanup(func() { testkit.IP(t, "link del "+name) })
	}
	for _, d := range []string{"eth0", "bn-blue", "bn-red", "c1", "c2", "c3", "r1"} {
		pair(d)
	}
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		require.NoError(t, os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0))
	}
	testkit.IP(t, "address add 192.168.9.1/24 dev eth0")
	testkit.IP(t, "address add fd77::1/64 dev eth0 nodad")
	testkit.IP(t, "address add 10.1.1.1/32 dev bn-blue")
	testkit.IP(t, "address add 10.2.1.1/32 dev bn-red")
	for _, r := range []string{
		"10.1.0.0/16 dev bn-blue", "10.1.1.0/24 dev bn-blue", "10.1.2.0/24 via 192.168.9.2", "10.1.2.77 dev bn-blue",
		"10.1.3.88 via 192.168.9.2", "10.1.1.99 via 192.168.9.2", "10.1.2.50 dev bn-blue",
		"unreachable 10.2.0.0/16", "10.2.1.0/24 dev bn-red", "10.2.2.0/24 via 192.168.9.2",
	} {
		testkit.IP(t, "route replace "+r)
	}
	testkit.IP(t, "-6 route add fd00:10:1::/48 dev bn-blue")
	testkit.IP(t, "-6 route add fd00:10:1:2::/64 via fd77::2")
}

// skb is the part of struct __sk_buff that a test run takes.
func skb(ifindex uint32) []byte {
	b := make([]byte, 192)
	binary.NativeEndian.PutUint32(b[skbIfindex:], ifindex)
	return b
}

// run lets a program at a device have a packet: whether it took it, and what is
// then of it.
func (r rig) run(t *testing.T, prog, dev string, frame []byte) (taken bool, after []byte) {
	t.Helper()
	l, err := net.InterfaceByName(dev)
	require.NoError(t, err)
	out := make([]byte, len(frame)+256)
	o := &ebpf.RunOptions{Data: frame, DataOut: out, Context: skb(uint32(l.Index))}
	verdict, err := r.host.progs[prog].Run(o)
	require.NoError(t, err)
	require.Contains(t, []uint32{0xffffffff, 7}, verdict, "passed on, or redirected")
	return verdict == 7, o.DataOut
}

var outputs = regexp.MustCompile(`(?m)(?:output:|-> output port is )(\d+)`)

// trace returns the ports by which Open vSwitch sends a packet.
func (r rig) trace(t *testing.T, port string, frame []byte) (out []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "ovs-appctl", "--target=ovs-vswitchd", "ofproto/trace", "br-baize",
		fmt.Sprintf("in_port=%d", r.ports[port]), hex.EncodeToString(frame))
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+r.runDir)
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	for _, m := range outputs.FindAllStringSubmatch(string(text), -1) {
		for name, n := range r.ports {
			if fmt.Sprint(n) == m[1] && name != port {
				out = append(out, name)
			}
		}
	}
	return out
}

func TestSamePlace(t *testing.T) {
	r := newRig(t)
	for _, p := range packets {
		t.Run(p.name, func(t *testing.T) {
			frame := p.bytes(t, r.endpoints)
			taken, after := r.run(t, progFrom, p.from, frame)
			if model, ok := p.model(t, r.endpoints); ok {
				sent, takes := r.state.Send(p.from, model)
				assert.Equal(t, taken, takes, "what fastpath.State says")
				if taken {
					assert.Equal(t, map[bool]string{true: "eth0"}[p.fast == "host2"], sent.Dev)
					assert.Equal(t, map[bool]string{false: p.fast}[p.fast == "host2"], sent.Local.Dev)
				}
			}
			assert.Equal(t, p.fast != "", taken)
			if !taken {
				assert.Equal(t, frame, after, "it goes on as it was")
				return
			}
			to := p.fast
			if to == "host2" {
				to = "bn-blue"
				if p.from == "r1" {
					to = "bn-red"
				}
				assert.Equal(t, lowered(frame), after)
			} else {
				assert.Equal(t, frame, after)
			}
			assert.Equal(t, []string{to}, r.trace(t, p.from, frame), "where the flows send it")
			// By what was decided a moment ago.
			again, same := r.run(t, progFrom, p.from, frame)
			assert.True(t, again)
			assert.Equal(t, after, same)
		})
	}
}

// lowered is a frame as a router makes it, without its MACs.
func lowered(frame []byte) []byte {
	b := append([]byte(nil), frame...)
	if b[12] == 0x86 {
		b[21]--
		return b
	}
	b[22]--
	b[24], b[25] = 0, 0
	binary.BigEndian.PutUint16(b[24:], ^sum(b[14:34]))
	return b
}

// received are packets that the underlay brings, by eth0 unless dev says otherwise;
// mac is eth0's unless it is given, and fast the endpoint's port.
var received = []struct {
	packet
	dev string
}{
	{packet: packet{name: "from a node on the link", src: "10.1.2.5", dst: "10.1.1.2", fast: "c1"}},
	{packet: packet{name: "TTL 2", src: "10.1.2.5", dst: "10.1.1.2", ttl: 2, fast: "c1"}},
	{packet: packet{name: "TTL 1", src: "10.1.2.5", dst: "10.1.1.2", ttl: 1}},
	{packet: packet{name: "TTL 255", src: "10.1.2.5", dst: "10.1.1.2", ttl: 255}},
	{packet: packet{name: "a fragment", src: "10.1.2.5", dst: "10.1.1.2", fragment: true, fast: "c1"}},
	{packet: packet{name: "options", src: "10.1.2.5", dst: "10.1.1.2", options: true}},
	{packet: packet{name: "too large for the endpoint", src: "10.1.2.5", dst: "10.1.1.2", size: 1501}},
	{packet: packet{name: "a VLAN", src: "10.1.2.5", dst: "10.1.1.2", vlan: true}},
	{packet: packet{name: "for another MAC", src: "10.1.2.5", dst: "10.1.1.2", mac: "02:00:00:00:00:01"}},
	{packet: packet{name: "to a pin here", src: "10.1.2.5", dst: "10.1.2.50", fast: "c3"}},
	{packet: packet{name: "from a pin", src: "10.1.3.88", dst: "10.1.1.2", fast: "c1"}},
	{packet: packet{name: "from a node behind a router", src: "10.1.3.5", dst: "10.1.1.2"}},
	{packet: packet{name: "from an address that is pinned behind it", src: "10.1.2.77", dst: "10.1.1.2"}},
	{packet: packet{name: "from outside", src: "192.0.2.9", dst: "10.1.1.2"}},
	{packet: packet{name: "from an endpoint here", src: "10.1.1.3", dst: "10.1.1.2"}},
	{packet: packet{name: "from another network", src: "10.2.2.5", dst: "10.1.1.2"}},
	{packet: packet{name: "to an address without an endpoint", src: "10.1.2.5", dst: "10.1.1.9"}},
	{packet: packet{name: "to the host", src: "10.1.2.5", dst: "192.168.9.1"}},
	{packet: packet{name: "to another node", src: "10.1.2.5", dst: "10.1.3.5"}},
	{packet: packet{name: "by a device that does not lead there", src: "10.1.2.5", dst: "10.1.1.2"}, dev: "bn-red"},
	{packet: packet{name: "IPv6", src: "fd00:10:1:2::5", dst: "fd00:10:1:1::2", fast: "c1"}},
	{packet: packet{name: "IPv6, echo", src: "fd00:10:1:2::5", dst: "fd00:10:1:1::2", proto: 58, icmp: 129, fast: "c1"}},
	{packet: packet{name: "IPv6, neighbour discovery", src: "fd00:10:1:2::5", dst: "fd00:10:1:1::2", proto: 58, icmp: 136}},
	{packet: packet{name: "IPv6, hop limit 1", src: "fd00:10:1:2::5", dst: "fd00:10:1:1::2", ttl: 1}},
	{packet: packet{name: "IPv6, outside", src: "fd00:99::5", dst: "fd00:10:1:1::2"}},
	{packet: packet{name: "route", src: "10.2.2.5", dst: "10.2.1.2", fast: "r1"}},
	{packet: packet{name: "route, from a node without a way", src: "10.2.3.5", dst: "10.2.1.2"}},
}

// What the programs give to an endpoint, the flows give to the same one where the
// kernel sends it by its own port; and the other way round, nothing else does.
func TestSameEndpoint(t *testing.T) {
	r := newRig(t)
	for _, p := range received {
		t.Run(p.name, func(t *testing.T) {
			dev := p.dev
			if dev == "" {
				dev = "eth0"
			}
			l, err := net.InterfaceByName(dev)
			require.NoError(t, err)
			if p.mac == "" {
				p.mac = l.HardwareAddr.String()
			}
			p.sender = "02:00:00:00:09:02" // the other node's
			frame := p.bytes(t, r.endpoints)
			taken, after := r.run(t, progTo, dev, frame)
			require.Equal(t, p.fast != "", taken)
			if model, ok := p.model(t, r.endpoints); ok && p.mac == l.HardwareAddr.String() {
				local, takes := r.state.Receive(dev, model)
				assert.Equal(t, taken, takes, "what fastpath.State says")
				assert.True(t, !taken || local.Dev == p.fast)
			}
			if !taken {
				assert.Equal(t, frame, after, "it goes on as it was")
				return
			}
			local := r.state.Locals[netip.MustParseAddr(p.dst)]
			assert.Equal(t, lowered(frame)[12:], after[12:])
			assert.Equal(t, append(local.MAC[:], local.Src[:]...), after[:12])
			port := "bn-blue"
			if p.fast == "r1" {
				port = "bn-red"
			}
			assert.Equal(t, []string{p.fast}, r.trace(t, port, after))
		})
	}
}
