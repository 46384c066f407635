package vswitch_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const wait, tick = time.Minute, 5 * time.Millisecond

func connect(t testing.TB, o *ovstest.OVS) *vswitch.Client {
	t.Helper()
	c, err := vswitch.New(vswitch.Config{Endpoint: o.Endpoint(), Bridge: "br-t", Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func bridge() *ovs.Bridge {
	return &ovs.Bridge{
		Name: "br-t", Datapath: "system", FailMode: "secure", Protocols: []string{"OpenFlow10", "OpenFlow14"},
		OtherConfig: map[string]string{"hwaddr": "02:00:00:00:00:01"},
		ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyNode: "host1"},
	}
}

func tunnel(name, typ, remote string) ovs.Port {
	return ovs.Port{
		Name: name, Type: typ,
		Options:     map[string]string{"local_ip": "192.0.2.1", "remote_ip": remote, "key": "flow"},
		ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel, ovs.KeyNode: "peer"},
	}
}

func tunnels(n int) []ovs.Port {
	out := make([]ovs.Port, n)
	for i := range out {
		out[i] = tunnel(fmt.Sprintf("vx%d", i), "vxlan", fmt.Sprintf("198.18.%d.%d", i/250, i%250+1))
	}
	return out
}

func apply(t testing.TB, c *vswitch.Client, change ovs.DBChange) {
	t.Helper()
	require.NoError(t, c.Apply(t.Context(), change))
	require.NoError(t, c.WaitApplied(t.Context()))
}

func observe(t testing.TB, c *vswitch.Client) ovs.Observed {
	t.Helper()
	o, err := c.Observe(t.Context())
	require.NoError(t, err)
	return o
}

func TestCreateBridgeAndPorts(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	require.Nil(t, observe(t, c).Bridge)

	ports := []ovs.Port{tunnel("vx1", "vxlan", "192.0.2.2"), tunnel("gre1", "gre", "192.0.2.2"), {
		Name: "in1", Type: "internal", ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner},
	}}
	apply(t, c, ovs.DBChange{CreateBridge: true, SetBridge: bridge(), AddPorts: ports})
	got := observe(t, c)
	require.Equal(t, bridge(), got.Bridge)
	require.Equal(t, 65534, got.LocalOFPort)
	require.Len(t, got.DatapathID, 16)
	require.NotEmpty(t, got.Version)
	require.Contains(t, got.IfaceTypes, "vxlan")
	require.Len(t, got.Ports, 3)
	for _, p := range ports {
		require.True(t, got.Ports[p.Name].Live(), "%+v", got.Ports[p.Name])
		require.Equal(t, p.Type, got.Ports[p.Name].Type)
		require.Equal(t, p.ExternalIDs, got.Ports[p.Name].ExternalIDs)
	}
	all, err := c.ObserveAll(t.Context())
	require.NoError(t, err)
	for name, p := range all.Ports {
		require.Contains(t, p.Statistics, "rx_packets")
		p.Statistics = nil
		all.Ports[name] = p
	}
	require.Equal(t, got, all)
	require.Equal(t, ports[0].Options, got.Ports["vx1"].Options)

	// The bridge was never there without its fail mode: one transaction made
	// all of it. Each transaction after the schema is a pair of lines.
	b, err := os.ReadFile(o.RunDir() + "/conf.db")
	require.NoError(t, err)
	var creating []string
	for line := range strings.SplitSeq(string(b), "\n") {
		if strings.Contains(line, `"_comment":"baize"`) {
			creating = append(creating, line)
		}
	}
	require.Len(t, creating, 1)
	require.Contains(t, creating[0], `"fail_mode":"secure"`)
	require.Contains(t, creating[0], `"br-t"`)

	// Doing it again changes nothing, removing undoes it.
	apply(t, c, ovs.DBChange{CreateBridge: true, SetBridge: bridge(), AddPorts: ports})
	require.Equal(t, got.Ports["vx1"].OFPort, observe(t, c).Ports["vx1"].OFPort)
	apply(t, c, ovs.DBChange{RemovePorts: []string{"vx1", "never-was"}})
	require.NotContains(t, observe(t, c).Ports, "vx1")
	apply(t, c, ovs.DBChange{DeleteBridge: "br-t"})
	require.Nil(t, observe(t, c).Bridge)
	require.Empty(t, o.Vsctl("list-br"))
}

