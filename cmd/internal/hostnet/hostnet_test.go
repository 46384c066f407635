package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

func mac(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	require.NoError(t, err)
	return m
}

func TestHostIfname(t *testing.T) {
	name := HostIfname("blue/c1")
	assert.Regexp(t, regexp.MustCompile(`^bz[0-9a-f]{11}$`), name)
	assert.True(t, ValidIfname(name))
	assert.Equal(t, name, HostIfname("blue/c1"), "the same key gives the same name")
	assert.NotEqual(t, name, HostIfname("red/c1"))
}

func TestIdentity(t *testing.T) {
	id, err := BootID()
	require.NoError(t, err)
	assert.Regexp(t, `^[0-9a-f-]{36}$`, id)
	name, err := Hostname()
	require.NoError(t, err)
	assert.NotEmpty(t, name)
}

func TestValidIfname(t *testing.T) {
	for name, want := range map[string]bool{
		"eth0": true, "a": true, "fifteen-letters": true, "vx.1@2": true,
		"": false, ".": false, "..": false, "sixteen-letters-": false, "a b": false, "a/b": false, "a:b": false, "a\n": false,
		"a\x7f": false,
	} {
		assert.Equal(t, want, ValidIfname(name), "%q", name)
	}
}

func TestSpecCheck(t *testing.T) {
	good := AttachSpec{
		Netns: "c1", Ifname: "eth0", HostIfname: "bz1", MAC: mac(t, "02:42:0a:01:05:02"), MTU: 1450,
		Addrs:    []netip.Prefix{netip.MustParsePrefix("10.1.5.2/16"), netip.MustParsePrefix("fd00::5:2/64")},
		Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00::1")},
	}
	require.NoError(t, good.check())
	for name, tc := range map[string]struct {
		change func(*AttachSpec)
		want   string
	}{
		"long ifname":    {func(s *AttachSpec) { s.Ifname = "an-interface-too-long" }, `"an-interface-too-long"`},
		"no host ifname": {func(s *AttachSpec) { s.HostIfname = "" }, `interface name ""`},
		"no MAC":         {func(s *AttachSpec) { s.MAC = nil }, "Ethernet address"},
		"multicast MAC":  {func(s *AttachSpec) { s.MAC = mac(t, "33:33:00:00:00:01") }, "multicast"},
		"zero address":   {func(s *AttachSpec) { s.Addrs = append(s.Addrs, netip.Prefix{}) }, "address is not valid"},
		"two gateways": {
			func(s *AttachSpec) { s.Gateways = append(s.Gateways, netip.MustParseAddr("10.1.0.2")) }, "10.1.0.2",
		},
		"gateway outside":  {func(s *AttachSpec) { s.Gateways = []netip.Addr{netip.MustParseAddr("10.2.0.1")} }, "10.2.0.1"},
		"MTU too small":    {func(s *AttachSpec) { s.MTU = 60 }, "MTU 60"},
		"MTU not given":    {func(s *AttachSpec) { s.MTU = 0 }, "MTU 0"},
		"MTU beyond IPv4s": {func(s *AttachSpec) { s.MTU = 65536 }, "MTU 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			s := good
			tc.change(&s)
			err := Attach(t.Context(), s)
			require.ErrorIs(t, err, topology.ErrInvalid)
			assert.ErrorContains(t, err, tc.want)
		})
	}
}

func TestNetnsErrors(t *testing.T) {
	never := func() error { t.Error("the function was called"); return nil }
	missing := "bzt-there-is-none"
	assert.Equal(t, "/run/netns/"+missing, NetnsPath(missing))
	assert.Equal(t, "/proc/1/ns/net", NetnsPath("/proc/1/ns/net"))

	err := InNetns(missing, never)
	require.ErrorIs(t, err, topology.ErrNotFound)
	assert.ErrorContains(t, err, missing)
	require.ErrorIs(t, InNetns("", never), topology.ErrInvalid)
	require.ErrorIs(t, InNetns(filepath.Join(t.TempDir(), "ns"), never), topology.ErrNotFound)
	require.ErrorIs(t, InNetns("/proc/self/status", never), topology.ErrInvalid)
	require.ErrorIs(t, InNetns("/proc/self/ns/uts", never), topology.ErrInvalid, "a namespace, but of another type")
}

