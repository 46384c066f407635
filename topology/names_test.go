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

// Finding U12: the dead are left out, unless there is nobody else.
func TestLookupLeavesOutTheDead(t *testing.T) {
	first, second := netip.MustParseAddr("10.1.5.2"), netip.MustParseAddr("10.1.6.9")
	records := []topology.Record{
		blue, host(1), host(2),
		topology.Names{Network: "blue", Node: "host1", Names: map[string][]netip.Addr{"web": {first}}},
		topology.Names{Network: "blue", Node: "host2", Names: map[string][]netip.Addr{"web": {second}}},
	}
	lookup := func(alive ...string) []netip.Addr {
		all := records
		for _, node := range alive {
			all = append(all[:len(all):len(all)], topology.Liveness{Node: node, ID: node})
		}
		addrs, found := snapshot(all...).Lookup("blue", "web")
		require.True(t, found)
		return addrs
	}
	require.Equal(t, []netip.Addr{first, second}, lookup("host1", "host2"))
	require.Equal(t, []netip.Addr{second}, lookup("host2"))
	require.Equal(t, []netip.Addr{first, second}, lookup())
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
		"web.red":                      {"web.red"},
		"web.baize.internal":           {"web.baize.internal", "web"},
		"Web.Blue.baize.internal.":     {"web.blue.baize.internal", "web.blue", "web"},
		"all.web.blue.baize.internal.": {"all.web.blue.baize.internal", "all.web.blue", "web.blue", "all.web", "web"},
		"baize.internal":               {"baize.internal"},
	} {
		require.Equal(t, want, topology.NameForms("blue", name), name)
	}
}
