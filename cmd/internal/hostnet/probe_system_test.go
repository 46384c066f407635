//go:build system

package hostnet

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Finding U2: somebody behind a port may have an address that nobody gave it.
func TestProbeAddress(t *testing.T) {
	ns := newNetns(t)
	s := spec(t, ns)
	s.Gateways, s.HostIngressDrop = nil, true
	attach(t, s)
	devices := []string{"bzgone", s.HostIfname}
	mustIP(t, "-n "+ns+" addr add 10.1.5.77/32 dev eth0")
	mustIP(t, "-n "+ns+" addr add fd00:1:5::4d/128 dev eth0 nodad")

	for _, a := range []string{"10.1.5.77", "fd00:1:5::4d"} {
		start := time.Now()
		found, err := ProbeAddress(t.Context(), devices, netip.MustParseAddr(a))
		require.NoError(t, err)
		require.NotNil(t, found, a)
		assert.Equal(t, Occupant{s.HostIfname, s.MAC}, *found)
		t.Logf("%s answers within %v", a, time.Since(start))
	}
	for _, a := range []string{"10.1.5.78", "fd00:1:5::4e"} {
		found, err := ProbeAddress(t.Context(), devices, netip.MustParseAddr(a))
		require.NoError(t, err)
		assert.Nil(t, found, a)
	}
	assert.NotContains(t, output(t, ns, "ip neigh show"), "10.1.5.77", "no cache learns from a probe")
	found, err := ProbeAddress(t.Context(), nil, netip.MustParseAddr("10.1.5.77"))
	require.NoError(t, err)
	assert.Nil(t, found)
}
