package route

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What FRR makes of it TestFabric tries, in cmd/internal/domaintest.
func TestFRRConf(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/48")
	got := FRRConf([]topology.Network{
		{Name: "blue", Transport: topology.Auto, IPv4: v4, IPv6: v6},
		{Name: "fast", Transport: topology.Route, IPv4: netip.MustParsePrefix("10.3.0.0/16")},
		{Name: "red", Transport: topology.VXLAN, IPv4: v4},
	}, 65001, []FRRNeighbor{{netip.MustParseAddr("192.0.2.1"), 65000}, {netip.MustParseAddr("2001:db8::1"), 65000}}, "secret", func(n string) string { return "bn-" + n })
	file := filepath.Join("testdata", "frr.golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
	assert.NotContains(t, got, "bn-red", "what is not routed is not announced")
}
