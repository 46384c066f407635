package openflow_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
)

// A line of dump-flows as people paste it: with counters or without, with names.
func TestParseFlow(t *testing.T) {
	for line, want := range map[string]openflow.Installed{
		" cookie=0xba12c198c8ac0956, duration=7.5s, table=20, n_packets=3, n_bytes=126, idle_age=2, " +
			"priority=190,arp,metadata=0x64,arp_tpa=10.1.7.0/24 actions=output:2": {
			BoundFlow: ovs.BoundFlow{
				Cookie: 0xba12c198c8ac0956,
				Flow:   ovs.Flow{Table: 20, Priority: 190, Match: "arp,metadata=0x64,arp_tpa=10.1.7.0/24", Actions: "output:2"},
			}, Packets: 3, Bytes: 126,
		},
		"table=30, priority=0 actions=drop": {BoundFlow: ovs.BoundFlow{Flow: ovs.Flow{Table: 30, Actions: "drop"}}},
		"ip,nw_dst=10.0.0.1 actions=NORMAL": {
			BoundFlow: ovs.BoundFlow{Flow: ovs.Flow{Priority: 32768, Match: "ip,nw_dst=10.0.0.1", Actions: "NORMAL"}},
		},
		` cookie=0x7, table=1, send_flow_rem priority=5,in_port="bzc1" actions=resubmit(,2),output:"vx-a"`: {
			BoundFlow: ovs.BoundFlow{
				Cookie: 7,
				Flow:   ovs.Flow{Table: 1, Priority: 5, Match: `in_port="bzc1"`, Actions: `resubmit(,2),output:"vx-a"`},
			},
		},
	} {
		got, ok := openflow.ParseFlow(line)
		require.True(t, ok, line)
		require.NotEmpty(t, got.Line)
		got.Line = ""
		require.Equal(t, want, got)
	}
	for _, line := range []string{"", "OFPST_FLOW reply (OF1.4) (xid=0x2):", "actions=", "bzc1"} {
		_, ok := openflow.ParseFlow(line)
		require.False(t, ok, line)
	}
}

// What the datapath remembers, as version 3.1 prints it.
func TestParseDropped(t *testing.T) {
	for line, want := range map[string]openflow.Dropped{
		"recirc_id(0),in_port(bzc1),packet_type(ns=0,id=0),eth(src=02:42:0a:01:99:02),eth_type(0x0800)," +
			"ipv4(src=10.1.7.7/255.255.128.0,frag=no), packets:3, bytes:98, used:4.129s, actions:drop": {
			InPort: "bzc1", Header: "dl_src=02:42:0a:01:99:02,dl_type=0x0800,nw_src=10.1.7.7/255.255.128.0", Packets: 3,
			Ago: 4129 * time.Millisecond,
		},
		"tunnel(tun_id=0x64,src=192.0.2.1,dst=192.0.2.2,flags(-df-csum+key)),recirc_id(0),in_port(vxlan_sys_4789)," +
			"packet_type(ns=0,id=0),eth_type(0x0806),arp(tip=10.1.65.88,op=1/0xff), " +
			"packets:0, bytes:0, used:never, actions:drop": {
			InPort: "vxlan_sys_4789", Local: netip.MustParseAddr("192.0.2.2"), Remote: netip.MustParseAddr("192.0.2.1"),
			Header: "tun_id=0x64,dl_type=0x0806,arp_tpa=10.1.65.88,arp_op=1/0xff", Ago: -1,
		},
	} {
		got, ok := openflow.ParseDropped(line)
		require.True(t, ok, line)
		require.Equal(t, want, got)
	}
	for _, line := range []string{
		"flow-dump from the main thread:",
		"recirc_id(0),in_port(eth0),eth_type(0x0800),ipv4(frag=no), packets:1454, bytes:138649, used:1.199s, actions:br-phy",
	} {
		_, ok := openflow.ParseDropped(line)
		require.False(t, ok, line)
	}
}
