package command

import (
	"bytes"
	"context"
	"maps"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/kernelfake"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// fakeOVS is an Open vSwitch that holds what it is given.
type fakeOVS struct {
	seen   ovs.Observed
	meters []ovs.BoundMeter
	flows  openflow.Observed
	audit  openflow.Audit
	bound  []ovs.BoundFlow // what Audit was asked for
}

func (f *fakeOVS) Observe(context.Context) (ovs.Observed, error) { return f.seen, nil }

type fakeFlows struct{ *fakeOVS }

func (f fakeFlows) Observe(context.Context) (openflow.Observed, error) { return f.flows, nil }

func (f fakeFlows) Meters(context.Context) ([]ovs.BoundMeter, error) { return f.meters, nil }

func (f fakeFlows) Audit(_ context.Context, wanted []ovs.BoundFlow) (openflow.Audit, error) {
	f.fakeOVS.bound = wanted
	return f.audit, nil
}

func diffView() topology.View {
	return diffViewOf(topology.Network{Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16")})
}

// diffViewOf is host1 with a network and one peer.
func diffViewOf(n topology.Network) topology.View {
	n = n.Defaults()
	var kvs []topology.KV
	add := func(r topology.Record) {
		kvs = append(
			kvs,
			topology.KV{Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: int64(len(kvs) + 1)}},
		)
	}
	add(n)
	for i, name := range []string{"host1", "host2"} {
		add(
			topology.Node{
				Name:           name,
				VTEPs:          []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 77, byte(11 + i)})},
				Encapsulations: topology.Encapsulations(),
			},
		)
		add(topology.Subnet{Network: n.Name, Node: name, Prefix: topology.SubnetAt(n, topology.IPv4, uint64(5+i))})
	}
	return topology.NewSnapshot(1, kvs).View("host1")
}

// asWanted is an Open vSwitch as the plan wants it, with one endpoint.
func asWanted(t *testing.T, view topology.View, opt pipeline.Options) *fakeOVS {
	t.Helper()
	mac, err := topology.ParseMAC("02:42:0a:01:05:02")
	require.NoError(t, err)
	e := ovs.Endpoint{
		Name:    "c1",
		Node:    "host1",
		Network: "blue",
		IPs:     []netip.Addr{netip.MustParseAddr("10.1.5.2")},
		MAC:     mac,
		Netns:   "/run/netns/c1",
		Ifname:  "eth0",
		Port:    "bz-c1",
	}
	want := pipeline.Build(view, []ovs.Endpoint{e}, opt)
	f := &fakeOVS{
		seen: ovs.Observed{Bridge: &want.Bridge, DatapathID: "1", LocalOFPort: 65534, Ports: map[string]ovs.ObservedPort{}},
	}
	for i, p := range want.Ports {
		f.seen.Ports[p.Name] = ovs.ObservedPort{Port: p, OFPort: i + 1, Up: true}
	}
	f.meters = want.BindMeters(f.seen.OFPorts())
	return f
}

