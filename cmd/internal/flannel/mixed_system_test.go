//go:build system

package flannel

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
)

const dual = `"Network": "10.1.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:1::/48"`

// mixed is a cluster of three kinds of hosts: host1 has a container that Baize
// attached, host2 one on a docker0 as flannel's users have it, host3 runs
// flannel.
type mixed struct {
	*cluster
	addrs map[string][]string
	stop  func() // flannel on host3
}

func newMixed(t *testing.T, config string) *mixed {
	m := &mixed{cluster: up(t, config, lab.Config{}), addrs: map[string][]string{}}
	m.leaves("host3")
	m.stop = m.flannel("host3") // it takes its own lease back
	_, err := m.Host("host1").AddEndpoint(t.Context(), "flannel", "c1")
	require.NoError(t, err)
	m.addrs["host1"] = m.addresses("host1", "c1")
	for _, h := range []string{"host2", "host3"} {
		m.addrs[h] = m.bridge(h)
	}
	for h := range m.addrs {
		m.Serve(h + "/c1")
	}
	return m
}

// in makes a subtest's failures its own.
func (m *mixed) in(t *testing.T) *mixed {
	c := *m.cluster
	c.Lab = m.Lab.In(t)
	return &mixed{cluster: &c, addrs: m.addrs, stop: m.stop}
}

// all exchanges traffic between all hosts, both ways, in every family.
func (m *mixed) all() {
	m.T.Helper()
	for from := range m.addrs {
		for to, addrs := range m.addrs {
			if from != to {
				m.exchange(from+"/c1", to+"/c1", addrs...)
			}
		}
	}
}

// once checks on the wire that datagrams come once, and how.
func (m *mixed) once(from, to string, encapsulated bool, port int) {
	m.T.Helper()
	for _, addr := range m.addrs[to] {
		plain, tunnel := m.wire(from+"/c1", to+"/c1", addr, port)
		want := [2]int{50, 0}
		if encapsulated {
			want = [2]int{0, 50}
		}
		assert.Equal(m.T, want, [2]int{plain, tunnel}, "plain and encapsulated frames from %s to %s (%s)", from, to, addr)
	}
}

// Backend vxlan, both families: every node exchanges traffic with the flannel
// host both ways; it comes back under another link address and under another
// underlay address; the last flannel host goes and the cluster migrates under
// traffic.
func TestMixedCluster(t *testing.T) {
	t.Parallel()
	m := newMixed(t, `{ `+dual+`, "Backend": { "Type": "vxlan" } }`)
	m.all()
	m.once("host1", "host3", true, 8472)
	m.once("host3", "host2", true, 8472)
	for _, h := range []string{"host1", "host2"} {
		m.settled(h)
		require.Empty(t, m.AgentStatus(h).Problems, h)
	}
	m.once("host1", "host2", true, 4789)

	// To the outside, which knows nothing of the network.
	require.True(t, m.env("host2").IPMasq)
	m.Must("host2/c1", "ping", "-c", "1", "-W", "2", "192.168.77.1")
	m.Must("host2/c1", "ping", "-c", "1", "-W", "2", "fd77::1")

	// An endpoint in docker0's subnet would have one of its addresses.
	out, err := m.Host("host2").AddEndpoint(t.Context(), "flannel", "c2")
	require.ErrorContains(t, err, ", this node's subnet, and assigns its addresses itself", "%v", out)

	list := m.Must("host1", "baize", "node", "list")
	require.Regexp(t, `flannel-192\.168\.77\.13 +flannel `, list)
	_, err = m.Run("host1", "baize", "migrate", "flannel")
	require.ErrorContains(t, err, "flannel-192.168.77.13")

	stop := m.stop
	t.Run("another link address", func(t *testing.T) {
		m := m.in(t)
		defer func() { stop = m.stop }()
		// Flannel draws its VTEP's MAC anew with each device.
		m.stop()
		before := m.env("host3")
		m.Must("host3", "sh", "-c", "ip link del flannel.1; ip link del flannel-v6.1")
		m.stop = m.flannel("host3")
		require.Equal(t, before, m.env("host3"))
		for _, h := range []string{"host1", "host2"} {
			m.exchange(h+"/c1", "host3/c1", m.addrs["host3"]...)
			m.exchange("host3/c1", h+"/c1", m.addrs[h]...)
		}
		m.once("host1", "host3", true, 8472)
	})

	t.Run("another underlay address", func(t *testing.T) {
		m := m.in(t)
		m.stop = stop
		defer func() { stop = m.stop }()
		m.stop()
		before := m.env("host3")
		// With its lease gone it takes the subnet of its file again.
		require.NoError(t, m.etcd("-delete", m.key("host3")))
		m.Must(
			"host3",
			"sh",
			"-c",
			"ip link del flannel.1; ip link del flannel-v6.1; ip addr add 192.168.77.113/24 dev br-phy",
		)
		m.stop = m.flannel("host3", "-iface", "192.168.77.113")
		require.Equal(t, before, m.env("host3"))
		for _, h := range []string{"host1", "host2"} {
			m.exchange(h+"/c1", "host3/c1", m.addrs["host3"]...)
			m.exchange("host3/c1", h+"/c1", m.addrs[h]...)
		}
		m.once("host1", "host3", true, 8472)
		require.Regexp(t, `flannel-192\.168\.77\.113 +flannel `, m.Must("host1", "baize", "node", "list"))
	})

	t.Run("migration", func(t *testing.T) {
		m := m.in(t)
		stop()
		require.NoError(t, m.etcd("-delete", m.key("host3")))
		m.Await("the flannel host to be gone", func() (bool, string) {
			list := m.Must("host1", "baize", "node", "list")
			return !strings.Contains(list, "flannel-"), list
		})
		there, back := m.pinging("host1/c1", m.addrs["host2"][0]), m.pinging("host2/c1", m.addrs["host1"][0])
		plan := m.Must("host1", "baize", "migrate", "flannel", "--dry-run")
		require.Contains(t, plan, "nothing was changed")
		before := m.env("host1")
		m.Must("host1", "baize", "migrate", "flannel")
		m.Await("the network to be in Baize's layout", func() (bool, string) {
			out := m.Must("host1", "baize", "network", "show", "flannel", "-o", "json")
			return strings.Contains(out, `"router": true`), out
		})
		m.exchange("host2/c1", "host1/c1", m.addrs["host1"]...)
		require.Equal(t, before, m.env("host1"))
		m.settled("host1")
		m.settled("host2")
		for _, done := range []func() int{there, back} {
			require.GreaterOrEqual(t, done(), 100)
		}
	})
}

