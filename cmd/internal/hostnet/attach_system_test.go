//go:build system

package hostnet

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

func spec(t *testing.T, ns string) AttachSpec {
	return AttachSpec{
		Netns: ns, Ifname: "eth0", HostIfname: HostIfname("blue/" + ns), MAC: mac(t, "02:42:0a:01:05:02"), MTU: 1450,
		Addrs:           []netip.Prefix{netip.MustParsePrefix("10.1.5.2/16"), netip.MustParsePrefix("fd00:1:5::2/32")},
		Gateways:        []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00:1::1")},
		ChecksumOffload: true,
	}
}

// attach attaches for the length of a test.
func attach(t *testing.T, s AttachSpec) {
	t.Helper()
	require.NoError(t, Attach(t.Context(), s))
	t.Cleanup(func() { assert.NoError(t, Detach(context.Background(), s.HostIfname)) })
}

// Who watches links attaches again at every message: what is attached already must
// cause none.
func TestAttachAgainIsSilent(t *testing.T) {
	mustIP(t, "link add br-silent type bridge")
	t.Cleanup(func() { mustIP(t, "link delete br-silent") })
	mustIP(t, "link set br-silent up")
	endpoint := spec(t, newNetns(t))
	port := AttachSpec{
		Netns: "/proc/thread-self/ns/net", Ifname: "silent", HostIfname: HostIfname("segment/silent"),
		MAC: mac(t, "fa:ba:0a:01:05:02"), MTU: 1450, Bridge: "br-silent",
	}
	attach(t, endpoint)
	attach(t, port)

	heard, stop := make(chan netlink.LinkUpdate, 100), make(chan struct{})
	defer close(stop)
	require.NoError(t, netlink.LinkSubscribe(heard, stop))
	const times = 20
	for range times {
		require.NoError(t, Attach(t.Context(), endpoint))
		require.NoError(t, Attach(t.Context(), port))
	}
	mustIP(t, "link set br-silent alias last") // a message that surely comes
	told := map[string]int{}
	patience := time.After(testkit.Patience)
	for {
		select {
		case u := <-heard:
			told[u.Attrs().Name]++
			if u.Attrs().Alias != "last" {
				continue
			}
			// The kernel tells of a new link's carrier later than of the link, a few times at most.
			for _, name := range []string{endpoint.HostIfname, port.Ifname, port.HostIfname} {
				assert.Less(t, told[name], times/2, name)
			}
			return
		case <-patience:
			require.Fail(t, "the kernel does not tell of links")
		}
	}
}

func noVeths(t *testing.T) {
	t.Helper()
	names, err := Veths(HostPrefix)
	require.NoError(t, err)
	assert.Empty(t, names)
}

