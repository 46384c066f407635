package pipeline

import (
	"fmt"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// A flannel host is no member of the Ethernet: its kernel routes packets for
// another host's subnet into a VXLAN device, to the link address that the
// other host published, and takes only packets for its own. So this node acts
// as a router towards it, under the link address that it published itself.

// toFlannel answers ARP requests for the host's addresses here, with the
// router's link address, and sends packets for them on as a router does.
// The frames of endpoints have the tunnel key already.
func (n *network) toFlannel(p *topology.Peer, out string) {
	router := topology.FlannelMAC(p.Local)
	// The question becomes its own answer (RFC 826); register 0 holds an
	// address while the two are exchanged.
	answer := fmt.Sprintf("move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:%[1]s->eth_src,set_field:2->arp_op,"+
		"move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:%[1]s->arp_sha,"+
		"move:NXM_OF_ARP_SPA[]->NXM_NX_REG0[],move:NXM_OF_ARP_TPA[]->NXM_OF_ARP_SPA[],move:NXM_NX_REG0[]->NXM_OF_ARP_TPA[],IN_PORT", router)
	forward := fmt.Sprintf("set_field:%s->eth_src,set_field:%s->eth_dst,dec_ttl,%s", router, p.Flannel.MAC, out)
	for _, s := range p.Subnets {
		n.to(TableSteer, prioTarget, "arp,arp_op=1,arp_tpa=", s, answer)
		n.to(TableExact, prioIPPrefix, "ip,nw_dst=", s, forward)
	}
}

// fromFlannel brings packets of flannel hosts to local endpoints. They go no
// further than table local: the split horizon holds for them, too.
func (n *network) fromFlannel(endpoints []ovs.Endpoint) {
	i := slices.IndexFunc(n.Peers, func(p topology.Peer) bool { return p.Flannel != nil })
	if i < 0 {
		return
	}
	n.b.flow(TableRouted, prioDefault, "", "drop") // there is one such network at most
	router := topology.FlannelMAC(n.Peers[i].Local)
	arrive := func(field string, to string) {
		n.b.flow(TableRouted, prioPort, fmt.Sprintf("tun_id=0x%x,dl_dst=%s,ip,nw_dst=%s", n.VNI, router, field),
			fmt.Sprintf("%s,set_field:%s->eth_src,%s,dec_ttl,%s", n.enter(), router, to, goTo(TableLocal)))
	}
	for _, e := range endpoints {
		if e.MAC == nil {
			continue
		}
		for _, a := range e.IPs {
			if a.Is4() {
				arrive(a.String(), fmt.Sprintf("set_field:%s->eth_dst", e.MAC))
			}
		}
	}
	for _, s := range n.Segments {
		for _, p := range s.Subnets {
			if p.Addr().Is4() {
				// Of a segment no MAC is known; derived ones are likely.
				arrive(p.String(), "set_field:02:42:00:00:00:00->eth_dst,move:NXM_OF_IP_DST[]->NXM_OF_ETH_DST[0..31]")
			}
		}
	}
}
