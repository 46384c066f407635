package pipeline_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// named returns a cluster of host1 and nodes of the names given, in one network
// for each transport.
func named(names []string, transports ...topology.Transport) *topology.Snapshot {
	h1 := node(1)
	kvs := []topology.KV{{Key: h1.Key(), Value: topology.Encode(h1)}}
	for i, name := range names {
		n := node(i + 2)
		n.Name, n.ID = name, name
		kvs = append(kvs, topology.KV{Key: n.Key(), Value: topology.Encode(n)})
	}
	for i, tr := range transports {
		n := network("net-"+string(tr), uint32(100+i), tr, fmt.Sprintf("%d.0.0.0/8", 10+i))
		kvs = append(kvs, topology.KV{Key: n.Key(), Value: topology.Encode(n)})
		for j, name := range append([]string{"host1"}, names...) {
			s := topology.Subnet{Network: n.Name, Prefix: topology.SubnetAt(n, topology.IPv4, uint64(j+1)), Node: name}
			kvs = append(kvs, topology.KV{Key: s.Key(), Value: topology.Encode(s)})
		}
	}
	return topology.NewSnapshot(1, kvs)
}

// requireOwnTunnels checks that every node has a tunnel of its own, of each
// encapsulation, and that names are names of devices.
func requireOwnTunnels(t *testing.T, s *topology.Snapshot, encaps ...topology.Transport) ovs.State {
	t.Helper()
	view := s.View("host1")
	require.Empty(t, view.Problems)
	state := pipeline.Build(view, nil, pipeline.Options{})
	remotes, names := map[string]string{}, map[string]bool{}
	for _, p := range state.Ports {
		require.False(t, names[p.Name], "two ports are called %s", p.Name)
		require.LessOrEqual(t, len(p.Name), 15)
		require.NotContains(t, p.Name, " ")
		names[p.Name] = true
		if p.Role() == ovs.RoleTunnel {
			key := p.Type + " " + p.Options["remote_ip"]
			require.Empty(t, remotes[key], "two tunnels to %s", key)
			remotes[key] = p.Name
		}
	}
	tunnels, all := state.Tunnels(), pipeline.NamesOf(view)
	for name, n := range s.Nodes {
		if name == "host1" {
			continue
		}
		for _, encap := range encaps {
			p, ok := tunnels[ovs.TunnelID{Node: name, Encap: encap}]
			require.True(t, ok, "no %s tunnel to %s", encap, name)
			require.Equal(t, n.VTEPs[0].String(), p.Options["remote_ip"], "the tunnel to %s leads elsewhere", name)
			require.Equal(t, p.Name, all.Tunnel(encap, name))
		}
	}
	return state
}

// With 16 bits of a hash two of these shared a port in every cluster of 1000.
func TestNamesOfCloudMachines(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	seen := map[string]bool{}
	var names []string
	for len(names) < 1000 {
		name := fmt.Sprintf("ip-172-31-%d-%d", r.IntN(256), r.IntN(256))
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	requireOwnTunnels(t, named(names, topology.VXLAN, "auto-gre"), topology.VXLAN, topology.GRE)
}

// colliding returns names whose port names would be one if each were alone.
func colliding(t *testing.T, port func(string) string) [][]string {
	t.Helper()
	first := map[string]string{}
	var out [][]string
	for i := 0; len(out) < 3; i++ {
		require.Less(t, i, 5_000_000)
		name := fmt.Sprintf("rack-%d-machine", i)
		p := port(name)
		if other, taken := first[p]; taken {
			out = append(out, []string{other, name})
			continue
		}
		first[p] = name
	}
	return out
}

// Names made for it collide in their hash as well, and with a node that is
// called as another's port would be.
func TestNamesThatCollide(t *testing.T) {
	vxlan := func(name string) string { return pipeline.TunnelName(topology.VXLAN, name) }
	var names []string
	for _, pair := range colliding(t, vxlan) {
		require.Equal(t, vxlan(pair[0]), vxlan(pair[1]))
		names = append(names, pair...)
		names = append(names, strings.TrimPrefix(vxlan(pair[0]), "vx-")) // a short name
	}
	state := requireOwnTunnels(t, named(names, topology.VXLAN), topology.VXLAN)
	short := names[2]
	require.Equal(
		t,
		"vx-"+short,
		state.Tunnels()[ovs.TunnelID{Node: short, Encap: topology.VXLAN}].Name,
		"a short name stays as it is",
	)

	// Property: whatever the order and whoever else is there, no two share a name.
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		some := names[:1+r.IntN(len(names))]
		got := requireOwnTunnels(t, named(some, topology.VXLAN), topology.VXLAN)
		again := requireOwnTunnels(t, named(some, topology.VXLAN), topology.VXLAN)
		require.Equal(t, got, again, "not a pure function")
	}

	// Host ports of networks.
	for _, pair := range colliding(t, pipeline.HostPortName) {
		own := pipeline.HostPortNames(append(pair, "fast"))
		require.NotEqual(t, own[pair[0]], own[pair[1]])
		require.Equal(t, "bn-fast", own["fast"])
	}
}

func TestTunnelNames(t *testing.T) {
	require.Equal(t, "vx-host2", pipeline.TunnelName(topology.VXLAN, "host2"))
	require.Equal(t, "gn-twelve-chars", pipeline.TunnelName(topology.Geneve, "twelve-chars"))
	a := pipeline.TunnelName(topology.VXLAN, "rack-17-position-1")
	require.Regexp(t, `^vx-[a-z2-7]{6}-ion-1$`, a)
	require.NotEqual(t, a, pipeline.TunnelName(topology.VXLAN, "rack-17-position-2"))
	require.Regexp(t, `^vx-[a-z2-7]{6}-host7$`, pipeline.TunnelName(topology.VXLAN, "host7.rack3.example.com"))
	require.Regexp(t, `^bn-[a-z2-7]{6}-duct$`, pipeline.HostPortName("network-of-pro-duct"))
}

// Ports of containers are named after them (finding U13).
func TestEndpointPortName(t *testing.T) {
	require.Equal(t, "bz-web", pipeline.EndpointPortName("web", 0))
	require.Equal(t, "bz-shop-front-1", pipeline.EndpointPortName("shop-front-1", 0))
	seen := map[string]bool{}
	for _, name := range []string{"web", "accounting-front-1", "accounting-front-2", "accounting.front-1"} {
		for try := range 5 {
			port := pipeline.EndpointPortName(name, try)
			require.LessOrEqual(t, len(port), 15)
			require.False(t, seen[port], "%s, try %d: %s", name, try, port)
			seen[port] = true
		}
	}
	require.Regexp(t, "^bz-[a-z2-7]{6}-ont-1$", pipeline.EndpointPortName("accounting-front-1", 0))
	require.Regexp(t, "^bz-[a-z2-7]{6}-web$", pipeline.EndpointPortName("web", 1))
}

// The second tunnel to one peer is another one, with a name of its own.
func TestSecondTunnel(t *testing.T) {
	s := withRouter(newCluster().put(dualNode(1), dualNode(2)), topology.VXLAN, true).s
	state := pipeline.Build(s.View("host1"), nil, pipeline.Options{})
	tunnels := state.Tunnels()
	id := ovs.TunnelID{Node: "router-192.168.0.3", Encap: topology.VXLAN}
	first := tunnels[id]
	id.Second = true
	second := tunnels[id]
	require.NotEqual(t, first.Name, second.Name)
	require.True(t, netip.MustParseAddr(second.Options["remote_ip"]).Is6())
}
