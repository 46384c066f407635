package sim_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// Row B11: a link address that somebody else has is refused to both who ask, people
// and engines, before anything is made.
func TestMACIsNotTaken(t *testing.T) {
	scenario(t, "of another node", func(t *testing.T) {
		w := world(t, 2)
		away := netip.MustParseAddr("10.1.0.9")
		require.NoError(t, w.Nodes[0].Add("blue", "away", away))
		w.Settle()
		for mac, words := range map[string][]string{
			w.Nodes[0].Wanted["blue/c-host1"].MAC:          {"made of " + home(w.Nodes[0]).String(), "node host1"},
			topology.MACOf(away).String():                  {"endpoint away", "node host1"},
			w.Nodes[1].Wanted["blue/c-host2"].MAC:          {"endpoint c-host2"},
			topology.MACOf(beside(w.Nodes[0], 7)).String(): {"node host1"},
		} {
			refused(t, w.Nodes[1], mac, words...)
		}
		require.Len(t, w.Nodes[1].Attach().Endpoints(), 1)
		require.Empty(t, w.Nodes[1].Attach().Pending())
		w.Settle()
	})
	scenario(t, "made of an address to come", func(t *testing.T) {
		w := world(t, 2)
		n := w.Nodes[0]
		// The next address that the node would choose.
		next := home(n).Next()
		_, err := add(t, n, "odd", topology.MACOf(next.Next()).String())
		require.NoError(t, err)
		for _, name := range []string{"one", "two"} {
			e, err := add(t, n, name, "")
			require.NoError(t, err, "the node does not stumble over its own choice")
			require.NotContains(t, e.IPs, next.Next())
		}
		conflict(t, n.Add("blue", "same", next.Next()), "endpoint odd", "MAC is made of it")
	})
}

// Row B7: an address that an endpoint is allowed is not given to others.
func TestAllowedAddressIsNotGiven(t *testing.T) {
	scenario(t, "", func(t *testing.T) {
		w := world(t, 2)
		n := w.Nodes[0]
		float := home(n).Next().Next()
		_, err := n.Agent().AddEndpoint(t.Context(), api.EndpointRequest{
			Name: "vip", Network: "blue", Netns: "/run/netns/vip", Allow: []netip.Prefix{
				netip.PrefixFrom(float, 32), netip.MustParsePrefix("0.0.0.0/0"),
			},
		})
		require.NoError(t, err)
		e, err := add(t, n, "next", "")
		require.NoError(t, err)
		require.Equal(t, float.Next(), e.IPs[0])
		conflict(t, n.Add("blue", "thief", float), "endpoint vip", "allowed it")
		conflict(t, w.Nodes[1].Add("blue", "thief", float), "endpoint vip", "node host1")
	})
}

// add attaches an endpoint with a MAC; "" leaves it open.
func add(t *testing.T, n *sim.Node, name, mac string) (api.Endpoint, error) {
	return n.Agent().AddEndpoint(t.Context(), api.EndpointRequest{
		Name: name, Network: "blue", Netns: "/run/netns/" + name, MAC: mac,
	})
}

// refused asks for an endpoint with a MAC, as people do and as an engine does.
func refused(t *testing.T, n *sim.Node, mac string, words ...string) {
	t.Helper()
	_, err := add(t, n, "thief", mac)
	conflict(t, err, append(words, mac)...)
	m, err := topology.ParseMAC(mac)
	require.NoError(t, err)
	err = n.Attach().Promise(t.Context(), ovs.Endpoint{
		Name: "docker-1", Network: "blue", IPs: []netip.Addr{beside(n, 1)}, MAC: m,
	})
	conflict(t, err, append(words, mac)...)
}
