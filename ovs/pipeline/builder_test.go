package pipeline_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// history is what one node is given, one after the other: cases that have little in common,
// and small changes of them.
type history struct {
	rng   *rand.Rand
	cases []goldenCase
	now   goldenCase
	rev   int64
}

func newHistory(seed uint64) *history {
	cases := goldenCases()
	h := &history{rng: rand.New(rand.NewPCG(seed, 1)), rev: 1000}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		h.cases = append(h.cases, cases[name])
	}
	h.now = h.cases[0]
	return h
}

func pick[K comparable, V any](h *history, m map[K]V, less func(a, b K) int) (K, bool) {
	keys := slices.SortedFunc(maps.Keys(m), less)
	if len(keys) == 0 {
		var none K
		return none, false
	}
	return keys[h.rng.IntN(len(keys))], true
}

func bySubnet(a, b topology.SubnetID) int {
	return slices.Compare([]string{a.Network, a.Prefix.String()}, []string{b.Network, b.Prefix.String()})
}

func byName(a, b string) int { return slices.Compare([]string{a}, []string{b}) }

// step changes something.
func (h *history) step() {
	s := *h.now.cluster.s
	h.rev++
	s.Revision = h.rev
	s.Nodes, s.Subnets = maps.Clone(s.Nodes), maps.Clone(s.Subnets)
	s.Networks, s.Pins = maps.Clone(s.Networks), maps.Clone(s.Pins)
	h.now.opt.Direct = maps.Clone(h.now.opt.Direct)
	switch h.rng.IntN(10) {
	case 0:
		h.now = h.cases[h.rng.IntN(len(h.cases))]
		return
	case 1, 2:
		h.changeNode(&s)
	case 3:
		id, ok := pick(h, s.Subnets, bySubnet)
		host, _ := pick(h, s.Nodes, byName)
		if sub := s.Subnets[id]; ok {
			sub.Node, sub.ModRevision = host, h.rev
			s.Subnets[id] = sub
		}
	case 4:
		if id, ok := pick(h, s.Subnets, bySubnet); ok {
			delete(s.Subnets, id)
		}
	case 5:
		h.joins(&s)
	case 6:
		h.changeNetwork(&s)
	case 7:
		h.pins(&s)
	case 8:
		if id, ok := pick(h, s.Subnets, bySubnet); ok {
			if h.now.opt.Direct == nil {
				h.now.opt.Direct = map[topology.SubnetID]bool{}
			}
			h.now.opt.Direct[id] = !h.now.opt.Direct[id]
		}
	case 9:
		h.now.opt.Ports = map[topology.Transport]int{topology.VXLAN: 4789 + h.rng.IntN(2)}
	}
	h.now.cluster = &cluster{s: &s, rev: h.rev}
}

func (h *history) changeNode(s *topology.Snapshot) {
	name, ok := pick(h, s.Nodes, byName)
	if !ok {
		return
	}
	n := s.Nodes[name]
	switch n.ModRevision = h.rev; h.rng.IntN(4) {
	case 0:
		n.VTEPs = []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 100, byte(1 + h.rng.IntN(200))})}
	case 1:
		n.VTEPs = append(slices.Clone(n.VTEPs), netip.MustParseAddr(fmt.Sprintf("fd78::%d", 1+h.rng.IntN(200))))
	case 2:
		n.VTEPMAC = "02:00:00:00:00:01"
	case 3:
		if n.Router != nil {
			r := *n.Router
			r.Port += h.rng.IntN(3)
			n.Router = &r
		}
	}
	s.Nodes[name] = n
}

// joins adds a node whose name may be too long for a port's.
func (h *history) joins(s *topology.Snapshot) {
	n := node(20 + h.rng.IntN(20))
	if h.rng.IntN(2) == 0 {
		n.Name = "a-host-with-a-long-name-" + n.Name
	}
	s.Nodes[n.Name] = n
	if network, ok := pick(h, s.Networks, byName); ok {
		w := s.Networks[network]
		for _, f := range w.Families() {
			p := topology.SubnetAt(w, f, uint64(20+h.rng.IntN(20)))
			s.Subnets[topology.SubnetID{Network: network, Prefix: p}] = topology.Subnet{
				Network: network, Prefix: p, Node: n.Name, Meta: topology.Meta{ModRevision: h.rev},
			}
		}
	}
}

func (h *history) changeNetwork(s *topology.Snapshot) {
	name, ok := pick(h, s.Networks, byName)
	if !ok {
		return
	}
	n := s.Networks[name]
	switch n.ModRevision = h.rev; h.rng.IntN(4) {
	case 0:
		n.VNI = uint32(300 + h.rng.IntN(100))
	case 1:
		transports := topology.Transports()
		n.Transport = transports[h.rng.IntN(len(transports))]
	case 2:
		n.Router = !n.Router
	case 3:
		n.Layout = []string{"", "another"}[h.rng.IntN(2)]
	}
	s.Networks[name] = n
}

func (h *history) pins(s *topology.Snapshot) {
	id, ok := pick(h, s.Subnets, bySubnet)
	host, _ := pick(h, s.Nodes, byName)
	if !ok || h.rng.IntN(3) == 0 {
		clear(s.Pins)
		return
	}
	a := id.Prefix.Addr().Next().Next()
	s.Pins[topology.PinID{Network: id.Network, Addr: a}] = topology.Pin{
		Network: id.Network, Addr: a, Node: host, MAC: topology.MACOf(a).String(), Meta: topology.Meta{ModRevision: h.rev},
	}
}

func (h *history) view() topology.View { return h.now.cluster.s.View("host1") }

// Whatever came before, a Builder writes what Build writes, and leaves alone what it wrote
// before.
func TestBuilderWritesWhatBuildWrites(t *testing.T) {
	for seed := range uint64(40) {
		h := newHistory(seed)
		var b pipeline.Builder
		var lastWant, last ovs.State
		for step := range 150 {
			h.step()
			want := pipeline.Build(h.view(), h.now.endpoints, h.now.opt)
			got := b.Build(h.view(), h.now.endpoints, h.now.opt)
			require.Equal(t, want, got, "seed %d, step %d", seed, step)
			require.Equal(t, lastWant, last, "seed %d, step %d: an earlier state changed", seed, step)
			lastWant, last = want, got
		}
	}
}

// A change of one node is written once: what it costs beside copies of what is there does
// not grow with the number of nodes.
func TestBuilderWritesOnlyTheChange(t *testing.T) {
	const most = 400 // allocations; Build has more than ten for each node
	for _, tr := range []topology.Transport{topology.VXLAN, topology.Auto} {
		s := bigOf(1000, tr)
		changed := node(500)
		var views []topology.View
		for i := range 2 {
			changed.VTEPs = []netip.Addr{netip.AddrFrom4([4]byte{172, 16, 0, byte(1 + i)})}
			kv := topology.KV{Key: changed.Key(), Value: topology.Encode(changed), Meta: topology.Meta{ModRevision: int64(9 + i)}}
			views = append(views, s.With(int64(9+i), []topology.KV{kv}, nil).View("host1"))
		}
		opt := pipeline.Options{Direct: map[topology.SubnetID]bool{}}
		for id := range s.Subnets {
			opt.Direct[id] = true
		}
		var b pipeline.Builder
		i := 0
		allocations := testing.AllocsPerRun(10, func() {
			b.Build(views[i%2], nil, opt)
			i++
		})
		require.LessOrEqual(t, allocations, float64(most), tr)
	}
}
