package draw_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with testdata/<name>, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run 'go test ./cmd/internal/draw -update'")
	assert.Equal(t, string(want), string(got), "%s differs; if that is meant, run 'go test ./cmd/internal/draw -update'",
		path)
}

// cluster makes a topology of n hosts with the networks blue and, for GRE, red
// on the first two.
func cluster(n int, extra ...topology.Record) (*topology.Snapshot, []draw.Endpoint) {
	blue := topology.Network{Name: "blue", VNI: 100, Transport: topology.VXLAN,
		IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48")}.Defaults()
	red := topology.Network{Name: "red", VNI: 200, Transport: topology.GRE,
		IPv4: netip.MustParsePrefix("10.2.0.0/16"), GatewayIPv4: netip.MustParseAddr("10.2.0.1")}.Defaults()
	records := []topology.Record{blue, red}
	var eps []draw.Endpoint
	for i := 1; i <= n; i++ {
		name := fmt.Sprintf("host%d", i)
		records = append(records,
			topology.Node{Name: name, ID: name, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 77, byte(10 + i)})},
				Encapsulations: []topology.Transport{topology.VXLAN, topology.GRE}, Datapath: "netdev"},
			topology.Subnet{Network: "blue", Node: name, Prefix: topology.SubnetAt(blue, topology.IPv4, uint64(4+i))},
			topology.Subnet{Network: "blue", Node: name, Prefix: topology.SubnetAt(blue, topology.IPv6, uint64(4+i))})
		if i != 3 {
			records = append(records, topology.Liveness{Node: name, ID: name})
		}
		ip4 := netip.AddrFrom4([4]byte{10, 1, byte(4 + i), 2})
		eps = append(eps, draw.Endpoint{Name: "c1", Node: name, Network: "blue", MAC: topology.MACOf(ip4).String(),
			IPs: []netip.Addr{ip4, netip.MustParseAddr(fmt.Sprintf("fd00:10:1:%x::2", 4+i))}})
		if i <= 2 {
			records = append(records, topology.Subnet{
				Network: "red", Node: name, Prefix: topology.SubnetAt(red, topology.IPv4, uint64(i)),
			})
		}
	}
	return snapshot(append(records, extra...)...), eps
}

// mixed adds to a cluster of five what pictures show beside tunnels: a routed network,
// docker0 with a subnet of its own, and a host that does not run Baize.
func mixed(s *topology.Snapshot) *topology.Snapshot {
	green := topology.Network{
		Name: "green", VNI: 300, Transport: topology.Route, IPv4: netip.MustParsePrefix("10.3.0.0/16"),
	}.Defaults()
	records := []topology.Record{green, topology.Subnet{
		Network: "blue", Node: "host2", Prefix: netip.MustParsePrefix("10.1.60.0/24"), Segment: "docker0",
	}}
	for i := 1; i <= 5; i++ {
		records = append(records, topology.Subnet{
			Network: "green", Node: fmt.Sprintf("host%d", i), Prefix: topology.SubnetAt(green, topology.IPv4, uint64(i)),
		})
	}
	return s.With(1000, encoded(1000, records), nil)
}

// large is a cluster of many hosts in four segments, with two networks, some hosts down.
func large(n int) draw.Topology {
	blue := topology.Network{
		Name: "blue", VNI: 100, Transport: topology.VXLAN, IPv4: netip.MustParsePrefix("10.0.0.0/8"),
	}.Defaults()
	red := topology.Network{
		Name: "red", VNI: 200, Transport: topology.Geneve, IPv4: netip.MustParsePrefix("172.16.0.0/12"),
	}.Defaults()
	records := []topology.Record{blue, red}
	for i := range n {
		name := fmt.Sprintf("rack%d-host%03d", i%4, i)
		records = append(records, topology.Node{
			Name: name, ID: name, Encapsulations: topology.Encapsulations(),
			VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(i % 4), byte(i / 4)})},
		}, topology.Subnet{Network: "blue", Node: name, Prefix: topology.SubnetAt(blue, topology.IPv4, uint64(i+1))})
		if i%3 == 0 {
			sub := topology.SubnetAt(red, topology.IPv4, uint64(i+1))
			records = append(records, topology.Subnet{Network: "red", Node: name, Prefix: sub})
		}
		if i%50 != 7 {
			records = append(records, topology.Liveness{Node: name, ID: name})
		}
	}
	return draw.New(snapshot(records...), nil)
}

func encoded(revision int64, records []topology.Record) []topology.KV {
	var kvs []topology.KV
	for i, r := range records {
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r),
			Meta: topology.Meta{CreateRevision: revision + int64(i+1), ModRevision: revision + int64(i+1)},
		})
	}
	return kvs
}

func snapshot(records ...topology.Record) *topology.Snapshot {
	kvs := encoded(0, records)
	return topology.NewSnapshot(int64(len(kvs)), kvs)
}

