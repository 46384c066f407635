package ovs_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

func own(name, typ string, options map[string]string) ovs.Port {
	return ovs.Port{
		Name:        name,
		Type:        typ,
		Options:     options,
		ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleTunnel},
	}
}

func bridge() ovs.Bridge {
	return ovs.Bridge{
		Name: "br-baize", Datapath: "netdev", FailMode: "secure", Protocols: []string{"OpenFlow10", "OpenFlow14"},
		ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner},
	}
}

func observe(b ovs.Bridge, ports ...ovs.Port) ovs.Observed {
	o := ovs.Observed{Bridge: &b, Ports: map[string]ovs.ObservedPort{}, Foreign: map[string]string{}}
	for i, p := range ports {
		o.Ports[p.Name] = ovs.ObservedPort{Port: p, OFPort: i + 1}
	}
	return o
}

func TestDiffDB(t *testing.T) {
	vx := own("vx-host2", "vxlan", map[string]string{"remote_ip": "192.168.1.2", "key": "flow"})
	moved := own("vx-host2", "vxlan", map[string]string{"remote_ip": "192.168.1.9", "key": "flow"})
	changed := own("vx-host2", "vxlan", map[string]string{"remote_ip": "192.168.1.2", "key": "flow", "tos": "inherit"})
	foreign := ovs.Port{Name: "eth7"}
	insecure, marked := bridge(), bridge()
	insecure.FailMode = "standalone"
	marked.ExternalIDs = map[string]string{ovs.KeyOwner: ovs.Owner, "theirs": "x"}
	marked.Protocols = []string{"OpenFlow14", "OpenFlow10"}
	elsewhere := observe(bridge())
	elsewhere.Foreign["vx-host2"] = "br-ex"
	theirs := bridge()
	theirs.ExternalIDs = nil
	want := ovs.State{Bridge: bridge(), Ports: []ovs.Port{vx}}
	set := bridge()
	for name, c := range map[string]struct {
		have     ovs.Observed
		change   ovs.DBChange
		stale    ovs.DBChange
		problems string
	}{
		"nothing there": {
			ovs.Observed{}, ovs.DBChange{CreateBridge: true, SetBridge: &set, AddPorts: []ovs.Port{vx}}, ovs.DBChange{}, "",
		},
		"as wanted":              {observe(bridge(), vx), ovs.DBChange{}, ovs.DBChange{}, ""},
		"others' keys and order": {observe(marked, vx), ovs.DBChange{}, ovs.DBChange{}, ""},
		"fail mode":              {observe(insecure, vx), ovs.DBChange{SetBridge: &set}, ovs.DBChange{}, ""},
		"peer moved":             {observe(bridge(), moved), ovs.DBChange{UpdatePorts: []ovs.Port{vx}}, ovs.DBChange{}, ""},
		"a foreign option":       {observe(bridge(), changed), ovs.DBChange{UpdatePorts: []ovs.Port{vx}}, ovs.DBChange{}, ""},
		"peer gone": {
			observe(bridge(), vx, own("vx-host3", "vxlan", nil)), ovs.DBChange{},
			ovs.DBChange{RemovePorts: []string{"vx-host3"}}, "",
		},
		"foreign port": {observe(bridge(), vx, foreign), ovs.DBChange{}, ovs.DBChange{}, ""},
		"foreign port's name": {
			observe(bridge(), ovs.Port{Name: "vx-host2"}), ovs.DBChange{}, ovs.DBChange{}, "a foreign port of this name",
		},
		"name on another bridge": {elsewhere, ovs.DBChange{}, ovs.DBChange{}, "in use on bridge br-ex"},
		"foreign bridge":         {observe(theirs), ovs.DBChange{}, ovs.DBChange{}, "not Baize's"},
	} {
		t.Run(name, func(t *testing.T) {
			change, stale, problems := ovs.DiffDB(want, c.have)
			require.Equal(t, c.change, change)
			require.Equal(t, c.stale, stale)
			if c.problems == "" {
				require.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			require.Contains(t, problems[0].What, c.problems)
			require.NotEmpty(t, problems[0].Remedy)
		})
	}
}

func TestBind(t *testing.T) {
	tunnel := own("vx-host9", "vxlan", nil)
	tunnel.ExternalIDs[ovs.KeyNode] = "host9"
	end := ovs.Endpoint{Name: "dead", Network: "blue", Port: "dead"}.AsPort()
	host := ovs.Port{
		Name:        "bn-x",
		ExternalIDs: map[string]string{ovs.KeyOwner: ovs.Owner, ovs.KeyRole: ovs.RoleHost, ovs.KeyNetwork: "x"},
	}
	segment := ovs.Segment{Name: "docker0", Network: "blue", Port: "bz0"}.AsPort()
	why := ovs.Reason{Key: "subnets/blue/10.1.5.0-24", Revision: 17}
	flows := []ovs.Flow{
		{Table: 0, Match: `in_port="c1"`, Actions: "goto_table:10", Class: "enter"},
		{Table: 0, Match: `in_port="dead"`, Actions: "goto_table:10"},
		{Table: 20, Match: `metadata=0x64,in_port="c1",arp`, Actions: `output:"vx-host2"`, Class: "to a node", Reason: why},
		{Table: 20, Match: "arp", Actions: `output:"vx-host9"`, Class: "to a node", Reason: why},
		{Table: 30, Match: "ip", Actions: `set_field:"c1"->reg2,goto_table:70`},
		{Table: 30, Match: "arp", Actions: `set_field:"dead"->reg2,goto_table:70`},
		{Table: 30, Match: "ipv6", Actions: `set_field:02:00:00:00:00:01->eth_dst,set_field:"bn-x"->reg2,goto_table:70`},
		{Table: 40, Match: "metadata=0x64", Actions: `output:"vx-host2",output:"dead",goto_table:60`},
		{Table: 60, Match: "metadata=0x64", Actions: `output:"dead"`},
		{Table: 60, Match: "ip", Actions: `set_field:02:00:00:00:00:01->eth_dst,dec_ttl,output:"unknown"`},
		{Table: 60, Match: "arp", Actions: `output:"bz0"`},
		{Table: 60, Actions: "drop", Class: "nothing"},
	}
	s := ovs.State{Flows: flows, Ports: []ovs.Port{tunnel, end, host, segment}}
	bound, missing := s.Bind(map[string]int{"c1": 1, "vx-host2": 7})
	require.Equal(t, []string{"bn-x", "bz0", "dead", "unknown", "vx-host9"}, missing)
	var got []ovs.Flow
	for _, b := range bound {
		require.True(t, ovs.OwnCookie(b.Cookie))
		require.Equal(t, ovs.CookieOf(b.Flow), b.Cookie)
		got = append(got, b.Flow)
	}
	// What has nothing left but to set fields drops and is counted, by the
	// port that is down.
	require.Equal(t, []ovs.Flow{
		{Table: 0, Match: "in_port=1", Actions: "goto_table:10", Class: "enter"},
		{Table: 20, Match: "metadata=0x64,in_port=1,arp", Actions: "output:7", Class: "to a node", Reason: why},
		{Table: 20, Match: "arp", Actions: "drop", Class: "tunnel to host9 is down", Reason: why},
		{Table: 30, Match: "ip", Actions: "set_field:1->reg2,goto_table:70"},
		{Table: 30, Match: "arp", Actions: "drop", Class: "endpoint dead is down"},
		{Table: 30, Match: "ipv6", Actions: "drop", Class: "this host's port in network x is down"},
		{Table: 40, Match: "metadata=0x64", Actions: "output:7,goto_table:60"},
		{Table: 60, Match: "metadata=0x64", Actions: "drop", Class: "endpoint dead is down"},
		{Table: 60, Match: "ip", Actions: "drop", Class: "port unknown is down"},
		{Table: 60, Match: "arp", Actions: "drop", Class: "port to docker0 is down"},
		{Table: 60, Actions: "drop", Class: "nothing"},
	}, got)
	names := map[int]string{1: "c1", 7: "vx-host2"}
	require.Equal(t, flows[2].Bare(), ovs.Unbind(bound[1], names))
	require.Equal(t, flows[4].Bare(), ovs.Unbind(bound[3], names))
	require.Equal(t, "subnets/blue/10.1.5.0-24 at revision 17", why.String())

	// The same without ports.
	alone, _ := ovs.State{Flows: flows}.Bind(map[string]int{"c1": 1, "vx-host2": 7})
	require.Equal(t, "port vx-host9 is down", alone[2].Class)
}

// Class and reason are for people: a flow that differs in nothing else is the
// same flow, and nothing is written.
func TestClassAndReasonAreNotInTheCookie(t *testing.T) {
	f := ovs.Flow{Table: 20, Match: "arp", Actions: "drop"}
	g := f
	g.Class, g.Reason = "x", ovs.Reason{Key: "nodes/a", Revision: 9}
	require.Equal(t, ovs.CookieOf(f), ovs.CookieOf(g))
	require.Equal(t, f, g.Bare())
}

func TestCookiesTellEveryDifference(t *testing.T) {
	base := ovs.Flow{Table: 1, Priority: 2, Match: "a", Actions: "b"}
	seen := map[uint64]ovs.Flow{}
	for _, f := range []ovs.Flow{base, {Table: 12, Priority: 2, Match: "a", Actions: "b"}, {Table: 1, Priority: 22, Match: "a", Actions: "b"},
		{Table: 1, Priority: 2, Match: "a b", Actions: ""}, {Table: 1, Priority: 2, Match: "a", Actions: "bb"}, {Table: 1, Priority: 2, Match: "", Actions: "b"}} {
		_, dup := seen[ovs.CookieOf(f)]
		require.False(t, dup, "%v", f)
		seen[ovs.CookieOf(f)] = f
	}
	require.Equal(t, ovs.CookieOf(base), ovs.CookieOf(base))
	require.False(t, ovs.OwnCookie(0))
}

func TestDiffFlows(t *testing.T) {
	bound, _ := ovs.State{
		Flows: []ovs.Flow{{Table: 1, Match: "a", Actions: "drop"}, {Table: 2, Match: "b", Actions: "drop"}},
	}.Bind(
		nil,
	)
	ids := []ovs.FlowID{bound[0].ID(), bound[1].ID()}
	add, del := ovs.DiffFlows(bound, ids)
	require.Empty(t, add)
	require.Empty(t, del, "Diff(x,x) is empty")
	stale := ovs.FlowID{Table: 9, Cookie: 1}
	add, del = ovs.DiffFlows(bound, []ovs.FlowID{ids[1], stale, stale})
	require.Equal(t, bound[:1], add)
	require.Equal(t, []ovs.FlowID{stale}, del)
	// The same text in another table is another flow.
	add, _ = ovs.DiffFlows(bound, []ovs.FlowID{{Table: 2, Cookie: ids[0].Cookie}, ids[1]})
	require.Len(t, add, 1)
}

func TestEndpointSurvivesItsPort(t *testing.T) {
	ip := netip.MustParseAddr("10.1.5.2")
	e := ovs.Endpoint{
		Name:    "c1",
		Network: "blue",
		Netns:   "/run/netns/c1",
		Ifname:  "eth0",
		Port:    "bz1",
		IPs:     []netip.Addr{ip, netip.MustParseAddr("fd00::2")},
		MAC:     topology.MACOf(ip),
		Allow:   []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("fd00:2::/64")},
		Labels:  map[string]string{"docker-endpoint": "4f2a"},
	}
	back, err := ovs.EndpointOf(e.AsPort())
	require.NoError(t, err)
	require.Equal(t, e, back)

	segment := ovs.Endpoint{Name: "docker0", Network: "blue", Port: "bz2"}
	back, err = ovs.EndpointOf(segment.AsPort())
	require.NoError(t, err)
	require.Equal(t, segment, back)

	for key, bad := range map[string]string{
		ovs.KeyIPs: "10.1.5.2,x", ovs.KeyMAC: "ff:ff:ff:ff:ff:ff", ovs.KeyNetwork: "", ovs.KeyAllow: "10.2.0.1/16",
	} {
		p := e.AsPort()
		p.ExternalIDs[key] = bad
		_, err := ovs.EndpointOf(p)
		require.ErrorIs(t, err, topology.ErrInvalid)
		require.ErrorContains(t, err, "port bz1")
	}
	o := observe(bridge(), e.AsPort())
	broken := e.AsPort()
	broken.Name, broken.ExternalIDs[ovs.KeyMAC] = "bz3", "x"
	o.Ports["bz3"] = ovs.ObservedPort{Port: broken}
	endpoints, problems := o.Endpoints()
	require.Len(t, endpoints, 1)
	require.Len(t, problems, 1)
}

func TestLinkLocal(t *testing.T) {
	require.Equal(t, "fe80::42:aff:fe01:502", ovs.LinkLocal(topology.MACOf(netip.MustParseAddr("10.1.5.2"))).String())
}
