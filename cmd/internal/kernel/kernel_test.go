package kernel_test

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

var (
	p = netip.MustParsePrefix
	a = netip.MustParseAddr
)

func network(name string, transport topology.Transport, v4, v6 string) topology.NetworkView {
	n := topology.Network{Name: name, VNI: 100, Transport: transport, IPv4: p(v4)}
	if v6 != "" {
		n.IPv6 = p(v6)
	}
	return topology.NetworkView{Network: n.Defaults()}
}

// input is a node with a network of each kind, and two peers: one on the link,
// one behind a router.
func input(t *testing.T) kernel.Input {
	t.Helper()
	blue := network("blue", topology.Auto, "10.1.0.0/16", "fd00:1::/48")
	blue.Subnets = []netip.Prefix{p("10.1.5.0/24"), p("fd00:1:5::/64")}
	fast := network("fast", topology.Route, "10.3.0.0/16", "")
	fast.Subnets, fast.GatewayIPv4 = []netip.Prefix{p("10.3.5.0/24")}, a("10.3.0.1")
	routed := network("routed", topology.VXLAN, "10.5.0.0/16", "")
	routed.Router, routed.Subnets = true, []netip.Prefix{p("10.5.5.0/24")}
	var err error
	routed.RouterMAC, err = net.ParseMAC("0e:ba:c0:00:02:01")
	require.NoError(t, err)
	red := network("red", topology.VXLAN, "10.4.0.0/16", "")
	red.Subnets = []netip.Prefix{p("10.4.5.0/24")}
	v := topology.View{
		Node:     topology.Node{Name: "host1", VTEPs: []netip.Addr{a("192.0.2.1")}},
		Networks: []topology.NetworkView{blue, fast, routed, red},
	}
	for i := range v.Networks {
		n := &v.Networks[i]
		base := n.IPv4.Addr().As4()
		subnet := func(third byte) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1], third, 0}), 24)
		}
		n.Peers = []topology.Peer{
			{Node: "near", Encap: n.Transport.Tunnel(), VTEPs: []netip.Addr{a("192.0.2.6")}, Subnets: []netip.Prefix{subnet(6)}},
			{
				Node:    "far",
				Encap:   n.Transport.Tunnel(),
				VTEPs:   []netip.Addr{a("198.51.100.7")},
				Subnets: []netip.Prefix{subnet(7)},
			},
		}
	}
	v.Networks[0].Pins = []topology.Pin{{Addr: a("10.1.5.9"), Node: "near", MAC: "02:42:0a:01:05:09"}}
	return kernel.Input{
		View: v, Ports: map[string]string{"blue": "bn-blue", "fast": "bn-fast", "routed": "bn-routed"},
		Endpoints: map[string][]netip.Addr{"routed": {a("10.5.5.2")}},
		OnLink:    topology.OnLink{a("192.0.2.6"): "eth0"}, Masquerade: []string{"routed"},
		Bridges: map[string]string{"blue": "docker0"}, Drops: kernel.Drops{Use: true, Devices: []string{"bz0123456789a"}},
	}
}

func TestWanted(t *testing.T) {
	state, faults := kernel.Wanted(input(t))
	golden(t, "state", state.String())
	require.Len(t, faults, 1, "the route network does not reach who is behind a router")
	assert.Equal(t, fault.Unreachable, faults[0].Code)
	assert.Contains(t, faults[0].Item, "node far")

	// It is pure, and in a fixed order.
	for range 10 {
		again, _ := kernel.Wanted(input(t))
		require.Equal(t, state.String(), again.String())
	}
	empty, faults := kernel.Wanted(kernel.Input{})
	assert.True(t, empty.Empty())
	assert.Empty(t, empty.String())
	assert.Empty(t, faults)
}

// Pods of a host are reached past the network's port, and past Docker's policy DROP.
func TestPods(t *testing.T) {
	in := input(t)
	in.Pods = []string{"routed"}
	state, _ := kernel.Wanted(in)
	require.Contains(t, state.Firewall.Accept, kernel.AcceptRule{Family: topology.IPv4, Src: p("10.5.0.0/16"), Valid: true})
	require.Contains(t, state.Firewall.Accept, kernel.AcceptRule{Family: topology.IPv4, Dst: p("10.5.0.0/16"), Valid: true})
	n, _ := in.View.Find("routed")
	have := observed(state)
	assert.False(t, have.AcceptsPods(n.Network))
	have.IPTables = []kernel.IPTables{{
		Tool: "iptables", Family: topology.IPv4, Filter: "-P FORWARD DROP\n-N BAIZE-FORWARD\n-A FORWARD -j BAIZE-FORWARD\n" +
			"-A BAIZE-FORWARD -s 10.5.0.0/16 -m conntrack ! --ctstate INVALID -j ACCEPT\n",
	}}
	assert.True(t, have.AcceptsPods(n.Network))
}

