package agent

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

func flannelNetwork(t topology.Transport) topology.Network {
	return topology.Network{
		Name: topology.FlannelNetwork, IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:1::/48"), VNI: 1,
		Transport: t, Router: true,
	}.Defaults()
}

// Containers keep their addresses when a lease is lost, also those of a docker0
// whose addresses nobody but Docker knows.
func TestPreferredSubnets(t *testing.T) {
	n := flannelNetwork(topology.VXLAN)
	file := filepath.Join(t.TempDir(), "subnet.env")
	assert.Empty(t, preferredSubnets(n, nil, topology.FlannelLease{}, file))
	docker0 := netip.MustParsePrefix("10.1.7.0/24")
	require.NoError(t, subnetenv.Write(file, subnetenv.Env{Network: n.IPv4, Subnet: docker0, MTU: 1450}))
	endpoint := ovs.Endpoint{Network: n.Name, IPs: []netip.Addr{netip.MustParseAddr("10.1.5.2"), netip.MustParseAddr("fd00:1:0:5::2")}}
	assert.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24"), netip.MustParsePrefix("fd00:1:0:5::/64"), docker0},
		preferredSubnets(n, []ovs.Endpoint{endpoint}, topology.FlannelLease{Subnet: docker0}, file))
}

// What a node says of itself is what flannel's hosts of that backend look for.
func TestFlannelLease(t *testing.T) {
	underlay := []netip.Addr{netip.MustParseAddr("fd77::1"), netip.MustParseAddr("192.168.0.1")}
	n := flannelNetwork(topology.VXLAN)
	l := flannelLease(n, underlay)
	assert.Equal(t, "vxlan", l.BackendType)
	assert.Equal(t, topology.FlannelVTEP{VNI: 1, MAC: "0e:ba:c0:a8:00:01"}, l.VTEP)
	assert.Equal(t, l.VTEP, l.IPv6VTEP, "without it flannel's hosts ignore the lease")
	assert.Equal(t, underlay[0], l.PublicIPv6)

	l = flannelLease(flannelNetwork(topology.Route), underlay)
	assert.Equal(t, "host-gw", l.BackendType)
	assert.Equal(t, underlay, []netip.Addr{l.PublicIPv6, l.PublicIP})

	n.IPv6 = netip.Prefix{}
	assert.False(t, flannelLease(n, underlay).PublicIPv6.IsValid(), "an IPv4 network")
	assert.False(t, flannelLease(n, underlay[:1]).PublicIP.IsValid())
}

func TestAcceptRules(t *testing.T) {
	n := route.Network{Port: "bn-flannel", NetworkView: topology.NetworkView{
		Network: flannelNetwork(topology.Route), Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24")},
		Peers: []topology.Peer{{Node: "near", VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.6")}, Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.6.0/24")}}},
	}}
	reach := topology.OnLink{netip.MustParseAddr("192.0.2.6"): "eth0"}
	port := []string{"-i bn-flannel", "-o bn-flannel"}
	assert.Equal(t, map[topology.Family][]string{
		topology.IPv4: append(port, "-d 10.1.5.0/24 -i eth0", "-s 10.1.5.0/24 -d 10.1.0.0/16 -o eth0"), topology.IPv6: port,
	}, acceptRules(n, reach, nil))
	// Without Router only what stays in the network.
	n.Router, n.IPv6 = false, netip.Prefix{}
	assert.Equal(t, map[topology.Family][]string{topology.IPv4: {"-d 10.1.0.0/16 -i bn-flannel", "-s 10.1.0.0/16 -o bn-flannel"}}, acceptRules(n, reach, nil))
}
