package flannel_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
)

func TestConfig(t *testing.T) {
	addr := netip.MustParseAddr
	vxlan := flannel.Backend{Type: "vxlan", VNI: 1, Port: 8472}
	plain := flannel.Config{
		IPv4: netip.MustParsePrefix("10.1.0.0/16"), SubnetLenIPv4: 24, SubnetMinIPv4: addr("10.1.1.0"),
		SubnetMaxIPv4: addr("10.1.255.0"), Backend: vxlan,
	}
	dual := plain
	dual.IPv6, dual.SubnetLenIPv6 = netip.MustParsePrefix("fd00:10:1::/48"), 64
	dual.SubnetMinIPv6, dual.SubnetMaxIPv6 = addr("fd00:10:1:1::"), addr("fd00:10:1:ffff::")
	set := plain
	set.SubnetLenIPv4, set.SubnetMinIPv4, set.SubnetMaxIPv4 = 25, addr("10.1.4.0"), addr("10.1.9.128")
	set.Backend = flannel.Backend{Type: "vxlan", VNI: 7, Port: 4789, MTU: 9000}
	hostGW, direct := plain, plain
	hostGW.Backend = flannel.Backend{Type: "host-gw", VNI: 1}
	direct.Backend.DirectRouting = true
	small := flannel.Config{
		IPv4: netip.MustParsePrefix("10.1.0.0/26"), SubnetLenIPv4: 28, SubnetMinIPv4: addr("10.1.0.16"),
		SubnetMaxIPv4: addr("10.1.0.48"), Backend: vxlan,
	}
	for _, c := range []struct {
		in   string
		want flannel.Config
	}{
		{`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}`, plain},
		{`{"network":"10.1.0.0/16","backend":{"type":"vxlan"}}`, plain},
		{`{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:1::/48","Backend":{"Type":"vxlan"}}`, dual},
		{
			`{"Network":"10.1.0.0/16","SubnetLen":25,"SubnetMin":"10.1.4.0","SubnetMax":"10.1.9.128","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"MTU":9000}}`,
			set,
		},
		{`{"Network":"10.1.0.0/26","Backend":{"Type":"vxlan"}}`, small},
		{`{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}`, hostGW},
		{`{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw","Port":7}}`, hostGW},
		{`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}`, direct},
	} {
		got, err := flannel.DecodeConfig([]byte(c.in))
		require.NoError(t, err, c.in)
		assert.Equal(t, c.want, got, c.in)
	}
	for in, words := range map[string]string{
		`{}`:                        `"Network"`,
		`[`:                         "malformed",
		`{"Network":"10.1.0.0/16"}`: "udp",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan"}}`:        "without IPv4",
		`{"EnableIPv4":false,"Backend":{"Type":"vxlan"}}`:                                                    "neither IPv4 nor IPv6",
		`{"Network":"10.1.0.0/16","EnableIPv6":true,"Backend":{"Type":"vxlan"}}`:                             `"IPv6Network"`,
		`{"Network":"10.1.0.0/16","SubnetLen":17,"Backend":{"Type":"vxlan"}}`:                                `"SubnetLen" 17`,
		`{"Network":"10.1.0.0/16","SubnetMin":"10.2.0.0","Backend":{"Type":"vxlan"}}`:                        `"SubnetMin"`,
		`{"Network":"10.1.0.0/16","SubnetMax":"10.1.5.1","Backend":{"Type":"vxlan"}}`:                        `"SubnetMax"`,
		`{"Network":"10.1.0.0/16","SubnetMin":"10.1.9.0","SubnetMax":"10.1.5.0","Backend":{"Type":"vxlan"}}`: "exchange",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"wireguard"}}`:                                           "wireguard",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","GBP":true}}`:                                    "GBP",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}`:                                "VNI",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","Port":70000}}`:                                  "Port",
	} {
		_, err := flannel.DecodeConfig([]byte(in))
		require.ErrorIs(t, err, topology.ErrInvalid, in)
		assert.Contains(t, err.Error(), words, in)
	}
}

// The goldens are flannel's own output: cmd/internal/flannel/peer/golden.
func TestLeaseGoldens(t *testing.T) {
	b, err := os.ReadFile("testdata/leases.golden")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	require.Len(t, lines, 3)
	for _, line := range lines {
		key, value, _ := strings.Cut(line, " ")
		l, err := flannel.DecodeLease(topology.KV{Key: key, Value: []byte(value)})
		require.NoError(t, err)
		assert.Equal(t, key, l.Key())
		assert.Equal(t, value, string(l.Encode()))
		assert.True(t, l.Reserved, "a key without an expiry")
		assert.True(t, l.PublicIP.IsValid())
	}
}

