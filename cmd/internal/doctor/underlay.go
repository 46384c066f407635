package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/doctor/netfilter"
	"github.com/baize-net/baize/topology/fault"
)

var underlayChecks = []check{
	{"device", underlayDevice}, {"ports", underlayPorts}, {"firewall", underlayFirewall}, {"shaping", underlayShaping},
	{"peers", underlayPeers}, {"reverse path", underlayReverse}, {"neighbours", underlayNeighbours},
}

// underlayKnown reports whether the underlay could be looked at.
func (f *Facts) underlayKnown(r *result) bool {
	if !f.Underlay.OK() {
		r.unchecked(f.Underlay.Reason())
	}
	return f.Underlay.OK()
}

func underlayDevice(f *Facts, r *result) {
	if !f.underlayKnown(r) {
		return
	}
	u := f.Underlay
	for _, d := range u.Down {
		r.found(Finding{
			Code: fault.UnderlayDown, Item: "device " + d, What: "is down: no packet of a tunnel passes it",
			Evidence: "the VTEPs are on " + u.Device, Remedy: "set it up",
			Commands: []string{"ip link set dev " + arg(d) + " up"}, Safe: true,
		})
	}
	for _, d := range u.NoCarrier {
		r.found(Finding{
			Code: fault.UnderlayDown, Item: "device " + d, What: "has no carrier: no packet of a tunnel passes it",
			Evidence: "the VTEPs are on " + u.Device,
			Remedy:   "look at its cable, and at the port of the switch at its other end",
		})
	}
	for _, d := range u.NoARP {
		r.found(Finding{
			Code: fault.UnderlayDown, Item: "device " + d,
			What:     "does not take part in ARP: it finds no other node, and none finds it",
			Evidence: "NOARP; the VTEPs are on " + u.Device, Remedy: "let it",
			Commands: []string{"ip link set dev " + arg(d) + " arp on"}, Safe: true,
		})
	}
	for _, a := range u.Lacking {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		r.found(Finding{
			Code: fault.UnderlayDown, Item: "VTEP " + a.String(),
			What:   "no device of this host has the address that peers send to",
			Remedy: fmt.Sprintf("give it back to its device, with its prefix: 'ip addr add %s/%d dev …'", a, bits),
		})
	}
	if u.MTU > 0 && u.MTU < u.Need {
		r.found(Finding{
			Code: fault.UnderlayMTU, Item: "device " + u.MTUDevice,
			What:     fmt.Sprintf("has MTU %d, and %s needs %d: larger packets vanish", u.MTU, u.NeedOf, u.Need),
			Remedy:   "raise it if the links beyond carry that; else lower the network's: 'baize network update --mtu'",
			Commands: []string{fmt.Sprintf("ip link set dev %s mtu %d", arg(u.MTUDevice), u.Need)},
		})
	}
	r.ok(fmt.Sprintf("%s on %s, MTU %d", joined(u.VTEPs), u.Device, u.MTU))
}

func joined(addrs []netip.Addr) string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return strings.Join(out, ", ")
}

// userspace reports whether this node's tunnels go past the kernel's own IP stack.
func (f *Facts) userspace() bool { return f.Switch.Datapath == "netdev" }

func underlayPorts(f *Facts, r *result) {
	if !f.underlayKnown(r) {
		return
	}
	for _, t := range f.Underlay.Takers {
		x := Finding{Code: fault.TunnelPortTaken, Item: fmt.Sprintf("UDP port %d", t.Port)}
		switch {
		case t.Device != "":
			x.What = "device " + t.Device + " of another program has it"
			x.Remedy = "remove the device, or give one of the two another port (--vxlan-port, on all nodes)"
			x.Commands = []string{"ip link del dev " + arg(t.Device)}
		default:
			x.What = fmt.Sprintf("program %s (process %d) has it", t.Process, t.PID)
			x.Remedy = "stop it, or give one of the two another port (--vxlan-port, on all nodes)"
			x.Commands = []string{fmt.Sprintf("kill %d", t.PID)}
		}
		if f.userspace() {
			x.Severity = fault.Warning
			x.Evidence = "the userspace datapath takes packets before a socket does; the kernel's could not make its tunnels"
		}
		r.found(x)
	}
	r.ok(fmt.Sprintf("nobody else has UDP %d or %d", f.Underlay.VXLANPort, f.Underlay.GenevePort))
}

