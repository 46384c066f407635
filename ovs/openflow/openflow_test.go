package openflow_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const wait, tick = time.Minute, 5 * time.Millisecond

// start gives a bridge br-t with ports 1 to 3.
func start(t testing.TB) (*ovstest.OVS, *openflow.Client) {
	t.Helper()
	o := ovstest.Start(t)
	o.Vsctl("add-br", "br-t", "--", "set", "bridge", "br-t", "fail_mode=secure", "protocols=OpenFlow10,OpenFlow14",
		"--", "add-port", "br-t", "p1", "--", "set", "interface", "p1", "ofport_request=1",
		"--", "add-port", "br-t", "p2", "--", "set", "interface", "p2", "ofport_request=2",
		"--", "add-port", "br-t", "p3", "--", "set", "interface", "p3", "ofport_request=3")
	c := openflow.New(openflow.Config{Bridge: "br-t", RunDir: o.RunDir(), Timeout: time.Minute, Spare: true})
	t.Cleanup(c.Close)
	return o, c
}

func flow(table, priority int, match, actions string) ovs.BoundFlow {
	f := ovs.Flow{Table: table, Priority: priority, Match: match, Actions: actions}
	return ovs.BoundFlow{Flow: f, Cookie: ovs.CookieOf(f)}
}

// sample uses what go-openvswitch's own types lack.
func sample() []ovs.BoundFlow {
	return []ovs.BoundFlow{
		flow(0, 100, "in_port=1", "set_field:5->metadata,goto_table:1"),
		flow(0, 0, "", "drop"),
		flow(1, 50, "metadata=5,arp,arp_op=1,arp_tpa=10.1.7.0/24", "set_field:100->tun_id,output:2"),
		flow(1, 50, "metadata=5,icmp6,icmp_type=135,nd_target=fd00::/64", "load:0x1->NXM_NX_REG0[],resubmit(,2)"),
		flow(2, 10, "reg0=0x1", "output:2,output:3"),
	}
}

func ids(flows []ovs.BoundFlow) []ovs.FlowID {
	out := make([]ovs.FlowID, len(flows))
	for i, f := range flows {
		out[i] = f.ID()
	}
	return out
}

func observe(t testing.TB, c *openflow.Client) openflow.Observed {
	t.Helper()
	o, err := c.Observe(t.Context())
	require.NoError(t, err)
	return o
}

func audit(t testing.TB, c *openflow.Client, want []ovs.BoundFlow) openflow.Audit {
	t.Helper()
	a, err := c.Audit(t.Context(), want)
	require.NoError(t, err)
	return a
}

func TestApplyAndReadBack(t *testing.T) {
	o, c := start(t)
	o.Ofctl("add-flow", "br-t", "table=9,priority=3,cookie=0x77,tcp,actions=drop")
	require.NoError(t, c.Apply(t.Context(), sample(), nil))
	got := observe(t, c)
	require.ElementsMatch(t, ids(sample()), got.IDs())
	require.Len(t, got.Foreign, 1)
	require.Contains(t, got.Foreign[0], "table=9")
	require.Empty(t, audit(t, c, sample()))

	// The same again changes nothing; a replacement is one bundle.
	require.NoError(t, c.Apply(t.Context(), sample(), nil))
	changed := flow(1, 50, sample()[2].Match, "set_field:100->tun_id,output:3")
	require.NoError(
		t,
		c.Apply(
			t.Context(),
			[]ovs.BoundFlow{changed},
			[]ovs.FlowID{sample()[2].ID(), {Table: 7, Cookie: 0xba12000000000001}},
		),
	)
	want := sample()
	want[2] = changed
	require.ElementsMatch(t, ids(want), observe(t, c).IDs())
	require.Empty(t, audit(t, c, want))
	require.Len(t, observe(t, c).Foreign, 1)

	dump, err := c.Dump(t.Context())
	require.NoError(t, err)
	require.Contains(t, dump, "in_port=p1")
	require.NotContains(t, dump, "n_packets")
	out, err := c.Trace(t.Context(), "in_port=1,arp,arp_op=1,arp_tpa=10.1.7.9")
	require.NoError(t, err)
	require.Contains(t, out, "output:3")
	require.NoError(t, c.Apply(t.Context(), nil, observe(t, c).IDs()))
	require.Empty(t, observe(t, c).Flows)
	require.NoError(t, c.Apply(t.Context(), nil, nil))
}

