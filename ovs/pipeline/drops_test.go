package pipeline_test

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/ovstest"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
)

var traceCookie = regexp.MustCompile(`, cookie (0x[0-9a-f]+)`)

// Every class of drops, by the flow of a real Open vSwitch at which a frame ends.
func TestDropsOnARealSwitch(t *testing.T) {
	c := withRouter(threeHosts(topology.VXLAN), topology.VXLAN, false).put(
		segmentSubnet("10.1.11.0/24", 1), node(4), subnet("blue", "10.1.13.0/24", 4), // the router has host3's address
		network("fast", 300, topology.Route, "10.3.0.0/16", "fd00:10:3::/48"),
		subnet(
			"fast",
			"10.3.5.0/24",
			1,
		), subnet("fast", "10.3.7.0/24", 2), subnet("fast", "fd00:10:3:5::/64", 1), subnet("fast", "fd00:10:3:7::/64", 2),
		network(
			"empty",
			400,
			topology.VXLAN,
			"10.4.0.0/16",
		), subnet("empty", "10.4.5.0/24", 1), subnet("empty", "10.4.7.0/24", 2),
	)
	view := c.s.View("host1")
	endpoints := []ovs.Endpoint{
		endpoint(
			"c1",
			"blue",
			"10.1.5.2",
			"fd00:10:1:5::2",
		), endpoint("c2", "blue", "10.1.5.3"), endpoint("f1", "fast", "10.3.5.2", "fd00:10:3:5::2"),
		endpoint("o1", "fast"), // nothing is known of it
	}
	want := pipeline.Build(
		view,
		endpoints,
		pipeline.Options{Bridge: "br-baize", Datapath: "system", Segments: []ovs.Segment{docker0}},
	)

	sw := ovstest.Start(t)
	db, err := vswitch.New(vswitch.Config{Endpoint: sw.Endpoint(), Bridge: "br-baize", Timeout: time.Minute})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	have, err := db.Observe(t.Context())
	require.NoError(t, err)
	change, _, problems := ovs.DiffDB(want, have)
	require.Empty(t, problems)
	require.NoError(t, db.Apply(t.Context(), change))
	require.NoError(t, db.WaitApplied(t.Context()))
	have, err = db.Observe(t.Context())
	require.NoError(t, err)
	numbers := have.OFPorts()
	require.Len(t, numbers, len(want.Ports))

	// Two ports are said to be down.
	up := have.OFPorts()
	delete(up, "vx-host4")
	delete(up, "bzc2")
	bound, missing := want.Bind(up)
	require.Equal(t, []string{"bzc2", "vx-host4"}, missing)
	classes := map[string]string{}
	for _, f := range bound {
		classes[fmt.Sprintf("0x%x", f.Cookie)] = f.Class
	}
	flows := openflow.New(openflow.Config{Bridge: "br-baize", RunDir: sw.RunDir(), Timeout: time.Minute})
	// Two ways into the pipeline that it does not have itself.
	numbers["unguarded"], numbers["undecided"] = 997, 998
	for name, table := range map[string]int{"unguarded": pipeline.TableGuard, "undecided": pipeline.TableDeliver} {
		f := ovs.Flow{
			Table: pipeline.TableClassify, Priority: 200, Match: fmt.Sprintf("in_port=%d", numbers[name]),
			Actions: fmt.Sprintf("goto_table:%d", table),
		}
		bound = append(bound, ovs.BoundFlow{Flow: f, Cookie: ovs.CookieOf(f)})
	}
	require.NoError(t, flows.SetMeters(t.Context(), want.BindMeters(up), nil))
	require.NoError(t, flows.Apply(t.Context(), bound, nil))

	const c1 = "dl_src=02:42:0a:01:05:02,"
	const f1 = "dl_src=02:42:0a:03:05:02,"
	const bcast = "dl_dst=ff:ff:ff:ff:ff:ff,"
	const allNodes = "dl_dst=33:33:00:00:00:01,"
	toRouter := "dl_dst=" + topology.RouterMAC(view.Node).String() + ","
	numbers["foreign"] = 999
	host := pipeline.HostPortName("routed")
	router := pipeline.TunnelName(topology.VXLAN, "router-192.168.0.3")
	left := map[string]bool{} // the reasons without a case
	for _, reason := range pipeline.DropClasses() {
		left[reason] = true
	}
	for _, x := range []struct{ want, port, frame string }{
		{pipeline.DropUnguarded, "unguarded", bcast + "dl_type=0x88b5"},
		{pipeline.DropUndecided, "undecided", bcast + "dl_type=0x88b5"},
		{pipeline.DropForeignPort, "foreign", "arp"},
		{pipeline.DropUnknownKey, "vx-host2", "tun_id=999," + bcast + "dl_type=0x88b5"},
		{pipeline.DropNotMember, "vx-host2", "tun_id=300," + bcast + "dl_type=0x88b5"},
		{pipeline.DropRA, "bzc1", c1 + allNodes + "icmp6,ipv6_src=fe80::42:aff:fe01:502,icmpv6_type=134,icmpv6_code=0"},
		{pipeline.DropRA, "bzdocker0", "dl_src=be:ef:00:00:00:01," + allNodes + "icmp6,ipv6_src=fe80::9,icmpv6_type=134"},
		{pipeline.DropRA, "bzo1", "dl_src=be:ef:00:00:00:01," + allNodes + "icmp6,ipv6_src=fe80::9,icmpv6_type=134"},
		{pipeline.DropRA, "bzc1", c1 + bcast + "icmp,nw_src=10.1.5.2,nw_dst=224.0.0.1,icmp_type=9"},
		{pipeline.DropRedirect, "bzc1", c1 + "dl_dst=02:42:0a:01:07:09,icmp,nw_src=10.1.5.2,nw_dst=10.1.7.9,icmp_type=5"},
		{
			pipeline.DropRedirect, "bzc1",
			c1 + "dl_dst=02:42:0a:01:07:09,icmp6,ipv6_src=fe80::42:aff:fe01:502,icmpv6_type=137,icmpv6_code=0",
		},
		{pipeline.DropDHCPServer, "bzc1", c1 + bcast + "udp,nw_src=10.1.5.2,nw_dst=255.255.255.255,udp_src=67,udp_dst=68"},
		{pipeline.DropDHCPServer, "bzc1", c1 + allNodes + "udp6,ipv6_src=fe80::42:aff:fe01:502,udp_src=547,udp_dst=546"},
		{pipeline.DropVLAN, "bzc1", c1 + bcast + "dl_vlan=7,dl_type=0x88b5"},
		{pipeline.DropVLAN, "bzc1", c1 + bcast + "vlan_tci=0x1000,tcp,nw_src=10.1.5.2"},
		{pipeline.DropVLAN, "bzc1", c1 + bcast + "dl_type=0x9100"},
		{pipeline.DropBPDU, "bzc1", c1 + "dl_dst=01:80:c2:00:00:00,dl_type=0x05ff"},
		{pipeline.DropBPDU, "bzc1", c1 + "dl_dst=01:80:c2:00:00:0e,dl_type=0x88cc"},
		{pipeline.DropBPDU, "bzc1", c1 + "dl_dst=02:42:0a:01:07:09,dl_type=0x8808"},
		// S6: the link-local address of an endpoint, taken from behind docker0.
		{
			pipeline.DropNeighbour, "bzdocker0",
			"dl_src=be:ef:00:00:00:01," + allNodes +
				"icmp6,ipv6_src=fe80::9,icmpv6_type=136,icmpv6_code=0,nd_target=fe80::42:aff:fe01:709",
		},
		{
			pipeline.DropAddress, "bzdocker0",
			"dl_src=be:ef:00:00:00:01,dl_dst=02:42:0a:01:07:08,tcp6,ipv6_src=fe80::42:aff:fe01:709",
		},
		{pipeline.DropRoutedHere, router, "tun_id=1," + toRouter + "tcp,nw_dst=192.0.2.9"},
		{pipeline.DropMAC, "bzc1", "dl_src=02:42:0a:01:05:09," + bcast + "dl_type=0x88b5"},
		{pipeline.DropMAC, "bzdocker0", "dl_src=02:42:0a:01:07:09," + bcast + "dl_type=0x88b5"},
		{pipeline.DropAddress, "bzc1", c1 + "dl_dst=02:42:0a:01:07:09,tcp,nw_src=10.1.5.9,nw_dst=10.1.7.9"},
		{
			pipeline.DropNeighbour, "bzc1",
			c1 + "dl_dst=33:33:00:00:00:01,icmp6,ipv6_src=fd00:10:1:5::2,icmpv6_type=136,icmpv6_code=0,nd_target=fd00:10:1:5::9",
		},
		{
			pipeline.DropDocker0, "bzdocker0",
			"dl_src=be:ef:00:00:00:01,dl_dst=33:33:00:00:00:01,icmp6,ipv6_src=fe80::1,icmpv6_type=136,icmpv6_code=0,nd_target=fe80::1",
		},
		{
			pipeline.DropUnleased, "bzc1",
			c1 + bcast + "arp,arp_op=1,arp_sha=02:42:0a:01:05:02,arp_spa=10.1.5.2,arp_tpa=10.1.200.1",
		},
		{pipeline.DropNotIP, "bzf1", f1 + "dl_dst=02:42:0a:03:07:09,dl_type=0x88b5"},
		{pipeline.DropNoRoute, host, "dl_dst=" + topology.AnyRouterMAC().String() + ",tcp,nw_src=10.1.5.0,nw_dst=10.1.200.1"},
		{
			pipeline.DropProbe, "bzo1",
			"dl_dst=33:33:ff:00:00:09,icmp6,ipv6_src=::,ipv6_dst=ff02::1:ff00:9,icmpv6_type=135,icmpv6_code=0,nd_target=fd00:10:3:7::9",
		},
		{
			pipeline.DropNoEndpoint, "bzc1",
			c1 + bcast + "arp,arp_op=1,arp_sha=02:42:0a:01:05:02,arp_spa=10.1.5.2,arp_tpa=10.1.5.99",
		},
		// This one was counted as "for a MAC of this node without an endpoint".
		{pipeline.DropKernelAsks, host, bcast + "arp,arp_op=1,arp_spa=10.1.5.0,arp_tpa=10.1.5.99"},
		{pipeline.DropNoMAC, "vx-host2", "tun_id=400,dl_dst=02:aa:00:00:00:01,dl_type=0x88b5"},
		{pipeline.DropOtherNodesMAC, "vx-host2", "tun_id=100,dl_dst=02:42:0a:01:07:09,dl_type=0x88b5"},
		{pipeline.DropNoPorts, "vx-host2", "tun_id=400," + bcast + "dl_type=0x88b5"},
		// These were "ARP or ND for an address nobody leases" and nothing at all.
		{
			"tunnel to host4 is down", "bzc1",
			c1 + bcast + "arp,arp_op=1,arp_sha=02:42:0a:01:05:02,arp_spa=10.1.5.2,arp_tpa=10.1.13.9",
		},
		{"endpoint c2 is down", "bzc1", c1 + "dl_dst=02:42:0a:01:05:03,tcp,nw_src=10.1.5.2,nw_dst=10.1.5.3"},
	} {
		delete(left, x.want)
		t.Run(x.want+" from "+x.port, func(t *testing.T) {
			number, ok := numbers[x.port]
			require.True(t, ok, "no port %s", x.port)
			text, err := flows.Trace(t.Context(), "in_port="+strconv.Itoa(number)+","+x.frame)
			require.NoError(t, err)
			cookies := traceCookie.FindAllStringSubmatch(text, -1)
			require.NotEmpty(t, cookies, text)
			require.Equal(t, x.want, classes[cookies[len(cookies)-1][1]], text)
			require.Contains(t, text, "Datapath actions: drop")
		})
	}
	require.Empty(t, left, "every reason has a case")
}