// ownTables are the tables of nftables that Baize, or its lab, has made.
var ownTables = []string{"baize", "baize-lab"}

// Rules are the packet filter's.
func (h Host) rules() netfilter.Ruleset {
	return netfilter.Join(netfilter.ParseNFT(h.NFTables),
		netfilter.ParseSave(h.Legacy, "iptables-legacy", "ip"), netfilter.ParseSave(h.Legacy6, "ip6tables-legacy", "ip6"))
}

// tunnelPackets are the packets of a node's tunnels, one for each peer, encapsulation
// and hook that they pass.
func (f *Facts) tunnelPackets() []netfilter.Packet {
	var out []netfilter.Packet
	for _, encap := range f.Underlay.Encaps {
		p := netfilter.Packet{Proto: "udp"}
		switch encap {
		case "vxlan":
			p.Port = f.Underlay.VXLANPort
		case "geneve":
			p.Port = f.Underlay.GenevePort
		case "gre":
			p.Proto = "gre"
		default:
			continue
		}
		for _, peer := range f.Underlay.Peers {
			i := slices.IndexFunc(f.Underlay.VTEPs, func(a netip.Addr) bool { return a.Is4() == peer.Addr.Is4() })
			if i < 0 {
				continue
			}
			own := f.Underlay.VTEPs[i]
			for _, dev := range append([]string{f.Underlay.Device}, f.Underlay.Below...) {
				for _, hook := range []string{"ingress", "prerouting", "input"} {
					q := p
					q.Hook, q.Src, q.Dst, q.In = hook, peer.Addr, own, dev
					out = append(out, q)
				}
				for _, hook := range []string{"output", "postrouting", "egress"} {
					q := p
					q.Hook, q.Src, q.Dst, q.Out = hook, own, peer.Addr, dev
					out = append(out, q)
				}
			}
		}
	}
	return out
}

func underlayFirewall(f *Facts, r *result) {
	switch {
	case !f.underlayKnown(r):
		return
	case !f.Host.Netfilter.OK():
		r.unchecked(f.Host.Netfilter.Reason())
		return
	case len(f.Underlay.Peers) == 0:
		r.ok("no other node is in its networks")
		return
	}
	rules, seen := f.Host.rules(), map[string]bool{}
	for _, p := range f.tunnelPackets() {
		for _, d := range rules.Drops(p, ownTables...) {
			if d.Policy && f.userspace() || seen[d.Where+d.Rule] {
				continue // a userspace datapath needs it so: what it takes, the kernel must not
			}
			seen[d.Where+d.Rule] = true
			what, direction := fmt.Sprintf("%s to UDP port %d", f.encapOf(p), p.Port), "from node "
			if p.Proto == "gre" {
				what = "GRE"
			}
			other := p.Src
			if p.Out != "" {
				direction, other = "to node ", p.Dst
			}
			x := Finding{
				Code: fault.TunnelFiltered, Item: "firewall, " + d.Where, Evidence: d.Rule,
				What:   "drops " + what + " " + direction + f.nodeOf(other),
				Remedy: "let it pass: docs/production.md lists what nodes must let through", Commands: tunnelCommands(d, p),
			}
			if f.userspace() && p.Hook != "egress" {
				x.Severity = fault.Warning
				x.What += "; the userspace datapath goes past it, the kernel's would not"
			}
			r.found(x)
		}
	}
	r.ok("no rule drops packets of tunnels for certain")
}

