package topology_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestFlannelConfig(t *testing.T) {
	addr := netip.MustParseAddr
	vxlan := topology.FlannelBackend{Type: "vxlan", VNI: 1, Port: 8472}
	plain := topology.FlannelConfig{
		IPv4: netip.MustParsePrefix("10.1.0.0/16"), SubnetLenIPv4: 24, SubnetMinIPv4: addr("10.1.1.0"), SubnetMaxIPv4: addr("10.1.255.0"), Backend: vxlan,
	}
	dual := plain
	dual.IPv6, dual.SubnetLenIPv6 = netip.MustParsePrefix("fd00:10:1::/48"), 64
	dual.SubnetMinIPv6, dual.SubnetMaxIPv6 = addr("fd00:10:1:1::"), addr("fd00:10:1:ffff::")
	set := plain
	set.SubnetLenIPv4, set.SubnetMinIPv4, set.SubnetMaxIPv4 = 25, addr("10.1.4.0"), addr("10.1.9.128")
	set.Backend = topology.FlannelBackend{Type: "vxlan", VNI: 7, Port: 4789, MTU: 9000}
	small := topology.FlannelConfig{
		IPv4: netip.MustParsePrefix("10.1.0.0/26"), SubnetLenIPv4: 28, SubnetMinIPv4: addr("10.1.0.16"), SubnetMaxIPv4: addr("10.1.0.48"), Backend: vxlan,
	}
	for _, c := range []struct {
		in   string
		want topology.FlannelConfig
	}{
		{`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}`, plain},
		{`{"network":"10.1.0.0/16","backend":{"type":"vxlan"}}`, plain},
		{`{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:1::/48","Backend":{"Type":"vxlan"}}`, dual},
		{`{"Network":"10.1.0.0/16","SubnetLen":25,"SubnetMin":"10.1.4.0","SubnetMax":"10.1.9.128","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"MTU":9000}}`, set},
		{`{"Network":"10.1.0.0/26","Backend":{"Type":"vxlan"}}`, small},
	} {
		got, err := topology.DecodeFlannelConfig([]byte(c.in))
		require.NoError(t, err, c.in)
		assert.Equal(t, c.want, got, c.in)
	}
	for in, words := range map[string]string{
		`{}`:                        `"Network"`,
		`[`:                         "malformed",
		`{"Network":"10.1.0.0/16"}`: "udp",
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}`:                                   "without IPv4",
		`{"Network":"10.1.0.0/16","EnableIPv6":true,"Backend":{"Type":"vxlan"}}`:                             `"IPv6Network"`,
		`{"Network":"10.1.0.0/16","SubnetLen":17,"Backend":{"Type":"vxlan"}}`:                                `"SubnetLen" 17`,
		`{"Network":"10.1.0.0/16","SubnetMin":"10.2.0.0","Backend":{"Type":"vxlan"}}`:                        `"SubnetMin"`,
		`{"Network":"10.1.0.0/16","SubnetMax":"10.1.5.1","Backend":{"Type":"vxlan"}}`:                        `"SubnetMax"`,
		`{"Network":"10.1.0.0/16","SubnetMin":"10.1.9.0","SubnetMax":"10.1.5.0","Backend":{"Type":"vxlan"}}`: "exchange",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}`:                                             "host-gw",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"wireguard"}}`:                                           "wireguard",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}`:                          "DirectRouting",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","GBP":true}}`:                                    "GBP",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}`:                                "VNI",
		`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","Port":70000}}`:                                  "Port",
	} {
		_, err := topology.DecodeFlannelConfig([]byte(in))
		require.ErrorIs(t, err, topology.ErrInvalid, in)
		assert.Contains(t, err.Error(), words, in)
	}
}

// The goldens are flannel's own output: cmd/internal/flannel/peer/golden.
func TestFlannelLeaseGoldens(t *testing.T) {
	b, err := os.ReadFile("testdata/flannel/leases.golden")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	require.Len(t, lines, 3)
	for _, line := range lines {
		key, value, _ := strings.Cut(line, " ")
		l, err := topology.DecodeFlannelLease(topology.KV{Key: key, Value: []byte(value)})
		require.NoError(t, err)
		assert.Equal(t, key, l.Key())
		assert.Equal(t, value, string(l.Encode()))
		assert.True(t, l.Reserved, "a key without an expiry")
		assert.True(t, l.PublicIP.IsValid())
	}
}

func TestFlannelLeaseRefused(t *testing.T) {
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
		_, err := topology.DecodeFlannelLease(topology.KV{Key: c[0], Value: []byte(c[1])})
		require.ErrorIs(t, err, topology.ErrInvalid, c)
		assert.Contains(t, err.Error(), c[0])
	}
}

func FuzzFlannelLease(f *testing.F) {
	f.Add("subnets/10.1.5.0-24&fd00:10:1:5::-64", `{"PublicIP":"192.168.77.11","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:ba:c0:a8:4d:0b"}}`)
	f.Fuzz(func(t *testing.T, key, value string) {
		l, err := topology.DecodeFlannelLease(topology.KV{Key: key, Value: []byte(value)})
		if err != nil {
			return
		}
		again, err := topology.DecodeFlannelLease(topology.KV{Key: l.Key(), Value: l.Encode()})
		require.NoError(t, err)
		assert.Equal(t, l, again)
	})
}

func FuzzFlannelConfig(f *testing.F) {
	f.Add(`{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:1::/48","Backend":{"Type":"vxlan"}}`)
	f.Fuzz(func(t *testing.T, in string) {
		c, err := topology.DecodeFlannelConfig([]byte(in))
		if err == nil {
			assert.True(t, c.IPv4.Contains(c.SubnetMinIPv4) && c.IPv4.Contains(c.SubnetMaxIPv4))
		}
	})
}
