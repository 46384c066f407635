package topology_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// dying is a network that is being deleted, with every kind of holder.
func dying() *topology.Snapshot {
	sub := func(s topology.Subnet, prefix string) topology.Subnet {
		s.Network, s.Prefix = "blue", netip.MustParsePrefix(prefix)
		return s
	}
	node := func(name, vtep string) topology.Node {
		return topology.Node{
			Name: name, ID: name, VTEPs: []netip.Addr{netip.MustParseAddr(vtep)}, Encapsulations: topology.Encapsulations(),
		}
	}
	records := []topology.Record{
		topology.Network{
			Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Deleting: topology.DeleteUnused,
		}.Defaults(),
		topology.Network{Name: "red", VNI: 101, IPv4: netip.MustParsePrefix("10.2.0.0/16")}.Defaults(),
		node("host1", "192.168.1.1"),
		node("host2", "192.168.1.2"),
		node("host3", "192.168.1.3"),
		node("host10", "192.168.1.10"),
		topology.Liveness{Node: "host1", ID: "1"}, topology.Liveness{Node: "host3", ID: "3"},
		topology.Liveness{Node: "host10", ID: "10"},
		sub(topology.Subnet{Node: "host1", UsedBy: []string{"endpoint web", "docker0"}, UsedByMore: 3}, "10.1.1.0/24"),
		sub(topology.Subnet{Node: "host1", Segment: "docker0"}, "10.1.11.0/24"),
		sub(topology.Subnet{Node: "host2"}, "10.1.2.0/24"),
		sub(topology.Subnet{Node: "host10"}, "10.1.10.0/24"),
		sub(topology.Subnet{Node: "host4"}, "10.1.4.0/24"),
		sub(topology.Subnet{Reserved: true}, "10.1.5.0/24"),
		sub(topology.Subnet{Reserved: true, Node: "host3", LetGo: true}, "10.1.6.0/24"),
		sub(topology.Subnet{Reserved: true, Node: "planned"}, "10.1.7.0/24"),
		topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.2.9"), Node: "host3", MAC: "02:42:0a:01:02:09"},
	}
	var kvs []topology.KV
	for i, r := range records {
		m := topology.Meta{CreateRevision: int64(i + 1), ModRevision: int64(i + 1)}
		kvs = append(kvs, topology.KV{Key: r.Key(), Value: topology.Encode(r), Meta: m})
	}
	return topology.NewSnapshot(100, kvs)
}

func TestHolders(t *testing.T) {
	var got []string
	for _, h := range dying().Holders("blue") {
		got = append(got, h.Node+": "+h.Why())
	}
	require.Equal(t, []string{
		"host1: endpoint web, docker0 and 3 more",
		"host2: its agent does not run",
		"host3: it has addresses pinned",
		"host4: the node is not registered",
		"host10: its agent has not answered",
	}, got)
	require.Empty(t, dying().Holders("red"))
}

func TestDeletions(t *testing.T) {
	found := dying().Deletions()
	require.Len(t, found, 1)
	require.Equal(t, fault.NetworkDeleting, found[0].Code)
	require.Equal(t, "network blue", found[0].Item)
	require.Contains(t, found[0].What, "waits for host1 (endpoint web, docker0 and 3 more), host2 (its agent does not run)")
	require.Contains(t, found[0].Remedy, "--cancel blue")
}

// A node that has let go of its reservation is nobody's peer; a version that
// cannot read how a network goes treats it like the weaker way.
func TestViewOfADeletion(t *testing.T) {
	s := dying()
	v, ok := s.View("host1").Find("blue")
	require.True(t, ok)
	var peers []string
	for _, p := range v.Peers {
		if len(p.Subnets) > 0 {
			peers = append(peers, p.Node)
		}
	}
	require.Equal(t, []string{"host10", "host2"}, peers)

	n := s.Networks["blue"]
	n.Deleting = "tomorrow"
	require.ErrorIs(t, n.CheckOpen(), topology.ErrConflict)
	n.Deleting = ""
	require.NoError(t, n.CheckOpen())
}
