package topology_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

// someRecord is a record that may contradict others.
func someRecord(rng *rand.Rand) topology.Record {
	network := []string{"blue", "red", "none"}[rng.IntN(3)]
	name := fmt.Sprintf("host%d", 1+rng.IntN(6))
	a := netip.AddrFrom4([4]byte{10, byte(1 + rng.IntN(2)), byte(rng.IntN(8)), byte(rng.IntN(4))})
	switch rng.IntN(12) {
	case 0:
		n := topology.Network{
			Name: network, VNI: uint32(1 + rng.IntN(3)), IPv4: netip.MustParsePrefix("10.1.0.0/16"),
			Transport: topology.Transports()[rng.IntN(len(topology.Transports()))],
		}
		return n.Defaults()
	case 1, 2, 3, 4, 5, 6, 7:
		n := host(1 + rng.IntN(6))
		n.Version = fmt.Sprint(rng.IntN(3))
		if rng.IntN(4) == 0 {
			n.VTEPs = []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 77, byte(11 + rng.IntN(9))})}
		}
		if rng.IntN(4) == 0 {
			n.UnderlayMTU = 1000 + rng.IntN(600)
		}
		return n
	case 8, 9, 10:
		p, _ := a.Prefix(24 - rng.IntN(2))
		if rng.IntN(2) == 0 {
			network = "blue"
		}
		return topology.Subnet{Network: network, Prefix: p, Node: name, Reserved: rng.IntN(4) == 0}
	}
	return topology.Pin{Network: network, Addr: a, Node: name, MAC: fmt.Sprintf("02:42:0a:01:00:%02x", rng.IntN(9))}
}

// Whatever came before, a Viewer sees what View sees, and leaves alone what it saw before.
func TestViewerSeesWhatViewSees(t *testing.T) {
	reused := 0
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var viewer topology.Viewer
		clean := snapshot(blue, host(1), host(2), host(3), lease("blue", "10.1.1.0/24", "host1"),
			lease("blue", "10.1.2.0/24", "host2"), lease("blue", "10.1.3.0/24", "host3"))
		s := clean
		var lastWant, last topology.View
		for step := range 200 {
			r := someRecord(rng)
			if rng.IntN(20) == 0 {
				s = clean
			}
			if h := host(1 + rng.IntN(3)); rng.IntN(2) == 0 {
				h.UnderlayMTU += step // no contradiction
				r = h
			}
			kv := topology.KV{Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{
				CreateRevision: s.Revision + 1, ModRevision: s.Revision + 1,
			}}
			switch rng.IntN(8) {
			case 0:
				s = s.With(s.Revision+1, nil, []string{kv.Key})
			case 1:
				kv.Value = []byte("{")
				fallthrough
			default:
				s = s.With(s.Revision+1, []topology.KV{kv}, nil)
			}
			want, got := s.View("host1"), viewer.View(s, "host1")
			require.Equal(t, want, got, "seed %d, step %d: %s", seed, step, r.Key())
			require.Equal(t, lastWant, last, "seed %d, step %d: an earlier view changed", seed, step)
			lastWant, last = want, got
			if len(got.Problems) == 0 {
				reused++
			}
		}
	}
	require.Greater(t, reused, 100, "hardly a history is without contradictions")
}

// A change of a node's record costs the view no sorting, and nothing for each node but its
// place in the list.
func TestViewerGoesThroughSubnetsOnce(t *testing.T) {
	n := topology.Network{Name: "blue", VNI: 1, IPv4: netip.MustParsePrefix("10.0.0.0/8")}.Defaults()
	records := []topology.Record{n}
	node := func(i int, mtu int) topology.Node {
		h := host(i)
		h.VTEPs, h.UnderlayMTU = []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})}, mtu
		return h
	}
	for i := 1; i <= 1000; i++ {
		h := node(i, 1500)
		records = append(records, h, topology.Subnet{
			Network: "blue", Prefix: topology.SubnetAt(n, topology.IPv4, uint64(i)), Node: h.Name,
		})
	}
	s := snapshot(records...)
	var next []*topology.Snapshot
	for i := range 2 {
		h := node(500, 1600+i)
		kv := topology.KV{Key: h.Key(), Value: topology.Encode(h), Meta: topology.Meta{ModRevision: s.Revision + 1}}
		next = append(next, s.With(s.Revision+1, []topology.KV{kv}, nil))
	}
	var viewer topology.Viewer
	i := 0
	allocations := testing.AllocsPerRun(10, func() {
		require.Len(t, viewer.View(next[i%2], "host1").Networks[0].Peers, 999)
		i++
	})
	require.LessOrEqual(t, allocations, 100.0)
}