func TestDuplicateTunnelIsNotLive(t *testing.T) {
	c := connect(t, ovstest.Start(t))
	apply(t, c, ovs.DBChange{SetBridge: bridge(), AddPorts: []ovs.Port{tunnel("a", "vxlan", "192.0.2.2")}})
	apply(t, c, ovs.DBChange{AddPorts: []ovs.Port{tunnel("b", "vxlan", "192.0.2.2")}})
	got := observe(t, c)
	require.True(t, got.Ports["a"].Live())
	require.False(t, got.Ports["b"].Live())
	require.NotEmpty(t, got.Ports["b"].Error)
}

func TestUpdateKeepsWhatOthersWrote(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	p := tunnel("vx1", "vxlan", "192.0.2.2")
	p.ExternalIDs[ovs.KeyEncap] = "vxlan"
	apply(t, c, ovs.DBChange{SetBridge: bridge(), AddPorts: []ovs.Port{p}})
	o.Vsctl("set", "bridge", "br-t", "external_ids:theirs=1", "other_config:mac-table-size=99", "fail_mode=standalone")
	o.Vsctl("set", "port", "vx1", "external_ids:theirs=2")
	o.Vsctl("set", "interface", "vx1", "options:df_default=false")

	b := bridge()
	b.ExternalIDs[ovs.KeyNode] = "renamed"
	p = tunnel("vx1", "vxlan", "192.0.2.3") // without KeyEncap
	apply(t, c, ovs.DBChange{SetBridge: b, UpdatePorts: []ovs.Port{p}})
	got := observe(t, c)
	require.Equal(t, "secure", got.Bridge.FailMode)
	require.Equal(
		t,
		map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyNode: "renamed", "theirs": "1"},
		got.Bridge.ExternalIDs,
	)
	require.Equal(t, "99", got.Bridge.OtherConfig["mac-table-size"])
	require.Equal(t, p.Options, got.Ports["vx1"].Options)
	want := maps.Clone(p.ExternalIDs)
	want["theirs"] = "2"
	require.Equal(t, want, got.Ports["vx1"].ExternalIDs)
	require.True(t, got.Ports["vx1"].Live())
}