func TestLeaseRefused(t *testing.T) {
	for _, c := range [][2]string{
		{"subnets/10.1.5.0", `{}`},
		{"subnets/10.1.5.1-24", `{}`},
		{"subnets/fd00::-64", `{}`},
		{"subnets/10.1.5.0-24&10.1.6.0-24", `{}`},
		{"nodes/x", `{}`},
		{"subnets/10.1.5.0-24", ``},
		{"subnets/10.1.5.0-24", `{"PublicIP":"fd00::1"}`},
		{"subnets/10.1.5.0-24", `{"PublicIP":"1.2.3.4","BackendType":"vxlan","BackendData":{"VtepMAC":"01:00:5e:00:00:01"}}`},
	} {
		_, err := flannel.DecodeLease(topology.KV{Key: c[0], Value: []byte(c[1])})
		require.ErrorIs(t, err, topology.ErrInvalid, c)
		assert.Contains(t, err.Error(), c[0])
	}
}

func FuzzLease(f *testing.F) {
	f.Add(
		"subnets/10.1.5.0-24&fd00:10:1:5::-64",
		`{"PublicIP":"192.168.77.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:ba:c0:a8:4d:0b"}}`,
	)
	f.Fuzz(func(t *testing.T, key, value string) {
		l, err := flannel.DecodeLease(topology.KV{Key: key, Value: []byte(value)})
		if err != nil {
			return
		}
		again, err := flannel.DecodeLease(topology.KV{Key: l.Key(), Value: l.Encode()})
		require.NoError(t, err)
		assert.Equal(t, l, again)
	})
}

func FuzzConfig(f *testing.F) {
	f.Add(`{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:1::/48","Backend":{"Type":"vxlan"}}`)
	f.Fuzz(func(t *testing.T, in string) {
		c, err := flannel.DecodeConfig([]byte(in))
		if err == nil {
			assert.True(t, c.IPv4.Contains(c.SubnetMinIPv4) && c.IPv4.Contains(c.SubnetMaxIPv4))
		}
	})
}

// A host that comes back with its subnet and another link address or underlay
// address is followed; a Baize node that goes back to flannel is one again.
func TestFollowed(t *testing.T) {
	addr := netip.MustParseAddr
	node := func(name, ip string) topology.KV {
		n := topology.Node{
			Name:           name,
			ID:             name,
			VTEPs:          []netip.Addr{addr(ip)},
			Encapsulations: topology.Transports(),
			UnderlayMTU:    9000,
		}
		return topology.KV{Key: n.Key(), Value: topology.Encode(n)}
	}
	lease := func(subnet, ip, mac string) topology.KV {
		l := flannel.Lease{
			Subnet: netip.MustParsePrefix(subnet), PublicIP: addr(ip), BackendType: "vxlan",
			VTEP: flannel.VTEP{VNI: 1, MAC: mac},
		}
		return topology.KV{Key: l.Key(), Value: l.Encode(), Meta: topology.Meta{Lease: 5}}
	}
	own := topology.NewSnapshot(1, []topology.KV{node("host1", "192.168.0.1"), node("host2", "192.168.0.2")})
	f := topology.NewRawSnapshot(1, []topology.KV{
		{Key: "config", Value: []byte(`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","Port":4790}}`)},
		lease("10.1.1.0/24", "192.168.0.1", "0e:ba:c0:a8:00:01"), lease("10.1.2.0/24", "192.168.0.2", "0e:ba:c0:a8:00:02"),
		lease("10.1.3.0/24", "192.168.0.3", "f2:00:00:00:00:03"), {Key: "subnets/10.1.4.0-24", Value: []byte(`{}`)},
	})
	peers := func(f *topology.Snapshot) map[string]topology.Peer {
		v := flannel.Merge(own, f, "host1").View("host1")
		n, ok := v.Find(flannel.Network)
		require.True(t, ok, v.Problems)
		require.Equal(t, 8950, n.MTU)
		require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.1.1.0/24")}, n.Subnets)
		out := map[string]topology.Peer{}
		for _, p := range n.Peers {
			out[p.Subnets[0].String()] = p
		}
		return out
	}
	p := peers(f)
	require.Len(t, p, 2)
	assert.Nil(t, p["10.1.2.0/24"].Router, "a Baize node")
	assert.Equal(t, &topology.RouterHost{MAC: "f2:00:00:00:00:03", Port: 4790}, p["10.1.3.0/24"].Router)

	p = peers(f.With(2, []topology.KV{lease("10.1.3.0/24", "192.168.0.3", "f2:00:00:00:00:33")}, nil))
	assert.Equal(t, "f2:00:00:00:00:33", p["10.1.3.0/24"].Router.MAC)
	p = peers(f.With(2, []topology.KV{lease("10.1.3.0/24", "192.168.0.99", "f2:00:00:00:00:33")}, nil))
	assert.Equal(t, addr("192.168.0.99"), p["10.1.3.0/24"].Remote)
	p = peers(f.With(2, []topology.KV{lease("10.1.2.0/24", "192.168.0.2", "f2:00:00:00:00:02")}, nil))
	assert.Equal(t, "flannel-192.168.0.2", p["10.1.2.0/24"].Node)
	assert.NotNil(t, p["10.1.2.0/24"].Router)
	p = peers(f.With(2, nil, []string{"subnets/10.1.3.0-24"}))
	assert.Len(t, p, 1)

	bad := flannel.Merge(
		own,
		f.With(2, []topology.KV{{Key: "config", Value: []byte(`{"Network":"10.1.0.0/16","Backend":{"Type":"udp"}}`)}}, nil),
		"host1",
	)
	assert.Empty(t, bad.Networks)
	require.Len(t, bad.Validate(), 1)
	assert.Contains(t, bad.Validate()[0].String(), "udp")

	// With another backend its hosts ignore those of this one.
	routes := flannel.Merge(
		own,
		f.With(
			2,
			[]topology.KV{{Key: "config", Value: []byte(`{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}`)}},
			nil,
		),
		"host1",
	)
	require.Len(t, routes.Validate(), 1)
	assert.Contains(t, routes.Validate()[0].String(), `"vxlan", not host-gw`)
}