func TestPlanDiff(t *testing.T) {
	view := diffView()
	opt := pipeline.Options{
		Bridge:   "br-baize",
		Datapath: "netdev",
		Ports:    map[topology.Transport]int{topology.VXLAN: 4789, topology.Geneve: 6081},
	}
	for name, tc := range map[string]struct {
		change func(*fakeOVS)
		same   bool
		text   []string
	}{
		"as it should be": {func(*fakeOVS) {}, true, []string{"Open vSwitch is as node host1 should be"}},
		"no bridge": {
			func(f *fakeOVS) { f.seen = ovs.Observed{} }, false, []string{"+ bridge\n", "+ port vx-host2\n", "+ flow table=0 "},
		},
		"fail mode": {
			func(f *fakeOVS) { b := *f.seen.Bridge; b.FailMode = "standalone"; f.seen.Bridge = &b }, false,
			[]string{"~ bridge\n"},
		},
		"missing port": {func(f *fakeOVS) { delete(f.seen.Ports, "vx-host2") }, false, []string{"+ port vx-host2\n"}},
		"changed port": {func(f *fakeOVS) {
			p := f.seen.Ports["vx-host2"]
			p.Options = maps.Clone(p.Options)
			p.Options["remote_ip"] = "192.168.77.99"
			f.seen.Ports["vx-host2"] = p
		}, false, []string{"~ port vx-host2\n"}},
		"stale port": {func(f *fakeOVS) {
			f.seen.Ports["vx-host9"] = ovs.ObservedPort{OFPort: 9, Port: ovs.Port{
				Name: "vx-host9", Type: "vxlan",
				ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel},
			}}
		}, false, []string{"- port vx-host9\n"}},
		"foreign port and flow": {func(f *fakeOVS) {
			f.seen.Ports["eth9"] = ovs.ObservedPort{OFPort: 9, Port: ovs.Port{Name: "eth9"}}
			f.flows.Foreign = []string{"cookie=0x1, table=0, priority=9 actions=NORMAL"}
		}, true, []string{"left alone: port eth9", "left alone: flow cookie=0x1"}},
		"flows": {func(f *fakeOVS) {
			f.audit.Lines = []string{
				"-table=20 priority=100 cookie=0x1 actions=drop", "+table=30 priority=5 cookie=0x2 actions=NORMAL",
			}
		}, false, []string{"+ flow table=20 priority=100", "- flow table=30 priority=5"}},
		"meters": {func(f *fakeOVS) {
			f.meters = []ovs.BoundMeter{
				{ID: 3, Other: true}, {ID: ovs.NodeMeter, Rate: 7}, {ID: ovs.MeterBase + 99, Rate: 1},
			}
		}, false, []string{
			"~ meter 65537: 1000 frames a second\n", "~ meter 131071: 10000 frames a second\n", "~ meter 65635: not needed\n",
		}},
		"a switch without meters": {func(f *fakeOVS) { f.meters = nil }, true, nil},
		"broken port": {func(f *fakeOVS) {
			p := f.seen.Ports["vx-host2"]
			p.OFPort, p.Error = -1, "could not add network device"
			f.seen.Ports["vx-host2"] = p
		}, true, []string{"problem: port vx-host2: could not add network device"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := asWanted(t, view, opt)
			tc.change(f)
			item, err := drift.Host{DB: f, Flows: fakeFlows{f}, Kernel: &kernelfake.Host{}}.Compare(t.Context(), view, opt, nil)
			require.NoError(t, err)
			assert.Equal(t, tc.same, item.Same)
			var data bytes.Buffer
			require.NoError(t, cli.Print(&data, cli.FormatJSON, cli.Table{}, item))
			conforms(t, "plan-diff", data.String())
			var b bytes.Buffer
			require.NoError(t, writeDiff(&b, item))
			for _, s := range tc.text {
				assert.Contains(t, b.String(), s)
			}
			if name == "as it should be" {
				assert.NotEmpty(t, f.bound)
				assert.NotContains(t, f.bound[0].Match, `"`, "the endpoint's port is bound: it was read from the bridge")
			}
		})
	}
}

func TestRunDir(t *testing.T) {
	assert.Equal(t, "/x", drift.RunDir("/x", "unix:/var/run/openvswitch/db.sock"))
	assert.Equal(t, "/var/run/openvswitch", drift.RunDir("", "unix:/var/run/openvswitch/db.sock"))
	assert.Equal(t, "", drift.RunDir("", "tcp:127.0.0.1:6640"))
}

