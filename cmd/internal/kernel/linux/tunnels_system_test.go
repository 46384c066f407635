//go:build system

package linux

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/kernelfake"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// Finding S5: a container that sends tunnelled packets to its own host from a peer's
// address is not heard, and counted; the peer is.
func TestForgedTunnelPackets(t *testing.T) {
	host(t)
	container := kernelfake.Ends[0] // the host's end of it
	testkit.IP(t, "link set "+container+" up")
	testkit.IP(t, "address add 198.51.100.1/24 dev "+container)
	for _, dev := range []string{"all", container, kernelfake.Underlay} { // as loose as it may be
		testkit.Run(t, "sysctl", "-qw", "net.ipv4.conf."+dev+".rp_filter=0")
	}
	const port = 4789
	settle(t, kernel.State{Firewall: kernel.Firewall{Tunnels: []kernel.TunnelPort{{}, {UDP: port}}}})
	own := kernelfake.UnderlayAddrs[0].Addr()
	require.True(t, own.Is4())
	peer := own.Next()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, port)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })

	send := func(dev string, to uint16, text string) {
		t.Helper()
		link, err := net.InterfaceByName(dev)
		require.NoError(t, err)
		source := testkit.MAC(t, "02:00:00:00:00:99")
		s := testkit.Listen(t, nil, "x-"+dev)
		s.Send(t, testkit.IPv4Of(link.HardwareAddr, source, peer.AsSlice(), own.AsSlice(), 17, testkit.UDP(9, to, []byte(text))))
		s.Close()
	}
	receive := func() string {
		t.Helper()
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(testkit.Patience)))
		b := make([]byte, 1500)
		n, _, err := conn.ReadFrom(b)
		require.NoError(t, err)
		return string(b[:n])
	}
	const each = 3
	for range each {
		send(container, port, "forged")
	}
	send(kernelfake.Underlay, port, "from the peer")
	require.Equal(t, "from the peer", receive(), "and nothing before it")
	require.EqualValues(t, each, observe(t).TunnelDrops)

	// Without the rules it would be heard: the test shows what they do.
	settle(t, kernel.State{})
	send(container, port, "forged")
	require.Equal(t, "forged", receive())
}
