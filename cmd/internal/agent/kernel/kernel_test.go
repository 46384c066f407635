package kernel

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	model "github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/kernelfake"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// node is a node on a kernel in memory with one peer on its link.
type node struct {
	*Part
	t      *testing.T
	kernel *kernelfake.Host
	hub    *hub.Hub
	sw     *openvswitch.Part
}

var remote = topology.SubnetID{Network: "blue", Prefix: netip.MustParsePrefix("10.1.6.0/24")}

func newNode(t *testing.T, cfg Config) *node {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	n := &node{t: t, kernel: &kernelfake.Host{}, hub: hub.New(hub.Identity{Node: "host1"})}
	in := openvswitch.NewInputs()
	n.sw = openvswitch.New(openvswitch.Config{}, n.hub, nil, nil, nil, nil, in, log.WithField("node", "host1"))
	known := part.NewCell[attach.Known](nil)
	known.Set(attach.Known{Endpoints: []ovs.Endpoint{{Name: "c1", Network: "blue", Port: "bz1"}}, Complete: true})
	cfg.Every = time.Minute
	n.Part = New(cfg, n.hub, n.kernel, known, in, n.sw, log.WithField("node", "host1"))
	n.kernel.AddDevice("eth0", netip.MustParsePrefix("192.168.77.11/24"))
	n.kernel.AddDevice("bn-blue")
	n.kernel.AddDevice("bz1")
	n.kernel.SetIPTables(model.IPTables{Tool: "iptables", Family: topology.IPv4, Filter: "-P FORWARD ACCEPT\n"})
	n.sw.HostPorts().Set(map[string]bool{"bn-blue": true})
	n.sw.Outcome().Set(openvswitch.Outcome{Complete: true})
	n.hub.SetInUse(map[string]bool{})
	n.hub.Hold()
	n.topology(2)
	return n
}

// topology gives the node a routed network on several hosts.
func (n *node) topology(hosts int, pins ...topology.Pin) {
	blue := topology.Network{
		Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Transport: topology.Auto,
	}.Defaults()
	var kvs []topology.KV
	add := func(r topology.Record) {
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: int64(len(kvs) + 1)},
		})
	}
	add(blue)
	for i, name := range []string{"host1", "host2"}[:hosts] {
		add(topology.Node{
			Name: name, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 77, byte(11 + i)})},
			Encapsulations: topology.Encapsulations(),
		})
		add(topology.Subnet{Network: "blue", Node: name, Prefix: topology.SubnetAt(blue, topology.IPv4, uint64(5+i))})
	}
	for _, pin := range pins {
		add(pin)
	}
	n.hub.SetOwn(topology.NewSnapshot(int64(hosts), kvs), false)
}

// steps are what a pass does.
func (n *node) steps() string {
	n.t.Helper()
	n.kernel.Log()
	require.NoError(n.t, n.pass(n.t.Context()))
	return strings.Join(n.kernel.Log(), "\n")
}

func (n *node) codes() (out []fault.Code) {
	for _, f := range n.Faults() {
		out = append(out, f.Code)
	}
	return out
}

func TestPass(t *testing.T) {
	n := newNode(t, Config{})
	assert.Contains(t, n.steps(), "ip route add 10.1.6.0/24 via 192.168.77.12 dev eth0")
	assert.Equal(t, []fault.Code{fault.ReversePathStrict}, n.codes(), "as the fake's devices have it")
	assert.True(t, n.State().Get().Complete)
	assert.Equal(t, map[topology.SubnetID]bool{remote: true}, n.direct.Get())
	assert.Empty(t, n.steps(), "nothing changes")

	// Make before break: the route stays while a flow relies on it.
	n.sw.Relied().Set(map[topology.SubnetID]bool{remote: true})
	n.topology(1)
	assert.NotContains(t, n.steps(), "10.1.6.0/24")
	assert.Empty(t, n.direct.Get())
	n.sw.Relied().Set(nil)
	assert.Contains(t, n.steps(), "ip route del 10.1.6.0/24")
}

