package capture

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

func TestFind(t *testing.T) {
	v := topology.View{
		Node: topology.Node{Name: "host1", VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		Networks: []topology.NetworkView{
			{
				Network: topology.Network{Name: "blue", VNI: 100, Transport: topology.VXLAN},
				Peers: []topology.Peer{{
					Node: "host2", Encap: topology.VXLAN, Local: netip.MustParseAddr("192.0.2.1"),
					Remote: netip.MustParseAddr("192.0.2.2"), VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
				}},
			},
			{
				Network: topology.Network{Name: "fast", VNI: 101, Transport: topology.Route},
				Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.1.0/24")},
				Peers: []topology.Peer{{
					Node: "host2", VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
					Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.2.0/24")},
				}},
			},
		},
	}
	h := Host{
		View: v, UDPPorts: map[topology.Transport]int{topology.VXLAN: 8472, topology.Geneve: 0},
		Endpoints: []api.Endpoint{
			{Name: "c1", Network: "blue", Port: "bz1", Netns: "/run/netns/c1", Ifname: "eth0", Container: "web"},
			{Name: "c2", Network: "fast", Port: "bz2", Netns: "/run/netns/c2", Ifname: "eth0"},
		},
		Fast: map[string]bool{"fast": true},
		Observed: ovs.Observed{
			Ports: map[string]ovs.ObservedPort{
				"bzseg": {Port: ovs.Port{ExternalIDs: map[string]string{
					ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleSegment, ovs.KeySegment: "docker0", ovs.KeyNetwork: "blue",
				}}},
				"vx1": {Port: ovs.Port{ExternalIDs: map[string]string{ovs.KeyRole: ovs.RoleTunnel, ovs.KeyNode: "host2"}}},
			},
			Foreign: map[string]string{"lo": "br-phy", "no-such-device": "br-phy", "br-phy": "br-phy", "other": "br-ex"},
		},
		Device: func(netip.Addr) (string, error) { return "br-phy", nil },
	}
	for _, name := range []string{"c1", "web", "bz1", "blue/c1"} {
		p, err := h.Find(name)
		require.NoError(t, err)
		require.Equal(t, api.Point{
			Node: "host1", Kind: api.PointEndpoint, Name: "c1", Network: "blue", Devices: []string{"bz1"},
		}, p)
	}
	// The fast path goes past the host's end.
	p, err := h.Find("c2")
	require.NoError(t, err)
	require.Equal(t, "/run/netns/c2", p.Netns)
	require.Equal(t, []string{"eth0"}, p.Devices)

	p, err = h.Find("docker0")
	require.NoError(t, err)
	require.Equal(t, api.Point{
		Node: "host1", Kind: api.PointEndpoint, Name: "docker0", Network: "blue", Devices: []string{"bzseg"},
	}, p)

	want := api.Point{
		Node: "host1", Kind: api.PointTunnel, Name: "host2", Devices: []string{"br-phy"},
		Locals: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Remotes: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
		UDPPorts:     map[topology.Transport]int{topology.VXLAN: 8472, topology.Geneve: 6081},
		Networks:     map[uint32]string{0: nameProbes, 100: "blue", 101: "fast"},
		OwnPrefixes:  []netip.Prefix{netip.MustParsePrefix("10.2.1.0/24")},
		PeerPrefixes: []netip.Prefix{netip.MustParsePrefix("10.2.2.0/24")},
	}
	for _, name := range []string{"host2", "vx1"} {
		p, err := h.Find(name)
		require.NoError(t, err)
		require.Equal(t, want, p)
	}
	require.Equal(t, "host1/host2", want.String())

	// The userspace datapath sends past the bridge's own device.
	h.View.Node.Datapath = "netdev"
	p, err = h.Find("host2")
	require.NoError(t, err)
	require.Equal(t, []string{"lo"}, p.Devices)

	h.Device = func(netip.Addr) (string, error) { return "", errors.New("none") }
	_, err = h.Find("host2")
	require.ErrorIs(t, err, topology.ErrUnavailable)
	_, err = h.Find("host3")
	require.ErrorIs(t, err, topology.ErrNotFound)
}
