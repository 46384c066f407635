package openvswitch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// world is a topology and one node's endpoints that change at random.
type world struct {
	rng       *rand.Rand
	rev       int64
	keys      map[string]topology.KV
	endpoints map[string]ovs.Endpoint
}

func (w *world) put(r topology.Record) {
	w.rev++
	kv := topology.KV{
		Key:   r.Key(),
		Value: topology.Encode(r),
		Meta:  topology.Meta{CreateRevision: w.rev, ModRevision: w.rev},
	}
	if old, ok := w.keys[kv.Key]; ok {
		kv.CreateRevision = old.CreateRevision
	}
	w.keys[kv.Key] = kv
}

var walkNetworks = []topology.Network{
	topology.Network{
		Name: "blue",
		VNI:  100,
		IPv4: netip.MustParsePrefix("10.1.0.0/16"),
		IPv6: netip.MustParsePrefix("fd00:1::/48"),
	}.Defaults(),
	topology.Network{
		Name:      "red",
		VNI:       200,
		IPv4:      netip.MustParsePrefix("10.1.0.0/16"),
		Transport: topology.GRE,
	}.Defaults(),
}

func (w *world) step() {
	n := walkNetworks[w.rng.IntN(len(walkNetworks))]
	host := fmt.Sprintf("host%d", 1+w.rng.IntN(5))
	switch w.rng.IntN(8) {
	case 0:
		w.put(topology.Node{Name: host, ID: host, Encapsulations: topology.Encapsulations(),
			VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(w.rng.IntN(2)), host[4]})}})
	case 1:
		if host != "host1" {
			delete(w.keys, topology.NodeKey(host))
		}
	case 2, 3:
		f := n.Families()[w.rng.IntN(len(n.Families()))]
		w.put(topology.Subnet{Network: n.Name, Prefix: topology.SubnetAt(n, f, 1+w.rng.Uint64N(6)), Node: host})
	case 4:
		for k := range w.keys {
			if w.rng.IntN(6) == 0 && k[:2] != "no" {
				delete(w.keys, k)
			}
		}
	case 5:
		ip := netip.AddrFrom4([4]byte{10, 1, byte(w.rng.IntN(7)), byte(2 + w.rng.IntN(3))})
		w.put(topology.Pin{Network: n.Name, Addr: ip, Node: host, MAC: topology.MACOf(ip).String()})
	case 6:
		w.put(n)
	case 7:
		name := fmt.Sprintf("c%d", w.rng.IntN(4))
		if _, there := w.endpoints[name]; there {
			delete(w.endpoints, name)
			return
		}
		ip := netip.AddrFrom4([4]byte{10, 1, byte(w.rng.IntN(7)), byte(2 + w.rng.IntN(3))})
		w.endpoints[name] = ovs.Endpoint{
			Name:    name,
			Network: n.Name,
			Port:    "bz" + name,
			IPs:     []netip.Addr{ip},
			MAC:     topology.MACOf(ip),
		}
	}
}

func (w *world) want() ovs.State {
	var kvs []topology.KV
	for _, kv := range w.keys {
		kvs = append(kvs, kv)
	}
	var endpoints []ovs.Endpoint
	for _, e := range w.endpoints {
		endpoints = append(endpoints, e)
	}
	return pipeline.Build(topology.NewSnapshot(w.rev, kvs).View("host1"), endpoints, pipeline.Options{Datapath: "netdev"})
}

func step(t *testing.T, f *ovsfake.Switch, want ovs.State) outcome {
	t.Helper()
	observed, err := f.Database().Observe(context.Background())
	require.NoError(t, err)
	c := newConverger(f.Database(), f.Flows(), &flowWatch{})
	out, err := c.converge(context.Background(), want, observed, false)
	require.NoError(t, err)
	require.Empty(t, out.Problems)
	return out
}