func cases() map[string]draw.Topology {
	three, eps := cluster(3,
		topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.99.9"), Node: "host2", MAC: "02:42:0a:01:63:09"},
		topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.200.0/24"), Reserved: true})
	six, _ := cluster(6)
	nine, _ := cluster(9)
	many, _ := cluster(40)
	five, fiveEps := cluster(5)
	fiveEps[0].Container, fiveEps[0].Name = "web", "docker-0123456789ab"
	odd, oddEps := cluster(1)
	oddEps[0].Name = `c<1>"&\`
	return map[string]draw.Topology{
		"empty": draw.New(snapshot(), nil),
		"three": draw.New(three, eps),
		"six":   draw.New(six, nil),
		"nine":  draw.New(nine, nil),
		"many":  draw.New(many, nil),
		"five":  draw.New(mixed(five), fiveEps),
		"odd":   draw.New(odd, oddEps),
	}
}

func TestGolden(t *testing.T) {
	for name, top := range cases() {
		for ext, write := range map[string]func(io.Writer, draw.Topology) error{
			"txt": tree(false), "dot": draw.DOT, "svg": draw.SVG,
		} {
			t.Run(name+"."+ext, func(t *testing.T) {
				var b bytes.Buffer
				require.NoError(t, write(&b, top))
				golden(t, name+"."+ext, b.Bytes())
			})
		}
	}
}

func tree(full bool) func(io.Writer, draw.Topology) error {
	return func(w io.Writer, t draw.Topology) error { return draw.Tree(w, t, full) }
}

// U13: the topology of fifty hosts, which had 1225 tunnels in each network, fits a
// screen; whoever wants all of it gets that.
func TestFiftyHostsFitAScreen(t *testing.T) {
	s, eps := cluster(50)
	green := topology.Network{Name: "green", VNI: 300, Transport: topology.VXLAN,
		IPv4: netip.MustParsePrefix("10.3.0.0/16")}.Defaults()
	kvs := []topology.KV{{Key: green.Key(), Value: topology.Encode(green), Meta: topology.Meta{CreateRevision: 999}}}
	for i := 1; i <= 50; i++ {
		sub := topology.Subnet{
			Network: "green", Node: fmt.Sprintf("host%d", i), Prefix: topology.SubnetAt(green, topology.IPv4, uint64(i)),
		}
		kvs = append(kvs, topology.KV{
			Key: sub.Key(), Value: topology.Encode(sub), Meta: topology.Meta{CreateRevision: 1000 + int64(i)},
		})
	}
	top := draw.New(s.With(2000, kvs, nil), eps[:1])
	var b bytes.Buffer
	require.NoError(t, draw.Tree(&b, top, false))
	golden(t, "fifty.txt", b.Bytes())
	lines := strings.Split(b.String(), "\n")
	assert.LessOrEqual(t, len(lines), 24, "a terminal")
	for _, l := range lines {
		assert.LessOrEqual(t, utf8.RuneCountInString(l), 120, l)
	}
	b.Reset()
	require.NoError(t, draw.Tree(&b, top, true))
	assert.Contains(t, b.String(), "host49 ↔ host50  vxlan  192.168.77.59 ↔ 192.168.77.60  blue, green\n")
	assert.Equal(t, 1225, strings.Count(b.String(), "↔ host")-1, "each vxlan tunnel once, and one gre")
	assert.Equal(t, 1, strings.Count(b.String(), "c1  10.1.5.2"))
}

// Five hundred hosts are a map by segments in which each is to be found, and not N²
// lines.
func TestMapOfFiveHundredHosts(t *testing.T) {
	top := large(500)
	var b bytes.Buffer
	require.NoError(t, draw.SVG(&b, top))
	for _, n := range top.Nodes {
		require.Contains(t, b.String(), ">"+n.Name+"</text>")
	}
	for _, want := range []string{
		"192.168.1.0/24 · 125 hosts, 5 down", "blue: vxlan tunnels between all of its 500 hosts",
		"red: geneve tunnels between all of its 167 hosts",
	} {
		require.Contains(t, b.String(), ">"+want+"</text>")
	}
	require.Less(t, b.Len(), 300_000)

	top.Tunnels = slices.DeleteFunc(top.Tunnels, func(x draw.Tunnel) bool {
		return x.A == "rack0-host000" && x.B == "rack0-host004"
	})
	b.Reset()
	require.NoError(t, draw.SVG(&b, top))
	require.Contains(t, b.String(), "of its 500 hosts, but for 1 pair: rack0-host000 ↔ rack0-host004<")
}

// Every picture must be well-formed XML, whatever the names in it.
func TestSVGIsXML(t *testing.T) {
	for name, top := range cases() {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			require.NoError(t, draw.SVG(&b, top))
			d := xml.NewDecoder(&b)
			for {
				_, err := d.Token()
				if errors.Is(err, io.EOF) {
					return
				}
				require.NoError(t, err)
			}
		})
	}
}

func TestTunnelsOncePerPairAndEncapsulation(t *testing.T) {
	s, _ := cluster(3)
	top := draw.New(s, nil)
	var got []string
	for _, x := range top.Tunnels {
		got = append(got, fmt.Sprintf("%s-%s %s %v", x.A, x.B, x.Encap, x.Networks))
	}
	assert.Equal(t, []string{
		"host1-host2 gre [red]", "host1-host2 vxlan [blue]", "host1-host3 vxlan [blue]", "host2-host3 vxlan [blue]",
	}, got)
}

// The JSON has lists where scripts expect lists, never null.
func TestJSONHasNoNull(t *testing.T) {
	for _, name := range []string{"empty", "three"} {
		b, err := json.Marshal(cases()[name])
		require.NoError(t, err)
		assert.NotContains(t, string(b), "null")
	}
}

func TestEndpointsOfUnknownNodesAreLeftOut(t *testing.T) {
	s, _ := cluster(1)
	top := draw.New(s, []draw.Endpoint{{Name: "x", Node: "gone", Network: "blue"}})
	require.Len(t, top.Networks[0].Members, 1)
	assert.Empty(t, top.Networks[0].Members[0].Endpoints)
}

// A host that does not run Baize has the name of what it runs as its state.
func TestStatusOfRouter(t *testing.T) {
	s := topology.NewSnapshot(1, nil)
	s.Nodes["r"] = topology.Node{Name: "r", Router: &topology.RouterHost{}, Layout: "other"}
	assert.Equal(t, draw.Status("other"), draw.StatusOf(s, "r"))
}
