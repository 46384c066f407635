package hub_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func key(r topology.Record, revision int64) topology.KV {
	return topology.KV{
		Key:   r.Key(),
		Value: topology.Encode(r),
		Meta:  topology.Meta{CreateRevision: revision, ModRevision: revision},
	}
}

// good is a cluster of two nodes with two networks.
func good() []topology.KV {
	prefix := netip.MustParsePrefix
	node := func(name, vtep string) topology.Node {
		return topology.Node{
			Name:           name,
			ID:             "id-" + name,
			VTEPs:          []netip.Addr{netip.MustParseAddr(vtep)},
			Encapsulations: topology.Encapsulations(),
		}
	}
	return []topology.KV{
		key(topology.Network{Name: "blue", VNI: 100, IPv4: prefix("10.1.0.0/16")}.Defaults(), 1),
		key(topology.Network{Name: "red", VNI: 200, IPv4: prefix("10.2.0.0/16")}.Defaults(), 2),
		key(node("host1", "192.168.1.1"), 3), key(node("host2", "192.168.1.2"), 4),
		key(topology.Subnet{Network: "blue", Prefix: prefix("10.1.1.0/24"), Node: "host1"}, 5),
		key(topology.Subnet{Network: "blue", Prefix: prefix("10.1.2.0/24"), Node: "host2"}, 6),
		key(topology.Subnet{Network: "red", Prefix: prefix("10.2.1.0/24"), Node: "host1"}, 7),
		key(topology.Pin{Network: "blue", Addr: netip.MustParseAddr("10.1.2.9"), Node: "host1", MAC: "02:42:0a:01:02:09"}, 8),
	}
}

func newHub(t *testing.T, kvs []topology.KV, inUse ...string) *hub.Hub {
	t.Helper()
	h := hub.New(hub.Identity{Node: "host1", ID: "id-host1"})
	h.Hold()
	networks := map[string]bool{}
	for _, n := range inUse {
		networks[n] = true
	}
	h.SetOwn(topology.NewSnapshot(10, kvs), false)
	require.False(t, h.Records().Get().Known(), "nothing is acted on before it is known what is in use")
	h.SetInUse(networks)
	return h
}

// peers returns whom this node sends to in a network.
func peers(h *hub.Hub, network string) []string { return view(h.Records().Get(), network) }

// A topology that vanishes takes nothing with it.
func TestNothingVanishesUnderEndpoints(t *testing.T) {
	t.Run("the store is emptied", func(t *testing.T) {
		h := newHub(t, good(), "blue")
		h.SetOwn(topology.NewSnapshot(1, nil), false)
		require.Equal(t, []string{"host2"}, peers(h, "blue"), "traffic goes on")
		now := h.Records().Get()
		require.NotContains(t, now.Snapshot.Networks, "red", "nothing of this node uses it")
		require.Len(t, now.View().Networks[0].Pins, 1)
		require.NotEmpty(t, now.Vanished)
		require.Equal(t, fault.RecordVanished, now.Vanished[0].Code)
		require.Empty(t, now.Writable().Nodes, "what is kept has to be written again")

		// Put back, it is an ordinary topology again.
		h.SetOwn(topology.NewSnapshot(20, good()), false)
		require.Empty(t, h.Records().Get().Vanished)
	})
	t.Run("the store is emptied, and the last container is restarted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, good(), "blue", "red")
			h.SetOwn(topology.NewSnapshot(1, nil), false)
			h.SetInUse(map[string]bool{"blue": true})
			require.Contains(t, h.Records().Get().Snapshot.Networks, "red", "it may come back")
			h.SetInUse(map[string]bool{"blue": true, "red": true})
			time.Sleep(time.Hour)
			require.Contains(t, h.Records().Get().Snapshot.Networks, "red")
			h.SetInUse(map[string]bool{"blue": true})
			time.Sleep(time.Minute)
			require.NotContains(t, h.Records().Get().Snapshot.Networks, "red", "nothing of this node uses it")
			require.Equal(t, []string{"host2"}, peers(h, "blue"))
		})
	})
	t.Run("a network is mistyped", func(t *testing.T) {
		h := newHub(t, good(), "blue")
		kvs := good()
		kvs[0].Value = []byte(`{"ipv4": "10.1.0.0/16", `)
		h.SetOwn(topology.NewSnapshot(11, kvs), false)
		require.Equal(t, []string{"host2"}, peers(h, "blue"))
	})
	t.Run("the node records are gone", func(t *testing.T) {
		h := newHub(t, good(), "blue")
		h.SetOwn(topology.NewSnapshot(11, append(good()[:2], good()[4:]...)), false)
		require.Equal(t, []string{"host2"}, peers(h, "blue"))
	})
	t.Run("of a network that was to go when nothing uses it", func(t *testing.T) {
		kvs := good()
		n := topology.Network{
			Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Deleting: topology.DeleteUnused,
		}
		kvs[0] = key(n.Defaults(), 1)
		h := newHub(t, kvs, "blue")
		h.SetOwn(topology.NewSnapshot(11, kvs[1:]), false)
		require.Equal(t, []string{"host2"}, peers(h, "blue"), "this node has not let go of it")
	})
	t.Run("while the agent did not run", func(t *testing.T) {
		h := hub.New(hub.Identity{Node: "host1", ID: "id-host1"})
		h.Hold()
		h.SetLast(topology.NewSnapshot(10, good()))
		h.SetInUse(map[string]bool{"blue": true})
		h.SetOwn(topology.NewSnapshot(1, nil), false)
		require.Equal(t, []string{"host2"}, peers(h, "blue"))
	})
}

