package capture

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
)

var (
	macA = net.HardwareAddr{2, 0x42, 10, 1, 1, 2}
	macB = net.HardwareAddr{2, 0x42, 10, 1, 2, 2}
)

// serialize puts a frame together, from Ethernet on.
func serialize(t *testing.T, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	var network gopacket.NetworkLayer
	for _, l := range list {
		switch l := l.(type) {
		case *layers.IPv4:
			network = l
		case *layers.IPv6:
			network = l
		case *layers.TCP:
			require.NoError(t, l.SetNetworkLayerForChecksum(network))
		case *layers.UDP:
			require.NoError(t, l.SetNetworkLayerForChecksum(network))
		case *layers.ICMPv6:
			require.NoError(t, l.SetNetworkLayerForChecksum(network))
		}
	}
	b := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...))
	return bytes.Clone(b.Bytes())
}

func ethernet(kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: kind}
}

func ipv4(src, dst string, p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

func ipv6(src, dst string, p layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

// segment is a frame that an endpoint sends.
func segment(t *testing.T) []byte {
	return serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4("10.1.1.2", "10.1.2.2", layers.IPProtocolTCP),
		&layers.TCP{SrcPort: 40000, DstPort: 443, SYN: true, Seq: 7, Window: 100}, gopacket.Payload("hello"))
}

const vni = 0x123456

// outer are frames with inner in them, by encapsulation.
func outer(t *testing.T, inner []byte, src, dst string) map[topology.Transport][]byte {
	udp := func(port layers.UDPPort, header []byte) []byte {
		return serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(src, dst, layers.IPProtocolUDP),
			&layers.UDP{SrcPort: 50000, DstPort: port}, gopacket.Payload(append(header, inner...)))
	}
	gre := []byte{0x20, 0, 0x65, 0x58, 0, 0x12, 0x34, 0x56}
	return map[topology.Transport][]byte{
		topology.VXLAN:  udp(4789, []byte{8, 0, 0, 0, 0x12, 0x34, 0x56, 0}),
		topology.Geneve: udp(6081, []byte{1, 0, 0x65, 0x58, 0x12, 0x34, 0x56, 0, 1, 2, 3, 4}), // an option
		topology.GRE: serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(src, dst, layers.IPProtocolGRE),
			gopacket.Payload(append(gre, inner...))),
	}
}

func tunnel() api.Point {
	return api.Point{
		Node: "host1", Kind: api.PointTunnel, Name: "host2",
		Locals:  []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd77::1")},
		Remotes: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fd77::2")},
		UDPPorts: map[topology.Transport]int{
			topology.VXLAN: 4789, topology.Geneve: 6081,
		},
		Networks:     map[uint32]string{vni: "blue"},
		OwnPrefixes:  []netip.Prefix{netip.MustParsePrefix("10.2.1.0/24")},
		PeerPrefixes: []netip.Prefix{netip.MustParsePrefix("10.2.2.0/24"), netip.MustParsePrefix("fd00:2:2::/64")},
	}
}

var wide = Options{SnapLen: 1500, Rate: 1000}

func TestUncover(t *testing.T) {
	inner := segment(t)
	for _, way := range []struct {
		src, dst string
		out      bool
	}{{"192.0.2.1", "192.0.2.2", true}, {"192.0.2.2", "192.0.2.1", false}} {
		for encap, b := range outer(t, inner, way.src, way.dst) {
			p, ok := newReader(tunnel(), wide).read(frame{data: b, length: len(b)})
			require.True(t, ok, encap)
			assert.Equal(t, inner, p.Data, encap)
			assert.Equal(t, len(inner), p.Length, encap)
			assert.Equal(t, way.out, p.Out, encap)
			assert.Equal(t, "blue", p.Network, encap)
			assert.Equal(t, string(encap), p.Encap)
		}
	}
	// Over IPv6, cut short, of a VNI that nobody knows.
	point := tunnel()
	point.Networks = nil
	b := serialize(t, ethernet(layers.EthernetTypeIPv6), ipv6("fd77::2", "fd77::1", layers.IPProtocolUDP),
		&layers.UDP{SrcPort: 50000, DstPort: 4789}, gopacket.Payload(append([]byte{8, 0, 0, 0, 0, 0, 9, 0}, inner...)))
	p, ok := newReader(point, Options{SnapLen: 60}).read(frame{data: b, length: len(b)})
	require.True(t, ok)
	require.Equal(t, inner[:60], p.Data)
	require.Equal(t, len(inner), p.Length)
	require.Equal(t, "VNI 9", p.Network)
}

