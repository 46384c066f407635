package names

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
)

func TestNamesOf(t *testing.T) {
	a := netip.MustParseAddr
	container := func(id, network string, ips ...netip.Addr) ovs.Endpoint {
		return ovs.Endpoint{
			Name:    "docker-" + id,
			Network: network,
			IPs:     ips,
			Labels:  map[string]string{"docker-endpoint": id},
		}
	}
	got := namesOf([]ovs.Endpoint{
		container("1", "blue", a("10.1.5.2"), a("fd00:10:1:5::2")),
		container("2", "blue", a("10.1.5.3")),
		container("3", "red", a("10.2.5.2")),
		container("4", "blue", a("10.1.5.4")), // the engine has not said yet
		{Name: "by-hand", Network: "blue", IPs: []netip.Addr{a("10.1.5.5")}},
		{Name: "cni", Network: "red", IPs: []netip.Addr{a("10.2.5.6")}, Labels: map[string]string{"aliases": "db,Pod"}},
	}, map[string][]string{"1": {"Web", "front"}, "2": {"db", "front"}, "3": {"db"}}, "docker-endpoint")
	require.Equal(t, map[string]map[string][]netip.Addr{
		"blue": {
			"web":   {a("10.1.5.2"), a("fd00:10:1:5::2")},
			"db":    {a("10.1.5.3")},
			"front": {a("10.1.5.2"), a("10.1.5.3"), a("fd00:10:1:5::2")},
		},
		"red": {"db": {a("10.2.5.2"), a("10.2.5.6")}, "pod": {a("10.2.5.6")}},
	}, got)
}
