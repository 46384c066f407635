package openvswitch

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/topology"
)

// What a pass did is told apart: what the topology asks for, what the node's endpoints
// ask for, and what somebody else had removed or changed.
func TestChangesTellRepairsFromPlans(t *testing.T) {
	w := &world{keys: map[string]topology.KV{}, endpoints: map[string]ovs.Endpoint{}}
	node := func(name string, last byte) topology.Node {
		return topology.Node{
			Name: name, ID: name, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 9, last})},
			Encapsulations: topology.Encapsulations(),
		}
	}
	n := walkNetworks[1]
	w.put(n)
	for i, host := range []string{"host1", "host2"} {
		w.put(node(host, byte(i+1)))
		w.put(topology.Subnet{Network: n.Name, Prefix: topology.SubnetAt(n, topology.IPv4, uint64(i+1)), Node: host})
	}
	f := ovsfake.New()
	c := newConverger(f.Database(), f.Flows(), &flowWatch{})
	pass := func() Changes {
		t.Helper()
		observed, err := f.Database().Observe(t.Context())
		require.NoError(t, err)
		out, err := c.converge(t.Context(), w.want(), observed, true)
		require.NoError(t, err)
		return out.Did
	}

	did := pass()
	assert.True(t, did.First && did.Bridge && did.Planned())
	assert.False(t, did.Own || did.Repaired())
	require.Len(t, did.AddedPorts, 1)
	tunnel := did.AddedPorts[0]
	did = pass()
	assert.False(t, did.Planned() || did.Repaired() || did.First)

	// A node more.
	w.put(node("host3", 3))
	s := topology.Subnet{Network: n.Name, Prefix: topology.SubnetAt(n, topology.IPv4, 3), Node: "host3"}
	w.put(s)
	did = pass()
	assert.True(t, did.Planned())
	assert.False(t, did.Own || did.Repaired() || did.First)
	assert.Len(t, did.AddedPorts, 1)
	assert.Equal(t, ovs.Reason{Key: s.Key(), Revision: w.rev}, did.Cause)
	delete(w.keys, topology.NodeKey("host3"))
	delete(w.keys, s.Key())
	did = pass()
	assert.True(t, did.Planned())
	assert.False(t, did.Own || did.Repaired())
	assert.Len(t, did.RemovedPorts, 1)
	assert.NotZero(t, did.RemovedFlows)

	// An endpoint comes and goes.
	ip := netip.MustParseAddr("10.1.1.2")
	w.endpoints["c1"] = ovs.Endpoint{Name: "c1", Network: n.Name, Port: "bzc1", IPs: []netip.Addr{ip}, MAC: topology.MACOf(ip)}
	f.SetDevice("bzc1", true)
	did = pass()
	assert.True(t, did.Planned() && did.Own)
	assert.Equal(t, []string{"bzc1"}, did.AddedPorts)
	assert.False(t, did.Repaired())
	delete(w.endpoints, "c1")
	did = pass()
	assert.True(t, did.Planned() && did.Own, "%+v", did)
	assert.False(t, did.Repaired())

	// Somebody deletes a flow, a port, all flows, the bridge.
	f.DelFlow(0)
	did = pass()
	assert.True(t, did.Repaired())
	assert.False(t, did.Planned() || did.Wiped)
	assert.NotZero(t, did.RepairedFlows)
	assert.Equal(t, 0, did.Example.Table)
	f.DelPort(tunnel)
	did = pass()
	assert.Equal(t, []string{tunnel}, did.RepairedPorts)
	assert.False(t, did.BridgeRepaired)
	f.StopVswitchd()
	f.StartVswitchd()
	did = pass()
	assert.True(t, did.Wiped && did.Repaired())
	assert.False(t, did.Planned())
	f.DelBridge()
	did = pass()
	assert.True(t, did.BridgeRepaired)
	assert.Equal(t, []string{tunnel}, did.RepairedPorts)
	assert.False(t, did.Planned(), "%+v", did)
}