// tunnelCommands let a tunnel's packets pass. firewalld makes its table anew whenever it
// loads its own settings: it is told itself.
func tunnelCommands(d netfilter.Drop, p netfilter.Packet) []string {
	if !strings.HasPrefix(d.Where, "inet firewalld ") {
		return commandOf(d)
	}
	what := fmt.Sprintf("--add-port=%d/udp", p.Port)
	if p.Proto == "gre" {
		what = "--add-protocol=gre"
	}
	return []string{"firewall-cmd --permanent " + what + " && firewall-cmd --reload"}
}

func commandOf(d netfilter.Drop) []string {
	if d.Undo == "" {
		return nil
	}
	return []string{d.Undo}
}

func (f *Facts) encapOf(p netfilter.Packet) string {
	if p.Port == f.Underlay.GenevePort {
		return "Geneve"
	}
	return "VXLAN"
}

func (f *Facts) nodeOf(a netip.Addr) string {
	for _, p := range f.Underlay.Peers {
		if p.Addr == a {
			return p.Node
		}
	}
	return a.String()
}

func underlayShaping(f *Facts, r *result) {
	if !f.underlayKnown(r) {
		return
	}
	for _, s := range f.Underlay.Shaping {
		x := Finding{
			Code: fault.UnderlayShaped, Item: "traffic control of device " + s.Device, Evidence: s.Line,
			What:   "delays or limits what tunnels send",
			Remedy: "remove it, unless it is meant so", Commands: []string{s.Undo},
		}
		if strings.Contains(s.Line, "loss") || strings.Contains(s.Line, "drop") {
			x.Severity, x.What = fault.Error, "drops packets of tunnels"
		}
		r.found(x)
	}
	r.ok("nothing is dropped, delayed or limited on purpose")
}

func underlayPeers(f *Facts, r *result) {
	if !f.underlayKnown(r) {
		return
	}
	if len(f.Underlay.Peers) == 0 {
		r.ok("no other node is in its networks")
		return
	}
	answer := 0
	for i := range f.Underlay.Peers {
		p := &f.Underlay.Peers[i]
		if x := f.peerFinding(p); x.What != "" {
			x.Item = fmt.Sprintf("node %s, VTEP %s", p.Node, p.Addr)
			r.found(x)
		}
		if p.Answered > 0 {
			answer++
		}
	}
	r.ok(fmt.Sprintf("%d VTEPs answer", answer))
}

// peerFinding says what keeps packets from a peer, the first cause of all; without text where
// nothing does, or nobody asked.
func (f *Facts) peerFinding(p *Peer) Finding {
	switch {
	case p.Here.Device != "":
		return Finding{
			Code: fault.PeerUnreachable, Remedy: "remove it from the one whose node does not have it",
			What:     "this host has its address itself, on " + p.Here.Device + ": two machines answer for it",
			Commands: []string{fmt.Sprintf("ip addr del %s dev %s", p.Here.Prefix, arg(p.Here.Device))},
		}
	case p.RouteError != "":
		x := Finding{
			Code: fault.PeerUnreachable, What: "this host has no route to it: " + p.RouteError, Evidence: p.Blocked,
			Remedy: "add one, or remove what refuses it: 'ip route get " + p.Addr.String() + "' and 'ip rule' show it",
		}
		if p.Blocked != "" {
			x.Commands = []string{"ip route del " + p.Blocked}
		}
		return x
	case len(p.Policies) > 0:
		return f.policyFinding(p)
	case p.Sent == 0:
		return Finding{}
	case p.Answered == 0:
		return p.silent()
	case p.Answered < p.Sent:
		return Finding{
			Code: fault.PeerUnreachable, Severity: fault.Warning,
			What:   fmt.Sprintf("answers %d of %d ICMP echoes: packets are lost on the way", p.Answered, p.Sent),
			Remedy: "look at the links between: 'ip -s link' counts errors",
		}
	}
	return Finding{}
}

// policyFinding is for a peer that IPsec's policies keep packets from.
func (f *Facts) policyFinding(p *Peer) Finding {
	x := Finding{
		Code: fault.TunnelFiltered, What: "IPsec on this host drops what tunnels send to it, or what comes from there",
		Evidence: "policy: " + strings.Join(p.Policies, "; "), Remedy: "remove the policy, unless it is meant so",
	}
	if f.userspace() {
		x.Severity = fault.Warning
		x.What += "; the userspace datapath goes past it, the kernel's would not"
	}
	for _, y := range p.Policies {
		x.Commands = append(x.Commands, "ip xfrm policy delete "+y)
	}
	return x
}