// A change prints what it does, what makes before what breaks.
func TestChange(t *testing.T) {
	in := input(t)
	before, _ := kernel.Wanted(in)
	// The near peer moves behind the router, and the far one onto the link; routed goes.
	in.OnLink = topology.OnLink{a("198.51.100.7"): "eth0"}
	in.View.Networks[0].MTU = 1400
	in.Ports["routed"], in.Masquerade, in.Drops.Devices = "", nil, nil
	want, _ := kernel.Wanted(in)
	have := observed(before)
	delete(have.Devices, "bz0123456789a")
	c, faults := kernel.Diff(want, have, nil)
	assert.Empty(t, faults)
	golden(t, "change", c.String())

	again, _ := kernel.Diff(want, observed(want), nil)
	assert.Empty(t, again.String())
}

// observed is a host that has a state, and iptables with Docker's policy.
func observed(s kernel.State) kernel.Observed {
	o := kernel.Observed{
		Devices: map[string]bool{
			"lo":      true,
			"eth0":    true,
			"docker0": true,
		},
		Links:      s.Links,
		Addresses:  s.Addresses,
		Neighbours: s.Neighbours,
		Sysctls:    map[string]string{},
		Drops:      s.Firewall.Drops.Devices,
		Rules:      s.Rules,
	}
	for _, l := range s.Links {
		o.Devices[l.Name] = true
	}
	for _, x := range s.Sysctls {
		o.Sysctls[x.Key] = x.Value
	}
	c, _ := route.Diff(s.Routes, route.Observed{})
	o.Routes.Own = c.Add
	var nat []string
	for _, r := range s.Firewall.NAT {
		nat = append(nat, r.String())
	}
	o.NAT = kernel.NATTable(nat)
	var tunnels []string
	for _, p := range s.Firewall.Tunnels {
		tunnels = append(tunnels, p.String())
	}
	o.Tunnels = kernel.TunnelTableText(tunnels)
	for _, d := range o.Drops {
		o.Devices[d] = true
	}
	return o
}

// Make before break: a route goes only once no installed flow relies on it.
func TestDiffRelied(t *testing.T) {
	dev := kernel.Link{Name: "bn-blue", MTU: 1450}
	direct := route.Route{Prefix: p("10.1.6.0/24"), Via: a("192.0.2.6"), Dev: "eth0"}
	pin := route.Route{Prefix: p("10.1.5.9/32"), Via: a("192.0.2.6"), Dev: "eth0"}
	have := observed(kernel.State{Links: []kernel.Link{dev}, Routes: []route.Route{direct, pin}})
	steps := func(want []route.Route, relied ...string) string {
		set := map[netip.Prefix]bool{}
		for _, r := range relied {
			set[p(r)] = true
		}
		c, faults := kernel.Diff(kernel.State{Links: []kernel.Link{dev}, Routes: want}, have, set)
		require.Empty(t, faults)
		return c.String()
	}
	const goes = "ip route del 10.1.6.0/24 via 192.0.2.6 dev eth0 proto 173\n"
	const pinGoes = "ip route del 10.1.5.9/32 via 192.0.2.6 dev eth0 proto 173\n"
	assert.Equal(t, pinGoes+goes, steps(nil))
	assert.Equal(t, pinGoes, steps(nil, "10.1.6.0/24"), "the switch still hands such packets over")
	assert.Equal(t, pinGoes+goes, steps(nil, "10.1.7.0/24"))

	// The pin's address is on the Ethernet now: what is still handed over would come
	// back if the direct route went.
	local := route.Route{Prefix: pin.Prefix, Dev: "bn-blue", Metric: 1}
	const added = "ip route add 10.1.5.9/32 dev bn-blue metric 1 proto 173\n"
	assert.Equal(t, added, steps([]route.Route{direct, local}, "10.1.5.9/32"))
	assert.Equal(t, added+pinGoes, steps([]route.Route{direct, local}))
	// Another route to the same node takes its place.
	other := pin
	other.Metric = 5
	assert.Equal(
		t,
		"ip route add 10.1.5.9/32 via 192.0.2.6 dev eth0 metric 5 proto 173\n"+pinGoes,
		steps([]route.Route{direct, other}, "10.1.5.9/32"),
	)
}