// Connections of an address are forgotten when an endpoint brings it from another host and
// when one goes with it, after its packets have their way to where it is now; those of
// endpoints that were there when the agent started are left alone, and no container that
// starts waits for the table.
func TestForget(t *testing.T) {
	n := newNode(t, Config{})
	endpoints := func(list ...ovs.Endpoint) string {
		n.known.Set(attach.Known{Endpoints: list, Complete: true})
		return n.steps()
	}
	home := netip.MustParseAddr("10.1.5.2")
	c1 := ovs.Endpoint{Name: "c1", Network: "blue", Port: "bz1", IPs: []netip.Addr{home}}
	assert.NotContains(t, endpoints(c1), "conntrack")
	assert.Empty(t, n.steps())
	c2 := c1
	c2.Name, c2.Port, c2.IPs = "c2", "bz2", []netip.Addr{netip.MustParseAddr("10.1.5.3")}
	assert.NotContains(t, endpoints(c1, c2), "conntrack", "a container that starts")
	c2.Port, c2.IPs = "bz3", []netip.Addr{netip.MustParseAddr("10.1.6.3"), netip.MustParseAddr("fd00::3")}
	assert.Equal(t, "conntrack -D 10.1.6.3\nconntrack -D fd00::3\nconntrack -D 10.1.5.3", endpoints(c1, c2), "of another host's subnet")

	n.topology(1)
	n.sw.Outcome().Set(openvswitch.Outcome{Complete: true, Observed: ovs.Observed{Ports: map[string]ovs.ObservedPort{"bz1": {}}}})
	assert.NotContains(t, endpoints(c2), "conntrack", "it may still send")
	n.topology(2)
	n.steps()
	n.topology(1)
	n.sw.Outcome().Set(openvswitch.Outcome{Complete: true})
	gone := n.steps()
	assert.Contains(t, gone, "ip route del 10.1.6.0/24")
	assert.True(t, strings.HasSuffix(gone, "\nconntrack -D 10.1.5.2"), gone)

	n.topology(2, topology.Pin{Network: "blue", Addr: home, Node: "host2", MAC: "02:42:0a:01:05:02"})
	n.steps()
	n.topology(2)
	assert.NotContains(t, n.steps(), "conntrack", "on its way home")
	c1.Port = "bz4"
	assert.Contains(t, endpoints(c2, c1), "conntrack -D 10.1.5.2")
	assert.Equal(t, "conntrack -D 10.1.5.2", endpoints(c2), "it went")
	assert.Empty(t, endpoints(c2, c1), "a container that starts")
	assert.Equal(t, "conntrack -D 10.1.5.2", endpoints(c2))
	foreign := c1
	foreign.Network, foreign.Port = "other", "bz4"
	assert.Empty(t, endpoints(c2, foreign), "no network that this kernel forwards")
}

// A port that the switch does not have yet costs its network only, and BGP waits.
func TestPortMissing(t *testing.T) {
	n := newNode(t, Config{})
	n.sw.HostPorts().Set(nil)
	steps := n.steps()
	assert.Contains(t, steps, "table inet baize-tunnels", "tunnels need no port of the host's")
	assert.NotContains(t, steps, "ip ")
	assert.False(t, n.State().Get().Complete)
}

// An agent that starts takes nothing away before the switch has had a pass: the
// routes of its predecessor carry packets.
func TestRestart(t *testing.T) {
	n := newNode(t, Config{})
	n.steps()
	n.settled, n.before = false, model.Observed{}
	n.sw.HostPorts().Set(nil)
	n.sw.Outcome().Set(openvswitch.Outcome{})
	assert.Empty(t, n.steps())
	n.sw.HostPorts().Set(map[string]bool{"bn-blue": true})
	assert.Empty(t, n.steps())
	n.sw.Outcome().Set(openvswitch.Outcome{Complete: true})
	assert.Empty(t, n.steps())
	assert.True(t, n.settled)
}