func TestForeignThingsAreRefused(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	o.Vsctl("add-br", "br-ex", "--", "add-port", "br-ex", "eth9")
	o.Vsctl("add-bond", "br-ex", "bond0", "m0", "m1")
	apply(t, c, ovs.DBChange{SetBridge: bridge(), AddPorts: []ovs.Port{tunnel("ours", "gre", "192.0.2.9")}})
	o.Vsctl("add-port", "br-t", "theirs", "--", "set", "interface", "theirs", "type=internal")
	before := o.Vsctl("show")

	got := observe(t, c)
	require.Equal(
		t,
		map[string]string{"br-ex": "br-ex", "eth9": "br-ex", "bond0": "br-ex", "m0": "br-ex", "m1": "br-ex"},
		got.Foreign,
	)
	require.Equal(t, []string{"theirs"}, got.ForeignPorts())

	foreign := bridge()
	foreign.Name = "br-ex"
	ghost := bridge()
	ghost.Name = "eth9"
	for name, tc := range map[string]struct {
		change ovs.DBChange
		item   string
	}{
		"bridge":               {ovs.DBChange{SetBridge: foreign}, "bridge br-ex"},
		"delete bridge":        {ovs.DBChange{DeleteBridge: "br-ex"}, "bridge br-ex"},
		"bridge named as port": {ovs.DBChange{CreateBridge: true, SetBridge: ghost}, "bridge eth9"},
		"port elsewhere":       {ovs.DBChange{AddPorts: []ovs.Port{{Name: "eth9"}}}, "port eth9"},
		"bond member":          {ovs.DBChange{AddPorts: []ovs.Port{{Name: "m0"}}}, "port m0"},
		"foreign port":         {ovs.DBChange{UpdatePorts: []ovs.Port{{Name: "theirs"}}}, "port theirs"},
		"remove foreign":       {ovs.DBChange{RemovePorts: []string{"ours", "theirs"}}, "port theirs"},
		"remove local":         {ovs.DBChange{RemovePorts: []string{"br-t"}}, "port br-t"},
		"twice":                {ovs.DBChange{AddPorts: []ovs.Port{{Name: "x"}, {Name: "x"}}}, "port x"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.Apply(t.Context(), tc.change)
			require.ErrorIs(t, err, topology.ErrConflict)
			require.Equal(t, tc.item, fault.Of(err).Item)
		})
	}
	require.Equal(t, before, o.Vsctl("show"))
	invalid := bridge()
	invalid.FailMode = "bogus"
	err := c.Apply(t.Context(), ovs.DBChange{SetBridge: invalid})
	require.ErrorIs(t, err, topology.ErrInvalid)
	require.ErrorContains(t, err, "bogus")
	require.Equal(t, before, o.Vsctl("show"))
	err = c.Apply(t.Context(), ovs.DBChange{AddPorts: []ovs.Port{{Name: "bad", Type: strings.Repeat("\x01", 3)}}})
	require.NoError(t, err, "a type OVS does not know is vswitchd's to report")
	require.NoError(t, c.WaitApplied(t.Context()))
	require.False(t, observe(t, c).Ports["bad"].Live())
}

// TestRunNotices: the callback fires for ofports, errors and outsiders' changes,
// across a crash of the server, and not for statistics.
func TestRunNotices(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	var fired atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func() { fired.Add(1) }) }()
	require.Eventually(t, func() bool { return fired.Load() > 0 }, wait, tick)

	apply(t, c, ovs.DBChange{SetBridge: bridge()})
	outsider := func(args ...string) {
		t.Helper()
		n := fired.Load()
		o.Vsctl(args...)
		require.Eventually(t, func() bool { return fired.Load() > n }, wait, tick, "%v", args)
	}
	outsider("add-port", "br-t", "p1", "--", "set", "interface", "p1", "type=internal")
	outsider("set", "interface", "p1", "type=gre", "options:remote_ip=192.0.2.7")
	outsider("set", "port", "p1", "external_ids:a=b")
	outsider("del-port", "br-t", "p1")
	outsider("set", "bridge", "br-t", "fail_mode=standalone")

	n := fired.Load()
	o.KillOVSDB()
	require.Eventually(t, func() bool { return fired.Load() > n }, wait, tick, "loss not noticed")
	_, err := c.Observe(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
	require.Contains(t, err.Error(), "systemctl start openvswitch-switch")
	n = fired.Load()
	o.StartOVSDB()
	require.Eventually(t, func() bool { return fired.Load() > n }, wait, tick, "return not noticed")
	require.NotNil(t, observe(t, c).Bridge)
	outsider("set", "bridge", "br-t", "fail_mode=secure")

	// What failed beside it is started again, and Run with it.
	cancel()
	require.NoError(t, <-ended)
	require.NotNil(t, observe(t, c).Bridge, "the client goes on")
	ctx, cancel = context.WithCancel(t.Context())
	n = fired.Load()
	go func() { ended <- c.Run(ctx, func() { fired.Add(1) }) }()
	require.Eventually(t, func() bool { return fired.Load() > n }, wait, tick)
	outsider("set", "bridge", "br-t", "fail_mode=standalone")
	cancel()
	require.NoError(t, <-ended)
	c.Close()
	_, err = c.Observe(context.Background())
	require.ErrorIs(t, err, vswitch.ErrClosed)
}

