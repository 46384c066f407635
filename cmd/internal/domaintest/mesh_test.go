//go:build system

package domaintest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Trouble of the underlay is named by the probes, on the hosts that it concerns, with
// its direction, and is gone when it is healed. Nothing is said of a healthy domain.
func TestMesh(t *testing.T) {
	t.Parallel()
	prefix := netip.MustParsePrefix("10.1.0.0/16")
	d := up(t, topology.VXLAN, lab.Config{
		Env: []string{"BAIZE_PROBE_INTERVAL=2s"},
		Networks: []lab.NetworkSpec{
			{Name: "blue", Prefixes: []netip.Prefix{prefix}},
			{Name: "green", Prefixes: []netip.Prefix{prefix}, Transport: topology.GRE},
		},
	})
	m := mesh{d, t}
	m.healthy()
	for _, x := range []struct {
		name string
		test func(mesh)
	}{
		{"live picture", testMeshLive},
		{"UDP one way", testMeshUDP},
		{"GRE one way", testMeshGRE},
		{"nothing arrives", testMeshSilent},
		{"lossy", testMeshLossy},
		{"path MTU", testMeshPathMTU},
		{"slow", testMeshSlow},
		{"endpoints forge nothing", testMeshForged},
		{"ping", testMeshPing},
		{"rest", testMeshRest},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := mesh{d.in(t), t}
			x.test(m)
			m.healthy()
		})
	}
}

// mesh is a lab whose agents probe each other.
type mesh struct {
	*domain
	t *testing.T
}

// says is what the agents of all hosts say: "host1 host2 vxlan" → the state, and
// "host1 BZ0405 peer host2 over vxlan" → "" for faults of the underlay.
func (m mesh) says() map[string]string {
	out := map[string]string{}
	for _, h := range m.Hosts() {
		st := m.AgentStatus(h.Name())
		for _, p := range st.Peers {
			if p.Probed != nil {
				out[fmt.Sprintf("%s %s %s", h.Name(), p.Node, p.Encap)] = p.Probed.State
			}
		}
		for _, f := range st.Problems {
			if strings.HasPrefix(string(f.Code), "BZ04") {
				out[fmt.Sprintf("%s %s %s", h.Name(), f.Code, f.Item)] = f.What
			}
		}
	}
	return out
}

// all are the ways between three hosts.
const all = 3 * 2 * 2

// healthy waits until every way is well, and nobody reports anything.
func (m mesh) healthy() { m.t.Helper(); m.only(nil, nil) }

// only waits until the ways that are given are as they are to be and all others well,
// and the faults are those that are given.
func (m mesh) only(ways map[string]string, faults map[string]fault.Code) {
	m.t.Helper()
	testkit.AwaitWithin(m.t, 3*time.Minute, fmt.Sprintf("ways %v, faults %v", ways, faults), func() (bool, string) {
		says := m.says()
		return m.same(says, ways, faults), fmt.Sprintf("%q", says)
	})
}

func (m mesh) same(says, ways map[string]string, faults map[string]fault.Code) bool {
	counted, found := 0, 0
	for what, state := range says {
		words := strings.SplitN(what, " ", 3)
		if strings.HasPrefix(words[1], "BZ") {
			at := words[0] + " " + strings.NewReplacer("peer ", "", "over ", "").Replace(words[2])
			if string(faults[at]) != words[1] {
				return false
			}
			found++
			continue
		}
		counted++
		if want := ways[what]; state != want && (want != "" || state != api.StateOK) {
			return false
		}
	}
	return counted == all && found == len(faults)
}

// drop drops what a host sends, as rules say, until the function returned is called.
func (m mesh) drop(host string, rules ...string) (heal func()) {
	m.t.Helper()
	m.Must(host, "nft", "add table netdev trouble; "+
		"add chain netdev trouble out { type filter hook egress device eth0 priority 0; }")
	for _, r := range rules {
		m.Must(host, "nft", "add rule netdev trouble out "+r)
	}
	healed := false
	heal = func() {
		if !healed {
			healed = true
			m.Must(host, "nft", "delete table netdev trouble")
		}
	}
	m.t.Cleanup(heal)
	return heal
}

func testMeshUDP(m mesh) {
	heal := m.drop("host1", "udp dport 4789 ip daddr 192.168.77.12 drop")
	m.only(map[string]string{"host1 host2 vxlan": api.StateDeaf, "host2 host1 vxlan": api.StateSilent},
		map[string]fault.Code{"host1 host2 vxlan": fault.PeerDeaf, "host2 host1 vxlan": fault.PeerSilent})
	heal()
}

func testMeshGRE(m mesh) {
	heal := m.drop("host3", "ip protocol gre ip daddr 192.168.77.11 drop")
	m.only(map[string]string{"host3 host1 gre": api.StateDeaf, "host1 host3 gre": api.StateSilent},
		map[string]fault.Code{"host3 host1 gre": fault.PeerDeaf, "host1 host3 gre": fault.PeerSilent})
	heal()
}