// Whoever puts a topology back does so record by record, in any order.
func TestPutBackPieceByPiece(t *testing.T) {
	for name, back := range map[string][]int{
		"networks first": {0, 1, 2, 3, 4, 5, 6, 7}, "leases first": {7, 6, 5, 4, 3, 2, 1, 0}, "nodes last": {4, 5, 0, 1, 6, 7, 3, 2},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t, good(), "blue")
			h.SetOwn(topology.NewSnapshot(11, nil), false)
			var kvs []topology.KV
			for n, i := range back {
				kvs = append(kvs, good()[i])
				h.SetOwn(topology.NewSnapshot(int64(12+n), kvs), false)
				now := h.Topology().Get()
				require.Equal(t, []string{"host2"}, view(now, "blue"), "%d records are back", n+1)
				require.Contains(t, now.Own.Subnets, topology.SubnetID{Network: "blue", Prefix: netip.MustParsePrefix("10.1.1.0/24")})
				require.Len(t, now.Own.Pins, 1)
			}
			require.Empty(t, h.Topology().Get().Vanished)
		})
	}
	t.Run("some never come back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, good(), "blue")
			h.SetOwn(topology.NewSnapshot(11, nil), false)
			h.SetOwn(topology.NewSnapshot(12, append(good()[:4:4], good()[4])), false)
			time.Sleep(29 * time.Second)
			require.Equal(t, []string{"host2"}, view(h.Topology().Get(), "blue"))
			require.NotEmpty(t, h.Topology().Get().Vanished)
			time.Sleep(2 * time.Second)
			require.Empty(t, view(h.Topology().Get(), "blue"), "what nobody puts back is believed to be gone")
			require.Empty(t, h.Topology().Get().Vanished)
		})
	})
	t.Run("an older backup", func(t *testing.T) {
		h := newHub(t, good(), "blue")
		h.SetOwn(topology.NewSnapshot(6, good()[:5]), false)
		require.Equal(t, []string{"host2"}, view(h.Topology().Get(), "blue"), "its lease is younger than the backup")
	})
}

func view(t hub.Topology, network string) (out []string) {
	n, _ := t.View().Find(network)
	for _, p := range n.Peers {
		out = append(out, p.Node)
	}
	return out
}