// What is no packet between the two nodes is none of the point, and neither is what
// the nodes themselves say to each other.
func TestUncoverOthers(t *testing.T) {
	inner := segment(t)
	for encap, b := range outer(t, inner, "192.0.2.1", "192.0.2.3") {
		_, ok := newReader(tunnel(), wide).read(frame{data: b, length: len(b)})
		require.False(t, ok, encap)
	}
	ssh := serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4("192.0.2.1", "192.0.2.2", layers.IPProtocolTCP),
		&layers.TCP{SrcPort: 40000, DstPort: 22})
	for _, b := range [][]byte{ssh, nil, {1, 2, 3}, ssh[:20]} {
		_, ok := newReader(tunnel(), wide).read(frame{data: b, length: len(b)})
		require.False(t, ok)
	}
}

// Routed packets are those of endpoints as they are, and fragments of a tunnel's packets
// stay as they are.
func TestUncoverNothing(t *testing.T) {
	routed := serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4("10.2.2.5", "10.2.1.4", layers.IPProtocolUDP),
		&layers.UDP{SrcPort: 1, DstPort: 2})
	p, ok := newReader(tunnel(), wide).read(frame{data: routed, length: len(routed)})
	require.True(t, ok)
	require.False(t, p.Out)
	require.Equal(t, routed, p.Data)
	require.Empty(t, p.Encap)

	ip := ipv4("192.0.2.1", "192.0.2.2", layers.IPProtocolUDP)
	ip.FragOffset = 100
	rest := serialize(t, ethernet(layers.EthernetTypeIPv4), ip, gopacket.Payload("rest"))
	p, ok = newReader(tunnel(), wide).read(frame{data: rest, length: len(rest)})
	require.True(t, ok)
	require.True(t, p.Out)
	require.Equal(t, rest, p.Data)
}

// The host's end of a pair sends what the endpoint gets; inside it is the other way round.
func TestDirection(t *testing.T) {
	point := api.Point{Kind: api.PointEndpoint, Network: "blue"}
	for _, x := range []struct {
		netns         string
		outgoing, out bool
	}{{"", true, false}, {"", false, true}, {"/run/netns/c1", true, true}, {"/run/netns/c1", false, false}} {
		point.Netns = x.netns
		p, ok := newReader(point, wide).read(frame{data: segment(t), outgoing: x.outgoing})
		require.True(t, ok)
		require.Equal(t, x.out, p.Out, x)
	}
}

