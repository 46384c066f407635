package trace

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/topology"
)

// toKernel takes a packet that the switch hands to the host's kernel.
func (h *hop) toKernel(port ovs.Port, p forward.Packet) {
	host, _ := h.network.Host()
	from, to, ip := p.Addrs()
	toHost := Exit{
		Kind:     Delivered,
		Packet:   p,
		Port:     port.Name,
		Endpoint: "the host itself",
		Host:     true,
		MAC:      host.MAC.String(),
		IPs:      host.Addrs,
	}
	if h.Observed != nil {
		if up := h.Observed.Up[port.Name]; !up {
			h.end(StagePort, "the host's own port "+port.Name+" is down", "'ip link set up "+port.Name+"' there")
			return
		}
	}
	// Broadcasts, ARP and neighbour discovery are for the host itself.
	if !ip || p.Number(forward.EthDst)>>40&1 == 1 || slices.Contains(host.Addrs, to) {
		h.out.Exits = append(h.out.Exits, toHost)
		return
	}
	if mac := p.MAC(forward.EthDst); mac.String() != host.MAC.String() {
		h.end(StageKernel, fmt.Sprintf("the kernel takes no packets for %s", mac), "")
		return
	}
	h.route(port.Name, from, to, p)
}

// route lets the kernel forward a packet that came in by the host's port.
func (h *hop) route(in string, from, to netip.Addr, p forward.Packet) {
	if !h.lives(&p) {
		return
	}
	peer := home(h.network, h.View.Node.Name, to)
	if h.Observed == nil {
		h.step(StageKernel, Good, "the kernel routes it"+toWhom(peer))
		h.forwarded(peer, p, to)
		return
	}
	way, ok := h.forward(in, from, to, p)
	if !ok {
		return
	}
	if strings.HasPrefix(way.Dev, kernel.PortPrefix) {
		h.end(StageKernel, fmt.Sprintf("the kernel's route to %s leads back into %s", to, way.Dev),
			"'ip route get "+to.String()+"' and 'baize route list' there")
		return
	}
	next, via := way.Via, ""
	if !next.IsValid() {
		next = to
	}
	if owner := h.owner(next); owner != "" {
		peer = owner
	} else {
		via = fmt.Sprintf("; %s is a router of the underlay, which is not asked", next)
	}
	h.step(StageKernel, Good, fmt.Sprintf("the kernel routes it by %s to %s%s%s", way.Dev, next, toWhom(peer), via))
	if h.underlay(next) {
		h.forwarded(peer, p, to)
	}
}

// lives lowers the TTL of a packet that the kernel forwards, and ends the packet
// where that is over.
func (h *hop) lives(p *forward.Packet) bool {
	if !p.DecTTL() {
		h.end(StageKernel, "its TTL is over", "")
		return false
	}
	return true
}

func toWhom(peer string) string {
	if peer == "" {
		return ""
	}
	return ", " + peer
}

func (h *hop) forwarded(peer string, p forward.Packet, to netip.Addr) {
	if peer == "" || peer == h.View.Node.Name {
		h.out.Exits = append(h.out.Exits, Exit{Kind: Uncertain, Packet: p, Stage: StageKernel,
			Text: fmt.Sprintf("the kernel routes it to %s, which is no node's", to)})
		return
	}
	h.out.Exits = append(h.out.Exits, Exit{Kind: Forwarded, Packet: p.Bare(), Peer: peer})
}

// forward lets the kernel forward a packet: is it a router, which way is it, and
// does the firewall let it pass?
func (h *hop) forward(in string, from, to netip.Addr, p forward.Packet) (kernel.Way, bool) {
	o := h.Observed
	if key, ok := h.router(to); !ok {
		h.end(
			StageKernel,
			fmt.Sprintf("the kernel is no router: %s is %s", key, o.Kernel.Sysctls[key]),
			"a running agent sets it; 'sysctl "+key+"' there",
		)
		return kernel.Way{}, false
	}
	way := o.Way(to)
	if way.Err != nil || way.Dev == "" {
		h.end(StageKernel, fmt.Sprintf("the kernel has no route to %s", to),
			"'ip route get "+to.String()+"' and 'baize route list' there")
		return way, false
	}
	return way, h.firewall(Passing{In: in, Out: way.Dev, From: from, To: to, Packet: p})
}