// Backend host-gw: no encapsulation between any two hosts, both families; then
// the cluster is changed to vxlan with DirectRouting, where every host is on the
// same segment.
func TestMixedClusterRoutes(t *testing.T) {
	t.Parallel()
	m := newMixed(t, `{ `+dual+`, "Backend": { "Type": "host-gw" } }`)
	check := func(m *mixed) {
		m.T.Helper()
		m.all()
		for _, pair := range [][2]string{{"host1", "host3"}, {"host3", "host2"}, {"host2", "host1"}} {
			m.once(pair[0], pair[1], false, 8472)
		}
		for _, h := range []string{"host1", "host2"} {
			m.settled(h)
			require.Empty(m.T, m.AgentStatus(h).Problems, h)
		}
	}
	check(m)
	require.Equal(t, 1500, m.env("host1").MTU)
	require.Regexp(t, `flannel-192\.168\.77\.13 +flannel `, m.Must("host1", "baize", "node", "list"))

	// A route that somebody deleted is put back, one by one.
	subnet := m.env("host3").Subnet.String()
	m.Must("host2", "ip", "route", "del", subnet, "proto", "173")
	m.Await("the route to be back", func() (bool, string) {
		out := m.Must("host2", "ip", "route", "show", "exact", subnet)
		return strings.Contains(out, "via 192.168.77.13"), out
	})

	t.Run("DirectRouting", func(t *testing.T) {
		m := m.in(t)
		m.stop()
		require.NoError(t, m.etcd("-put-config", `{ `+dual+`, "Backend": { "Type": "vxlan", "DirectRouting": true } }`))
		m.Await("the leases to say vxlan", func() (bool, string) {
			var saw string
			for _, h := range []string{"host1", "host2"} {
				saw += fmt.Sprintln(m.env(h).MTU)
			}
			return saw == "1430\n1430\n", saw
		})
		// Its routes stay when flannel ends, and are replaced when it comes back.
		m.stop = m.flannel("host3")
		for _, h := range []string{"host1", "host2", "host3"} {
			m.Must(h+"/c1", "ip", "link", "set", "eth0", "mtu", "1430")
		}
		check(m)
	})
}
