package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// routes are the kernel's part of one pass: the host's own ports in networks
// that are routed, and the routes. Like the switch they are observed, compared
// and changed at every pass.
type routes struct {
	reach  topology.OnLink
	fabric topology.NextHops
	want   []route.Route
	// stale are the routes to remove once no flow relies on them.
	stale []route.Route
	// direct are the prefixes of other nodes that the kernel routes, by network.
	direct map[topology.SubnetID]bool
	// waiting: a port is not there yet, so the pass is not the last.
	waiting  bool
	changes  int
	problems []fault.Fault
}

// makeRoutes makes ports ready and adds routes. It comes before the flows
// that send packets there; removeRoutes comes after them.
func (a *Agent) makeRoutes(ctx context.Context, audit bool, v topology.View, observed ovs.Observed, endpoints []ovs.Endpoint) (routes, error) {
	r := routes{reach: reach(v)}
	var ready []route.Network
	names := pipeline.NamesOf(v)
	for _, n := range v.Networks {
		h, ok := n.Host()
		if !ok {
			continue
		}
		port := names.Host(n.Name)
		if have, there := observed.Ports[port]; !there || !have.Live() || !have.Owned() {
			r.waiting = true
			continue
		}
		err := hostnet.SetHostPort(hostnet.HostPort{Name: port, MAC: h.MAC, MTU: h.MTU, Addrs: h.Addrs, Neighbours: h.Neighbours})
		if err == nil {
			err = a.forward(n)
		}
		if err != nil {
			r.problems = append(r.problems, fault.Of(fmt.Errorf("network %s: %w", n.Name, err)))
			continue
		}
		x := route.Network{NetworkView: n, Port: port}
		for _, e := range endpoints {
			if e.Network == n.Name {
				x.Endpoints = append(x.Endpoints, e.IPs...)
			}
		}
		ready = append(ready, x)
	}
	have, err := route.Observe()
	if err != nil {
		return r, err
	}
	if r.fabric, err = a.fabric(ready, r.reach, have); err != nil {
		return r, err
	}
	r.want = route.Wanted(ready, r.reach, r.fabric)
	r.problems = append(r.problems, routeProblems(ready, r.reach, r.fabric)...)
	change, problems := route.Diff(r.want, have)
	r.problems = append(r.problems, problems...)
	r.stale, change.Remove = change.Remove, nil
	if !change.Empty() {
		r.changes = change.Size()
		// A route that failed is not in place, and its packets take the tunnel.
		r.problems = fault.Add(r.problems, route.Apply(change))
		if have, err = route.Observe(); err != nil {
			return r, err
		}
	}
	r.problems = append(r.problems, a.acceptForwarded(ctx, ready, r.reach, r.fabric, audit)...)
	inPlace := route.InPlace(r.want, have)
	r.direct = map[topology.SubnetID]bool{}
	for _, n := range ready {
		for _, p := range n.Paths(r.reach, r.fabric) {
			if p.Kind == topology.PathRoute && (p.Foreign || inPlace[p.Prefix.Masked()]) {
				r.direct[topology.SubnetID{Network: n.Name, Prefix: p.Prefix}] = true
			}
		}
	}
	return r, nil
}

// removeRoutes removes what makeRoutes found stale.
func (r *routes) removeRoutes() error {
	r.changes += len(r.stale)
	return route.Apply(route.Change{Remove: r.stale})
}

// reach asks the kernel which peers are on-link, by the device of this node's
// own underlay address.
func reach(v topology.View) topology.OnLink {
	out := topology.OnLink{}
	for _, n := range v.Networks {
		if !n.Transport.Routed() {
			continue
		}
		for _, p := range n.Peers {
			for _, a := range p.VTEPs {
				if _, asked := out[a]; asked {
					continue
				}
				out[a] = underlayDevice(a)
			}
		}
	}
	return out
}

// forward makes the host a router of the network's families.
func (a *Agent) forward(n topology.NetworkView) error {
	changed, err := hostnet.Forward(n.Families()...)
	if len(changed) > 0 {
		a.log.Infof("network %s is routed by this host: set %s", n.Name, strings.Join(changed, ", "))
	}
	return err
}

// acceptEvery is how often the firewall is looked at, at most: an engine that
// starts changes it.
const acceptEvery = time.Second

// acceptForwarded lets the host's firewall forward what the networks need.
func (a *Agent) acceptForwarded(ctx context.Context, networks []route.Network, reach topology.OnLink, fabric topology.NextHops, audit bool) []fault.Fault {
	rules := map[topology.Family][]string{}
	for _, n := range networks {
		for f, more := range acceptRules(n, reach, fabric) {
			rules[f] = append(rules[f], more...)
		}
	}
	a.mu.Lock()
	last := a.accepted
	a.mu.Unlock()
	text := fmt.Sprint(rules)
	if text == last.rules && !audit && time.Since(last.at) < acceptEvery {
		return last.problems
	}
	now := accepted{rules: text, at: time.Now()}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		if len(rules[f]) == 0 && (text == last.rules || last.rules == "") {
			continue // nor were there any
		}
		now.problems = fault.Add(now.problems, a.masquerade(ctx, networks, f))
		changed, err := hostnet.AcceptForwarded(ctx, f, rules[f])
		now.problems = fault.Add(now.problems, err)
		if changed {
			a.log.Infof("firewall: what this host routes (%s) is let pass: %s", f, strings.Join(rules[f], "; "))
		}
	}
	a.mu.Lock()
	a.accepted = now
	a.mu.Unlock()
	return now.problems
}

