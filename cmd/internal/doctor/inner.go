package doctor

import (
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/cmd/internal/doctor/netfilter"
	"github.com/baize-net/baize/topology/fault"
)

// inner looks at what the endpoint itself does with packets of its network.
func (r *result) inner(e *Endpoint, item string) {
	r.innerWays(e, item)
	for _, n := range e.Inner.Fixed {
		r.found(Finding{
			Code: fault.EndpointNeighbour, Item: item,
			What: fmt.Sprintf("somebody wrote down link address %s for %s, which has %s: what it sends there goes elsewhere",
				n.MAC, n.Addr, n.Is),
			Evidence: "a permanent neighbour of interface " + e.Inside.Name,
			Remedy:   "remove it: the network answers for everybody",
			Commands: []string{e.inside("ip neigh del %s dev %s", n.Addr, arg(e.Inside.Name))},
		})
	}
	r.innerFirewall(e, item)
}

// innerWays looks at its routes: to it, its network is one Ethernet. One of a family is said.
func (r *result) innerWays(e *Endpoint, item string) {
	said := map[bool]bool{}
	for _, w := range e.Inner.Ways {
		own := e.own(w.To)
		as := e.withBits(own)
		if !own.IsValid() || !e.has(own) || as.IsSingleIP() || said[w.To.Is4()] {
			continue // without the address, or with a shorter prefix, it has no such route: that is said
		}
		x := Finding{Code: fault.EndpointRoute, Item: item, Evidence: fmt.Sprintf("'ip route get %s' in its namespace", w.To)}
		switch {
		case w.Blocked != "":
			x.What, x.Evidence = fmt.Sprintf("its own kernel sends nothing to %s: %s", w.To, w.Error), w.Blocked
			x.Remedy, x.Commands = "remove the route that refuses it", []string{e.inside("ip route del %s", w.Blocked)}
		case w.Error != "" || w.Dev != e.Inside.Name || w.Via.IsValid():
			x.What = fmt.Sprintf("its own kernel sends what is for %s by %s%s, and not by %s", w.To, w.Dev, viaAddr(w.Via),
				e.Inside.Name)
			if w.Error != "" {
				x.What = fmt.Sprintf("its own kernel sends nothing to %s: %s", w.To, w.Error)
			}
			x.Remedy = "give it the route to its network back; where it has one, another route or rule goes before"
			x.Commands = []string{e.inside("ip route replace %s dev %s src %s", as.Masked(), arg(e.Inside.Name), own)}
		default:
			continue
		}
		said[w.To.Is4()] = true
		r.found(x)
	}
}

// own is the endpoint's address of the family of another.
func (e *Endpoint) own(other netip.Addr) netip.Addr {
	for _, a := range e.IPs {
		if a.Is4() == other.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func viaAddr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return " via " + a.String()
}

// innerFirewall looks at its own packet filter. One that lets anything pass is meant so.
func (r *result) innerFirewall(e *Endpoint, item string) {
	rules, seen := netfilter.ParseNFT(e.Inner.NFTables), map[string]bool{}
	drops := func(what string, p netfilter.Packet, hooks ...string) {
		for _, p.Hook = range hooks {
			for _, d := range rules.Drops(p) {
				if seen[d.Where+d.Rule] {
					continue
				}
				seen[d.Where+d.Rule] = true
				x := Finding{
					Code: fault.EndpointFiltered, Severity: fault.Warning, Item: item, Evidence: d.Where + ": " + d.Rule,
					What: "its own firewall drops all of " + what, Remedy: "let it pass, unless it is meant so",
				}
				if d.Undo != "" {
					x.Commands = []string{e.inside("%s", d.Undo)}
				}
				r.found(x)
			}
		}
	}
	for _, w := range e.Inner.Ways {
		p := netfilter.Packet{Proto: netfilter.Any, Src: w.To, Dst: e.own(w.To), In: e.Inside.Name}
		drops("what others send to it", p, "ingress", "prerouting", "input")
		p.Src, p.Dst, p.In, p.Out = p.Dst, p.Src, "", p.In
		drops("what it sends to others", p, "output", "postrouting", "egress")
	}
}
