//go:build system

package domaintest

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// Finding S5, with the userspace datapath: a container that sends tunnelled packets to its
// own host from a peer's address is not heard. The same packet is, where the peer sends it.
func testForgedTunnel(d *domain) {
	d.Must("host1", "sh", "-ec", `
ip netns add evil
ip link add evil type veth peer name eth0 netns evil
ip link set evil up
ip addr add 10.98.0.1/24 dev evil
ip -n evil addr add 10.98.0.2/24 dev eth0
ip -n evil link set eth0 up
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.evil.rp_filter=0`)
	d.T.Cleanup(func() { _, _ = d.Run("host1", "ip", "netns", "del", "evil") })
	mac := func(host, device string) net.HardwareAddr {
		d.T.Helper()
		return testkit.MAC(d.T, strings.TrimSpace(d.Must(host, "cat", "/sys/class/net/"+device+"/address")))
	}
	from, to := d.Endpoint("host2/c1"), d.Endpoint("host1/c1")
	peer, own := netip.MustParseAddr("192.168.77.12"), netip.MustParseAddr("192.168.77.11")
	packet := func(dst, src net.HardwareAddr, mark string) []byte {
		vni := []byte{8, 0, 0, 0, 0, 0, 100, 0}
		inner := testkit.Frame(testkit.MAC(d.T, to.MAC), testkit.MAC(d.T, from.MAC), testkit.OtherExperimental, []byte(mark))
		return testkit.IPv4Of(dst, src, peer.AsSlice(), own.AsSlice(), 17, testkit.UDP(40000, 4789, append(vni, inner...)))
	}
	inside := d.Inside(to)
	evil, wire := d.Listen(d.Netns("host1/evil"), "eth0"), d.Listen(d.Netns("host2"), "eth0")
	const each = 5
	for range each {
		evil.Send(d.T, packet(mac("host1", "evil"), testkit.MAC(d.T, "02:00:00:00:00:99"), "forged tunnel."))
	}
	d.Await("the kernel has had them", func() (bool, string) {
		out := d.Must("host1", "cat", "/sys/class/net/evil/statistics/rx_packets")
		n, err := strconv.Atoi(strings.TrimSpace(out))
		return err == nil && n >= each, out
	})
	d.Await("the peer's own packet arrives", func() (bool, string) {
		wire.Send(d.T, packet(mac("host1", "br-phy"), mac("host2", "br-phy"), "peer's tunnel."))
		n := inside.Count([]byte("peer's tunnel."))
		return n > 0, fmt.Sprint(n)
	})
	require.Zero(d.T, inside.Count([]byte("forged tunnel.")))
}
