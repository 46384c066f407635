//go:build system

package hostnet

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func routedSpec(t *testing.T, ns string) RoutedSpec {
	return RoutedSpec{
		Netns: ns, Ifname: "eth0", HostIfname: RoutedIfname("pods/" + ns), MAC: mac(t, "02:42:0a:f4:01:02"), MTU: 1450,
		Addrs: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:244:1::2")}, Alias: "pods " + ns,
	}
}

// A container that is routed by this host reaches it, and is reached, by both families at
// once; nothing else is on its link.
func TestAttachRouted(t *testing.T) {
	ns := newNetns(t)
	output(t, ns, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	for _, own := range []string{"198.51.100.1/32", "fd00::1/128"} {
		mustIP(t, "address add "+own+" dev lo")
		t.Cleanup(func() { mustIP(t, "address delete "+own+" dev lo") })
	}
	s := routedSpec(t, ns)
	for range 2 { // may be repeated
		require.NoError(t, AttachRouted(t.Context(), s))
	}
	t.Cleanup(func() { assert.NoError(t, Detach(context.Background(), s.HostIfname)) })

	assert.Contains(t, output(t, ns, "ip address show dev eth0"), "inet 10.244.1.2/32 scope global")
	assert.Equal(t, "default via 169.254.186.1 dev eth0 \n169.254.186.1 dev eth0 scope link \n", output(t, ns, "ip -4 route"))
	assert.Contains(t, output(t, ns, "ip -6 route"), "default via fe80::ba:1 dev eth0")
	assert.Contains(t, output(t, "", "ip route"), "10.244.1.2 dev "+s.HostIfname+" scope link")
	assert.Contains(t, output(t, "", "ip -6 route"), "fd00:244:1::2 dev "+s.HostIfname)
	for _, to := range []string{"10.244.1.2", "fd00:244:1::2"} {
		output(t, "", "ping -c 1 -W 5 "+to)
	}
	for _, to := range []string{"198.51.100.1", "fd00::1"} {
		output(t, ns, "ping -c 1 -W 5 "+to)
	}

	require.NoError(t, CheckRouted(s.HostIfname, s.Addrs))
	ends, err := Routed()
	require.NoError(t, err)
	assert.Equal(t, map[string]string{s.HostIfname: s.Alias}, ends)
	noVeths(t) // none that the agent would take for an endpoint's
	mustIP(t, "route delete 10.244.1.2")
	err = CheckRouted(s.HostIfname, s.Addrs)
	require.ErrorIs(t, err, topology.ErrNotFound)
	assert.ErrorContains(t, err, "10.244.1.2")
}

// What has the name already, and a default route by another interface, stay.
func TestAttachRoutedBeside(t *testing.T) {
	ns := newNetns(t)
	output(t, ns, "ip link add net0 type bridge")
	output(t, ns, "ip link set net0 up")
	output(t, ns, "ip address add 192.0.2.2/24 dev net0")
	output(t, ns, "ip route add default via 192.0.2.1")
	s := routedSpec(t, ns)
	s.Addrs = s.Addrs[:1]
	require.NoError(t, AttachRouted(t.Context(), s))
	t.Cleanup(func() { assert.NoError(t, Detach(context.Background(), s.HostIfname)) })
	assert.Contains(t, output(t, ns, "ip -4 route"), "default via 192.0.2.1 dev net0")

	other := s
	other.Ifname = "eth1"
	require.ErrorIs(t, AttachRouted(t.Context(), other), topology.ErrExists)
	require.NoError(t, Detach(t.Context(), s.HostIfname))
	require.ErrorIs(t, CheckRouted(s.HostIfname, s.Addrs), topology.ErrNotFound)
}
