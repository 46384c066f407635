//go:build system

package linux

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// What the kernel says of ways and links, and the rules as nft prints them.
func TestWay(t *testing.T) {
	a := netip.MustParseAddr
	testkit.IP(t, "link add way0 type veth peer name way1")
	t.Cleanup(func() {
		testkit.IP(t, "link del way0")
		testkit.Run(t, "nft", "flush", "ruleset")
	})
	testkit.IP(t, "link set way0 up")
	testkit.IP(t, "address add 198.51.100.1/24 dev way0")
	up, err := Host{}.Up()
	require.NoError(t, err)
	require.Equal(t, []bool{false, false}, []bool{up["way0"], up["way1"]}, "no carrier, not switched on")
	testkit.IP(t, "link set way1 up")
	testkit.Await(t, "both are up", func() (bool, string) {
		up, err = Host{}.Up()
		require.NoError(t, err)
		return up["way0"] && up["way1"], ""
	})
	testkit.IP(t, "route add 100.65.113.0/24 via 198.51.100.9")
	testkit.IP(t, "route add unreachable 100.65.113.64/26")
	t.Cleanup(func() { testkit.IP(t, "route del unreachable 100.65.113.64/26") })

	require.Equal(t, kernel.Way{Dev: "way0"}, Host{}.Way(a("198.51.100.7")))
	require.Equal(t, kernel.Way{Dev: "way0", Via: a("198.51.100.9")}, Host{}.Way(a("100.65.113.1")))
	own := Host{}.Way(a("198.51.100.1"))
	require.NoError(t, own.Err)
	require.True(t, own.Local)
	require.Error(t, Host{}.Way(a("100.65.113.65")).Err, "unreachable")
	require.Error(t, Host{}.Way(a("192.0.2.1")).Err, "no route at all")

	testkit.Run(t, "nft", "add table inet way")
	rules, err := Host{}.Ruleset(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(rules), `"name": "way"`)
}
