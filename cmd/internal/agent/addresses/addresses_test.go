package addresses_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/addresses"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

func view() topology.NetworkView {
	return topology.NetworkView{
		Network: topology.Network{
			Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48"),
			GatewayIPv4: netip.MustParseAddr("10.1.0.1"),
		}.Defaults(),
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.5.0/30"), netip.MustParsePrefix("fd00:10:1:5::/64")},
	}
}

func TestChoose(t *testing.T) {
	n := view()
	ip := netip.MustParseAddr
	for name, c := range map[string]struct {
		request addresses.Request
		taken   addresses.Taken
		want    string
		kind    error
	}{
		"the first": {addresses.Request{Family: topology.IPv4}, nil, "10.1.5.2", nil},
		"IPv6 like IPv4": {
			addresses.Request{Family: topology.IPv6, Like: ip("10.1.5.3")}, nil, "fd00:10:1:5::3", nil,
		},
		"not alike where taken": {
			addresses.Request{Family: topology.IPv6, Like: ip("10.1.5.3")}, addresses.Taken{ip("fd00:10:1:5::3"): "x"},
			"fd00:10:1:5::2", nil,
		},
		"the one wanted": {addresses.Request{Addr: ip("10.1.77.9")}, nil, "10.1.77.9", nil},
		"wanted and taken": {
			addresses.Request{Addr: ip("10.1.77.9")}, addresses.Taken{ip("10.1.77.9"): "endpoint web"}, "", topology.ErrConflict,
		},
		"wanted and outside": {addresses.Request{Addr: ip("10.2.0.9")}, nil, "", topology.ErrInvalid},
		"full": {
			addresses.Request{Family: topology.IPv4}, addresses.Taken{ip("10.1.5.2"): "x", ip("10.1.5.3"): "x"}, "",
			topology.ErrFull,
		},
		"in a range": {
			addresses.Request{Family: topology.IPv6, Range: netip.MustParsePrefix("fd00:10:1:5::10/124")}, nil,
			"fd00:10:1:5::10", nil,
		},
		"in a range of no subnet": {
			addresses.Request{Family: topology.IPv6, Range: netip.MustParsePrefix("fd00:10:1:6::/64")}, nil, "",
			topology.ErrFull,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := addresses.Choose(n, c.request, c.taken)
			if c.kind != nil {
				require.ErrorIs(t, err, c.kind)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got.String())
		})
	}
}

func TestChooseAll(t *testing.T) {
	n := view()
	ips, _, err := addresses.ChooseAll(n, nil, nil)
	require.NoError(t, err)
	require.Equal(t, "10.1.5.2", ips[0].String())
	require.Equal(t, "fd00:10:1:5::2", ips[1].String())

	_, _, err = addresses.ChooseAll(n, []netip.Addr{netip.MustParseAddr("10.1.9.2"), netip.MustParseAddr("10.1.9.3")}, nil)
	require.ErrorIs(t, err, topology.ErrInvalid)

	taken := addresses.Taken{}
	taken.Add(
		"blue",
		[]ovs.Endpoint{
			{Name: "a", Network: "blue", IPs: []netip.Addr{netip.MustParseAddr("10.1.5.2"), netip.MustParseAddr("10.1.5.3")}},
		},
	)
	_, full, err := addresses.ChooseAll(n, nil, taken)
	require.ErrorIs(t, err, topology.ErrFull)
	require.Equal(t, topology.IPv4, full)
}

