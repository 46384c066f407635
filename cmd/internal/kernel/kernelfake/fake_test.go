package kernelfake_test

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/kernelfake"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func host() *kernelfake.Host {
	h := &kernelfake.Host{}
	h.AddDevice(kernelfake.Underlay, kernelfake.UnderlayAddrs...)
	for _, d := range append(kernelfake.Ports, kernelfake.Ends...) {
		h.AddDevice(d)
	}
	return h
}

// From any state to any other, one change is enough, and a second one is empty.
func TestJumps(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	h := host()
	for range 200 {
		want := kernelfake.RandomState(r)
		have, err := h.Observe(t.Context(), kernel.Query{})
		require.NoError(t, err)
		c, faults := kernel.Diff(want, have, nil)
		require.Empty(t, faults)
		require.NoError(t, h.Apply(t.Context(), c), c)
		have, err = h.Observe(t.Context(), kernel.Query{})
		require.NoError(t, err)
		c, faults = kernel.Diff(want, have, nil)
		require.Empty(t, faults)
		require.Empty(t, c.String(), "not read back as it was written")
	}
}

// An address that is replaced may be there already.
func TestReplaceAddress(t *testing.T) {
	h := host()
	again := kernel.ChangeAddress{Verb: kernel.Replace, Address: kernel.Address{
		Dev: "eth0", Prefix: netip.MustParsePrefix("192.0.2.9/24"),
	}}
	for range 2 {
		require.NoError(t, h.Apply(t.Context(), kernel.Change{Steps: []kernel.Step{again}}))
	}
}

// The errors of the real kernel.
func TestErrors(t *testing.T) {
	h := host()
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	via := func(prefix, hop, dev string) route.Route {
		return route.Route{Prefix: p(prefix), Via: a(hop), Dev: dev}
	}
	require.NoError(t, h.AddForeign(route.Foreign{Route: via("10.1.6.0/24", "192.0.2.6", "eth0"), Protocol: 4}))
	add := func(r route.Route) kernel.Step { return kernel.ChangeRoute{Verb: kernel.Add, Route: r} }
	address := func(dev, prefix string) kernel.Step {
		return kernel.ChangeAddress{Verb: kernel.Add, Address: kernel.Address{Dev: dev, Prefix: p(prefix)}}
	}
	for name, c := range map[string]struct {
		step kernel.Step
		want error
	}{
		"a foreign route's place": {add(via("10.1.6.0/24", "192.0.2.7", "eth0")), syscall.EEXIST},
		"no such device":          {add(via("10.1.7.0/24", "192.0.2.7", "eth9")), syscall.ENODEV},
		"next hop on no link":     {add(via("10.1.7.0/24", "198.51.100.7", "eth0")), syscall.ENETUNREACH},
		"device is down":          {add(route.Route{Prefix: p("10.1.7.0/24"), Dev: "bn-blue"}), syscall.ENETDOWN},
		"nobody's source": {
			add(route.Route{Prefix: p("10.1.7.0/24"), Dev: "eth0", Src: a("10.1.5.1")}), syscall.EINVAL,
		},
		"address of no device": {address("bn-x", "10.1.5.1/32"), syscall.ENODEV},
		"address twice":        {address("eth0", "192.0.2.1/24"), syscall.EEXIST},
		"unknown setting":      {kernel.SetSysctl{Sysctl: kernel.Sysctl{Key: "net/ipv4/no", Value: "1"}}, syscall.ENOENT},
	} {
		err := h.Apply(t.Context(), kernel.Change{Steps: []kernel.Step{c.step}})
		require.ErrorIs(t, err, c.want, name)
		require.NotEmpty(t, fault.Of(err).Code, name)
		require.NotEmpty(t, fault.Of(err).Remedy, name)
	}
	// What is gone is gone.
	require.NoError(t, h.Apply(t.Context(), kernel.Change{Steps: []kernel.Step{
		kernel.ChangeRoute{Verb: kernel.Delete, Route: via("10.1.7.0/24", "192.0.2.7", "eth0")}, kernel.SetNAT{},
		kernel.ChangeAddress{Verb: kernel.Delete, Address: kernel.Address{Dev: "eth0", Prefix: p("192.0.2.9/24")}},
	}}))
}

