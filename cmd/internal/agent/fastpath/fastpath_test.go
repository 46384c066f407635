package fastpath

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/kernel"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	model "github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/cmd/internal/fastpath/bpf"
	hostkernel "github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// fake is a host in memory.
type fake struct {
	state     model.State
	netfilter hostkernel.Netfilter
	reads     int
	// unread, refused and unseen are what it answers instead.
	unread, refused, unseen error
}

func (f *fake) Observe(context.Context) (bpf.Seen, error) {
	return bpf.Seen{State: f.state, Devices: map[string]model.Device{
		"eth0": {Ethernet: true}, "bn-blue": {}, "bz1": {Away: true},
	}}, f.unseen
}

func (f *fake) Apply(_ context.Context, c model.Change) error {
	if f.refused != nil {
		return f.refused
	}
	s := model.NewState()
	apply(s.Ports, f.state.Ports, c.Remove.Ports, c.Add.Ports)
	apply(s.Locals, f.state.Locals, c.Remove.Locals, c.Add.Locals)
	apply(s.Hops, f.state.Hops, c.Remove.Hops, c.Add.Hops)
	apply(s.Uplinks, f.state.Uplinks, c.Remove.Uplinks, c.Add.Uplinks)
	f.state = s
	return nil
}

func apply[K comparable, V any](out, have, remove, add map[K]V) {
	maps.Copy(out, have)
	for k := range remove {
		delete(out, k)
	}
	maps.Copy(out, add)
}

func (f *fake) Counters() ([]bpf.Counter, error) { return nil, nil }

func (f *fake) Netfilter(context.Context) (hostkernel.Netfilter, error) {
	f.reads++
	return f.netfilter, f.unread
}

func (f *fake) Watch(ctx context.Context, _ hostkernel.Watcher) error {
	<-ctx.Done()
	return ctx.Err()
}

type node struct {
	*Part
	t     *testing.T
	host  *fake
	state kernel.State
}

// newNode is host1 of two with an endpoint in a network that the kernel routes.
func newNode(t *testing.T, cfg Config) *node {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	var kvs []topology.KV
	put := func(r topology.Record) {
		kvs = append(kvs, topology.KV{
			Key: r.Key(), Value: topology.Encode(r), Meta: topology.Meta{CreateRevision: int64(len(kvs) + 1)},
		})
	}
	blue := topology.Network{
		Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Transport: topology.Route,
	}.Defaults()
	put(blue)
	for i, name := range []string{"host1", "host2"} {
		put(topology.Node{Name: name, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 77, byte(11 + i)})}})
		put(topology.Subnet{Network: "blue", Node: name, Prefix: topology.SubnetAt(blue, topology.IPv4, uint64(5+i))})
	}
	n := &node{t: t, host: &fake{state: model.NewState()}, state: kernel.State{
		View: topology.NewSnapshot(1, kvs).View("host1"), Complete: true,
		OnLink: topology.OnLink{netip.MustParseAddr("192.168.77.12"): "eth0"},
		Direct: map[topology.SubnetID]bool{{Network: "blue", Prefix: netip.MustParsePrefix("10.1.6.0/24")}: true},
	}}
	known := part.NewCell[attach.Known](nil)
	a := netip.MustParseAddr("10.1.5.2")
	known.Set(attach.Known{Complete: true, Endpoints: []ovs.Endpoint{
		{Name: "c1", Network: "blue", Port: "bz1", IPs: []netip.Addr{a}, MAC: topology.MACOf(a)},
	}})
	cfg.Every = time.Minute
	n.Part = New(cfg, n.host, n.host, part.NewCell[kernel.State](nil), known,
		part.NewCell[openvswitch.Outcome](nil), log.WithField("node", "host1"))
	n.kernel.Set(n.state)
	return n
}

// why does a pass and says what the network's packets take.
func (n *node) why() string {
	n.t.Helper()
	_ = n.pass(n.t.Context())
	all := n.State().Get().Networks
	require.Len(n.t, all, 1)
	assert.Equal(n.t, all[0].Used, !n.host.state.Empty())
	return all[0].Why
}