// What flannel's backends are to Baize: host-gw is a network that kernels
// route, DirectRouting one of which they route what is on-link.
func TestBackends(t *testing.T) {
	addr := netip.MustParseAddr
	node := topology.Node{
		Name:           "host1",
		ID:             "1",
		VTEPs:          []netip.Addr{addr("192.168.0.1"), addr("fd77::1")},
		Encapsulations: topology.Encapsulations(),
		UnderlayMTU:    1500,
	}
	own := topology.NewSnapshot(1, []topology.KV{{Key: node.Key(), Value: topology.Encode(node)}})
	view := func(backend, kind string, v6 string) (topology.NetworkView, []fault.Fault) {
		kvs := []topology.KV{
			{
				Key: "config",
				Value: []byte(
					`{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:1::/48","Backend":` + backend + `}`,
				),
			},
		}
		for i, mac := range []string{flannel.VtepMAC(addr("192.168.0.1")), "f2:00:00:00:00:02"} {
			l := flannel.Lease{
				Subnet:     netip.MustParsePrefix([]string{"10.1.1.0/24", "10.1.2.0/24"}[i]),
				IPv6Subnet: netip.MustParsePrefix([]string{"fd00:10:1:1::/64", "fd00:10:1:2::/64"}[i]),
				PublicIP:   addr([]string{"192.168.0.1", "192.168.0.2"}[i]), BackendType: kind,
			}
			if v6 != "" {
				l.PublicIPv6 = addr([]string{"fd77::1", v6}[i])
			}
			if i == 0 || kind == "vxlan" {
				l.VTEP = flannel.VTEP{VNI: 1, MAC: mac}
				if v6 != "" {
					l.IPv6VTEP = l.VTEP
				}
			}
			kvs = append(kvs, topology.KV{Key: l.Key(), Value: l.Encode(), Meta: topology.Meta{Lease: 5}})
		}
		v := flannel.Merge(own, topology.NewRawSnapshot(1, kvs), "host1").View("host1")
		n, ok := v.Find(flannel.Network)
		require.True(t, ok, v.Problems)
		require.Len(t, n.Peers, 1)
		return n, v.Problems
	}
	n, problems := view(`{"Type":"host-gw"}`, "host-gw", "fd77::2")
	assert.Empty(t, problems)
	assert.Equal(t, topology.Route, n.Transport)
	assert.Equal(t, 1500, n.MTU)
	reach := topology.OnLink{addr("192.168.0.2"): "eth0", addr("fd77::2"): "eth0"}
	for _, p := range n.Paths(reach, nil) {
		assert.Equal(t, topology.PathRoute, p.Kind, p)
	}
	h, ok := n.Host()
	require.True(t, ok)
	assert.Equal(
		t,
		[]netip.Addr{addr("10.1.1.0"), addr("fd00:10:1:1::")},
		h.Addrs,
		"the subnet's own address, as flannel.1 has it",
	)

	n, problems = view(`{"Type":"vxlan","DirectRouting":true}`, "vxlan", "fd77::2")
	assert.Empty(t, problems)
	assert.Equal(t, topology.Auto, n.Transport)
	assert.Equal(t, 1430, n.MTU)
	assert.Equal(t, topology.PathTunnel, n.Paths(nil, nil)[0].Kind)
	assert.Equal(t, topology.PathRoute, n.Paths(reach, nil)[0].Kind)

	n, problems = view(`{"Type":"vxlan"}`, "vxlan", "")
	require.Len(t, problems, 1)
	assert.Contains(t, problems[0].String(), "only IPv4")
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24")}, n.Peers[0].Subnets)
	h, ok = n.Host()
	require.True(t, ok)
	assert.Equal(t, flannel.VtepMAC(addr("192.168.0.1")), h.MAC.String())
}