func fingerprint(t testing.TB, c *openflow.Client) openflow.Fingerprint {
	t.Helper()
	f, err := c.Fingerprint(t.Context())
	require.NoError(t, err)
	return f
}

// A fingerprint is the same for as long as the tables are, whatever they have counted,
// in whatever order they were filled.
func TestFingerprint(t *testing.T) {
	o, c := start(t)
	require.Zero(t, fingerprint(t, c).Flows)
	flows := append(many(3000, 2), sample()...) // an answer in several messages
	require.NoError(t, c.Apply(t.Context(), flows, nil))
	first := fingerprint(t, c)
	require.Equal(t, len(flows), first.Flows)
	o.Appctl("netdev-dummy/receive", "p1", "eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x88b5)")
	require.True(t, waitFor(func() bool {
		return slices.ContainsFunc(observe(t, c).Flows, func(f openflow.FlowStats) bool { return f.Packets > 0 })
	}))
	require.Equal(t, first, fingerprint(t, c))

	require.NoError(t, c.Apply(t.Context(), nil, ids(flows)))
	slices.Reverse(flows)
	require.NoError(t, c.Apply(t.Context(), flows, nil))
	require.Equal(t, first, fingerprint(t, c))
	o.Ofctl("add-flow", "br-t", "table=9,cookie=0x77,actions=drop")
	require.NotEqual(t, first, fingerprint(t, c))

	none := openflow.New(openflow.Config{Bridge: "br-none", RunDir: o.RunDir()})
	_, err := none.Fingerprint(t.Context())
	require.ErrorIs(t, err, topology.ErrNotFound)
	o.KillVswitchd()
	_, err = c.Fingerprint(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
}

func TestCounters(t *testing.T) {
	o, c := start(t)
	f := flow(0, 5, "in_port=1", "output:2")
	require.NoError(t, c.Apply(t.Context(), []ovs.BoundFlow{f}, nil))
	o.Appctl("netdev-dummy/receive", "p1", "eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x88b5)")
	require.True(t, waitFor(func() bool {
		s := observe(t, c).Flows
		return len(s) == 1 && s[0].Packets == 1 && s[0].Bytes >= 14
	}))
}

func TestBundleIsAtomic(t *testing.T) {
	_, c := start(t)
	require.NoError(t, c.Apply(t.Context(), sample(), nil))
	for name, tc := range map[string]struct {
		bad  ovs.BoundFlow
		item string
		what string
	}{
		"text":   {flow(3, 1, "bogus=1", "drop"), "bogus=1", "unknown keyword bogus"},
		"action": {flow(3, 1, "ip", "output:"), "table=3", "ovs-ofctl: -:4"},
		"switch": {flow(3, 1, "ip", "group:77"), "bridge br-t", "OFPBAC_BAD_OUT_GROUP"},
	} {
		t.Run(name, func(t *testing.T) {
			good := flow(3, 2, "ip", "drop")
			err := c.Apply(t.Context(), []ovs.BoundFlow{good, tc.bad, flow(3, 3, "ip", "drop")},
				[]ovs.FlowID{sample()[0].ID(), sample()[1].ID()})
			require.ErrorIs(t, err, topology.ErrInvalid)
			p := fault.Of(err)
			require.Contains(t, p.Item, tc.item)
			require.Contains(t, p.What, tc.what)
			require.ElementsMatch(t, ids(sample()), observe(t, c).IDs())
		})
	}
}

func TestAuditFindsAndHeals(t *testing.T) {
	o, c := start(t)
	mine := fmt.Sprintf("cookie=%#x", sample()[0].Cookie)
	for name, tc := range map[string]struct {
		damage []string
		lines  int
	}{
		"changed":       {[]string{"mod-flows", "br-t", "table=0,in_port=1,actions=drop"}, 2},
		"deleted":       {[]string{"del-flows", "br-t", "table=2"}, 1},
		"all deleted":   {[]string{"del-flows", "br-t"}, 5},
		"copied":        {[]string{"add-flow", "br-t", mine + ",table=0,priority=7,in_port=2,actions=drop"}, 1},
		"with our mark": {[]string{"add-flow", "br-t", "cookie=0xba12000000000042,table=4,priority=7,actions=drop"}, 1},
		"timeout given": {
			[]string{
				"add-flow", "br-t",
				mine + ",table=0,priority=100,idle_timeout=60,in_port=1,actions=set_field:5->metadata,goto_table:1",
			},
			2,
		},
		"taken by foreign": {[]string{"add-flow", "br-t", "table=0,priority=100,in_port=1,actions=drop"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			o.Ofctl("del-flows", "br-t")
			require.NoError(t, c.Apply(t.Context(), sample(), nil))
			o.Ofctl("add-flow", "br-t", "table=9,cookie=0x77,actions=drop")
			good := fingerprint(t, c)
			o.Ofctl(tc.damage...)
			require.NotEqual(t, good, fingerprint(t, c))
			a := audit(t, c, sample())
			require.Len(t, a.Lines, tc.lines, "%v", a.Lines)
			require.NoError(t, c.Apply(t.Context(), a.Add, a.Del))
			require.Empty(t, audit(t, c, sample()))
			require.ElementsMatch(t, ids(sample()), observe(t, c).IDs())
		})
	}
}

func waitFor(cond func() bool) bool {
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); time.Sleep(tick) {
		if cond() {
			return true
		}
	}
	return false
}