// What the kernel did not say is neither withdrawn nor changed.
func TestKeep(t *testing.T) {
	s, _ := kernel.Wanted(input(t))
	before := observed(s)
	before.Lookups = map[netip.Addr]kernel.Lookup{a("192.0.2.6"): {Dev: "eth0"}, a("198.51.100.7"): {}}
	timeout := errors.New("resource temporarily unavailable")
	now := kernel.Observed{
		Devices: before.Devices,
		Links:   before.Links,
		Failed:  map[kernel.Section]error{},
		Lookups: map[netip.Addr]kernel.Lookup{
			a("192.0.2.6"):    {Err: timeout},
			a("198.51.100.7"): {Dev: "eth0"},
			a("192.0.2.9"):    {Err: timeout},
		},
	}
	for _, x := range []kernel.Section{
		kernel.Addresses, kernel.Neighbours, kernel.Routes, kernel.Rules, kernel.Sysctls, kernel.NFTables, kernel.Chains,
	} {
		now.Failed[x] = timeout
	}
	kept := now.Keep(before)
	assert.Equal(t, topology.OnLink{a("192.0.2.6"): "eth0", a("198.51.100.7"): "eth0"}, kept.OnLink())
	assert.Equal(t, before.Routes, kept.Routes)
	in := input(t)
	assert.Equal(
		t,
		map[topology.SubnetID]bool{
			{Network: "blue", Prefix: p("10.1.6.0/24")}: true,
			{Network: "blue", Prefix: p("10.1.5.9/32")}: true,
			{Network: "fast", Prefix: p("10.3.6.0/24")}: true,
		},
		kernel.Direct(in, s, kept),
	)
	c, _ := kernel.Diff(kernel.State{}, kept, nil)
	assert.Empty(t, c.String(), "nothing is changed on a guess")
	assert.Len(t, kept.Faults(), 8)
	assert.Equal(t, fault.KernelUnavailable, kept.Faults()[0].Code)

	// Without the firewall the rest is compared.
	skipped := before
	skipped.Skipped, skipped.NAT, skipped.Drops, skipped.Tunnels = true, "", nil, ""
	c, _ = kernel.Diff(s, skipped.Keep(before), nil)
	assert.Empty(t, c.String())
}

// The prefix of a network covers what the host itself needs.
func TestCovers(t *testing.T) {
	own := kernel.Protected{Addr: a("192.168.77.11"), What: "this node's own underlay address"}
	gateway := kernel.Protected{Addr: a("::ffff:192.168.0.1"), What: "the default gateway"}
	etcd := kernel.Protected{Addr: a("fd77::1"), What: "etcd"}
	for name, c := range map[string]struct {
		network topology.NetworkView
		want    string // in the fault; empty: none
	}{
		"elsewhere": {network("ok", topology.Route, "10.1.0.0/16", "fd00:1::/48"), ""},
		"the underlay": {
			network("oops", topology.Route, "192.168.0.0/16", ""), "covers 192.168.77.11, this node's own",
		},
		"the gateway alone":      {network("oops", topology.Auto, "192.168.0.0/24", ""), "192.168.0.1, the default gateway"},
		"etcd over IPv6":         {network("oops", topology.Auto, "10.1.0.0/16", "fd77::/32"), "covers fd77::1, etcd"},
		"not the kernel's":       {network("tunnel", topology.VXLAN, "192.168.0.0/16", ""), ""},
		"beside it, by a subnet": {network("ok", topology.Route, "192.168.64.0/21", ""), ""},
	} {
		f, bad := kernel.Covers(c.network.Network, []kernel.Protected{own, gateway, etcd, {}})
		assert.Equal(t, c.want != "", bad, name)
		if bad {
			assert.Contains(t, f.What, c.want, name)
			assert.Equal(t, fault.NetworkCoversUnderlay, f.Code, name)
			assert.NotEmpty(t, f.Remedy, name)
		}
	}
}