// masquerade does for flannel's network what flanneld's -ip-masq does.
func (a *Agent) masquerade(ctx context.Context, networks []route.Network, f topology.Family) error {
	if a.flannel == nil {
		return nil
	}
	var whole netip.Prefix
	var own []netip.Prefix
	for _, n := range networks {
		if !a.cfg.IPMasq || n.Name != topology.FlannelNetwork || !n.Prefix(f).IsValid() {
			continue
		}
		whole = n.Prefix(f)
		for _, p := range n.OwnSubnets() {
			if topology.FamilyOf(p.Addr()) == f {
				own = append(own, p)
			}
		}
	}
	changed, err := hostnet.Masquerade(ctx, f, whole, own)
	if changed {
		a.log.Infof("firewall: masquerading %v (%s)", whole, f)
	}
	return err
}

// accepted is what the firewall was told last.
type accepted struct {
	rules    string
	at       time.Time
	problems []fault.Fault
}

// acceptRules returns what a network needs forwarded, by family: what stays in
// it, and with Router all that leaves by its port, or comes to this node's
// subnets from hosts that routes lead to.
func acceptRules(n route.Network, reach topology.OnLink, fabric topology.NextHops) map[topology.Family][]string {
	out := map[topology.Family][]string{}
	for _, p := range n.Prefixes() {
		f := topology.FamilyOf(p.Addr())
		if !n.Router {
			out[f] = append(out[f], fmt.Sprintf("-d %s -i %s", p, n.Port), fmt.Sprintf("-s %s -o %s", p, n.Port))
			continue
		}
		out[f] = append(out[f], "-i "+n.Port, "-o "+n.Port)
	}
	if !n.Router {
		return out
	}
	seen := map[string]bool{}
	for _, path := range n.Paths(reach, fabric) {
		f := topology.FamilyOf(path.Prefix.Addr())
		key := fmt.Sprint(f, path.Dev)
		if path.Kind != topology.PathRoute || seen[key] {
			continue
		}
		seen[key] = true
		for _, p := range n.OwnSubnets() {
			if topology.FamilyOf(p.Addr()) == f {
				out[f] = append(out[f], fmt.Sprintf("-d %s -i %s", p, path.Dev), fmt.Sprintf("-s %s -d %s -o %s", p, n.Prefix(f), path.Dev))
			}
		}
	}
	return out
}

// routeProblems reports nodes that no packet reaches, and a filter that drops
// packets of peers which see this node on their link while it does not see
// them on its own.
func routeProblems(networks []route.Network, reach topology.OnLink, fabric topology.NextHops) []fault.Fault {
	var out []fault.Fault
	strict := map[string]bool{}
	for _, n := range networks {
		for _, p := range n.Paths(reach, fabric) {
			if p.Kind == topology.PathNone {
				out = append(out, fault.Fault{
					Item: fmt.Sprintf("network %s, node %s", n.Name, p.Node), What: fmt.Sprintf("%s cannot be reached without encapsulation: %s", p.Prefix, p.Why),
					Remedy: "'baize network update " + n.Name + " --transport auto', or let the routers know the way: 'baize agent --bgp', see docs/routing.md",
				})
			}
			if n.Transport.Direct() == topology.DirectOnLink && p.Kind == topology.PathRoute && !strict[p.Dev] && hostnet.StrictReversePath(p.Dev) {
				strict[p.Dev] = true
				out = append(out, fault.Fault{
					Item: "sysctl net.ipv4.conf." + p.Dev + ".rp_filter", What: "strict: while a peer moves to or from the link, its packets are dropped",
					Remedy: fmt.Sprintf("'sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.%s.rp_filter=2'", p.Dev),
				})
			}
		}
	}
	return out
}

// Routes lists how every prefix of other nodes is reached, as of the last pass.
func (a *Agent) Routes(context.Context) ([]api.Route, error) {
	a.mu.Lock()
	p := a.last
	a.mu.Unlock()
	out := []api.Route{}
	for _, n := range p.view.Networks {
		for _, path := range n.Paths(p.routes.reach, p.routes.fabric) {
			x := api.Route{
				Network: n.Name, Prefix: path.Prefix, Node: path.Node, Pin: path.MAC != "", Kind: string(path.Kind), Encap: path.Encap, Device: path.Dev, Why: path.Why,
			}
			if path.Via.IsValid() {
				x.Via = path.Via.String()
			}
			if path.Kind == topology.PathRoute && !p.routes.direct[topology.SubnetID{Network: n.Name, Prefix: path.Prefix}] {
				// The kernel has not got the route, or follows somebody else's.
				x.Why += ", but the route is not in place: see 'baize status'"
				x.Kind, x.Encap = string(topology.PathTunnel), n.Transport.Tunnel()
				if x.Encap == "" {
					x.Kind = string(topology.PathNone)
				}
			}
			out = append(out, x)
		}
	}
	return out, nil
}

// cleanRoutes removes all routes of Baize from the kernel.
func cleanRoutes() (report []string, err error) {
	removed, err := route.Cleanup()
	for _, r := range removed {
		report = append(report, "removed route "+r.String())
	}
	return report, err
}
