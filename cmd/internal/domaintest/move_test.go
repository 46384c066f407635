//go:build system

package domaintest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// moveLoss is how many of the pings, sent every 10 ms, a move may cost each sender: 100 ms.
const moveLoss = 10

// An endpoint moves from host to host and home again under traffic from all of them: from
// one that has nothing to do with it, from the one that it leaves, and from the one that it
// goes to.
func TestEndpointMove(t *testing.T) {
	t.Parallel()
	for _, transport := range []topology.Transport{topology.VXLAN, topology.Route} {
		t.Run(string(transport), func(t *testing.T) {
			d := up(t, transport, lab.Config{Networks: []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{
				netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48"),
			}}}})
			for _, host := range []string{"host2", "host3"} {
				d.Must(host, "ip", "netns", "add", "web")
			}
			var web api.Endpoint
			out := d.Must("host2", "baize", "endpoint", "add", "web", "--network", "blue", "--netns", "web", "-o", "json")
			require.NoError(t, json.Unmarshal([]byte(out), &web))
			dry := d.Must("host3", "baize", "endpoint", "move", "web", "host2", "--netns", "web", "--dry-run")
			require.Contains(t, dry, "endpoint blue/web of node host2\n  before  {")
			require.Contains(t, dry, "endpoint blue/web of node host3\n  before  none\n")
			require.Contains(t, dry, `"movedFrom":"host2"`)
			require.Empty(t, strings.TrimSpace(d.Must("host1", "baize", "pin", "list", "-q")))
			for i, way := range [][2]string{{"host2", "host3"}, {"host3", "host2"}} {
				d.moves(web, way[0], way[1], fmt.Sprintf("move %d", i+1))
			}
			_, err := d.Run("host3", "baize", "endpoint", "move", "web", "host1", "--netns", "web")
			require.ErrorContains(t, err, "there is none of that name")
		})
	}
}

// moves moves web from a host to another, and requires that hardly a packet is lost.
func (d *domain) moves(web api.Endpoint, from, to, what string) {
	d.T.Helper()
	other := d.Endpoint("host3/c1")
	stream := d.Stream(d.Endpoint("host1/c1"), other, other.IPs[0])
	var pings []labkit.Pings
	for _, sender := range []string{"host1/c1", "host2/c1", "host3/c1"} {
		for _, ip := range web.IPs {
			pings = append(pings, d.Ping(d.Netns(sender), ip, 10*time.Millisecond))
		}
	}
	stream(func() {
		out := d.Must(to, "baize", "endpoint", "move", "web", from, "--netns", "web")
		assert.Contains(d.T, out, fmt.Sprintf("endpoint web of network blue moved from %s to %s", from, to))
		assert.Contains(d.T, out, web.MAC)
		d.Await("the old one is gone", func() (bool, string) {
			_, err := d.Run(from, "ip", "netns", "exec", "web", "ip", "link", "show", "eth0")
			return err != nil, "eth0 is there"
		})
		labkit.GoOn(100, pings...)
	})
	for _, p := range pings {
		lost := len(p.Ends().Missing)
		d.T.Logf("%s, %s to %s: %s: %d ms lost", what, from, to, p.Name, 10*lost)
		assert.LessOrEqual(d.T, lost, moveLoss, p.Name)
	}
	list := d.Must(from, "baize", "endpoint", "list", "-q")
	assert.NotContains(d.T, strings.Fields(list), "web")
	status := d.Must("host1", "baize", "pin", "list", "--network", "blue")
	for _, ip := range web.IPs {
		assert.Contains(d.T, status, ip.String())
	}
}

// A TCP connection goes on while its endpoint goes to another host and comes home, its
// network namespace with it as a virtual machine's memory would. The kernels on the way
// forward it, and drop what is out of the windows that they know: they may know nothing of
// the time before.
func TestEndpointMoveConnections(t *testing.T) {
	t.Parallel()
	d := up(t, topology.Route, lab.Config{Networks: []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{
		netip.MustParsePrefix("10.1.0.0/16"),
	}}}})
	for _, host := range []string{"host1", "host2", "host3"} {
		for _, rule := range []string{
			"add table inet strict", "add chain inet strict forward { type filter hook forward priority 0; }",
			"add rule inet strict forward ct state invalid counter drop",
		} {
			d.Must(host, "nft", rule)
		}
	}
	d.Must("host2", "ip", "netns", "add", "web")
	var web api.Endpoint
	out := d.Must("host2", "baize", "endpoint", "add", "web", "--network", "blue", "--netns", "web", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out), &web))
	netns := d.shareNetns("web", "host2", "host3")
	ip := web.IPs[0]
	d.Await("web answers", func() (bool, string) {
		out, err := d.Run("host1/c1", "ping", "-c", "1", "-W", "1", ip.String())
		return err == nil, out
	})

	stream := d.StreamInto(d.Netns("host1/c1"), netns, ip)
	stream(func() {
		d.received("host2", "web", "eth0", 1<<20)
		require.Positive(t, d.connections("host2", ip), "the kernel tracks it")
		d.Must("host3", "baize", "endpoint", "move", "web", "host2", "--netns", "web", "--ifname", "eth1")
		// Far more than a window.
		d.received("host3", "web", "eth1", 16<<20)
		d.Await("host2 has forgotten it", func() (bool, string) {
			n := d.connections("host2", ip)
			return n == 0, fmt.Sprint(n)
		})
		d.Must("host2", "baize", "endpoint", "move", "web", "host3", "--netns", "web", "--ifname", "eth0")
		d.received("host2", "web", "eth0", 1<<20)
		d.Await("host3 has forgotten it", func() (bool, string) {
			n := d.connections("host3", ip)
			return n == 0, fmt.Sprint(n)
		})
	})
}

// connections counts those of an address that a host's kernel tracks.
func (d *domain) connections(host string, ip netip.Addr) int {
	d.T.Helper()
	return strings.Count(d.Must(host, "cat", "/proc/net/nf_conntrack"), "="+ip.String()+" ")
}

// received waits until a device of a namespace has received so many bytes.
func (d *domain) received(host, netns, device string, bytes int) {
	d.T.Helper()
	d.Await(fmt.Sprintf("%d bytes at %s", bytes, host), func() (bool, string) {
		out, err := d.Run(host, "ip", "netns", "exec", netns, "cat", "/sys/class/net/"+device+"/statistics/rx_bytes")
		n, _ := strconv.Atoi(strings.TrimSpace(out))
		return n >= bytes, fmt.Sprint(out, err)
	})
}

// shareNetns gives a network namespace of a host, by name, to another one as well, and
// returns its path for this process.
func (d *domain) shareNetns(name, from, to string) string {
	d.T.Helper()
	root := func(host string) string {
		pid, err := d.Host(host).PID()
		require.NoError(d.T, err)
		return fmt.Sprintf("/proc/%d/", pid)
	}
	path := root(from) + "root/run/netns/" + name
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	require.NoError(d.T, err)
	defer unix.Close(tree)
	d.Must(to, "ip", "netns", "add", name)
	target, err := unix.Open(root(to)+"ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(d.T, err)
	defer unix.Close(target)
	moved := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(target, unix.CLONE_NEWNS)
		}
		if err == nil {
			err = unix.MoveMount(tree, "", unix.AT_FDCWD, "/run/netns/"+name, unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		moved <- err
	}()
	require.NoError(d.T, <-moved)
	return path
}
