package topology_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestLookup(t *testing.T) {
	addr := netip.MustParseAddr
	names := func(node string, m map[string][]netip.Addr) topology.Names {
		return topology.Names{Network: "blue", Node: node, Names: m}
	}
	s := snapshot(blue, host(1), host(2),
		names("host1", map[string][]netip.Addr{
			"web": {addr("10.1.5.2"), addr("fd00:10:1:5::2")}, "bank": {addr("192.0.2.1")},
		}),
		names("host2", map[string][]netip.Addr{"web": {addr("10.1.6.9")}, "front": {addr("10.1.6.9")}}))

	got, found := s.Lookup("blue", "WEB.")
	require.True(t, found)
	require.Equal(t, []netip.Addr{addr("10.1.5.2"), addr("10.1.6.9"), addr("fd00:10:1:5::2")}, got, "of every node")
	for network, name := range map[string]string{"blue": "nobody", "red": "web"} {
		_, found = s.Lookup(network, name)
		require.False(t, found, name)
	}
	_, found = s.Lookup("blue", "bank")
	require.False(t, found, "an address of somebody else's")
	require.Equal(t, []string{"front", "web"}, s.LookupAddr("blue", addr("10.1.6.9")))
	require.Empty(t, s.LookupAddr("red", addr("10.1.6.9")))
}

func TestPublished(t *testing.T) {
	addr := netip.MustParseAddr
	names := func(node string, m map[string][]netip.Addr) topology.Names {
		return topology.Names{Network: "blue", Node: node, Names: m}
	}
	s := snapshot(blue, host(1), host(2),
		names("host10", map[string][]netip.Addr{"web": {addr("10.1.6.9"), addr("192.0.2.1")}, "bank": {addr("192.0.2.1")}}),
		names("host2", map[string][]netip.Addr{"web": {addr("fd00:10:1:5::2"), addr("10.1.5.2")}, "db": {addr("10.1.5.3")}}))
	require.Equal(t, []topology.Published{
		{Network: "blue", Name: "db", Node: "host2", Addrs: []netip.Addr{addr("10.1.5.3")}},
		{Network: "blue", Name: "web", Node: "host2", Addrs: []netip.Addr{addr("10.1.5.2"), addr("fd00:10:1:5::2")}},
		{Network: "blue", Name: "web", Node: "host10", Addrs: []netip.Addr{addr("10.1.6.9")}},
	}, s.Published("blue"), "what is not answered is not there")
	require.Empty(t, s.Published("red"))
}

func TestNameForms(t *testing.T) {
	for name, want := range map[string][]string{
		"Web.": {"web"}, "web.blue": {"web.blue", "web"}, "web.BLUE.": {"web.blue", "web"}, "blue": {"blue"},
		"web.red": {"web.red"},
	} {
		require.Equal(t, want, topology.NameForms("blue", name), name)
	}
}
