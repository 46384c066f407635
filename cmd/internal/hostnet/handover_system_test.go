//go:build system

package hostnet

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The life of a pair as Docker moves its end.
func TestPairIsHandedOver(t *testing.T) {
	ns := newNetns(t)
	s := PairSpec{
		HostIfname:      HostIfname("blue/handed-over"),
		MAC:             mac(t, "02:42:0a:01:05:02"),
		MTU:             1450,
		HostIngressDrop: true,
	}
	peer := PeerIfname(s.HostIfname)
	require.NoError(t, MakePair(t.Context(), s))
	t.Cleanup(func() { assert.NoError(t, Detach(context.Background(), s.HostIfname)) })
	first := output(t, "", "ip -o link show "+s.HostIfname)
	require.NoError(t, MakePair(t.Context(), s), "one that nobody took over is replaced")
	assert.NotEqual(t, first, output(t, "", "ip -o link show "+s.HostIfname))
	link := output(t, "", "ip -d link show "+peer)
	assert.Contains(t, link, "02:42:0a:01:05:02")
	assert.Contains(t, link, "mtu 1450")
	assert.Contains(t, link, "state DOWN")
	assert.NotContains(t, link, "NOARP", "the container's end answers ARP")
	assert.Contains(t, output(t, "", "ip link show "+s.HostIfname), "NOARP")
	abandoned, err := Abandoned(s.HostIfname)
	require.NoError(t, err)
	assert.True(t, abandoned)

	addrs := []netip.Addr{netip.MustParseAddr("10.1.5.2"), netip.MustParseAddr("fd00:1:5::2")}
	short, cancel := context.WithTimeout(t.Context(), 3*pollLink)
	defer cancel()
	_, err = AwaitLink(short, ns, s.MAC, addrs)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	mustIP(t, "link set "+peer+" netns "+ns)
	abandoned, err = Abandoned(s.HostIfname)
	require.NoError(t, err)
	assert.False(t, abandoned)
	mustIP(t, "-n "+ns+" link set "+peer+" name eth1")
	mustIP(t, "-n "+ns+" addr add 10.1.5.2/16 dev eth1")
	mustIP(t, "-n "+ns+" addr add fd00:1:5::2/32 dev eth1 nodad")
	mustIP(t, "-n "+ns+" link set eth1 up")
	long, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	name, err := AwaitLink(long, ns, s.MAC, addrs)
	require.NoError(t, err)
	assert.Equal(t, "eth1", name)
	assert.Contains(t, output(t, ns, "ethtool -k eth1"), "tx-checksumming: off", "it stays off on the way")
	require.NoError(t, Announce(t.Context(), ns, name, s.MAC, addrs))
	testLowerMTU(t, s, ns)
}

// Row B9: the network's MTU became smaller while the endpoint runs. It is never raised,
// and IPv6 is not lost.
func testLowerMTU(t *testing.T, s PairSpec, ns string) {
	for _, c := range []struct{ mtu, was, now int }{{1450, 0, 1450}, {1350, 1450, 1350}, {1350, 0, 1350}, {1450, 0, 1350}} {
		was, err := LowerMTU(s.HostIfname, ns, s.MAC, c.mtu)
		require.NoError(t, err)
		assert.Equal(t, c.was, was)
		for _, show := range []string{output(t, ns, "ip link show eth1"), output(t, "", "ip link show "+s.HostIfname)} {
			assert.Contains(t, show, fmt.Sprintf("mtu %d ", c.now))
		}
	}
	assert.Contains(t, output(t, ns, "ip addr show eth1"), "fd00:1:5::2")
	was, err := LowerMTU(s.HostIfname, ns, s.MAC, 1279)
	require.ErrorContains(t, err, "IPv6")
	assert.Equal(t, 1350, was)
	_, err = LowerMTU(s.HostIfname, ns, mac(t, "02:42:0a:01:05:03"), 1300)
	require.ErrorContains(t, err, "no interface")
	assert.Contains(t, output(t, ns, "ip link show eth1"), "mtu 1350 ")
	was, err = LowerMTU("bznothing", ns, s.MAC, 1300)
	require.NoError(t, err)
	assert.Zero(t, was)
}

func TestPairOfNobody(t *testing.T) {
	abandoned, err := Abandoned("bznothing")
	require.NoError(t, err)
	assert.False(t, abandoned)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = AwaitLink(short, "/run/netns/no-such", mac(t, "02:42:0a:01:05:02"), nil)
	require.ErrorIs(t, err, context.DeadlineExceeded, "it may still be made")
	require.Error(t, MakePair(t.Context(), PairSpec{HostIfname: "bz1", MAC: mac(t, "02:42:0a:01:05:02"), MTU: 10}))
	noVeths(t)
}

// Row 11: checksums are to be finished from the first packet on. The container's end has
// its offload switched off before anybody can move it, also where it is moved at once, and
// a device that is not there is an error rather than nothing to do.
func TestChecksumOffloadIsOffFirst(t *testing.T) {
	ns := newNetns(t)
	s := PairSpec{HostIfname: HostIfname("blue/offload"), MAC: mac(t, "02:42:0a:01:05:09"), MTU: 1450}
	for range 20 {
		require.NoError(t, MakePair(t.Context(), s))
		mustIP(t, "link set "+PeerIfname(s.HostIfname)+" netns "+ns+" name eth0 up")
		require.Contains(t, output(t, ns, "ethtool -k eth0"), "tx-checksumming: off")
		require.NoError(t, Detach(context.Background(), s.HostIfname))
	}
	require.Error(t, checksumOff("bznothing"))
}