// Such a network gets no routes and no addresses; those it had go, and the
// others stay.
func TestWantedCovered(t *testing.T) {
	in := input(t)
	before, _ := kernel.Wanted(in)
	have := observed(before)
	have.Routes.Foreign = []route.Foreign{
		{Route: route.Route{Prefix: p("0.0.0.0/0"), Via: a("10.3.0.254"), Dev: "eth0"}, Protocol: 3},
	}
	in.Protected = kernel.Protect(in.View, have, kernel.Protected{Addr: a("203.0.113.1"), What: "etcd"})
	state, faults := kernel.Wanted(in)
	require.Len(t, faults, 1)
	assert.Equal(t, "network fast", faults[0].Item)
	assert.Contains(t, faults[0].What, "covers 10.3.0.254, the default gateway")
	c, _ := kernel.Diff(state, have, nil)
	golden(t, "covered", c.String())
	assert.NotContains(t, kernel.Direct(in, state, have), topology.SubnetID{Network: "fast", Prefix: p("10.3.6.0/24")})
	assert.Contains(t, kernel.Direct(in, state, have), topology.SubnetID{Network: "blue", Prefix: p("10.1.6.0/24")})
}

func TestNextHops(t *testing.T) {
	in := input(t)
	networks := in.View.Networks[:2]
	have := kernel.Observed{
		Lookups: map[netip.Addr]kernel.Lookup{
			a("192.0.2.254"): {Dev: "eth0"},
			a("192.0.2.6"):   {Dev: "eth0"},
			a("10.1.5.2"):    {Dev: "bn-blue"},
		},
		Routes: route.Observed{
			Own: []route.Route{{Prefix: p("10.1.7.0/24"), Via: a("192.0.2.254"), Dev: "eth0"}},
			Foreign: []route.Foreign{
				{Route: route.Route{Prefix: p("10.3.7.0/24"), Via: a("192.0.2.253"), Dev: "eth0", Metric: 20}, Protocol: 186},
			},
		},
	}
	foreign := topology.NextHop{Via: a("192.0.2.253"), Dev: "eth0", Foreign: true, Why: "kernel route of protocol bgp"}
	known := kernel.Learned{Via: a("192.0.2.254"), Why: "learned by BGP from 192.0.2.254"}
	assert.Equal(t, topology.NextHops{
		p("10.3.7.0/24"): foreign, p("10.1.7.0/24"): {Via: known.Via, Dev: "eth0", Why: known.Why},
	}, kernel.NextHops(networks, have, map[netip.Prefix]kernel.Learned{p("10.1.7.0/24"): known}, true))
	// While the sessions are not settled, what is there stays.
	assert.Equal(t, topology.NextHops{
		p("10.3.7.0/24"): foreign,
		p("10.1.7.0/24"): {Via: known.Via, Dev: "eth0", Why: "learned by BGP before the agent's restart"},
	}, kernel.NextHops(networks, have, nil, false))
	assert.Equal(t, topology.NextHops{p("10.3.7.0/24"): foreign}, kernel.NextHops(networks, have, nil, true))
	// A hop that is on no link, or inside a network of ours, is none.
	assert.Equal(t, topology.NextHops{p("10.3.7.0/24"): foreign},
		kernel.NextHops(networks, have, map[netip.Prefix]kernel.Learned{p("10.1.7.0/24"): {Via: a("10.1.5.2")}}, true))
	assert.Equal(
		t,
		[]netip.Addr{a("192.0.2.6"), a("198.51.100.7"), known.Via},
		kernel.Ask(in.View, map[netip.Prefix]kernel.Learned{p("10.1.7.0/24"): known}).Lookups,
	)
}