// The kernel is compared as the switch is, and what differs is a command.
func TestPlanDiffKernel(t *testing.T) {
	opt := pipeline.Options{
		Bridge:   "br-baize",
		Datapath: "netdev",
		Ports:    map[topology.Transport]int{topology.VXLAN: 4789, topology.Geneve: 6081},
	}
	view := diffViewOf(
		topology.Network{Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Transport: topology.Auto},
	)
	opt.Direct = map[topology.SubnetID]bool{}
	f := asWanted(t, view, opt)
	host := &kernelfake.Host{}
	host.AddDevice("eth0", netip.MustParsePrefix("192.168.77.11/24"))
	host.AddDevice("bn-blue")
	host.AddDevice("bz-c1")
	compare := func() (drift.Drift, string) {
		item, err := drift.Host{DB: f, Flows: fakeFlows{f}, Kernel: host}.Compare(t.Context(), view, opt, nil)
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, writeDiff(&b, item))
		return item, b.String()
	}
	item, text := compare()
	assert.False(t, item.Same)
	for _, s := range []string{
		"~ kernel ip link set bn-blue address 02:42:0a:01:05:01 mtu 1450 up\n", "~ kernel sysctl -w net.ipv4.ip_forward=1\n",
		"~ kernel ip route add 10.1.6.0/24 via 192.168.77.12 dev eth0 src 10.1.5.1 proto 173\n", "chain netdev baize bz-c1",
	} {
		assert.Contains(t, text, s)
	}
	// Put right, it is the same.
	want, _ := kernel.Wanted(kernel.Input{})
	require.True(t, want.Empty())
	require.NoError(t, settle(t, host, view, f, opt))
	item, text = compare()
	assert.True(t, item.Same, text)
	assert.Contains(t, text, "and so is the kernel")
}

// settle does what the agent does with the kernel.
func settle(t *testing.T, host kernel.Host, view topology.View, f *fakeOVS, opt pipeline.Options) error {
	t.Helper()
	in := drift.KernelInput(view, f.seen, opt)
	have, err := host.Observe(t.Context(), kernel.Ask(view, nil))
	require.NoError(t, err)
	in.OnLink = have.OnLink()
	want, faults := kernel.Wanted(in)
	require.Empty(t, faults)
	change, faults := kernel.Diff(want, have, nil)
	require.Empty(t, faults)
	return host.Apply(t.Context(), change)
}

// The plan shows the kernel's part as commands, and nothing where there is none.
func TestPlanKernel(t *testing.T) {
	state, _ := planKernel(diffView(), nil)
	var b bytes.Buffer
	require.NoError(t, formatKernel(&b, diffView(), state))
	assert.Empty(t, b.String(), "VXLAN needs nothing of the kernel where Open vSwitch forwards itself")

	tunnelled := diffView()
	tunnelled.Node.Datapath = "system"
	state, _ = planKernel(tunnelled, map[topology.Transport]int{topology.VXLAN: 4790})
	require.NoError(t, formatKernel(&b, tunnelled, state))
	assert.Contains(t, b.String(), "udp dport 4790 fib saddr . iif oif missing counter drop\n")
	b.Reset()

	view := diffViewOf(
		topology.Network{Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Transport: topology.Route},
	)
	state, faults := planKernel(view, nil)
	require.Empty(t, faults)
	require.NoError(t, formatKernel(&b, view, state))
	for _, s := range []string{
		"\nKernel\n    # and routes to other nodes", "    sysctl -w net.ipv4.ip_forward=1\n",
		"    ip route add unreachable 10.1.0.0/16 proto 173\n",
	} {
		assert.Contains(t, b.String(), s)
	}
	// Refused anywhere, not only on the node.
	_, faults = planKernel(
		diffViewOf(
			topology.Network{Name: "oops", VNI: 100, IPv4: netip.MustParsePrefix("192.168.0.0/16"), Transport: topology.Route},
		),
		nil,
	)
	require.Len(t, faults, 1)
	assert.Contains(t, faults[0].What, "covers 192.168.77.11")
}

// The tunnel of another network with the same prefix hid that the kernel
// routes it.
func TestDirectOf(t *testing.T) {
	p := netip.MustParsePrefix("10.1.6.0/24")
	assert.Equal(t, map[topology.SubnetID]bool{{Network: "blue", Prefix: p}: true}, drift.DirectOf([]api.Route{
		{
			Network: "blue",
			Prefix:  p,
			Kind:    "route",
		},
		{Network: "red", Prefix: p, Kind: "tunnel"},
		{Network: "red", Prefix: netip.MustParsePrefix("10.1.7.0/24"), Kind: "tunnel"},
	}))
}