func TestFilter(t *testing.T) {
	arp := serialize(t, ethernet(layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: macA, SourceProtAddress: []byte{10, 1, 1, 2},
		DstHwAddress: make([]byte, 6), DstProtAddress: []byte{10, 1, 2, 2},
	})
	six := serialize(t, ethernet(layers.EthernetTypeIPv6), ipv6("fd00::1", "fd00::2", layers.IPProtocolICMPv6),
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}, gopacket.Payload{0, 7, 0, 1})
	tagged := serialize(t, ethernet(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4},
		ipv4("10.1.1.2", "10.1.2.2", layers.IPProtocolUDP), &layers.UDP{SrcPort: 443, DstPort: 9})
	for _, x := range []struct {
		filter Filter
		text   string
		takes  [4]bool // segment, arp, six, tagged
	}{
		{Filter{}, "", [4]bool{true, true, true, true}},
		{Filter{Proto: "tcp"}, "tcp", [4]bool{true, false, false, false}},
		{Filter{Proto: "udp"}, "udp", [4]bool{false, false, false, true}},
		{Filter{Proto: "arp"}, "arp", [4]bool{false, true, false, false}},
		{Filter{Proto: "ip"}, "ip", [4]bool{true, false, false, true}},
		{Filter{Proto: "ip6"}, "ip6", [4]bool{false, false, true, false}},
		{Filter{Proto: "icmp"}, "icmp", [4]bool{}},
		{Filter{Proto: "icmp6"}, "icmp6", [4]bool{false, false, true, false}},
		{Filter{Port: 443}, "port 443", [4]bool{true, false, false, true}},
		{Filter{Port: 80}, "port 80", [4]bool{}},
		{
			Filter{Host: netip.MustParsePrefix("10.1.2.2/32"), Proto: "tcp", Port: 443},
			"tcp and host 10.1.2.2 and port 443", [4]bool{true, false, false, false},
		},
		{Filter{Host: netip.MustParsePrefix("10.1.0.0/16")}, "net 10.1.0.0/16", [4]bool{true, true, false, true}},
		{Filter{Host: netip.MustParsePrefix("fd00::/64")}, "net fd00::/64", [4]bool{false, false, true, false}},
	} {
		require.Equal(t, x.text, x.filter.String())
		for i, b := range [][]byte{segment(t), arp, six, tagged} {
			assert.Equal(t, x.takes[i], x.filter.takes(newParser().parse(b)), "%s: %d", x.text, i)
		}
	}
	d := NewDescriber()
	for want, b := range map[string][]byte{
		"10.1.1.2:40000 > 10.1.2.2:443 TCP SYN seq 7 ack 0 win 100, 60 bytes": segment(t),
		"ARP who has 10.1.2.2, tell 10.1.1.2, 60 bytes":                       arp,
		"fd00::1 > fd00::2 ICMPv6 EchoRequest id 7 seq 1, 62 bytes":           six,
		"10.1.1.2:443 > 10.1.2.2:9 UDP, 60 bytes":                             tagged,
		"a frame that is cut short, 3 bytes":                                  {1, 2, 3},
		"02:42:0a:01:01:02 > 02:42:0a:01:02:02 EtherType 0x1234, 60 bytes":    serialize(t, ethernet(0x1234)),
	} {
		assert.Equal(t, want, d.Describe(Packet{Data: b, Length: len(b)}))
	}
}

// The program that the kernel runs takes what the point may want, and nothing else.
func TestProgram(t *testing.T) {
	raw, err := program(tunnel(), 100)
	require.NoError(t, err)
	list, all := bpf.Disassemble(raw)
	require.True(t, all)
	vm, err := bpf.NewVM(list)
	require.NoError(t, err)
	udp := func(src, dst string) []byte {
		if netip.MustParseAddr(src).Is6() {
			return serialize(t, ethernet(layers.EthernetTypeIPv6), ipv6(src, dst, layers.IPProtocolUDP), &layers.UDP{})
		}
		return serialize(t, ethernet(layers.EthernetTypeIPv4), ipv4(src, dst, layers.IPProtocolUDP), &layers.UDP{})
	}
	for _, x := range []struct {
		frame []byte
		takes bool
	}{
		{udp("192.0.2.1", "192.0.2.2"), true},
		{udp("192.0.2.2", "192.0.2.1"), true},
		{udp("192.0.2.1", "192.0.2.3"), false},
		{udp("10.2.1.4", "10.2.2.200"), true},
		{udp("10.2.2.200", "10.9.9.9"), true},
		{udp("10.2.3.4", "10.2.1.4"), false},
		{udp("fd77::2", "fd77::9"), true},
		{udp("fd77::3", "fd77::9"), false},
		{udp("fd77::9", "fd00:2:2:0:1::"), true},
		{udp("fd77::9", "fd00:2:2:1::"), false},
		{serialize(t, ethernet(0x1234)), false},
	} {
		n, err := vm.Run(x.frame)
		require.NoError(t, err)
		require.Equal(t, x.takes, n > 0, "%x", x.frame)
		if x.takes {
			require.GreaterOrEqual(t, n, min(len(x.frame), 100+maxOuter))
		}
	}
	many := tunnel()
	for i := range 2 * mostConditions {
		many.PeerPrefixes = append(many.PeerPrefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, byte(i), 0}), 24))
	}
	_, err = program(many, 100)
	require.NoError(t, err)
}