func testMeshSilent(m mesh) {
	one := m.drop("host1", "udp dport 4789 ip daddr 192.168.77.12 drop")
	two := m.drop("host2", "udp dport 4789 ip daddr 192.168.77.11 drop")
	m.only(map[string]string{"host1 host2 vxlan": api.StateSilent, "host2 host1 vxlan": api.StateSilent},
		map[string]fault.Code{"host1 host2 vxlan": fault.PeerSilent, "host2 host1 vxlan": fault.PeerSilent})
	m.Await("it is told that the host answers", func() (bool, string) {
		says := m.says()["host1 "+string(fault.PeerSilent)+" peer host2 over vxlan"]
		return strings.Contains(says, "though its host answers ping"), says
	})
	one()
	two()
}

func testMeshLossy(m mesh) {
	heal := m.drop("host1", "udp dport 4789 ip daddr 192.168.77.12 numgen random mod 100 < 25 drop")
	m.only(map[string]string{"host1 host2 vxlan": api.StateLossy, "host2 host1 vxlan": api.StateLossy},
		map[string]fault.Code{"host1 host2 vxlan": fault.PeerLossy, "host2 host1 vxlan": fault.PeerLossy})
	// What was lost before this test, both ways, counts until there are newer frames.
	m.Await("the direction is known", func() (bool, string) {
		for _, p := range m.AgentStatus("host1").Peers {
			if p.Node == "host2" && p.Encap == topology.VXLAN {
				return *p.Probed.LossOut > *p.Probed.LossIn, fmt.Sprint(*p.Probed.LossOut, " out, ", *p.Probed.LossIn, " in")
			}
		}
		return false, "host2 is no peer"
	})
	heal()
}

func testMeshPathMTU(m mesh) {
	heal := m.drop("host1", "ip daddr 192.168.77.12 ip length > 1400 drop")
	ways := map[string]string{"host1 host2 vxlan": api.StateNarrow, "host1 host2 gre": api.StateNarrow}
	m.only(ways, map[string]fault.Code{"host1 host2 vxlan": fault.PathMTU, "host1 host2 gre": fault.PathMTU})
	passes := map[topology.Transport]int{}
	for _, p := range m.AgentStatus("host1").Peers {
		if p.Node == "host2" {
			passes[p.Encap] = p.Probed.Passes
		}
	}
	require.Equal(m.t, map[topology.Transport]int{topology.VXLAN: 1350, topology.GRE: 1358}, passes, "to the byte")
	heal()
}

// testMeshSlow puts a wire that takes its time between a host and the fabric.
func testMeshSlow(m mesh) {
	heal := m.slowWire("host3", 60*time.Millisecond)
	ways, faults := map[string]string{}, map[string]fault.Code{}
	for _, h := range []string{"host1", "host2"} {
		for _, e := range []string{"vxlan", "gre"} {
			for _, way := range []string{h + " host3 " + e, "host3 " + h + " " + e} {
				ways[way], faults[way] = api.StateSlow, fault.PeerSlow
			}
		}
	}
	m.only(ways, faults)
	heal()
}

// slowWire makes every frame from and to a host wait.
func (m mesh) slowWire(host string, wait time.Duration) (heal func()) {
	m.t.Helper()
	m.Must("fabric", "sh", "-ec", "ip link add slow-in type veth peer name slow-out; "+
		"ip link set slow-in master br0 up; ip link set slow-out up; ip link set "+host+" nomaster")
	ctx, cancel := context.WithCancel(m.t.Context())
	ended := make(chan struct{}, 2)
	var ends [2]*packet.Conn
	require.NoError(m.t, hostnet.InNetns(m.Netns("fabric"), func() error {
		for i, name := range []string{host, "slow-out"} {
			dev, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			if ends[i], err = packet.Listen(dev, packet.Raw, unix.ETH_P_ALL, nil); err != nil {
				return err
			}
		}
		return nil
	}))
	for i := range ends {
		go func() {
			defer func() { ended <- struct{}{} }()
			relay(ctx, ends[i], ends[1-i], wait)
		}()
	}
	healed := false
	heal = func() {
		if healed {
			return
		}
		healed = true
		cancel()
		for _, e := range ends {
			_ = e.Close()
		}
		<-ended
		<-ended
		m.Must("fabric", "sh", "-ec", "ip link set "+host+" master br0; ip link del slow-in")
	}
	m.t.Cleanup(heal)
	return heal
}