func (n *node) codes() (out []fault.Code) {
	for _, f := range n.Faults() {
		out = append(out, f.Code)
	}
	return out
}

func TestPass(t *testing.T) {
	n := newNode(t, Config{Mode: ModeAuto})
	assert.Equal(t, "prefixes of other nodes: 1, endpoints: 1", n.why())
	assert.Len(t, n.host.state.Ports, 1)
	assert.True(t, n.host.state.Uplinks["eth0"])
	n.why()
	assert.Equal(t, 1, n.host.reads, "the firewall is read when it changes")

	for _, undo := range []part.Undo{{DryRun: true}, {}} {
		require.False(t, n.host.state.Empty())
		report, err := n.Cleanup(t.Context(), undo)
		require.NoError(t, err)
		assert.Equal(t, []string{"removed the fast path of 2 devices"}, report)
	}
	assert.True(t, n.host.state.Empty())
	report, err := n.Cleanup(t.Context(), part.Undo{})
	require.NoError(t, err)
	assert.Empty(t, report)
}

func TestUserspace(t *testing.T) {
	n := newNode(t, Config{Mode: ModeAuto, Userspace: true})
	assert.Contains(t, n.why(), "only what endpoints receive")
	assert.Empty(t, n.host.state.Ports)
	assert.Len(t, n.host.state.Locals, 1)
}

// An agent that starts takes nothing away before it knows all there is.
func TestStart(t *testing.T) {
	n := newNode(t, Config{Mode: ModeAuto})
	n.why()
	before := n.host.state
	n.begun = false
	n.kernel.Set(kernel.State{View: n.state.View})
	require.NoError(t, n.pass(t.Context()))
	assert.Equal(t, before, n.host.state)
	n.kernel.Set(kernel.State{View: n.state.View, Complete: true})
	require.NoError(t, n.pass(t.Context()))
	assert.True(t, n.host.state.Empty())
}

// Switched off, it removes what an agent before it made.
func TestOff(t *testing.T) {
	n := newNode(t, Config{Mode: ModeAuto})
	n.why()
	n.cfg.Mode = ModeOff
	assert.Equal(t, "switched off (--fastpath off)", n.why())
	require.NoError(t, CheckMode(ModeOff))
	require.ErrorIs(t, CheckMode("on"), topology.ErrInvalid)
}

func TestHasToBeSeen(t *testing.T) {
	n := newNode(t, Config{Mode: ModeAuto})
	n.why()
	n.host.netfilter.Chains = []string{"table inet mine, chain f"}
	assert.Contains(t, n.why(), "endpoints: 1", "nothing has said so")
	n.stale.Store(true)
	assert.Equal(t, "its packets have to be seen: table inet mine, chain f of nftables has rules or a policy", n.why())
	// No answer is not "nothing".
	n.host.netfilter, n.host.unread = hostkernel.Netfilter{}, errors.New("timeout")
	n.stale.Store(true)
	assert.Contains(t, n.why(), "table inet mine")
	assert.Equal(t, []fault.Code{fault.KernelUnavailable}, n.codes())
	n.host.unread = nil
	assert.Contains(t, n.why(), "endpoints: 1")
	assert.Empty(t, n.codes())

	first := newNode(t, Config{Mode: ModeAuto})
	first.host.unread = errors.New("timeout")
	assert.Equal(t, "it is not known what has to see this host's packets", first.why())
}

// What the kernel refuses is a fault, and packets go the plain way.
func TestRefused(t *testing.T) {
	n := newNode(t, Config{Mode: ModeAuto})
	n.host.refused = &topology.Error{Kind: topology.ErrUnavailable, Code: fault.FastPathRefused, Item: "the fast path"}
	require.Error(t, n.pass(t.Context()))
	assert.Contains(t, n.State().Get().Networks[0].Why, "some of it failed")
	assert.Equal(t, []fault.Code{fault.FastPathRefused}, n.codes())
	n.host.refused = nil
	n.why()
	assert.Empty(t, n.codes())
	n.host.unseen = errors.New("netlink is away")
	require.Error(t, n.pass(t.Context()))
	assert.NotEmpty(t, n.codes())
	assert.False(t, n.host.state.Empty())
}