// silent is for a peer that answers no echo. Echoes alone may be filtered.
func (p *Peer) silent() Finding {
	x := Finding{
		Code: fault.PeerUnreachable, Severity: fault.Warning,
		What:   fmt.Sprintf("does not answer: %d ICMP echoes by %s%s", p.Sent, p.Dev, via(p.Via)),
		Remedy: fmt.Sprintf("is the host up? 'baize doctor' there; 'tracepath -n %s' here", p.Addr),
	}
	if !p.Alive {
		x.What += ", and its agent does not run"
	}
	if p.Fixed != "" {
		hop := cmp.Or(p.Via, p.Addr.String())
		x.Evidence = fmt.Sprintf("somebody wrote down %s as the link address of %s", p.Fixed, hop)
		x.Remedy = "remove the entry: the kernel asks for the address then"
		x.Commands = []string{fmt.Sprintf("ip neigh del %s dev %s", hop, arg(p.Dev))}
	}
	return x
}

func via(router string) string {
	if router == "" {
		return ""
	}
	return " via " + router
}

func underlayReverse(f *Facts, r *result) {
	if !f.underlayKnown(r) {
		return
	}
	u := f.Underlay
	strict := max(u.ReversePath[u.Device], u.ReversePath["all"]) == 1
	for _, p := range u.Peers {
		if !strict || p.Dev == "" || p.Dev == u.Device || !p.Addr.Is4() {
			continue
		}
		r.found(Finding{
			Code: fault.ReversePathDrops, Item: fmt.Sprintf("node %s, VTEP %s", p.Node, p.Addr),
			What: fmt.Sprintf("its packets come in by %s, answers leave by %s, and rp_filter of %s is strict: they are dropped",
				u.Device, p.Dev, u.Device),
			Evidence: fmt.Sprintf("net.ipv4.conf.%s.rp_filter=%d", u.Device, u.ReversePath[u.Device]),
			Remedy:   "make it loose (RFC 3704 section 2.4)",
			Commands: []string{
				"sysctl -w " + arg("net.ipv4.conf."+u.Device+".rp_filter=2"), "sysctl -w net.ipv4.conf.all.rp_filter=2",
			},
		})
	}
	r.ok("rp_filter drops nothing of peers")
}

func underlayNeighbours(f *Facts, r *result) {
	if !f.underlayKnown(r) {
		return
	}
	if len(f.Underlay.Neighbours) == 0 {
		r.unchecked("the kernel does not say how many neighbours it may have")
		return
	}
	var all []string
	for _, t := range f.Underlay.Neighbours {
		most := t.Thresholds[2]
		all = append(all, fmt.Sprintf("%d of %d (%s)", t.Entries, most, t.Family))
		if t.Entries*10 < most*9 {
			continue
		}
		name := map[string]string{"IPv4": "ipv4", "IPv6": "ipv6"}[t.Family]
		x := Finding{
			Code: fault.NeighbourTableFull, Item: "table of " + t.Family + " neighbours",
			What: fmt.Sprintf("has %d of %d entries, those of containers included: new addresses are not resolved when it is "+
				"full", t.Entries, most),
			Evidence: fmt.Sprintf("net.%s.neigh.default.gc_thresh3=%d", name, most),
			Remedy: "make it larger, and persistently so in /etc/sysctl.d; the host's own network namespace has the setting, " +
				"a container's has not",
			Safe: true,
		}
		for i := 3; i > 0; i-- {
			x.Commands = append(x.Commands,
				fmt.Sprintf("sysctl -w net.%s.neigh.default.gc_thresh%d=%d", name, i, 4*t.Thresholds[i-1]))
		}
		r.found(x)
	}
	r.ok(strings.Join(all, ", ") + " neighbours")
}
