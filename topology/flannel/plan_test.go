package flannel_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
	"github.com/baize-net/baize/topology/flannel"
)

// planned plans the migration of two Baize nodes whose links carry packets of the
// given sizes. The third node has no lease.
func planned(t *testing.T, config string, mtus [2]int, more ...topology.Record) (flannel.Migration, error) {
	t.Helper()
	var own []topology.KV
	raw := []topology.KV{{Key: flannel.ConfigKey, Value: []byte(config)}}
	add := func(r topology.Record) {
		own = append(
			own,
			topology.KV{Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: 1, ModRevision: 1}},
		)
	}
	for i, mtu := range mtus {
		ip := netip.AddrFrom4([4]byte{192, 168, 77, byte(i + 1)})
		name := "host" + string(rune('1'+i))
		add(topology.Node{
			Name: name, ID: name, VTEPs: []netip.Addr{ip}, Encapsulations: topology.Encapsulations(), UnderlayMTU: mtu,
		})
		l := want(ip.String())
		l.Subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i + 1), 0}), 24)
		raw = append(raw, topology.KV{Key: l.Key(), Value: l.Encode(), Meta: topology.Meta{Lease: 5}})
	}
	add(topology.Node{
		Name: "host3", ID: "host3", VTEPs: []netip.Addr{netip.MustParseAddr("192.168.77.3")}, UnderlayMTU: 1400,
	})
	for _, r := range more {
		add(r)
	}
	return flannel.Plan(topology.NewSnapshot(1, own), topology.NewRawSnapshot(1, raw))
}

// The network gets the MTU that all of its nodes can carry, and an MTU of
// flannel's configuration stays.
func TestPlanMTU(t *testing.T) {
	const dual = `{"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:1::/48","Backend":{"Type":"vxlan"}}`
	for name, c := range map[string]struct {
		config string
		mtus   [2]int
		want   int
	}{
		"large":            {vxlanConfig, [2]int{9000, 9000}, 8950},
		"the least":        {vxlanConfig, [2]int{9000, 1500}, 1450},
		"small":            {vxlanConfig, [2]int{1400, 9000}, 1350},
		"one is not known": {vxlanConfig, [2]int{0, 9000}, 1450},
		"none is known":    {vxlanConfig, [2]int{0, 0}, 1450},
		"explicit":         {`{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","MTU":4000}}`, [2]int{9000, 1500}, 3950},
		"host-gw":          {`{"Network":"10.1.0.0/16","Backend":{"Type":"host-gw"}}`, [2]int{9000, 9000}, 9000},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := planned(t, c.config, c.mtus)
			require.NoError(t, err)
			assert.Equal(t, c.want, m.Network.MTU)
		})
	}
	m, err := planned(t, dual, [2]int{9000, 9000})
	require.NoError(t, err)
	assert.Equal(t, 8930, m.Network.MTU, "flannel has tunnels over IPv6 for it")
}

// One kernel cannot route two networks with one address, nor the addresses that
// it reaches the other nodes by.
func TestPlanRouted(t *testing.T) {
	red := topology.Network{Name: "red", VNI: 200, IPv4: prefix("10.1.128.0/17"), Transport: topology.Route}.Defaults()
	_, err := planned(t, vxlanConfig, [2]int{1500, 1500}, red)
	refused(t, err, topology.ErrConflict, "network flannel", "10.1.128.0/17 of network red")
	assert.Equal(t, fault.RecordConflict, fault.Of(err).Code)
	red.Transport = topology.VXLAN
	_, err = planned(t, vxlanConfig, [2]int{1500, 1500}, red)
	require.NoError(t, err, "nobody routes it")

	inside := topology.Node{Name: "host4", ID: "host4", VTEPs: []netip.Addr{netip.MustParseAddr("10.1.200.4")}}
	_, err = planned(t, vxlanConfig, [2]int{1500, 1500}, inside)
	refused(t, err, topology.ErrConflict, "network flannel", "10.1.0.0/16 covers 10.1.200.4", "node host4")
	assert.Equal(t, fault.NetworkCoversUnderlay, fault.Of(err).Code)
}
