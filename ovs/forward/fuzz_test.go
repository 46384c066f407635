package forward_test

import (
	"testing"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
)

// FuzzRules: flows of anybody's are read, and what is not understood is noted.
func FuzzRules(f *testing.F) {
	f.Add("arp,arp_tpa=10.1.5.0/24,in_port=3", "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],load:0x2->NXM_OF_ARP_OP[],output:4")
	f.Add("ip,nw_dst=10.1.0.0/16,tun_id=0x64", "set_field:0x64->tun_id,resubmit(,3)")
	f.Add("icmp6,icmp_type=135,nd_target=fd00::1/64", "clone(set_field:1->reg0,output:2),drop")
	f.Add("dl_vlan=7,tcp,tp_dst=80", "ct(commit,table=1),learn(table=2,cookie=0x1),NORMAL")
	f.Fuzz(func(t *testing.T, match, actions string) {
		flow := ovs.BoundFlow{Flow: ovs.Flow{Table: 1, Priority: 10, Match: match, Actions: actions}}
		r := forward.Read(flow)
		unknownMatch, unknownAction := r.Unknown()
		if _, err := forward.Parse(flow); err == nil && unknownMatch != "" {
			t.Fatalf("it is understood, and %q is not", unknownMatch)
		}
		if !r.Same(r) {
			t.Fatal("a rule is not the same as itself")
		}
		_, _ = r.String(), unknownAction
	})
}

// FuzzPacket: a packet that was read is written as one that reads the same.
func FuzzPacket(f *testing.F) {
	f.Add("in_port=1,dl_src=02:42:0a:01:05:02,dl_dst=ff:ff:ff:ff:ff:ff,dl_type=0x0806,arp_op=1,arp_spa=10.1.5.2,arp_tpa=10.1.6.2")
	f.Add("in_port=2,tun_id=0x64,dl_type=0x0800,nw_src=10.1.5.2,nw_dst=10.1.6.2,nw_proto=6,nw_ttl=64,tcp_dst=80")
	f.Add("in_port=2,dl_type=0x86dd,ipv6_src=fd00::1,ipv6_dst=fd00::2,nw_proto=58,icmp_type=135,icmp_code=0,nd_target=fd00::2")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := forward.ParsePacket(text)
		if err != nil {
			return
		}
		again, err := forward.ParsePacket(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q is read as %q, and that as %q: %v", text, p, again, err)
		}
	})
}
