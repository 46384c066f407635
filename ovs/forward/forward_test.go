package forward_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
)

func rule(table, priority int, match, actions string) *forward.Rule {
	return forward.Read(ovs.BoundFlow{
		Flow: ovs.Flow{Table: table, Priority: priority, Match: match, Actions: actions},
	})
}

var (
	macA, macB = net.HardwareAddr{2, 0x42, 10, 1, 5, 2}, net.HardwareAddr{2, 0x42, 10, 1, 7, 2}
	addrA      = netip.MustParseAddr("10.1.5.2")
	addrB      = netip.MustParseAddr("10.1.7.2")
	sixA       = netip.MustParseAddr("fd00::5:2")
	sixB       = netip.MustParseAddr("fd00::7:2")
)

// Text and packet are the same: a question about one can be sent to another node.
func TestPacketText(t *testing.T) {
	for want, p := range map[string]forward.Packet{
		"dl_src=02:42:0a:01:05:02,dl_dst=ff:ff:ff:ff:ff:ff,dl_type=0x88b5": forward.Frame(macA, forward.Broadcast, 0x88b5),
		"dl_src=02:42:0a:01:05:02,dl_dst=02:42:0a:01:07:02,dl_type=0x800,nw_src=10.1.5.2,nw_dst=10.1.7.2,nw_proto=17," +
			"nw_ttl=64,udp_src=0,udp_dst=0": forward.IP(macA, macB, addrA, addrB),
		"dl_src=02:42:0a:01:05:02,dl_dst=ff:ff:ff:ff:ff:ff,dl_type=0x806,arp_op=1,arp_spa=10.1.5.2,arp_tpa=10.1.7.2," +
			"arp_sha=02:42:0a:01:05:02,arp_tha=00:00:00:00:00:00": forward.Who(macA, addrA, addrB),
		"dl_src=02:42:0a:01:05:02,dl_dst=33:33:ff:07:00:02,dl_type=0x86dd,ipv6_src=fd00::5:2,ipv6_dst=ff02::1:ff07:2," +
			"nw_proto=58,nw_ttl=255,icmpv6_type=135,icmpv6_code=0,nd_target=fd00::7:2," +
			"nd_sll=02:42:0a:01:05:02": forward.Who(macA, sixA, sixB),
		"dl_src=02:42:0a:01:07:02,dl_dst=02:42:0a:01:05:02,dl_type=0x806,arp_op=2,arp_spa=10.1.7.2,arp_tpa=10.1.5.2," +
			"arp_sha=02:42:0a:01:07:02,arp_tha=02:42:0a:01:05:02": forward.Here(macB, macA, addrB, addrA),
		"dl_src=02:42:0a:01:07:02,dl_dst=02:42:0a:01:05:02,dl_type=0x86dd,ipv6_src=fd00::7:2,ipv6_dst=fd00::5:2," +
			"nw_proto=58,nw_ttl=255,icmpv6_type=136,icmpv6_code=0,nd_target=fd00::7:2," +
			"nd_tll=02:42:0a:01:07:02": forward.Here(macB, macA, sixB, sixA),
	} {
		text, err := p.MarshalText()
		require.NoError(t, err)
		require.Equal(t, want, string(text))
		var back forward.Packet
		require.NoError(t, back.UnmarshalText(text))
		require.Equal(t, p, back)
	}
	_, err := forward.ParsePacket("dl_src=nonsense")
	require.ErrorContains(t, err, "invalid Ethernet address")
}

// A flow of somebody else's that cannot be read is no flow that is not there.
func TestWhatIsNotUnderstood(t *testing.T) {
	tables := forward.NewTables([]*forward.Rule{
		rule(0, 10, "in_port=1", "goto_table:5"),
		rule(5, 200, "udp,udp_dst=53", "drop"),
		rule(5, 150, "ct_state=+trk,ip", "drop"),
		rule(5, 140, "ct_state=+trk,arp", "drop"),
		rule(5, 100, "ip", "learn(table=9),output:2"),
	})
	p := forward.IP(macA, macB, addrA, addrB)
	got := tables.Forward(1, p)
	require.Len(t, got.Steps, 2)
	last := got.Steps[1]
	require.Len(t, last.Unsure, 1, "that of ARP cannot match")
	match, _ := last.Unsure[0].Unknown()
	require.Equal(t, "ct_state=+trk", match)
	_, action := last.Rule.Unknown()
	require.Equal(t, "learn(table=9)", action)
	require.Equal(t, 2, got.Outputs[0].Port)

	p.Set(forward.TPDst, 53)
	got = tables.Forward(1, p)
	require.Equal(t, 200, got.Steps[1].Rule.Flow.Priority)
	require.Empty(t, got.Steps[1].Unsure, "it comes later")
	require.Empty(t, got.Outputs)

	got = tables.Forward(2, p)
	require.Len(t, got.Steps, 1)
	require.Nil(t, got.Steps[0].Rule, "nothing matches: OpenFlow drops it")
}

// Flows that say the same in other words are the same; any difference is one.
func TestSameRules(t *testing.T) {
	a := rule(20, 190, "metadata=0x64,arp,arp_tpa=10.1.7.0/24", "output:2")
	require.True(t, a.Same(rule(20, 190, "arp,metadata=0x64,arp_tpa=10.1.7.0/24", "output:2")))
	for _, other := range []*forward.Rule{
		rule(20, 191, "metadata=0x64,arp,arp_tpa=10.1.7.0/24", "output:2"),
		rule(21, 190, "metadata=0x64,arp,arp_tpa=10.1.7.0/24", "output:2"),
		rule(20, 190, "metadata=0x64,arp,arp_tpa=10.1.7.0/25", "output:2"),
		rule(20, 190, "metadata=0x64,arp", "output:2"),
		rule(20, 190, "metadata=0x64,arp,arp_tpa=10.1.7.0/24", "output:3"),
		rule(20, 190, "metadata=0x64,arp,arp_tpa=10.1.7.0/24", "drop"),
		rule(20, 190, "metadata=0x64,arp,arp_tpa=10.1.7.0/24,ct_state=+trk", "output:2"),
		rule(20, 190, "metadata=0x64,arp,arp_tpa=10.1.7.0/24", "learn(table=1),output:2"),
	} {
		require.False(t, a.Same(other), "%s", other)
		require.False(t, other.Same(a), "%s", other)
	}
}