// router reports whether the kernel forwards packets to addresses like this one, and
// which sysctl says so.
func (h *hop) router(to netip.Addr) (key string, ok bool) {
	key = "net/ipv4/ip_forward"
	if to.Is6() {
		key = "net/ipv6/conf/all/forwarding"
	}
	v, known := h.Observed.Kernel.Sysctls[key]
	return key, !known || v == "1"
}

// firewall lets a packet pass the hooks of the kernel's packet filter.
func (h *hop) firewall(p Passing) bool {
	verdict := h.Observed.Filter.Judge(p)
	if verdict.Unsure == "" {
		verdict.Unsure = h.legacyRules(p.To)
	}
	switch {
	case verdict.Drop:
		h.end(StageFirewall, fmt.Sprintf("the host's firewall drops it: %s", verdict.Where), "'nft list ruleset' there")
		return false
	case verdict.Unsure != "":
		h.step(StageFirewall, Unknown, "what the host's firewall does with it is not known: "+verdict.Unsure)
	case verdict.Hooks > 0:
		h.step(StageFirewall, Good, fmt.Sprintf("the host's firewall lets it pass (%d chains)", verdict.Hooks))
	}
	return true
}

// legacyRules names rules of the old iptables, which nftables does not show, where
// they may drop what is forwarded.
func (h *hop) legacyRules(to netip.Addr) string {
	for _, t := range h.Observed.Kernel.IPTables {
		legacy := strings.Contains(t.Tool, "legacy") && t.Family == topology.FamilyOf(to)
		if legacy && kernel.AcceptChain.Forces(t.Filter) {
			return "rules of " + t.Tool + ", which are not read"
		}
	}
	return ""
}

// arriveRouted takes a packet that another host's kernel routed here.
func (h *hop) arriveRouted() {
	from, to, _ := h.q.Packet.Addrs()
	port, ok := h.Wanted.HostPort(h.network.Name)
	if !ok {
		h.end(StageKernel, "the node has no port of its own in network "+h.network.Name, "")
		return
	}
	p := h.q.Packet
	if h.fastTo(from, p) || !h.lives(&p) {
		return
	}
	if h.Observed != nil {
		back := h.Observed.Way(h.peerVTEP(from))
		way, passes := h.forward(back.Dev, from, to, p)
		if !passes {
			return
		}
		if way.Dev != port.Name {
			h.end(StageKernel, fmt.Sprintf("the kernel's route to %s is by %s, not into the switch", to, way.Dev),
				"'ip route get "+to.String()+"' there")
			return
		}
		if !h.usable(port.Name, "the host's own port") {
			return
		}
	}
	h.step(StageKernel, Good, "the kernel routes it into "+port.Name)
	h.intoSwitch(port.Name, from, to, p)
}

// peerVTEP is the underlay address of the node that sent the packet, of the family
// of its addresses where it has one.
func (h *hop) peerVTEP(like netip.Addr) (out netip.Addr) {
	for i := range h.network.Peers {
		if p := &h.network.Peers[i]; p.Node == h.q.Peer {
			for _, a := range p.VTEPs {
				if !out.IsValid() || a.Is4() == like.Is4() {
					out = a
				}
			}
		}
	}
	return out
}

// intoSwitch sends a packet of the kernel to whoever has its address. The kernel
// asks first.
func (h *hop) intoSwitch(port string, from, to netip.Addr, p forward.Packet) {
	host, _ := h.network.Host()
	asks, _ := h.network.NodeAddr(topology.FamilyOf(to))
	if !asks.IsValid() || to.Is6() {
		asks = ovs.LinkLocal(host.MAC)
		if to.Is4() {
			asks = from
		}
	}
	before := h.out
	h.out.Steps, h.out.Exits = nil, nil
	h.tables(port, forward.Who(host.MAC, asks, to))
	asked := h.out
	h.out = before
	var mac net.HardwareAddr
	for _, x := range asked.Exits {
		if x.Kind == Delivered && slices.Contains(x.IPs, to) {
			mac, _ = net.ParseMAC(x.MAC)
		}
		if x.Kind == Delivered && x.Bridge {
			mac = topology.MACOf(to)
		}
	}
	if mac == nil {
		h.step(StageKernel, Good, fmt.Sprintf("the kernel asks who has %s", to))
		h.out.Steps, h.out.Exits = append(h.out.Steps, asked.Steps...), append(h.out.Exits, asked.Exits...)
		return
	}
	p.SetMAC(forward.EthSrc, host.MAC)
	p.SetMAC(forward.EthDst, mac)
	h.tables(port, p)
}