func TestAttach(t *testing.T) {
	ns := newNetns(t)
	// As Docker leaves a namespace without IPv6.
	output(t, ns, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
	s := spec(t, ns)
	attach(t, s)

	link := output(t, ns, "ip -d link show eth0")
	assert.Contains(t, link, "02:42:0a:01:05:02")
	assert.Contains(t, link, "mtu 1450")
	assert.Contains(t, link, "LOWER_UP")
	addrs := output(t, ns, "ip address show dev eth0")
	assert.Contains(t, addrs, "inet 10.1.5.2/16 brd 10.1.255.255")
	assert.Contains(t, addrs, "inet6 fd00:1:5::2/32 scope global nodad")
	assert.NotContains(t, strings.Split(addrs, "fd00:1:5::2")[1][:40], "tentative", "usable at once")
	assert.Contains(t, addrs, "fe80::42:aff:fe01:502/64", "the link-local address follows from the MAC")
	assert.Contains(t, output(t, ns, "ip route"), "default via 10.1.0.1 dev eth0")
	assert.Contains(t, output(t, ns, "ip -6 route"), "default via fd00:1::1 dev eth0")
	assert.Contains(t, output(t, ns, "ethtool -k eth0"), "tx-checksumming: on")

	host := output(t, "", "ip -d link show dev "+s.HostIfname) + output(t, "", "ip address show dev "+s.HostIfname)
	assert.Contains(t, host, "fe:42:0a:01:05:02")
	assert.Contains(t, host, "NOARP")
	assert.Contains(t, host, "mtu 1450")
	assert.Contains(t, host, "addrgenmode none")
	assert.NotContains(t, host, "inet6")
	assert.Equal(t, "1", strings.TrimSpace(output(t, "", "cat "+ipv6Sysctl(s.HostIfname))))
	drops, err := IngressDrops()
	require.NoError(t, err)
	assert.Empty(t, drops)

	names, err := Veths(HostPrefix)
	require.NoError(t, err)
	assert.Equal(t, []string{s.HostIfname}, names)
	require.NoError(t, Detach(t.Context(), s.HostIfname))
	require.NoError(t, Detach(t.Context(), s.HostIfname), "again")
	noVeths(t)
	assert.NotContains(t, output(t, ns, "ip link"), "eth0")
}

func TestAttachAgain(t *testing.T) {
	ns := newNetns(t)
	s := spec(t, ns)
	s.HostIngressDrop, s.ChecksumOffload = true, false
	attach(t, s)
	before := output(t, ns, "ip -o address show dev eth0")
	index := func() string {
		first, _, _ := strings.Cut(output(t, "", "ip -o link show "+s.HostIfname), ":")
		return first
	}
	was := index()
	require.NoError(t, Attach(t.Context(), s))
	assert.Equal(t, before, output(t, ns, "ip -o address show dev eth0"))
	assert.Equal(t, was, index(), "the same pair")

	// What a killed Attach or a person left out is set right.
	output(t, ns, "ip address flush dev eth0")
	output(t, ns, "ip link set eth0 down mtu 1200")
	output(t, "", "nft delete table netdev baize")
	s.MTU = 1400
	s.Netns = "/run/netns/" + ns // another way to say the same
	require.NoError(t, Attach(t.Context(), s))
	assert.Contains(t, output(t, ns, "ip address show dev eth0"), "10.1.5.2/16")
	assert.Contains(t, output(t, ns, "ip link show eth0"), "mtu 1400")
	assert.Contains(t, output(t, "", "ip link show "+s.HostIfname), "mtu 1400")
	assert.Contains(t, output(t, ns, "ethtool -k eth0"), "tx-checksumming: off")
	assert.Contains(t, output(t, ns, "ethtool -k eth0"), "tx-tcp-segmentation: off")
	drops, err := IngressDrops()
	require.NoError(t, err)
	assert.Equal(t, []string{s.HostIfname}, drops)
}

// Whoever knows only the second name of a pair finds it, and removes all of it.
func TestAttachWithSecondName(t *testing.T) {
	ns := newNetns(t)
	s := spec(t, ns)
	s.HostIfname, s.HostAltname, s.HostIngressDrop = "bz-web", HostIfname("blue/"+ns), true
	attach(t, s)
	require.True(t, LinkExists(s.HostIfname))
	require.True(t, LinkExists(s.HostAltname))
	require.Equal(t, s.HostIfname, DeviceCalled(s.HostAltname))
	require.Equal(t, s.HostIfname, DeviceCalled(s.HostIfname))
	require.NoError(t, Attach(t.Context(), s), "again")
	require.Contains(t, output(t, "", "nft list ruleset"), s.HostIfname)
	other := s
	other.Ifname, other.HostIfname, other.HostAltname = "eth1", "bz-other", s.HostAltname
	require.ErrorIs(t, Attach(t.Context(), other), topology.ErrExists)
	require.False(t, LinkExists(other.HostIfname))

	require.NoError(t, Detach(t.Context(), s.HostAltname))
	require.False(t, LinkExists(s.HostIfname))
	require.False(t, LinkExists(s.HostAltname))
	require.Empty(t, DeviceCalled(s.HostAltname))
	require.NotContains(t, output(t, "", "nft list ruleset"), s.HostIfname)
	require.NoError(t, Detach(t.Context(), s.HostAltname), "again")
}

func TestAttachRefuses(t *testing.T) {
	ns := newNetns(t)
	s := spec(t, ns)
	other := newNetnsNamed(t, ns+"-2")

	t.Run("host name taken", func(t *testing.T) {
		mustIP(t, "link add "+s.HostIfname+" type bridge")
		t.Cleanup(func() { _ = ip("link delete " + s.HostIfname) })
		err := Attach(t.Context(), s)
		require.ErrorIs(t, err, topology.ErrExists)
		assert.ErrorContains(t, err, s.HostIfname)
		assert.ErrorContains(t, err, "a bridge")
		require.ErrorIs(t, Detach(t.Context(), s.HostIfname), topology.ErrConflict, "what is no veth is not removed")
	})
	t.Run("name inside taken", func(t *testing.T) {
		output(t, ns, "ip link add eth0 type bridge")
		t.Cleanup(func() { output(t, ns, "ip link delete eth0") })
		err := Attach(t.Context(), s)
		require.ErrorIs(t, err, topology.ErrExists)
		assert.ErrorContains(t, err, "eth0")
		assert.ErrorContains(t, err, "--ifname")
		noVeths(t)
	})
	t.Run("attached elsewhere", func(t *testing.T) {
		attach(t, s)
		s := s
		s.Netns = other
		require.ErrorIs(t, Attach(t.Context(), s), topology.ErrExists)
		assert.NotContains(t, output(t, other, "ip link"), "eth0")
	})
	t.Run("attached with another MAC", func(t *testing.T) {
		attach(t, s)
		s := s
		s.MAC = mac(t, "02:42:0a:01:05:03")
		err := Attach(t.Context(), s)
		require.ErrorIs(t, err, topology.ErrExists)
		assert.ErrorContains(t, err, "02:42:0a:01:05:02")
		assert.Contains(t, output(t, ns, "ip link show eth0"), "02:42:0a:01:05:02", "left as it was")
	})
	t.Run("no namespace", func(t *testing.T) {
		s := s
		s.Netns = "bzt-none"
		require.ErrorIs(t, Attach(t.Context(), s), topology.ErrNotFound)
		noVeths(t)
	})
}

func newNetnsNamed(t *testing.T, name string) string {
	t.Helper()
	mustIP(t, "netns add "+name)
	t.Cleanup(func() { _ = ip("netns delete " + name) })
	return name
}

func TestAttachIsAtomic(t *testing.T) {
	for name, change := range map[string]func(*AttachSpec){
		"an address the kernel refuses": func(s *AttachSpec) { s.Addrs = append(s.Addrs, netip.MustParsePrefix("ff02::5/64")) },
		"an MTU IPv6 refuses":           func(s *AttachSpec) { s.MTU = 1000 },
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			ns := newNetns(t)
			s := spec(t, ns)
			s.HostIngressDrop = true
			change(&s)
			require.Error(t, Attach(t.Context(), s))
			noVeths(t)
			assert.NotContains(t, output(t, ns, "ip link"), "eth0")
			assert.NotContains(t, output(t, "", "nft list tables"), "baize")
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, Attach(ctx, spec(t, newNetns(t))), context.Canceled)
		noVeths(t)
	})
}

