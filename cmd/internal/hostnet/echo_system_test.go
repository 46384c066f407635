//go:build system

package hostnet_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// The kernel answers, over both families, with what was sent; one that is larger
// than the link is refused, not cut in pieces.
func TestEcho(t *testing.T) {
	type reply struct {
		from    netip.Addr
		payload string
	}
	e := hostnet.NewEcho(4711)
	local := netip.MustParseAddr("127.0.0.1")
	require.ErrorIs(t, e.Send(local, nil), hostnet.ErrEchoClosed)
	replies, ended := make(chan reply, 100), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- e.Run(ctx, func(from netip.Addr, payload []byte) { replies <- reply{from, string(payload)} })
	}()
	testkit.IP(t, "link set lo mtu 1500")
	t.Cleanup(func() { testkit.IP(t, "link set lo mtu 65536") })
	for _, to := range []netip.Addr{local, netip.IPv6Loopback()} {
		testkit.Await(t, "the socket", func() (bool, string) {
			err := e.Send(to, []byte("hello"))
			return err == nil, "not sent"
		})
		select {
		case got := <-replies:
			require.Equal(t, reply{to, "hello"}, got)
		case <-time.After(testkit.Patience):
			require.Fail(t, "no reply", "%s", to)
		}
		require.ErrorIs(t, e.Send(to, make([]byte, 1500)), unix.EMSGSIZE)
	}
	cancel()
	require.NoError(t, <-ended)
	require.ErrorIs(t, e.Send(local, nil), hostnet.ErrEchoClosed)
}