// events collects what Monitor reports.
type events struct {
	sync.Mutex
	list []openflow.Event
}

func (e *events) add(x openflow.Event) { e.Lock(); e.list = append(e.list, x); e.Unlock() }

// of returns what was said of a kind, line by line.
func (e *events) of(kind string) []string {
	e.Lock()
	defer e.Unlock()
	out := []string{}
	for _, x := range e.list {
		if x.Kind == kind {
			out = append(out, x.What)
		}
	}
	return out
}

func (e *events) count(kind string) int { return len(e.of(kind)) }

func TestMonitor(t *testing.T) {
	o, c := start(t)
	var seen events
	ended := make(chan error, 1)
	go func() { ended <- c.Monitor(t.Context(), seen.add) }()
	require.True(t, waitFor(func() bool { return seen.count(openflow.Connected) == 1 }))

	// Our own changes are not news: an outsider's later one is the first seen.
	require.NoError(t, c.Apply(t.Context(), sample(), nil))
	require.NoError(t, c.Apply(t.Context(), sample()[2:3], []ovs.FlowID{sample()[0].ID(), sample()[2].ID()}))
	require.NoError(t, c.Apply(t.Context(), sample()[:1], nil))
	for i, args := range [][]string{
		{"add-flow", "br-t", "table=9,tcp,actions=drop"},
		{"mod-flows", "br-t", "table=0,in_port=1,actions=drop"},
		{"del-flows", "br-t", "table=2"},
	} {
		o.Ofctl(args...)
		if !waitFor(func() bool { return seen.count(openflow.Changed) == i+1 }) {
			t.Fatalf("after %v: %q", args, seen.of(openflow.Changed))
		}
	}
	said := seen.of(openflow.Changed)
	require.Contains(t, said[0], "event=ADDED table=9")
	require.Contains(t, said[1], "event=MODIFIED table=0")
	require.Contains(t, said[2], "event=DELETED reason=delete table=2")

	begin := time.Now()
	o.KillVswitchd()
	err := <-ended
	t.Logf("end of vswitchd seen after %v", time.Since(begin))
	require.ErrorIs(t, err, topology.ErrUnavailable)
	require.ErrorContains(t, err, "br-t")

	// Nobody there; then again there, with empty tables.
	err = c.Monitor(t.Context(), seen.add)
	require.ErrorIs(t, err, topology.ErrUnavailable)
	_, err = c.Observe(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
	require.ErrorContains(t, err, "systemctl start openvswitch-switch")
	o.StartVswitchd()
	// It answers before it has its bridges.
	require.True(t, waitFor(func() bool { _, err := c.Observe(t.Context()); return err == nil }))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- c.Monitor(ctx, seen.add) }()
	require.True(t, waitFor(func() bool { return seen.count(openflow.Connected) == 2 }))
	require.Empty(t, observe(t, c).Flows)
	cancel()
	require.NoError(t, <-ended)
}