// A network that covers etcd gets no routes.
func TestCoversEtcd(t *testing.T) {
	n := newNode(t, Config{Protected: []model.Protected{{Addr: netip.MustParseAddr("10.1.99.1"), What: "etcd's address"}}})
	assert.NotContains(t, n.steps(), "ip route")
	assert.Equal(t, []fault.Code{fault.NetworkCoversUnderlay}, n.codes())
	assert.Empty(t, n.direct.Get())
}

// What the kernel refuses costs only itself, and is tried again soon.
func TestRefused(t *testing.T) {
	n := newNode(t, Config{})
	n.kernel.Refuse(func(s model.Step) error {
		if r, ok := s.(model.ChangeRoute); ok && r.Prefix == remote.Prefix {
			return syscall.EPERM
		}
		return nil
	})
	require.Error(t, n.pass(t.Context()))
	assert.Contains(t, n.codes(), fault.KernelRefused)
	assert.Empty(t, n.direct.Get(), "its packets take the tunnel")
	assert.True(t, n.State().Get().Complete)
	n.kernel.Refuse(nil)
	assert.Contains(t, n.steps(), "ip route add 10.1.6.0/24")
	assert.NotContains(t, n.codes(), fault.KernelRefused)
}

// A kernel that does not answer withdraws no route.
func TestNoAnswer(t *testing.T) {
	n := newNode(t, Config{})
	n.steps()
	for _, s := range []model.Section{model.Routes, model.Addresses, model.Sysctls} {
		n.kernel.Fail(s, errors.New("timeout"))
	}
	n.kernel.FailLookups(errors.New("timeout"))
	assert.Empty(t, n.steps())
	assert.Contains(t, n.codes(), fault.KernelUnavailable)
	assert.Equal(t, map[topology.SubnetID]bool{remote: true}, n.direct.Get())
}

// Docker's policy came after the agent; and its chain is gone at the cleanup,
// with that of the version before.
func TestFirewall(t *testing.T) {
	n := newNode(t, Config{Userspace: true})
	steps := n.steps()
	assert.NotContains(t, steps, "BAIZE-FORWARD")
	assert.Contains(t, steps, "bz1")
	n.kernel.SetIPTables(model.IPTables{
		Tool: "iptables", Family: topology.IPv4, Filter: "-P FORWARD DROP\n",
		NAT: "-P POSTROUTING ACCEPT\n-N BAIZE-MASQ\n-A POSTROUTING -j BAIZE-MASQ\n-A BAIZE-MASQ -d 10.1.0.0/16 -j " +
			"MASQUERADE\n",
	})
	n.Part.firewall.at = time.Now().Add(-firewallEvery)
	steps = n.steps()
	assert.Contains(t, steps, "-I FORWARD 1 -j BAIZE-FORWARD")
	assert.Contains(t, steps, "-X BAIZE-MASQ")

	n.kernel.Log()
	report, err := n.Cleanup(t.Context(), part.Undo{})
	require.NoError(t, err)
	assert.Contains(t, strings.Join(report, "\n"), "removed route 10.1.6.0/24")
	assert.Contains(t, report, "removed chain BAIZE-FORWARD (iptables)")
	assert.Contains(t, report, "removed table netdev baize of nftables")
	report, err = n.Cleanup(t.Context(), part.Undo{})
	require.NoError(t, err)
	assert.Empty(t, report)
}

// A firewall that has just been read is read again at once when something else
// is wanted of it.
func TestFirewallWanted(t *testing.T) {
	n := newNode(t, Config{Userspace: true})
	n.steps()
	n.kernel.AddDevice("bz2")
	known := n.known.Get()
	known.Pending = []ovs.Endpoint{{Name: "c2", Network: "blue", Port: "bz2"}}
	n.known.Set(known)
	assert.Contains(t, n.steps(), "bz2")
}