// Whatever way a switch went, it must end in the state of a fresh start, and
// a second pass must find nothing to do.
func TestRandomWalkEndsWhereAFreshStartEnds(t *testing.T) {
	for seed := range uint64(testkit.Fewer(20, 5)) {
		w := &world{rng: rand.New(rand.NewPCG(seed, 1)), keys: map[string]topology.KV{}, endpoints: map[string]ovs.Endpoint{}}
		w.put(
			topology.Node{
				Name:           "host1",
				ID:             "host1",
				VTEPs:          []netip.Addr{netip.MustParseAddr("192.168.9.1")},
				Encapsulations: topology.Encapsulations(),
			},
		)
		walked := ovsfake.New()
		for i := range 100 {
			for range 1 + w.rng.IntN(5) {
				w.step()
			}
			want := w.want()
			step(t, walked, want)
			require.Zero(t, step(t, walked, want).Changes, "seed %d step %d: Diff(x,x) is not empty", seed, i)
			fresh := ovsfake.New()
			step(t, fresh, want)
			require.Equal(t, fresh.FlowTexts(), walked.FlowTexts(), "seed %d step %d", seed, i)
			slices.SortFunc(want.Flows, ovs.CompareFlows)
			for i := range want.Flows {
				want.Flows[i] = want.Flows[i].Bare()
			}
			require.Equal(t, want.Flows, walked.FlowTexts(), "seed %d step %d", seed, i)
			require.Equal(t, portsOf(fresh), portsOf(walked), "seed %d step %d", seed, i)
			require.Equal(t, fresh.Bridge, walked.Bridge)
		}
	}
}

func portsOf(f *ovsfake.Switch) map[string]ovs.Port {
	out := map[string]ovs.Port{}
	for name, p := range f.Ports {
		out[name] = p.Port
	}
	return out
}

// processorTime is what this process has used: on a machine that has other work, too, it
// says more than the time.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// changesOfOneNode prepares a switch among so many nodes, and returns what a change of
// the address of one of them takes, from the record to the differences.
func changesOfOneNode(tb testing.TB, nodes int) (change func(i int)) {
	tb.Helper()
	n := topology.Network{
		Name: "blue",
		VNI:  100,
		IPv4: netip.MustParsePrefix("10.0.0.0/8"),
		IPv6: netip.MustParsePrefix("fd00:10::/32"),
	}.Defaults()
	kvs := []topology.KV{{Key: n.Key(), Value: topology.Encode(n)}}
	node := func(i int, vtep byte) topology.KV {
		r := topology.Node{Name: fmt.Sprintf("host%d", i), ID: "x", Encapsulations: topology.Encapsulations(),
			VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{vtep, 168, byte(i >> 8), byte(i)})}}
		return topology.KV{Key: r.Key(), Value: topology.Encode(r)}
	}
	for i := 1; i <= nodes; i++ {
		kvs = append(kvs, node(i, 192))
		for _, f := range n.Families() {
			s := topology.Subnet{Network: "blue", Prefix: topology.SubnetAt(n, f, uint64(i)), Node: fmt.Sprintf("host%d", i)}
			kvs = append(kvs, topology.KV{Key: s.Key(), Value: topology.Encode(s)})
		}
	}
	base := topology.NewSnapshot(1, kvs)
	changed := [][]topology.KV{{node(2, 193)}, {node(2, 194)}}
	var viewer topology.Viewer
	var builder pipeline.Builder
	var binder ovs.Binder
	fake := ovsfake.New()
	observed, err := fake.Database().Observe(tb.Context())
	require.NoError(tb, err)
	watch := &flowWatch{now: flowView{watched: true}}
	c := newConverger(fake.Database(), fake.Flows(), watch)
	want := builder.Build(viewer.View(base, "host1"), nil, pipeline.Options{})
	_, err = c.converge(tb.Context(), want, observed, false)
	require.NoError(tb, err)
	observed, err = fake.Database().Observe(tb.Context())
	require.NoError(tb, err)
	ofports := observed.OFPorts()
	ids, err := c.have(tb.Context(), watch.view(), false)
	require.NoError(tb, err)
	return func(i int) {
		want := builder.Build(viewer.View(base.With(2, changed[i%2], nil), "host1"), nil, pipeline.Options{})
		change, _, _ := ovs.DiffDB(want, observed)
		bound := binder.Bind(want, ofports)
		add, del := ovs.DiffFlows(bound, ids)
		if len(change.UpdatePorts) != 1 || len(add)+len(del) != 0 {
			tb.Fatal("the change of one node's address is the change of one port")
		}
	}
}