// TestConcurrentUse is for the race detector, and for what is seen meanwhile:
// always a whole state, never an error.
func TestConcurrentUse(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	apply(t, c, ovs.DBChange{SetBridge: bridge(), AddPorts: tunnels(20)})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { assert.NoError(t, c.Run(ctx, func() {})) })
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				got, err := c.Observe(context.Background())
				if assert.NoError(t, err) && assert.NotNil(t, got.Bridge) {
					assert.GreaterOrEqual(t, len(got.Ports), 20)
					got.Bridge.ExternalIDs["scribble"] = "mine to change"
				}
			}
		})
	}
	for i := range 20 {
		p := tunnel("more", "gre", fmt.Sprintf("192.0.2.%d", i+1))
		apply(t, c, ovs.DBChange{AddPorts: []ovs.Port{p}})
		require.Equal(t, p.Options, observe(t, c).Ports["more"].Options, "an outdated answer")
		apply(t, c, ovs.DBChange{RemovePorts: []string{"more"}})
		require.NotContains(t, observe(t, c).Ports, "more")
		o.Vsctl("set", "bridge", "br-t", fmt.Sprintf("external_ids:n=%d", i))
		require.Equal(t, fmt.Sprint(i), observe(t, c).Bridge.ExternalIDs["n"], "an outdated answer")
	}
	cancel()
	wg.Wait()
}

func TestHangingServerCostsTheDeadline(t *testing.T) {
	o := ovstest.Start(t)
	c, err := vswitch.New(vswitch.Config{Endpoint: o.Endpoint(), Bridge: "br-t", Timeout: 200 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	observe(t, c)
	resume := o.PauseOVSDB()
	t.Cleanup(resume)
	for range 2 { // once on the old connection, once on a new one
		start := time.Now()
		_, err = c.Observe(t.Context())
		require.ErrorIs(t, err, topology.ErrUnavailable)
		require.Contains(t, err.Error(), "does not answer")
		require.Less(t, time.Since(start), wait)
	}
	resume()
	require.Eventually(t, func() bool { _, err := c.Observe(t.Context()); return err == nil }, wait, tick)

	o.KillVswitchd()
	require.NoError(t, c.Apply(t.Context(), ovs.DBChange{SetBridge: bridge()}))
	err = c.WaitApplied(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
	require.Contains(t, err.Error(), "ovs-vswitchd")
}

func TestConfigErrors(t *testing.T) {
	for endpoint, what := range map[string]string{
		"unix:db.sock":     "absolute path",
		"ssl:192.0.2.1:66": "TCP address",
		"/run/db.sock":     "TCP address",
	} {
		_, err := vswitch.New(vswitch.Config{Endpoint: endpoint, Bridge: "b"})
		require.ErrorIs(t, err, topology.ErrInvalid, endpoint)
		require.ErrorContains(t, err, what)
	}
	_, err := vswitch.New(vswitch.Config{})
	require.ErrorIs(t, err, topology.ErrInvalid)

	c, err := vswitch.New(vswitch.Config{Endpoint: "unix:" + t.TempDir() + "/none.sock", Bridge: "b"})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Observe(t.Context())
	require.ErrorIs(t, err, topology.ErrUnavailable)
	require.ErrorContains(t, err, "systemctl start openvswitch-switch")
}

func TestDamagedDatabase(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OVS_DBDIR", dir)
	file := filepath.Join(dir, "conf.db")
	good, err := os.ReadFile(ovstest.Start(t).RunDir() + "/conf.db")
	require.NoError(t, err)
	c, err := vswitch.New(vswitch.Config{Endpoint: "unix:" + dir + "/none.sock", Bridge: "b"})
	require.NoError(t, err)
	defer c.Close()
	for name, x := range map[string]struct {
		content []byte
		why     string
	}{
		"as it should be":    {good, "no such socket"},
		"its end is missing": {good[:len(good)-20], "no such socket"}, // ovsdb-server leaves the last record out
		"empty":              {nil, "ovsdb-server cannot read " + file + ": cannot identify file type"},
		"of something else":  {[]byte("something else\n"), "unexpected file format"},
		"altered":            {bytes.Replace(good, []byte("Open_vSwitch"), []byte("Open-vSwitch"), 1), "should have hash"},
	} {
		require.NoError(t, os.WriteFile(file, x.content, 0o600))
		_, err = c.Observe(t.Context())
		require.ErrorIs(t, err, topology.ErrUnavailable, name)
		require.ErrorContains(t, err, x.why, name)
		require.Equal(t, strings.Contains(err.Error(), "mv "), x.why != "no such socket", err)
	}
}

// Who may not read the database does not know that it is damaged.
func TestDatabaseOfAnother(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("OVS_DBDIR", dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "conf.db"), nil, 0o600))
	tool := filepath.Join(dir, "ovsdb-tool")
	const refused = "#!/bin/sh\necho 'ovsdb-tool: I/O error: conf.db: open failed (Permission denied)' >&2\nexit 1\n"
	require.NoError(t, os.WriteFile(tool, []byte(refused), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c, err := vswitch.New(vswitch.Config{Endpoint: "unix:" + dir + "/none.sock", Bridge: "b"})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Observe(t.Context())
	require.ErrorContains(t, err, "no such socket")
	require.NotContains(t, err.Error(), "mv ")
}

func TestThousandPorts(t *testing.T) {
	c := connect(t, ovstest.Start(t))
	start := time.Now()
	require.NoError(t, c.Apply(t.Context(), ovs.DBChange{SetBridge: bridge(), AddPorts: tunnels(1000)}))
	t.Logf("1000 ports in one transaction: %v", time.Since(start))
	require.NoError(t, c.WaitApplied(t.Context()))
	t.Logf("… taken over: %v", time.Since(start))
	start = time.Now()
	got := observe(t, c)
	t.Logf("observed: %v", time.Since(start))
	require.Len(t, got.OFPorts(), 1000)
}

func BenchmarkObserve(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("ports=%d", n), func(b *testing.B) {
			c := connect(b, ovstest.Start(b))
			apply(b, c, ovs.DBChange{SetBridge: bridge(), AddPorts: tunnels(n)})
			b.Run("copy", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					observe(b, c)
				}
			})
			b.Run("all", func(b *testing.B) {
				for b.Loop() {
					_, err := c.ObserveAll(b.Context())
					require.NoError(b, err)
				}
			})
		})
	}
}

