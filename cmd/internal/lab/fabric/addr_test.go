package fabric

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/lab/member"
)

func TestAddresses(t *testing.T) {
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("192.168.77.1/24"), netip.MustParsePrefix("fd77::1/64")}, Addrs())
	assert.Equal(
		t, []netip.Prefix{netip.MustParsePrefix("192.168.77.11/24"), netip.MustParsePrefix("fd77::11/64")}, HostAddrs(1, 1),
	)
	assert.Equal(
		t, []netip.Prefix{netip.MustParsePrefix("192.168.77.254/24"), netip.MustParsePrefix("fd77::254/64")},
		HostAddrs(member.MaxHosts, 1),
	)
	assert.Equal(t, "02:ba:c0:a8:4d:0b", hostMAC(1).String())
	assert.Equal(t, "http://192.168.77.1:2379", EtcdURL(false))
	assert.Equal(t, "http://[fd77::1]:2379", EtcdURL(true))
	seen := map[string]bool{}
	for n := 1; n <= member.MaxHosts; n++ {
		for _, a := range HostAddrs(n, 1) {
			assert.False(t, seen[a.String()], a)
			seen[a.String()] = true
		}
	}
	for n, want := range map[int]string{
		1: "[192.168.77.11/24 fd77::11/64]", 2: "[192.168.78.12/24 fd78::12/64]", 3: "[192.168.77.13/24 fd77::13/64]",
	} {
		assert.Equal(t, want, fmt.Sprint(HostAddrs(n, 2)), "hosts take turns in the segments")
	}
	assert.Equal(t, "[192.168.78.2/24 fd78::2/64]", fmt.Sprint(RouterAddrs(1)))
}

func TestEtcHosts(t *testing.T) {
	got := string(EtcHosts([]string{"host1", "host3"}, 1))
	assert.Contains(t, got, "192.168.77.13\thost3\nfd77::13\thost3\n")
	assert.Contains(t, got, "192.168.77.1\tfabric\n")
	assert.NotContains(t, got, "host2")
}