func BenchmarkChangeOfOneNode(b *testing.B) {
	for _, nodes := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			change := changesOfOneNode(b, nodes)
			b.ReportAllocs()
			began := processorTime(b)
			for i := 0; b.Loop(); i++ {
				change(i)
			}
			b.ReportMetric((processorTime(b)-began).Seconds()*1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// A change of one node allocates little for each other one: what it makes anew is the
// change, the rest are copies of what was there. The copy of the records costs one.
func TestChangeOfOneNodeMakesOneNodeAnew(t *testing.T) {
	const nodes = 500
	change, i := changesOfOneNode(t, nodes), 0
	allocations := testing.AllocsPerRun(10, func() { change(i); i++ })
	require.LessOrEqual(t, allocations, 2.0*nodes)
}

// counting counts how often the tables are read, and compared text by text.
type counting struct {
	tables
	reads, audits int
}

func (c *counting) Audit(ctx context.Context, want []ovs.BoundFlow) (openflow.Audit, error) {
	c.audits++
	return c.tables.Audit(ctx, want)
}

func (c *counting) Observe(ctx context.Context) (openflow.Observed, error) {
	c.reads++
	return c.tables.Observe(ctx)
}

// While the watch stands, tables that nobody else changes are read once, whatever the
// agent changes in them; what others change is put right, and a lost watch is no
// knowledge.
func TestWatchedFlowsAreReadOnce(t *testing.T) {
	for seed := range uint64(testkit.Fewer(10, 5)) {
		w := &world{rng: rand.New(rand.NewPCG(seed, 2)), keys: map[string]topology.KV{}, endpoints: map[string]ovs.Endpoint{}}
		w.put(topology.Node{
			Name: "host1", ID: "host1", VTEPs: []netip.Addr{netip.MustParseAddr("192.168.9.1")},
			Encapsulations: topology.Encapsulations(),
		})
		walked := ovsfake.New()
		flows := &counting{tables: walked.Flows()}
		watch := &flowWatch{}
		c := newConverger(walked.Database(), flows, watch)
		pass := func() {
			observed, err := walked.Database().Observe(t.Context())
			require.NoError(t, err)
			want := w.want()
			_, err = c.converge(t.Context(), want, observed, false)
			require.NoError(t, err)
			fresh := ovsfake.New()
			step(t, fresh, want)
			require.True(t, slices.Equal(fresh.FlowTexts(), walked.FlowTexts()), "seed %d", seed)
		}
		watch.event() // the connection stands
		for range 30 {
			w.step()
			pass()
		}
		require.Equal(t, 1, flows.reads)
		walked.DelFlow(0)
		watch.event()
		pass()
		require.Equal(t, 2, flows.reads)
		pass()
		require.Equal(t, 2, flows.reads)
		watch.lost()
		walked.DelFlow(0)
		pass()
		pass()
		require.Equal(t, 4, flows.reads)
	}
}

// An audit of tables that are what they were when one found nothing neither reads nor
// compares them flow by flow, also where nothing watches them; any difference has it done
// in full, and so has another wanted state.
func TestAuditsOfUnchangedTablesCompareNothing(t *testing.T) {
	w := &world{rng: rand.New(rand.NewPCG(1, 3)), keys: map[string]topology.KV{}, endpoints: map[string]ovs.Endpoint{}}
	w.put(walkNetworks[0])
	for i, host := range []string{"host1", "host2"} {
		w.put(topology.Node{
			Name: host, ID: host, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 9, byte(i + 1)})},
			Encapsulations: topology.Encapsulations(),
		})
		w.put(topology.Subnet{
			Network: "blue", Prefix: topology.SubnetAt(walkNetworks[0], topology.IPv4, uint64(i+1)), Node: host,
		})
	}
	f := ovsfake.New()
	flows := &counting{tables: f.Flows()}
	c := newConverger(f.Database(), flows, &flowWatch{})
	want := w.want()
	audit := func() (changes, reads, audits int) {
		t.Helper()
		flows.reads, flows.audits = 0, 0
		observed, err := f.Database().Observe(t.Context())
		require.NoError(t, err)
		out, err := c.converge(t.Context(), want, observed, true)
		require.NoError(t, err)
		require.Len(t, out.Bound, len(want.Flows))
		return out.Changes, flows.reads, flows.audits
	}
	check := func(changed bool, wantReads, wantAudits int) {
		t.Helper()
		changes, reads, audits := audit()
		require.Equal(t, changed, changes > 0)
		require.Equal(t, []int{wantReads, wantAudits}, []int{reads, audits})
	}
	check(true, 1, 0)
	check(false, 1, 1)
	for range 3 {
		check(false, 0, 0)
	}

	f.DelFlow(0)
	check(true, 1, 0)
	check(false, 0, 0) // they are again what they were
	for id, flow := range f.Table {
		flow.Priority++ // under its cookie
		f.Table[id] = flow
		break
	}
	check(true, 1, 1)
	check(false, 0, 0)

	w.put(topology.Subnet{
		Network: "blue", Prefix: topology.SubnetAt(walkNetworks[0], topology.IPv4, 3), Node: "host2",
	})
	want = w.want()
	check(true, 1, 0)
	check(false, 1, 1)
	check(false, 0, 0)
}
