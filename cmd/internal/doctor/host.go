package doctor

import (
	"fmt"

	"github.com/baize-net/baize/cmd/internal/doctor/netfilter"
	"github.com/baize-net/baize/topology/fault"
)

var hostChecks = []check{
	{"kernel", hostKernel}, {"routes", hostRoutes}, {"forwarding", hostForwarding}, {"conntrack", hostConntrack},
}

func hostKernel(f *Facts, r *result) {
	if !f.compared(r) {
		return
	}
	remedy, _ := f.mendSwitch()
	for _, command := range f.Switch.Drift.Kernel {
		r.found(Finding{
			Code: fault.KernelDiffers, Item: "kernel of this host", What: "is not as planned", Evidence: command,
			Remedy: remedy, Commands: []string{command}, Safe: true,
		})
	}
	for _, p := range f.Switch.Drift.Problems {
		if len(p.Code) == 6 && p.Code[2:4] == "05" {
			r.found(of(p))
		}
	}
	r.ok("routes, addresses, sysctls and rules are as planned")
}

func hostRoutes(f *Facts, r *result) {
	for _, x := range f.Host.Refusals {
		finding := Finding{
			Code: fault.RouteForeign, Item: "route to " + x.To, Evidence: x.Route,
			What: fmt.Sprintf("packets of network %s are not sent there: %s", x.Network, x.Why),
			Remedy: "a rule or a route of another program comes before Baize's: 'ip rule' and 'ip route get " + x.To +
				"' show it",
		}
		if x.Node != "" {
			finding.What = fmt.Sprintf("packets of network %s are not sent to node %s: %s", x.Network, x.Node, x.Why)
		}
		if x.Route != "" {
			finding.Remedy, finding.Commands = "remove it, if it is not meant so", []string{"ip route del " + x.Route}
		}
		r.found(finding)
	}
	r.ok("the kernel has a route wherever a network is routed to")
}

func hostForwarding(f *Facts, r *result) {
	switch {
	case len(f.Host.Forwards) == 0:
		r.ok("no network of this node is routed by its kernel")
		return
	case !f.Host.Netfilter.OK():
		r.unchecked(f.Host.Netfilter.Reason())
		return
	}
	rules, seen := f.Host.rules(), map[string]bool{}
	for _, w := range f.Host.Forwards {
		p := netfilter.Packet{Src: w.From, Dst: w.To}
		for _, hook := range []string{"ingress", "prerouting", "forward", "postrouting", "egress"} {
			p.Hook, p.In, p.Out = hook, w.In, w.Out
			switch hook {
			case "ingress", "prerouting":
				p.Out = ""
			case "postrouting", "egress":
				p.In = ""
			}
			for _, d := range rules.Drops(p, ownTables...) {
				if seen[d.Where+d.Rule] {
					continue
				}
				seen[d.Where+d.Rule] = true
				r.found(Finding{
					Code: fault.FirewallDrops, Item: "firewall, " + d.Where, Evidence: d.Rule,
					What:   fmt.Sprintf("drops what node %s sends to network %s on this host", w.Node, w.Network),
					Remedy: "let it pass: docs/routing.md", Commands: commandOf(d),
				})
			}
		}
	}
	r.ok("no rule drops what is forwarded for certain")
}

func hostConntrack(f *Facts, r *result) {
	h := f.Host
	if h.ConntrackMax == 0 {
		r.ok("the kernel tracks no connections")
		return
	}
	if h.Conntrack*20 >= h.ConntrackMax*19 {
		r.found(Finding{
			Code: fault.ConntrackFull, Item: "table of connections",
			What: fmt.Sprintf("has %d of %d entries: packets of new connections are dropped when it is full", h.Conntrack,
				h.ConntrackMax),
			Evidence: "net.netfilter.nf_conntrack_count",
			Remedy:   "make it larger, and persistently so in /etc/sysctl.d",
			Commands: []string{fmt.Sprintf("sysctl -w net.netfilter.nf_conntrack_max=%d", 2*h.ConntrackMax)}, Safe: true,
		})
	}
	r.ok(fmt.Sprintf("%d connections of %d", h.Conntrack, h.ConntrackMax))
}
