//go:build system

package hostnet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestVTEP(t *testing.T) {
	_, err := VTEP("", addrs("127.0.0.1", "192.168.77.1"))
	require.ErrorIs(t, err, topology.ErrNotFound, "a host with no network at all")
	assert.ErrorContains(t, err, "--vtep")
	assert.ErrorContains(t, err, "192.168.77.1")

	for _, c := range []string{
		"link add bzt0 mtu 9000 type veth peer name bzt0p",
		"link set bzt0 up",
		"address add 192.168.77.11/24 dev bzt0",
		"address add 192.168.77.12/24 dev bzt0",
		"address add fd77::dead/64 dev bzt0 nodad preferred_lft 0",
		"address add fd77::11/64 dev bzt0 nodad",
		"link add bzt1 type bridge",
		"link set bzt1 up",
		"address add 198.51.100.2/24 dev bzt1",
		"link add bzt2 type bridge",
		"link set bzt2 up",
		"address add 203.0.113.9/32 dev lo",
	} {
		mustIP(t, c)
	}
	t.Cleanup(func() {
		for _, c := range []string{
			"link delete bzt0", "link delete bzt1", "link delete bzt2", "address delete 203.0.113.9/32 dev lo",
		} {
			assert.NoError(t, ip(c))
		}
	})

	check := func(name, hint string, reach []netip.Addr, ifname string, mtu int, want ...string) {
		t.Helper()
		u, err := VTEP(hint, reach)
		require.NoError(t, err, name)
		assert.Equal(t, ifname, u.Interface, name)
		assert.Equal(t, addrs(want...), u.Addrs, name)
		assert.Equal(t, mtu, u.MTU, name)
		assert.Len(t, u.MAC, 6, name)
	}
	refused := func(name, hint string, want string) {
		t.Helper()
		_, err := VTEP(hint, nil)
		require.ErrorIs(t, err, topology.ErrNotFound, name)
		assert.ErrorContains(t, err, want, name)
		assert.ErrorContains(t, err, "--vtep", name)
	}
	check("towards etcd", "", addrs("127.0.0.1", "::1", "192.168.77.1"), "bzt0", 9000, "192.168.77.11", "fd77::11")
	check("towards etcd by IPv6", "", addrs("fd77::1"), "bzt0", 9000, "fd77::11", "192.168.77.11")
	check("the first endpoint has no route", "", addrs("100.64.0.1", "198.51.100.1"), "bzt1", 1500, "198.51.100.2")
	check("etcd on this very host", "", addrs("192.168.77.11"), "bzt0", 9000, "192.168.77.11", "fd77::11")
	check("an interface", "bzt0", nil, "bzt0", 9000, "192.168.77.11", "fd77::11")
	check("an address", "192.168.77.12", nil, "bzt0", 9000, "192.168.77.12")
	check("an IPv6 address", "fd77::11", addrs("198.51.100.1"), "bzt0", 9000, "fd77::11")
	refused("a foreign address", "192.168.77.99", "192.168.77.99")
	refused("no such interface", "eth9", "eth9")
	refused("an interface without addresses", "bzt2", "bzt2")
	refused("loopback", "127.0.0.1", "127.0.0.1")
	refused("no route at all", "", "default route")

	mustIP(t, "route add default via 198.51.100.1 metric 50")
	mustIP(t, "route add default via 192.168.77.1 metric 100 src 192.168.77.12")
	check("the default route of lowest metric", "", nil, "bzt1", 1500, "198.51.100.2")
	check("only loopback endpoints", "", addrs("127.0.0.1", "::1"), "bzt1", 1500, "198.51.100.2")
	check("an address on lo leaves by the default route", "203.0.113.9", nil, "bzt1", 1500, "203.0.113.9")
	mustIP(t, "route delete default metric 50")
	check("the source the route prescribes", "", nil, "bzt0", 9000, "192.168.77.12", "fd77::11")
}
