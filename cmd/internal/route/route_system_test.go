//go:build system

package route

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology/fault"
)

// host makes the test's thread a host of its own with one device.
func host(t *testing.T) {
	t.Helper()
	require.Zero(t, os.Geteuid(), "these tests need root: run them with sudo, or without -tags system")
	runtime.LockOSThread()
	home, err := netns.Get()
	require.NoError(t, err)
	ns, err := netns.New()
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, netns.Set(home))
		ns.Close()
		home.Close()
		runtime.UnlockOSThread()
	})
	for _, c := range []string{
		"link set lo up", "link add eth0 type veth peer name far", "link set eth0 up", "link set far up",
		"address add 192.0.2.1/24 dev eth0", "address add 2001:db8::1/64 dev eth0 nodad", "address add 10.1.3.1/32 dev eth0",
	} {
		ip(t, c)
	}
}

func ip(t *testing.T, args string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput()
	require.NoErrorf(t, err, "ip %s: %s", args, out)
	return string(out)
}

// sync observes, compares and applies.
func sync(want []Route) (Change, []fault.Fault, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Change{}, nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return Change{}, nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	have, err := Read(h, names)
	if err != nil {
		return Change{}, nil, err
	}
	c, problems := Diff(want, have)
	for _, r := range c.Add {
		err = errors.Join(err, Add(h, r))
	}
	for _, r := range c.Replace {
		err = errors.Join(err, Replace(h, r))
	}
	for _, r := range c.Remove {
		err = errors.Join(err, Remove(h, r))
	}
	return c, problems, err
}

func TestKernel(t *testing.T) {
	host(t)
	local := Route{Prefix: netip.MustParsePrefix("10.1.3.0/24"), Dev: "eth0", Src: netip.MustParseAddr("10.1.3.1")}
	want := []Route{
		local,
		via("10.1.5.0/24", "192.0.2.5"),
		via("10.1.5.9/32", "192.0.2.9"),
		via("fd00:1:5::/64", "2001:db8::5"),
		via("fd00:1:5::9/128", "2001:db8::9"),
		{
			Prefix:      netip.MustParsePrefix("10.1.0.0/16"),
			Unreachable: true,
		},
		{Prefix: netip.MustParsePrefix("fd00:1::/48"), Unreachable: true},
	}
	ip(t, "route add 10.1.6.0/24 via 192.0.2.66") // somebody's
	ip(t, "route add unreachable 10.99.0.0/16 proto 186")
	foreign := func() string {
		var out []string
		for _, family := range []string{"-4", "-6"} {
			for line := range strings.Lines(ip(t, family+" route show")) {
				if !strings.Contains(line, "proto 173") {
					out = append(out, line)
				}
			}
		}
		return strings.Join(out, "")
	}
	before := foreign()
	settle := func(want []Route) {
		t.Helper()
		_, problems, err := sync(want)
		require.NoError(t, err)
		require.Empty(t, problems)
		c, _, err := sync(want)
		require.NoError(t, err)
		require.True(t, c.Empty(), "not read back as it was written: %v", c)
		require.Equal(t, before, foreign())
	}
	settle(want)
	require.Contains(t, ip(t, "-4 route show proto 173"), "10.1.5.0/24 via 192.0.2.5 dev eth0")

	// Another next hop, unreachable to reachable and back, in place.
	moved := append([]Route(nil), want...)
	moved[1], moved[3] = via("10.1.5.0/24", "192.0.2.9"), via("fd00:1:5::/64", "2001:db8::9")
	settle(moved)
	moved[5], moved[6] = via("10.1.0.0/16", "192.0.2.9"), via("fd00:1::/48", "2001:db8::9")
	settle(moved)
	settle(want)

	// Deleted or changed by hand.
	ip(t, "route del 10.1.5.0/24")
	ip(t, "-6 route flush proto 173")
	c, _, err := sync(want)
	require.NoError(t, err)
	require.Len(t, c.Add, 4)
	settle(want)

	// A foreign route stands where we want one.
	c, problems, err := sync(append(want, via("10.1.6.0/24", "192.0.2.5")))
	require.NoError(t, err)
	require.True(t, c.Empty())
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].What, "192.0.2.66")

	c, _, err = sync(nil)
	require.NoError(t, err)
	require.Len(t, c.Remove, len(want))
	require.Equal(t, before, foreign())
	require.Empty(t, ip(t, "route show proto 173")+ip(t, "-6 route show proto 173"))
}
