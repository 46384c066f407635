//go:build system

package linux

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// What is inside a namespace is read there: its interface, its routes, its rules.
func TestInside(t *testing.T) {
	mac, err := net.ParseMAC("02:42:0a:01:05:02")
	require.NoError(t, err)
	testkit.IP(t, "netns add inside")
	t.Cleanup(func() { testkit.IP(t, "netns del inside") })
	do := func(args ...string) { testkit.Run(t, append([]string{"ip", "netns", "exec", "inside"}, args...)...) }
	testkit.IP(t, "-n inside link add eth7 address 02:42:0a:01:05:02 type veth peer name other")
	testkit.IP(t, "-n inside link set eth7 up")
	testkit.IP(t, "-n inside link set other up")
	testkit.IP(t, "-n inside address add 10.1.5.2/16 dev eth7")
	testkit.IP(t, "-n inside route add blackhole 10.1.6.0/24")

	// NAT, as a container's name server has it, filters nothing.
	do("nft", "add table ip names; add chain ip names out { type nat hook output priority 0; }")
	in, err := Host{}.Inside(t.Context(), "inside", mac)
	require.NoError(t, err)
	require.Equal(t, "eth7", in.Ifname)
	require.Equal(t, kernel.Way{Dev: "eth7"}, in.Way(netip.MustParseAddr("10.1.7.2")))
	require.ErrorIs(t, in.Way(netip.MustParseAddr("10.1.6.2")).Err, unix.EINVAL)
	require.Empty(t, in.Ruleset)

	do("nft", "add table ip own; add chain ip own in { type filter hook input priority 0; }")
	in, err = Host{}.Inside(t.Context(), "inside", mac)
	require.NoError(t, err)
	require.Contains(t, string(in.Ruleset), `"name": "own"`)

	in, err = Host{}.Inside(t.Context(), "inside", net.HardwareAddr{2, 0, 0, 0, 0, 1})
	require.NoError(t, err)
	require.Empty(t, in.Ifname)
	_, err = Host{}.Inside(t.Context(), "nowhere", mac)
	require.Error(t, err)
}