func TestADeletionIsBelieved(t *testing.T) {
	t.Run("of a network without endpoints", func(t *testing.T) {
		h := newHub(t, good())
		h.SetOwn(topology.NewSnapshot(11, good()[1:]), false)
		require.NotContains(t, h.Records().Get().Snapshot.Networks, "blue")
		require.Empty(t, h.Records().Get().Vanished)
	})
	t.Run("of a node with its subnets", func(t *testing.T) {
		h := newHub(t, good(), "blue")
		kvs := good()
		h.SetOwn(topology.NewSnapshot(11, append(append(kvs[:3:3], kvs[4]), kvs[6:]...)), false)
		require.Empty(t, peers(h, "blue"))
		require.Empty(t, h.Records().Get().Vanished)
	})
	t.Run("of a network that was to go with its endpoints", func(t *testing.T) {
		kvs := good()
		n := topology.Network{
			Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Deleting: topology.DeleteNow,
		}
		kvs[0] = key(n.Defaults(), 1)
		h := newHub(t, kvs, "blue")
		h.SetOwn(topology.NewSnapshot(11, kvs[1:4]), false)
		require.NotContains(t, h.Records().Get().Snapshot.Networks, "blue")
		require.Empty(t, h.Records().Get().Vanished)
	})
	t.Run("of a network whose last endpoint goes, half a minute later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHub(t, good(), "blue")
			h.SetOwn(topology.NewSnapshot(1, nil), false)
			require.NotEmpty(t, h.Records().Get().Vanished)
			h.SetInUse(map[string]bool{})
			time.Sleep(time.Minute)
			require.NotContains(t, h.Records().Get().Snapshot.Networks, "blue")
			require.Empty(t, h.Records().Get().Vanished)
		})
	})
}

// A key that no view is made of wakes nobody who makes flows.
func TestNamesAndLivenessWakeNoReconciler(t *testing.T) {
	h := newHub(t, good(), "blue")
	wake := part.NewSignal()
	h.Records().Wakes(wake)
	woken := func() bool {
		select {
		case <-wake:
			return true
		default:
			return false
		}
	}
	before := h.Topology().Get()
	s := before.Stored
	s = s.With(11, []topology.KV{key(topology.Liveness{Node: "host2", ID: "x"}, 11), key(topology.Names{
		Network: "blue", Node: "host2", Names: map[string][]netip.Addr{"web": {netip.MustParseAddr("10.1.2.3")}},
	}, 11)}, nil)
	h.SetOwn(s, false)
	require.False(t, woken())
	require.True(t, before.SameView(h.Records().Get()), "nothing is computed anew")
	require.Equal(t, int64(11), h.Records().Get().Snapshot.Revision, "and yet it is there")
	h.SetOwn(
		s.With(
			12,
			[]topology.KV{
				key(topology.Subnet{Network: "blue", Prefix: netip.MustParsePrefix("10.1.7.0/24"), Node: "host2"}, 12),
			},
			nil,
		),
		false,
	)
	require.True(t, woken())
	require.False(t, before.SameView(h.Records().Get()))
}

// A store that is read and not written is no worse than one that is down.
func TestAStoreThatRefusesToBeWritten(t *testing.T) {
	ours := hub.New(hub.Identity{Node: "host1", ID: "id-host1"})
	ours.SetInUse(map[string]bool{})
	ours.SetOwn(topology.NewSnapshot(10, good()), false)
	require.True(t, ours.Records().Get().Known(), "the record under our name is our own")

	other := hub.New(hub.Identity{Node: "host1", ID: "another machine"})
	other.SetInUse(map[string]bool{})
	other.SetOwn(topology.NewSnapshot(10, good()), false)
	require.False(t, other.Records().Get().Known(), "its switch is not ours to copy")
	other.Hold()
	require.True(t, other.Records().Get().Known())
}

// Whatever churns in the store, reconcilers are woken a bounded number of
// times, and get the last of it.
func TestChurnIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(t, good(), "blue")
		wake := part.NewSignal()
		h.Records().Wakes(wake)
		woken := 0
		s := h.Topology().Get().Stored
		for i := range 1000 {
			revision := int64(100 + i)
			s = s.With(revision, []topology.KV{key(topology.Subnet{
				Network: "blue", Prefix: netip.MustParsePrefix("10.1.7.0/24"), Node: "host2", Comment: fmt.Sprint(i),
			}, revision)}, nil)
			h.SetOwn(s, false)
			time.Sleep(time.Millisecond)
			select {
			case <-wake:
				woken++
			default:
			}
		}
		time.Sleep(time.Second)
		require.LessOrEqual(t, woken, 35, "in a second of a thousand changes")
		require.Equal(t, int64(1099), h.Records().Get().Snapshot.Revision)
	})
}