// What is observed of libovsdb's copy is what the server says, whatever changed since the
// last time; and where nothing did it is the same map.
func TestObserveSharesWhatDidNotChange(t *testing.T) {
	o := ovstest.Start(t)
	c := connect(t, o)
	apply(t, c, ovs.DBChange{CreateBridge: true, SetBridge: bridge(), AddPorts: tunnels(20)})
	same := func(a, b map[string]ovs.ObservedPort) bool {
		return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
	}
	last := observe(t, c)
	require.True(t, same(last.Ports, observe(t, c).Ports))
	for _, change := range [][]string{
		{"set", "interface", "vx3", "options:remote_ip=198.18.200.1"},
		{"del-port", "br-t", "vx4"},
		{"add-port", "br-t", "vx4", "--", "set", "interface", "vx4", "type=vxlan", "options:remote_ip=198.18.200.2"},
		{"set", "port", "vx5", "external_ids:baize-node=other"},
		{"add-br", "br-u"},
		{"del-port", "vx6"},
		{"add-port", "br-u", "vx6", "--", "set", "interface", "vx6", "type=vxlan", "options:remote_ip=198.18.200.3"},
		{"del-br", "br-t"},
		{"add-br", "br-t"},
	} {
		before := maps.Clone(last.Ports)
		o.Vsctl(change...)
		require.Eventually(t, func() bool {
			now := observe(t, c)
			all, err := c.ObserveAll(t.Context())
			require.NoError(t, err)
			for name, p := range all.Ports {
				p.Statistics = nil
				all.Ports[name] = p
			}
			return assert.ObjectsAreEqual(all, now) && !assert.ObjectsAreEqual(last, now)
		}, wait, tick, "%v", change)
		require.Equal(t, before, last.Ports, "what was observed before has changed")
		last = observe(t, c)
	}
}
