//go:build system

package linux

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// connections are the lines of the table of connections with a text.
func connections(t *testing.T, text string) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/nf_conntrack")
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, text+" ") {
			n++
		}
	}
	return n
}

// The connections of an address go, at whichever end it is, and before or after a
// translation; all others stay.
func TestForget(t *testing.T) {
	host(t)
	testkit.IP(t, "link set lo up")
	const home, moves, other, published = "10.99.0.1", "10.99.0.2", "10.99.0.3", "10.99.0.4"
	const v6 = "fd99::2"
	for _, a := range []string{home + "/32", moves + "/32", other + "/32", published + "/32", v6 + "/128 nodad"} {
		testkit.IP(t, "address add dev lo "+a)
		t.Cleanup(func() { testkit.IP(t, "address del "+strings.TrimSuffix(a, " nodad")+" dev lo") })
	}
	for _, rule := range []string{
		"add table inet track", "add chain inet track out { type nat hook output priority -100; }",
		"add rule inet track out ip daddr " + published + " dnat ip to " + moves,
		"add table ip6 track", "add chain ip6 track out { type filter hook output priority 0; }",
		"add rule ip6 track out ct state new counter",
	} {
		testkit.Run(t, "nft", rule)
	}
	for _, x := range [][2]string{{home, moves}, {moves, home}, {home, published}, {home, other}, {v6, v6}} {
		testkit.Run(t, "ping", "-c", "1", "-I", x[0], x[1])
	}
	require.Positive(t, connections(t, "src="+home))
	require.Equal(t, 1, connections(t, "dst="+other))

	n, err := Host{}.Forget(t.Context(), []netip.Addr{netip.MustParseAddr(moves), netip.MustParseAddr(v6)})
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.Zero(t, connections(t, "src="+moves)+connections(t, "dst="+moves)+connections(t, "dst="+published))
	require.Equal(t, 1, connections(t, "dst="+other), "somebody else's connection")
	n, err = Host{}.Forget(t.Context(), []netip.Addr{netip.MustParseAddr(moves)})
	require.NoError(t, err)
	require.Zero(t, n)
}