// What others have pinned, or were given, is nobody else's; what they only ask for is
// still to be had.
func TestPinsAndClaims(t *testing.T) {
	ip := netip.MustParseAddr
	pin := func(a, node string) topology.Pin {
		return topology.Pin{Network: "blue", Addr: ip(a), Node: node, MAC: "02:42:0a:01:05:02", Endpoint: "db"}
	}
	claim := func(a, node string, answer topology.ClaimAnswer) topology.Claim {
		return topology.Claim{Network: "blue", Addr: ip(a), Node: node, Owner: "self", Answer: answer}
	}
	var kvs []topology.KV
	for _, r := range []topology.Record{
		pin("10.1.5.2", "other"), pin("10.1.5.3", "self"), claim("10.1.5.4", "other", topology.ClaimAgreed),
		claim("10.1.5.5", "other", ""), claim("10.1.5.6", "other", topology.ClaimRefused),
		claim("10.1.5.7", "self", topology.ClaimAgreed),
	} {
		kvs = append(kvs, topology.KV{Key: r.Key(), Value: topology.Encode(r)})
	}
	s := topology.NewSnapshot(1, kvs)
	taken := addresses.Taken{}
	taken.AddPins(s, "blue", "self")
	taken.AddClaims(s, "blue", "self")
	taken.AddClaims(s, "red", "self")
	require.Equal(t, addresses.Taken{
		ip("10.1.5.2"): "endpoint db, of node other", ip("10.1.5.4"): "an endpoint to come of node other",
	}, taken)

	// Row B11: who wants one of them hears what people call its container.
	names := topology.Names{Network: "blue", Node: "other", Names: map[string][]netip.Addr{"store": {ip("10.1.5.2")}}}
	s = s.With(2, []topology.KV{{Key: names.Key(), Value: topology.Encode(names)}}, nil)
	taken = addresses.Taken{}
	taken.AddPins(s, "blue", "self", ip("10.1.5.2"))
	require.Equal(t, "endpoint db, container store, of node other", taken[ip("10.1.5.2")])
}

// Row B11: a MAC whose frames would go to somebody else is refused, and who has it is
// named.
func TestCheckMAC(t *testing.T) {
	ip := netip.MustParseAddr
	var kvs []topology.KV
	for _, r := range []topology.Record{
		topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.7.0/24"), Node: "host2"},
		topology.Names{Network: "blue", Node: "host2", Names: map[string][]netip.Addr{"web": {ip("10.1.200.1")}}},
	} {
		kvs = append(kvs, topology.KV{Key: r.Key(), Value: topology.Encode(r)})
	}
	s := topology.NewSnapshot(1, kvs)
	n := view()
	n.Pins = []topology.Pin{
		{Network: "blue", Addr: ip("10.1.200.1"), Node: "host2", MAC: "02:00:00:00:00:01", Endpoint: "docker-1"},
		{Network: "blue", Addr: ip("10.1.200.2"), Node: "host2", MAC: "02:00:00:00:00:02"},
		{Network: "blue", Addr: ip("10.1.200.3"), Node: "self", MAC: "02:00:00:00:00:03"},
		{Network: "blue", Addr: ip("10.1.5.2"), Node: "host2", MAC: "02:00:00:00:00:05"},
	}
	other := func(name, network, mac string) ovs.Endpoint {
		m, err := topology.ParseMAC(mac)
		require.NoError(t, err)
		return ovs.Endpoint{Name: name, Network: network, Port: "bz" + name, MAC: m}
	}
	others := []ovs.Endpoint{other("db", "blue", "02:00:00:00:00:04"), other("db", "red", "02:00:00:00:00:06")}
	for mac, want := range map[string]string{
		"02:00:00:00:00:01": "that of endpoint docker-1, container web, of node host2",
		"02:00:00:00:00:02": "that of an endpoint of node host2",
		"02:00:00:00:00:03": "", // of this node: its endpoint tells
		"02:00:00:00:00:04": "that of endpoint db",
		"02:00:00:00:00:05": "", // the address moves here
		"02:00:00:00:00:06": "",
		"52:54:00:00:00:01": "",
		"02:42:0a:01:05:02": "", // its own address
		"02:42:0a:01:05:03": "", // of this node's subnet
		"02:42:0a:02:07:09": "", // of no address of the network
		"02:42:0a:01:07:09": "made of 10.1.7.9, in subnet 10.1.7.0/24 of node host2",
		"02:42:0a:01:09:09": "made of 10.1.9.9 of network blue, in a subnet that a node may lease",
	} {
		t.Run(mac, func(t *testing.T) {
			e := other("c", "blue", mac)
			e.IPs = []netip.Addr{ip("10.1.5.2")}
			err := addresses.CheckMAC(n, s, "self", e, others)
			if want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, topology.ErrConflict)
			require.ErrorContains(t, err, "MAC "+mac+": "+want)
		})
	}
}