// One bad element costs only itself.
func TestOneBadElement(t *testing.T) {
	h := host()
	h.Refuse(func(s kernel.Step) error {
		if r, ok := s.(kernel.ChangeRoute); ok && r.Dev == "bn-blue" {
			return syscall.EINVAL
		}
		return nil
	})
	want := kernel.State{
		Links: []kernel.Link{{Name: "bn-blue", MAC: "02:42:0a:01:05:01", MTU: 1450, Up: true}},
		Routes: []route.Route{
			{Prefix: netip.MustParsePrefix("10.1.5.0/24"), Dev: "bn-blue"},
			{Prefix: netip.MustParsePrefix("10.1.6.0/24"), Via: netip.MustParseAddr("192.0.2.6"), Dev: "eth0"},
		},
	}
	have, err := h.Observe(t.Context(), kernel.Query{})
	require.NoError(t, err)
	c, _ := kernel.Diff(want, have, nil)
	err = h.Apply(t.Context(), c)
	faults := fault.All(err)
	require.Len(t, faults, 1)
	require.Equal(t, fault.KernelRefused, faults[0].Code)
	require.Equal(t, "route 10.1.5.0/24", faults[0].Item)
	have, err = h.Observe(t.Context(), kernel.Query{})
	require.NoError(t, err)
	require.Equal(t, want.Routes[1:], have.Routes.Own)
}

// Docker comes after the agent, with its policy; iptables-nft prints what
// iptables-restore was given.
func TestDockersPolicy(t *testing.T) {
	h := host()
	h.SetIPTables(kernel.IPTables{Tool: "iptables", Family: topology.IPv4, Filter: "-P FORWARD ACCEPT\n"})
	want := kernel.State{
		Firewall: kernel.Firewall{
			Accept: []kernel.AcceptRule{{Family: topology.IPv4, In: "bn-blue"}, {Family: topology.IPv4, Out: "bn-blue"}},
		},
	}
	pass := func() string {
		have, err := h.Observe(t.Context(), kernel.Query{})
		require.NoError(t, err)
		c, _ := kernel.Diff(want, have, nil)
		require.NoError(t, h.Apply(t.Context(), c))
		have, err = h.Observe(t.Context(), kernel.Query{})
		require.NoError(t, err)
		again, _ := kernel.Diff(want, have, nil)
		require.Empty(t, again.String())
		return have.IPTables[0].Filter
	}
	require.Equal(t, "-P FORWARD ACCEPT\n", pass(), "nothing there drops anything")
	h.SetIPTables(
		kernel.IPTables{
			Tool:   "iptables",
			Family: topology.IPv4,
			Filter: "-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER\n",
		},
	)
	filter := pass()
	require.Contains(t, filter, "-A FORWARD -j DOCKER-USER\n-A FORWARD -j BAIZE-FORWARD\n-A FORWARD -j DOCKER\n")
	require.Contains(t, filter, "-A BAIZE-FORWARD -i bn-blue -j ACCEPT\n")
	want = kernel.State{}
	require.NotContains(t, pass(), "BAIZE")
}

// Churn of others wakes nobody, and that of ours at a bounded rate.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := host()
		ctx, cancel := context.WithCancel(t.Context())
		var fires atomic.Int32
		interest := kernel.Interest{Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
		done := make(chan error, 1)
		go func() {
			done <- h.Watch(ctx, kernel.Watcher{Interest: func() kernel.Interest { return interest }, Fire: func() { fires.Add(1) }})
		}()
		time.Sleep(time.Second)
		require.EqualValues(t, 1, fires.Load(), "at the start")
		route1 := func(prefix string) {
			require.NoError(
				t,
				h.AddForeign(
					route.Foreign{
						Route:    route.Route{Prefix: netip.MustParsePrefix(prefix), Via: netip.MustParseAddr("192.0.2.6"), Dev: "eth0"},
						Protocol: 186,
					},
				),
			)
		}
		for i := range 200 {
			route1(netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(i), 0}), 24).String())
			time.Sleep(10 * time.Millisecond)
		}
		require.EqualValues(t, 1, fires.Load())
		for i := range 200 {
			route1(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24).String())
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		require.Greater(t, fires.Load(), int32(3))
		require.Less(t, fires.Load(), int32(30), "ten seconds of churn")
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}