func TestAttachKeepsAnotherDefaultRoute(t *testing.T) {
	ns := newNetns(t)
	output(t, ns, "ip link add net0 type bridge")
	output(t, ns, "ip link set net0 up")
	output(t, ns, "ip address add 192.0.2.2/24 dev net0")
	output(t, ns, "ip route add default via 192.0.2.1")
	attach(t, spec(t, ns))
	routes := output(t, ns, "ip route")
	assert.Contains(t, routes, "default via 192.0.2.1 dev net0")
	assert.Equal(t, 1, strings.Count(routes, "default"))
	assert.Contains(t, output(t, ns, "ip -6 route"), "default via fd00:1::1 dev eth0")
}

func TestAttachTheGatewayItself(t *testing.T) {
	ns := newNetns(t)
	s := spec(t, ns)
	s.Addrs = append(s.Addrs, netip.MustParsePrefix("10.1.0.1/16"))
	attach(t, s)
	assert.NotContains(t, output(t, ns, "ip route"), "default")
	assert.Contains(t, output(t, ns, "ip -6 route"), "default via fd00:1::1")
}

func TestAttachIntoOwnNamespace(t *testing.T) {
	s := spec(t, "/proc/self/ns/net")
	s.HostIfname, s.Ifname, s.Gateways = "bzown", "own0", nil
	attach(t, s)
	require.NoError(t, Attach(t.Context(), s), "again")
	assert.Contains(t, output(t, "", "ip address show dev own0"), "10.1.5.2/16")
}