func TestFailed(t *testing.T) {
	require.NoError(t, failed("x", "doing", nil))
	require.ErrorIs(t, failed("x", "doing", unix.EPERM), topology.ErrUnavailable)
	assert.ErrorContains(t, failed("x", "doing", unix.EPERM), "run as root")
	require.ErrorIs(t, failed("x", "doing", unix.EEXIST), topology.ErrExists)
	require.ErrorIs(t, failed("x", "doing", unix.ENODEV), topology.ErrNotFound)
	require.ErrorIs(t, failed("x", "doing", netlink.LinkNotFoundError{}), topology.ErrNotFound)
	require.ErrorIs(t, failed("x", "doing", unix.EINVAL), unix.EINVAL)
	known := &topology.Error{Kind: topology.ErrFull, Item: "y"}
	assert.Equal(t, error(known), failed("x", "doing", known), "an error for people is not wrapped again")
}

func TestARPAnnouncement(t *testing.T) {
	f := arpAnnouncement(mac(t, "02:42:0a:01:05:02"), netip.MustParseAddr("10.1.5.2"))
	want := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x42, 0x0a, 0x01, 0x05, 0x02, 0x08, 0x06,
		0, 1, 8, 0, 6, 4, 0, 1,
		0x02, 0x42, 0x0a, 0x01, 0x05, 0x02, 10, 1, 5, 2,
		0, 0, 0, 0, 0, 0, 10, 1, 5, 2,
	}
	assert.Equal(t, want, f[:42])
	assert.Len(t, f, 60)
}

func TestNeighbourAdvertisement(t *testing.T) {
	src := netip.MustParseAddr("fd00:1::5")
	f := neighbourAdvertisement(mac(t, "02:42:0a:01:05:02"), src)
	require.Len(t, f, 14+40+32)
	assert.Equal(t, "33:33:00:00:00:01", net.HardwareAddr(f[:6]).String())
	assert.Equal(t, byte(255), f[14+7], "hop limit")
	assert.Equal(t, []byte{0x20, 0, 0, 0}, f[54+4:54+8], "override and nothing else")
	assert.Equal(t, src.AsSlice(), f[54+8:54+24])
	// A checksum over what carries its own checksum is zero.
	assert.Zero(t, icmp6Checksum(src.As16(), netip.MustParseAddr("ff02::1").As16(), f[54:]))
}

func TestDatapath(t *testing.T) {
	yes, no := func() bool { return true }, func() bool { return false }
	refused := errors.New("no such module")
	loaded := func() error { return nil }
	for name, tc := range map[string]struct {
		have func() bool
		load func() error
		want bool
	}{
		"there already":         {yes, func() error { t.Error("loaded for nothing"); return nil }, true},
		"no module":             {no, func() error { return refused }, false},
		"loaded, but no family": {no, loaded, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := datapath(tc.have, tc.load)
			assert.Equal(t, tc.want, got)
			assert.Equal(t, tc.want, err == nil, "a reason wherever there is none")
		})
	}
	t.Run("loaded", func(t *testing.T) {
		calls := 0
		got, err := datapath(func() bool { calls++; return calls > 1 }, loaded)
		require.NoError(t, err)
		assert.True(t, got)
	})
}

func TestWatchLinksEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{}, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- WatchLinks(ctx, func() { started <- struct{}{} })
	}()
	<-started // once at the start, whatever happens
	cancel()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, context.Canceled)
	case <-time.After(5 * time.Second):
		t.Fatal("WatchLinks did not end with its context")
	}
}
