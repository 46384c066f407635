//go:build system

package hostnet

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tap collects the frames a packet socket on an interface of the host sees.
func tap(t *testing.T, ifname string) <-chan []byte {
	t.Helper()
	ifi, err := net.InterfaceByName(ifname)
	require.NoError(t, err)
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ALL, nil)
	require.NoError(t, err)
	frames := make(chan []byte, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			buf := make([]byte, 2000)
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			select {
			case frames <- buf[:n]:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		assert.NoError(t, conn.Close())
		<-done
	})
	return frames
}

// count waits until a frame was seen want times, and returns how often it was.
func count(frames <-chan []byte, frame []byte, want int) (seen int) {
	deadline := time.After(5 * time.Second)
	for seen < want {
		select {
		case f := <-frames:
			if bytes.HasPrefix(f, frame) {
				seen++
			}
		case <-deadline:
			return seen
		}
	}
	return seen
}

func TestAnnounce(t *testing.T) {
	ns := newNetns(t)
	s := spec(t, ns)
	attach(t, s)
	frames := tap(t, s.HostIfname)
	addrs := []netip.Addr{netip.MustParseAddr("10.1.5.2"), netip.MustParseAddr("fd00:1:5::2")}
	require.NoError(t, Announce(t.Context(), ns, "eth0", s.MAC, addrs))
	// Both kinds come in turns: each is counted as it comes by.
	want := map[string]int{string(arpAnnouncement(s.MAC, addrs[0])): 0, string(neighbourAdvertisement(s.MAC, addrs[1])): 0}
	require.Eventually(t, func() bool {
		for len(frames) > 0 {
			f := <-frames
			for w := range want {
				if bytes.HasPrefix(f, []byte(w)) {
					want[w]++
				}
			}
		}
		for _, n := range want {
			if n == 0 {
				return false
			}
		}
		return true
	}, 5*time.Second, 10*time.Millisecond)

	require.Error(t, Announce(t.Context(), ns, "eth9", s.MAC, addrs))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mustIP(t, "link set "+s.HostIfname+" down")
	require.ErrorIs(t, Announce(ctx, ns, "eth0", s.MAC, addrs), context.Canceled)
}

// The neighbour that knows another owner of the address believes the
// announcement: that is what it is for.
func TestAnnounceMovesNeighbours(t *testing.T) {
	ns := newNetns(t)
	s := spec(t, ns)
	s.Gateways = nil
	attach(t, s)
	// The host end plays the neighbour.
	mustIP(t, "link set "+s.HostIfname+" arp on")
	mustIP(t, "address add 10.1.0.9/16 dev "+s.HostIfname)
	mustIP(t, "neigh replace 10.1.5.2 lladdr 02:42:de:ad:00:01 nud stale dev "+s.HostIfname)
	require.NoError(t, Announce(t.Context(), ns, "eth0", s.MAC, []netip.Addr{netip.MustParseAddr("10.1.5.2")}))
	require.Eventually(t, func() bool {
		return bytes.Contains([]byte(output(t, "", "ip neigh show 10.1.5.2")), []byte(s.MAC.String()))
	}, 5*time.Second, 20*time.Millisecond)
}

func pings(t *testing.T, ns, addr string) bool {
	t.Helper()
	err := exec.CommandContext(t.Context(), "nsenter", "--net="+filepath.Join("/run/netns", ns), "ping", "-c1", "-W1", addr).
		Run()
	return err == nil
}

func TestHostIngressDrop(t *testing.T) {
	ns := newNetns(t)
	s := spec(t, ns)
	s.Gateways = nil
	// A host whose stack would answer, were it not for the drop.
	wouldAnswer := func() {
		mustIP(t, "link set "+s.HostIfname+" arp on")
		mustIP(t, "address replace 10.1.0.9/16 dev "+s.HostIfname)
	}
	attach(t, s)
	wouldAnswer()
	require.Eventually(t, func() bool { return pings(t, ns, "10.1.0.9") }, 20*time.Second, 10*time.Millisecond,
		"without the drop")

	s.HostIngressDrop = true
	require.NoError(t, Attach(t.Context(), s))
	wouldAnswer()
	output(t, ns, "ip neigh flush dev eth0")
	frames := tap(t, s.HostIfname)
	assert.False(t, pings(t, ns, "10.1.0.9"), "the stack answers in spite of the drop")
	request := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, s.MAC...)
	request = append(request, 0x08, 0x06)
	assert.Positive(t, count(frames, request, 1), "the packet socket sees what is dropped")

	require.NoError(t, Detach(t.Context(), s.HostIfname))
	assert.NotContains(t, output(t, "", "nft list tables"), "baize")
}

func TestIngressDrops(t *testing.T) {
	change := func(add bool, devices ...string) {
		t.Helper()
		for _, d := range devices {
			require.NoError(t, ChangeIngressDrop(d, add))
		}
	}
	t.Cleanup(func() { change(false, "bzt-a", "bzt-b") })
	for _, name := range []string{"bzt-a", "bzt-b"} {
		mustIP(t, "link add "+name+" type veth peer name "+name+"-p")
		t.Cleanup(func() { _ = ip("link delete " + name) })
	}
	drops := func() []string {
		t.Helper()
		names, err := IngressDrops()
		require.NoError(t, err)
		return names
	}
	change(false, "bzt-a")
	assert.Empty(t, drops(), "nothing there")
	change(true, "bzt-a", "bzt-b")
	assert.Equal(t, []string{"bzt-a", "bzt-b"}, drops())

	// What is not Baize's is left alone.
	output(t, "", "nft add table netdev other")
	output(t, "", "nft flush ruleset")
	output(t, "", "nft add table netdev other")
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "netdev", "other").Run() })
	change(true, "bzt-a", "bzt-b")
	assert.Equal(t, []string{"bzt-a", "bzt-b"}, drops(), "restored")
	change(false, "bzt-a")
	assert.Equal(t, []string{"bzt-b"}, drops())
	rules := output(t, "", "nft list ruleset")
	assert.Contains(t, rules, `hook ingress device "bzt-b" priority -500; policy drop;`)

	mustIP(t, "link delete bzt-b")
	change(false, "bzt-b")
	assert.Equal(t, "table netdev other {\n}\n", output(t, "", "nft list ruleset"), "an empty table goes")

	// A device that comes again under its name is hooked again.
	mustIP(t, "link add bzt-b type veth peer name bzt-b-p")
	require.NoError(t, addIngressDrop("bzt-b"))
	mustIP(t, "link delete bzt-b")
	mustIP(t, "link add bzt-b type veth peer name bzt-b-p")
	require.NoError(t, addIngressDrop("bzt-b"))
	assert.Contains(t, output(t, "", "nft list ruleset"), `device "bzt-b"`)
}