func TestStrict(t *testing.T) {
	in := input(t)
	have := kernel.Observed{
		Sysctls: map[string]string{"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "2"},
	}
	assert.Empty(t, kernel.Strict(in, have))
	have.Sysctls["net/ipv4/conf/eth0/rp_filter"] = "1"
	faults := kernel.Strict(in, have)
	require.Len(t, faults, 1)
	assert.Equal(t, fault.ReversePathStrict, faults[0].Code)
	have.Sysctls["net/ipv4/conf/all/rp_filter"] = "2"
	assert.Empty(t, kernel.Strict(in, have), "the greater one is in force")
}

// A port that Open vSwitch has not made costs what is on it.
func TestDiffMissingDevice(t *testing.T) {
	state, _ := kernel.Wanted(input(t))
	have := observed(state)
	delete(have.Devices, "bn-fast")
	have.Links = have.Links[:1]
	have.Routes.Own, have.Addresses = nil, nil
	c, faults := kernel.Diff(state, have, nil)
	require.Len(t, faults, 2, "bn-fast and bn-routed")
	assert.Equal(t, "device bn-fast", faults[0].Item)
	assert.NotContains(t, c.String(), "bn-fast")
	assert.Contains(t, c.String(), "ip address add 10.1.5.1/32 dev bn-blue")
}

// A drop is kept while its device is there: its endpoint may be in the making.
func TestDiffDrops(t *testing.T) {
	have := kernel.Observed{
		Devices: map[string]bool{"bz-new": true, "bz-old": true},
		Drops:   []string{"bz-gone", "bz-new", "bz-old"},
	}
	diff := func(d kernel.Drops) string {
		c, _ := kernel.Diff(kernel.State{Firewall: kernel.Firewall{Drops: d}}, have, nil)
		return c.String()
	}
	assert.Equal(t, "nft delete chain netdev baize bz-gone\n", diff(kernel.Drops{Use: true, Devices: []string{"bz-old"}}))
	assert.Equal(
		t,
		"nft delete chain netdev baize bz-gone\nnft delete chain netdev baize bz-new\nnft delete chain netdev baize bz-old\n",
		diff(kernel.Drops{}),
		"the kernel's datapath would be cut off",
	)
}

// Whose changes matter.
func TestInterest(t *testing.T) {
	in := input(t)
	i := in.Interest()
	const main, bgp = 254, 186
	for what, c := range map[string]struct {
		want, got bool
	}{
		"ours":                        {true, i.Route(main, route.Protocol, p("172.16.0.0/16"))},
		"in a network":                {true, i.Route(main, bgp, p("10.1.7.0/24"))},
		"a peer's link":               {true, i.Route(main, 2, p("192.0.2.0/24"))},
		"the way to a peer":           {true, i.Route(main, bgp, p("198.51.100.0/24"))},
		"the default route":           {true, i.Route(main, bgp, p("0.0.0.0/0"))},
		"another table":               {false, i.Route(99, bgp, p("10.1.7.0/24"))},
		"the local table":             {false, i.Route(255, 2, p("10.1.7.1/32"))},
		"a full table":                {false, i.Route(main, bgp, p("100.64.7.0/24"))},
		"around a network":            {false, i.Route(main, bgp, p("10.0.0.0/8"))},
		"a network without a port":    {false, i.Route(main, bgp, p("10.4.7.0/24"))},
		"an address in a network":     {true, i.Address(a("10.1.5.1"))},
		"an address elsewhere":        {false, i.Address(a("172.17.0.1"))},
		"a port":                      {true, i.Device("bn-blue")},
		"the underlay":                {true, i.Device("eth0")},
		"the bridge":                  {true, i.Device("docker0")},
		"a container's end":           {false, i.Device("veth0123")},
		"our table":                   {true, i.Chain("baize", "postrouting")},
		"FORWARD":                     {true, i.Chain("filter", "FORWARD")},
		"Docker's rules for one more": {false, i.Chain("filter", "DOCKER")},
		"another table of nftables":   {false, i.Chain("firewalld", "")},
	} {
		assert.Equal(t, c.want, c.got, what)
	}
}

// Any number of wake-ups, few triggers; and the first one soon.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		pacer := kernel.NewPacer()
		fired := make(chan time.Time, 1000)
		done := make(chan error, 1)
		go func() { done <- pacer.Run(ctx, func() { fired <- time.Now() }) }()
		start := time.Now()
		time.Sleep(10 * time.Second)
		require.Equal(t, 20*time.Millisecond, (<-fired).Sub(start))
		require.Empty(t, fired)
		start = time.Now()
		for range 6000 {
			pacer.Wake()
			time.Sleep(10 * time.Millisecond)
		}
		require.Equal(t, 20*time.Millisecond, (<-fired).Sub(start), "the first one soon")
		require.Less(t, len(fired), 130, "a minute of churn")
		time.Sleep(10 * time.Second)
		for len(fired) > 0 {
			<-fired
		}
		start = time.Now()
		pacer.Wake()
		time.Sleep(time.Second)
		require.Equal(t, 20*time.Millisecond, (<-fired).Sub(start), "after a rest as at first")
		require.Empty(t, fired)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}