func TestAttachWithoutPrivileges(t *testing.T) {
	if ns := os.Getenv(powerlessVar); ns != "" {
		err := Attach(t.Context(), spec(t, ns))
		require.ErrorIs(t, err, topology.ErrUnavailable)
		assert.ErrorContains(t, err, "run as root")
		return
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(
		t.Context(),
		"setpriv",
		"--bounding-set=-all",
		exe,
		"-test.run=^TestAttachWithoutPrivileges$",
	)
	cmd.Env = append(os.Environ(), powerlessVar+"="+newNetns(t))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestInNetns(t *testing.T) {
	ns := newNetns(t)
	inode := func() uint64 {
		var st unix.Stat_t
		assert.NoError(t, unix.Stat("/proc/thread-self/ns/net", &st))
		return st.Ino
	}
	home := inode()
	var there uint64
	require.NoError(t, InNetns(ns, func() error { there = inode(); return nil }))
	assert.NotEqual(t, home, there)
	assert.Equal(t, home, inode())
	require.ErrorIs(t, InNetns(ns, func() error { return unix.ENOTTY }), unix.ENOTTY)
	// However many threads there are, none is left behind in the namespace.
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	assert.False(t, slices.ContainsFunc(tasks, func(e os.DirEntry) bool {
		var st unix.Stat_t
		return unix.Stat("/proc/self/task/"+e.Name()+"/ns/net", &st) == nil && st.Ino != home
	}))
}

func TestWatchLinks(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	fired := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- WatchLinks(ctx, func() {
			select {
			case fired <- struct{}{}:
			default:
			}
		})
	}()
	wait := func(what string) {
		t.Helper()
		select {
		case <-fired:
		case err := <-ended:
			t.Fatalf("%s: ended: %v", what, err)
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: not noticed", what)
		}
	}
	wait("start")
	mustIP(t, "link add bzt-new type bridge")
	t.Cleanup(func() { _ = ip("link delete bzt-new") })
	wait("a new link")
	mustIP(t, "address add 198.51.100.7/24 dev bzt-new")
	wait("a new address")
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestAttachManyAtOnce(t *testing.T) {
	const n = 20
	ns := newNetns(t)
	errs := make(chan error, n)
	for i := range n {
		s := AttachSpec{
			Netns: ns, Ifname: fmt.Sprintf("eth%d", i), HostIfname: HostIfname(fmt.Sprintf("many/%d", i)),
			MAC: topology.MACOf(netip.AddrFrom4([4]byte{10, 1, 5, byte(i + 2)})), MTU: 1450, HostIngressDrop: true,
		}
		t.Cleanup(func() { assert.NoError(t, Detach(context.Background(), s.HostIfname)) })
		go func() { errs <- Attach(t.Context(), s) }()
	}
	for range n {
		require.NoError(t, <-errs)
	}
	drops, err := IngressDrops()
	require.NoError(t, err)
	assert.Len(t, drops, n)
}