// A file says where each packet is from; Wireshark reads what the library reads.
func TestWriter(t *testing.T) {
	points := []api.Point{
		{Node: "host1", Kind: api.PointEndpoint, Name: "c1", Network: "blue", Devices: []string{"bz1"}}, tunnel(),
	}
	var file bytes.Buffer
	w, err := NewWriter(&file, points, []string{"device bz1", "device eth0"}, Options{SnapLen: 256, Filter: Filter{Proto: "tcp"}}, "1.0")
	require.NoError(t, err)
	require.NotZero(t, file.Len(), "who reads from a pipe waits for the head")
	at := time.Date(2026, 5, 4, 3, 2, 1, 987654321, time.UTC)
	b := segment(t)
	packets := []Packet{
		{Point: 0, Time: at, Length: 1000, Out: true, Network: "blue", Data: b},
		{Point: 1, Time: at.Add(time.Microsecond), Length: len(b), Out: true, Network: "blue", Encap: "vxlan", Data: b},
		{Point: 1, Time: at.Add(time.Millisecond), Length: len(b), Network: "red", Encap: "gre", Data: b[:20]},
	}
	for _, p := range packets {
		require.NoError(t, w.Write(p))
	}
	require.NoError(t, w.Close([]Counts{{Captured: 1}, {Captured: 2, Lost: 3, OverRate: 4}}))

	r, err := pcapgo.NewNgReader(&file, pcapgo.DefaultNgReaderOptions)
	require.NoError(t, err)
	require.Equal(t, "baize 1.0", r.SectionInfo().Application)
	var names, texts []string
	for _, p := range packets {
		data, info, opts, err := r.ReadPacketDataWithOptions()
		require.NoError(t, err)
		require.Equal(t, p.Data, data)
		require.True(t, p.Time.Equal(info.Timestamp), info.Timestamp)
		require.Equal(t, max(p.Length, len(p.Data)), info.Length)
		i, err := r.Interface(info.InterfaceIndex)
		require.NoError(t, err)
		names, texts = append(names, i.Name), append(texts, i.Description)
		want := pcapgo.NgEpbFlagDirectionInbound
		if p.Out {
			want = pcapgo.NgEpbFlagDirectionOutbound
		}
		require.Equal(t, want, opts.Flags.Direction)
		require.Equal(t, uint32(256), i.SnapLength)
		require.NotEmpty(t, i.Comment)
	}
	require.Equal(t, []string{"host1/c1", "host1/host2/blue", "host1/host2/red"}, names)
	require.Equal(t, []string{
		"endpoint c1 of host host1, network blue",
		"from and to host host2, at host host1, taken out of vxlan, network blue",
		"from and to host host2, at host host1, taken out of gre, network red",
	}, texts)
	_, _, err = r.ReadPacketData()
	require.ErrorIs(t, err, io.EOF)
	second, err := r.Interface(1)
	require.NoError(t, err)
	require.Equal(t, uint64(7), second.Statistics.PacketsDropped)
}

func TestMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := make(chan Packet)
		began := time.Now()
		var got []int
		var after []time.Duration
		done := make(chan error)
		go func() {
			done <- Merge(in, time.Second, func(p Packet) error {
				got, after = append(got, p.Length), append(after, time.Since(began))
				return nil
			}, func() error { return nil }, func() {})
		}()
		send := func(n int, at time.Duration) { in <- Packet{Length: n, Time: began.Add(at)} }
		send(2, 20*time.Millisecond)
		send(3, 20*time.Millisecond)
		time.Sleep(500 * time.Millisecond)
		send(1, 10*time.Millisecond) // late
		send(4, 30*time.Millisecond)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, []int{1, 2, 3, 4}, got)
		require.Less(t, after[2], 1100*time.Millisecond)
		require.Less(t, after[3], 1600*time.Millisecond)
		send(5, 0)
		close(in)
		require.NoError(t, <-done)
		require.Equal(t, []int{1, 2, 3, 4, 5}, got)
	})
}

// Who sends is not held up by an output that is gone.
func TestMergeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := make(chan Packet)
		stopped := false
		go func() {
			for range 10 {
				in <- Packet{}
			}
			close(in)
		}()
		gone := errors.New("gone")
		err := Merge(in, 0, func(Packet) error { return gone }, func() error { return nil }, func() { stopped = true })
		require.ErrorIs(t, err, gone)
		require.True(t, stopped)
	})
}