// Meters are observed, added, changed and deleted as wanted; those of others stay.
func TestMeters(t *testing.T) {
	o, c := start(t)
	want := ovs.State{Meters: []ovs.Meter{{Rate: 500}, {Port: "p1", Rate: 100}, {Port: "p2", Rate: 100}, {Port: "gone", Rate: 1}}}
	bound := want.BindMeters(map[string]int{"p1": 1, "p2": 2})
	require.Equal(t, []ovs.BoundMeter{{ID: 0x10001, Rate: 100}, {ID: 0x10002, Rate: 100}, {ID: ovs.NodeMeter, Rate: 500}}, bound)
	have := func() []ovs.BoundMeter {
		t.Helper()
		m, err := c.Meters(t.Context())
		require.NoError(t, err)
		return m
	}
	require.Empty(t, have())
	o.Ofctl("add-meter", "br-t", "meter=7,kbps,bands=type=drop,rate=9")
	o.Ofctl("add-meter", "br-t", "meter=65538,pktps,bands=type=drop,rate=9")
	add, change, stale := ovs.DiffMeters(bound, have())
	require.Len(t, add, 2)
	require.Len(t, change, 1, "one that is another kind of meter under our number")
	require.Empty(t, stale)
	require.NoError(t, c.SetMeters(t.Context(), add, change))
	require.ElementsMatch(t, append(bound, ovs.BoundMeter{ID: 7, Other: true}), have())

	f := flow(3, 9, "in_port=1", ovs.NodeMeterAction+",output:2")
	require.NoError(t, c.Apply(t.Context(), []ovs.BoundFlow{f}, nil))
	require.Empty(t, audit(t, c, []ovs.BoundFlow{f}))
	drops, err := c.MeterDrops(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[uint32]uint64{7: 0, 0x10001: 0, 0x10002: 0, ovs.NodeMeter: 0}, drops)

	// A flow with a meter that is not there is refused, and so is a meter twice.
	missing := flow(3, 8, "in_port=1", "meter:77,output:2")
	require.ErrorIs(t, c.Apply(t.Context(), []ovs.BoundFlow{missing}, nil), topology.ErrInvalid)
	require.ErrorIs(t, c.SetMeters(t.Context(), bound[:1], nil), topology.ErrInvalid)

	// Deleting a meter deletes its flows: it comes last.
	add, change, stale = ovs.DiffMeters(bound[:2], have())
	require.Empty(t, add)
	require.Empty(t, change)
	require.Equal(t, []uint32{ovs.NodeMeter}, stale)
	require.NoError(t, c.DeleteMeters(t.Context(), append(stale, 0x10009)))
	require.Empty(t, observe(t, c).Flows)
	require.ElementsMatch(t, append(bound[:2:2], ovs.BoundMeter{ID: 7, Other: true}), have())

	// A thousand at once.
	var many []ovs.BoundMeter
	for i := range 1000 {
		many = append(many, ovs.BoundMeter{ID: uint32(0x11000 + i), Rate: 1})
	}
	require.NoError(t, c.SetMeters(t.Context(), many, nil))
	require.Len(t, have(), 1003)
	drops, err = c.MeterDrops(t.Context())
	require.NoError(t, err)
	require.Len(t, drops, 1003)

	none := openflow.New(openflow.Config{Bridge: "br-none", RunDir: o.RunDir()})
	_, err = none.Meters(t.Context())
	require.ErrorIs(t, err, topology.ErrNotFound)
	o.KillVswitchd()
	_, err = c.Meters(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
}

func TestErrors(t *testing.T) {
	o, c := start(t)
	none := openflow.New(openflow.Config{Bridge: "br-none", RunDir: o.RunDir()})
	_, err := none.Observe(t.Context())
	require.ErrorIs(t, err, topology.ErrNotFound)
	require.ErrorContains(t, err, "br-none")
	require.ErrorIs(t, none.Apply(t.Context(), sample(), nil), topology.ErrNotFound)
	require.ErrorIs(t, none.Monitor(t.Context(), func(openflow.Event) {}), topology.ErrNotFound)

	hasty := openflow.New(openflow.Config{Bridge: "br-t", RunDir: o.RunDir(), Timeout: 200 * time.Millisecond})
	resume := o.PauseVswitchd()
	begin := time.Now()
	_, err = hasty.Observe(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
	require.ErrorIs(t, hasty.Apply(t.Context(), sample(), nil), topology.ErrUnavailable)
	require.Less(t, time.Since(begin), wait)
	resume()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Observe(ctx)
	require.ErrorIs(t, err, context.Canceled)

	t.Setenv("PATH", t.TempDir())
	_, err = c.Observe(t.Context())
	var e *topology.Error
	require.True(t, errors.As(err, &e))
	require.Equal(t, "ovs-ofctl", e.Item)
	require.Contains(t, e.Remedy, "apt-get install openvswitch-switch")
	require.ErrorContains(t, c.Apply(t.Context(), sample(), nil), "apt-get install")
	require.ErrorContains(t, c.Monitor(t.Context(), func(openflow.Event) {}), "apt-get install")
}

// TestBridgeNamedLikeAFile: ovs-ofctl takes a name for a file if there is one.
func TestBridgeNamedLikeAFile(t *testing.T) {
	_, c := start(t)
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("br-t", []byte("priority=1,actions=drop\n"), 0o600))
	require.NoError(t, c.Apply(t.Context(), sample(), nil))
	require.Empty(t, audit(t, c, sample()))
}

// The command for the next change waits already, and gets along with whatever becomes of it
// and of ovs-vswitchd.
func TestSpare(t *testing.T) {
	o, c := start(t)
	waiting := func() (pids []int) {
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		require.NoError(t, err)
		for _, f := range files {
			line, _ := os.ReadFile(f) // one that has ended is none
			if strings.Contains(string(line), "--bundle") && strings.Contains(string(line), o.RunDir()) {
				pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				require.NoError(t, err)
				pids = append(pids, pid)
			}
		}
		return pids
	}
	one := func() int {
		require.Eventually(t, func() bool { return len(waiting()) == 1 }, wait, tick)
		return waiting()[0]
	}
	require.Empty(t, waiting())
	require.NoError(t, c.Apply(t.Context(), sample(), nil))
	first := one()
	require.NoError(t, c.Apply(t.Context(), many(2000, 2), nil), "more than a pipe holds")
	require.NotEqual(t, first, one(), "each is used once")
	require.Empty(t, audit(t, c, append(sample(), many(2000, 2)...)))

	require.NoError(t, syscall.Kill(one(), syscall.SIGKILL))
	require.NoError(t, c.Apply(t.Context(), nil, ids(many(2000, 2))), "somebody has killed it")
	require.Empty(t, audit(t, c, sample()))

	waits := one()
	o.KillVswitchd()
	o.StartVswitchd()
	require.Eventually(t, func() bool { seen, err := c.Observe(t.Context()); return err == nil && len(seen.Flows) == 0 }, wait, tick)
	require.Equal(t, waits, one(), "it does not know ovs-vswitchd yet")
	require.NoError(t, c.Apply(t.Context(), sample(), nil), "to another ovs-vswitchd")
	require.NotContains(t, waiting(), waits)
	require.Empty(t, audit(t, c, sample()))

	one()
	require.ErrorContains(t, c.Apply(t.Context(), []ovs.BoundFlow{flow(1, 1, "in_port=nowhere", "drop")}, nil), "refused")
	require.Empty(t, audit(t, c, sample()))

	one()
	c.Close()
	require.Empty(t, waiting())
	require.NoError(t, c.Apply(t.Context(), nil, ids(sample())))
	require.Empty(t, observe(t, c).Flows)
	require.Empty(t, waiting(), "nobody would end it")
}

func TestNeighSet(t *testing.T) {
	o, c := start(t)
	require.NoError(t, c.NeighSet(t.Context(), "br-t", netip.MustParseAddr("192.0.2.9"), []byte{2, 0, 0, 0, 0, 9}))
	require.Contains(t, strings.Join(strings.Fields(o.Appctl("tnl/neigh/show")), " "), "192.0.2.9 02:00:00:00:00:09 br-t")
}

func many(n, out int) []ovs.BoundFlow {
	flows := make([]ovs.BoundFlow, n)
	for i := range flows {
		flows[i] = flow(1, 50, fmt.Sprintf("ip,metadata=5,nw_dst=10.%d.%d.0/24", i>>8, i&255), fmt.Sprintf("output:%d", out))
	}
	return flows
}

func Benchmark10kFlows(b *testing.B) {
	_, c := start(b)
	flows := many(10_000, 2)
	require.NoError(b, c.Apply(b.Context(), flows, nil))
	b.Run("apply", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, c.Apply(b.Context(), flows, nil))
		}
	})
	b.Run("replace100", func(b *testing.B) {
		a, z := flows[:100], many(100, 3)
		for b.Loop() {
			require.NoError(b, c.Apply(b.Context(), z, ids(a)))
			a, z = z, a
		}
		require.NoError(b, c.Apply(b.Context(), flows[:100], ids(many(100, 3))))
	})
	b.Run("observe", func(b *testing.B) {
		for b.Loop() {
			require.Len(b, observe(b, c).Flows, 10_000)
		}
	})
	b.Run("fingerprint", func(b *testing.B) {
		for b.Loop() {
			f, err := c.Fingerprint(b.Context())
			require.NoError(b, err)
			require.Equal(b, 10_000, f.Flows)
		}
	})
	b.Run("audit", func(b *testing.B) {
		for b.Loop() {
			require.Empty(b, audit(b, c, flows))
		}
	})
}
