package kernel

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
)

func routedNetwork(t topology.Transport) topology.Network {
	return topology.Network{
		Name: "routed", IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:1::/48"), VNI: 1,
		Transport: t, Router: true,
	}.Defaults()
}

func TestAcceptRules(t *testing.T) {
	n := route.Network{Port: "bn-routed", NetworkView: topology.NetworkView{
		Network: routedNetwork(topology.Route), Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.5.0/24")},
		Peers: []topology.Peer{{Node: "near", VTEPs: []netip.Addr{netip.MustParseAddr("192.0.2.6")}, Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.6.0/24")}}},
	}}
	reach := topology.OnLink{netip.MustParseAddr("192.0.2.6"): "eth0"}
	port := []string{"-i bn-routed", "-o bn-routed"}
	assert.Equal(t, map[topology.Family][]string{
		topology.IPv4: append(port, "-d 10.1.5.0/24 -i eth0", "-s 10.1.5.0/24 -d 10.1.0.0/16 -o eth0"), topology.IPv6: port,
	}, acceptRules(n, reach, nil))
	// Without Router only what stays in the network.
	n.Router, n.IPv6 = false, netip.Prefix{}
	assert.Equal(t, map[topology.Family][]string{topology.IPv4: {"-d 10.1.0.0/16 -i bn-routed", "-s 10.1.0.0/16 -o bn-routed"}}, acceptRules(n, reach, nil))
}
