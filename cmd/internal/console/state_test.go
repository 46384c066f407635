package console

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func TestState(t *testing.T) {
	records := madeUp(3)
	records = append(records,
		topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.200.0/24"), Reserved: true},
		topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.9.9"), Node: "host2", MAC: "02:42:0a:01:09:09"},
	)
	s := NewState(Topology{Snapshot: snapshotOf(records...)}, Agent{})

	require.Len(t, s.Hosts, 3)
	h := s.Hosts[0]
	assert.Equal(t, "host1", h.Name)
	assert.Equal(t, draw.Ready, h.Status)
	assert.Equal(t, "192.168.77.0/24", h.Segment)
	assert.Equal(t, "10.1.1.0/24", h.Leases[0].Prefix.String())
	assert.Equal(t, "10.1.9.9", s.Hosts[1].Pins[0].Address.String())

	blue := s.Networks[0]
	assert.Equal(t, []string{"host1", "host2", "host3"}, blue.Members)
	assert.Equal(t, Prefix{
		Prefix: netip.MustParsePrefix("10.1.0.0/16"), SubnetLen: 24, Subnets: 255, Leased: 3, Reserved: 1,
	}, blue.Prefixes[0], "the first subnet is never leased")
	assert.InDelta(t, 65535, blue.Prefixes[1].Subnets, 0)
	assert.Equal(t, "10.1.200.0/24", blue.Unassigned[0].String())
	assert.Len(t, s.Tunnels, 4)
	assert.Empty(t, s.Faults)
}

// What is wrong stands at its host and its network, and errors come first.
func TestStateFaults(t *testing.T) {
	var records []topology.Record
	for _, r := range madeUp(3) {
		if l, ok := r.(topology.Liveness); !ok || l.Node != "host2" {
			records = append(records, r)
		}
	}
	records = append(records, topology.Subnet{
		Network: "blue", Node: "host9", Prefix: netip.MustParsePrefix("10.1.77.0/24"),
	})
	agent := Agent{Status: agentOf("host1").Status}
	agent.Status.Problems = []fault.Fault{{Code: fault.PortDead, Item: "port vx-host3", What: "no\x1b number"}}
	s := NewState(Topology{Snapshot: snapshotOf(records...), Err: errors.New("etcd is away")}, agent)

	assert.Equal(t, "etcd is away", s.Stale)
	by := map[fault.Code]Fault{}
	for _, f := range s.Faults {
		by[f.Code] = f
	}
	assert.Equal(t, "host2", by[fault.NodeDown].Host)
	assert.Equal(t, fault.Warning, by[fault.NodeDown].Severity)
	assert.Equal(t, "blue", by[fault.RecordOrphaned].Network)
	assert.Equal(t, "no  number", by[fault.PortDead].What, "no control characters")
	assert.Equal(t, fault.Error, s.Faults[0].Severity)
	assert.Equal(t, fault.Warning, s.Faults[len(s.Faults)-1].Severity)
}

// Nothing known is said as lists that are empty: the page does not look for null.
func TestStateOfNothing(t *testing.T) {
	b, err := json.Marshal(NewState(Topology{Err: errors.New("down")}, Agent{Err: errors.New("hangs")}))
	require.NoError(t, err)
	assert.JSONEq(t, `{"version":"","revision":0,"stale":"down","hosts":[],"networks":[],"faults":[],"panels":null}`, string(b))
	assert.Equal(t, AgentState{Error: "hangs"}, newAgentState(Agent{Err: errors.New("hangs")}))
}

// A cluster of many hosts costs what its records cost, not what its pairs do.
func TestStateGrowsWithHosts(t *testing.T) {
	size := func(n int) int {
		b, err := json.Marshal(NewState(Topology{Snapshot: snapshotOf(madeUp(n)...)}, Agent{}))
		require.NoError(t, err)
		return len(b)
	}
	assert.Less(t, size(200), 5*size(50))
}

func TestTunnelsOf(t *testing.T) {
	snap := snapshotOf(madeUp(3)...)
	out, ok := TunnelsOf(snap, "host1")
	require.True(t, ok)
	addr := netip.MustParseAddr
	assert.Equal(t, []Tunnel{
		{Peer: "host2", Status: draw.Ready, Encap: topology.VXLAN, Local: addr("192.168.77.11"),
			Remote: addr("192.168.77.12"), Networks: []string{"blue"}},
		{Peer: "host3", Status: draw.Ready, Encap: topology.Geneve, Local: addr("192.168.77.11"),
			Remote: addr("192.168.77.13"), Networks: []string{"green"}},
		{Peer: "host3", Status: draw.Ready, Encap: topology.VXLAN, Local: addr("192.168.77.11"),
			Remote: addr("192.168.77.13"), Networks: []string{"blue"}},
	}, out.Tunnels)
	_, ok = TunnelsOf(snap, "host9")
	assert.False(t, ok)
	_, ok = TunnelsOf(nil, "host1")
	assert.False(t, ok)
}
