package topology_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// Finding B3: such a network was accepted, and leasing in all others stalled.
func TestIPv4WithinIPv6(t *testing.T) {
	n := topology.Network{Name: "blue", IPv6: netip.MustParsePrefix("::ffff:10.1.0.0/112"), VNI: 100}.Defaults()
	err := n.Check()
	require.ErrorIs(t, err, topology.ErrInvalid)
	require.ErrorContains(t, err, "IPv4 prefix within IPv6")
	key := topology.KV{Key: "networks/blue", Value: topology.Encode(n)}
	_, err = topology.Decode(key)
	require.ErrorIs(t, err, topology.ErrInvalid, "nor is one that somebody wrote by hand")
}