// relay hands frames from one end of a wire to the other, each after a while.
func relay(ctx context.Context, from, to *packet.Conn, wait time.Duration) {
	type late struct {
		frame []byte
		at    time.Time
	}
	queue := make(chan late, 10_000)
	go func() {
		defer close(queue)
		buf := make([]byte, 65536)
		for {
			n, _, err := from.ReadFrom(buf)
			if err != nil {
				return
			}
			queue <- late{bytes.Clone(buf[:n]), time.Now().Add(wait)}
		}
	}()
	for x := range queue {
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(x.at)):
			_, _ = to.WriteTo(x.frame, &packet.Addr{HardwareAddr: x.frame[:6]})
		}
	}
}

// testMeshForged: what an endpoint sends is a frame of its network and no probe,
// even if it has every byte of one. Its network is a whole Ethernet: it arrives at
// the other endpoints.
func testMeshForged(m mesh) {
	wire := m.Wire("host1")
	var probe []byte
	m.Await("a probe on the wire", func() (bool, string) {
		begin := []byte{0x02, 0xba, 0x12, 0xe0, 0, 0, 0x02, 0xba, 0x12, 0xe1}
		for _, f := range wire.Frames(begin) {
			// A full one leaves no room for the mark in the endpoint's MTU.
			if _, rest, _ := bytes.Cut(f, begin); len(rest) < 500 {
				probe = slices.Concat(begin, rest)
			}
		}
		return len(probe) > 0, ""
	})
	wire.Close()
	me := m.Endpoint("host1/c1")
	from := m.Inside(me)
	there := map[string]*testkit.Socket{}
	for _, host := range []string{"host2", "host3"} {
		there[host] = m.Inside(m.Endpoint(host + "/c1"))
	}
	mark := []byte("forged")
	// If it were taken for a probe, it would be one of an unknown node out of host1's
	// tunnel (BZ0410).
	forged := slices.Concat(testkit.Broadcast, testkit.MAC(m.t, me.MAC),
		probe[12:20], bytes.Repeat([]byte{7}, 8), probe[28:], mark)
	for range 20 {
		from.Send(m.t, forged)
	}
	for host, s := range there {
		m.Await("the frames arrive at "+host+"'s endpoint", func() (bool, string) {
			n := s.Count(mark)
			return n == 20, fmt.Sprint(n)
		})
	}
	for range 5 {
		says := m.says()
		require.True(m.t, m.same(says, nil, nil), "%q", says)
		m.Must("host2", "baize", "ping", "host1", "--encap", "vxlan", "--count", "2", "--interval", "100ms")
	}
}

func testMeshPing(m mesh) {
	out := m.Must("host1", "baize", "ping", "host2", "--encap", "vxlan", "--size", "1450",
		"--count", "3", "--interval", "50ms")
	require.Contains(m.t, out, "host2 over vxlan, 1450 bytes: ")
	require.Contains(m.t, out, "3 probes, 3 answered")
	out = m.Must("host1", "baize", "ping", m.Endpoint("host3/c1").IPs[0].String(), "--encap", "gre", "--count", "1")
	require.Contains(m.t, out, "is on node host3\nhost3 over gre, 80 bytes: ")
	_, err := m.Run("host1", "baize", "ping", "host2")
	require.ErrorContains(m.t, err, "has tunnels of 2 encapsulations")
	_, err = m.Run("host1", "baize", "ping", "nobody")
	require.ErrorContains(m.t, err, "node nobody: is no peer of this node")

	// All nodes tell what they know, to each of them.
	var ways []api.Way
	out = m.Must("host2", "baize", "ping", "--mesh", "-o", "json")
	require.NoError(m.t, json.Unmarshal([]byte(out), &ways))
	require.Len(m.t, ways, all)
	for _, w := range ways {
		require.Equal(m.t, api.StateOK, w.State, "%+v", w)
		require.GreaterOrEqual(m.t, w.Passes, 1450)
	}
	out = m.Must("host2", "baize", "ping", "--mesh")
	require.Regexp(m.t, `(?m)^vxlan +host1 +host2 +host3$`, out)
	require.Contains(m.t, out, "12 of 12 ways ok")

	heal := m.drop("host1", "udp dport 4789 ip daddr 192.168.77.12 drop")
	out, err = m.Run("host1", "baize", "ping", "host2", "--encap", "vxlan", "--count", "1")
	require.Error(m.t, err)
	require.Contains(m.t, out+errorText(err), "no answer")
	heal()
}

func errorText(err error) string {
	var text string
	for ; err != nil; err = errors.Unwrap(err) {
		text += err.Error()
	}
	return text
}

// testMeshRest watches a healthy domain for a while: nothing is said of it, however
// busy the machine is.
func testMeshRest(m mesh) {
	m.healthy()
	for range 30 {
		says := m.says()
		require.True(m.t, m.same(says, nil, nil), "%q", says)
		m.Must("host3", "baize", "ping", "host1", "--encap", "gre", "--count", "5", "--interval", "100ms")
	}
}
