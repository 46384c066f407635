package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// accepted is what the firewall was given last.
type accepted struct {
	rules  string
	at     time.Time
	faults []fault.Fault
}

// acceptForwarded lets the host's firewall forward what the networks need.
func (k *look) acceptForwarded(ctx context.Context) {
	rules := map[topology.Family][]string{}
	for _, n := range k.ready {
		for f, more := range acceptRules(n, k.OnLink, k.NextHops) {
			rules[f] = append(rules[f], more...)
		}
	}
	last := &k.accepted
	text := fmt.Sprint(rules)
	if text == last.rules && time.Since(last.at) < acceptEvery {
		k.faults = fault.Merge(k.faults, last.faults...)
		return
	}
	now := accepted{rules: text, at: time.Now()}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		if len(rules[f]) == 0 && (text == last.rules || last.rules == "") {
			continue // nor were there any
		}
		now.faults = fault.Add(now.faults, k.masquerade(ctx, f))
		changed, err := k.host.AcceptForwarded(ctx, f, rules[f])
		now.faults = fault.Add(now.faults, err)
		if changed {
			k.log.Infof("firewall: what this host routes (%s) is let pass: %s", f, strings.Join(rules[f], "; "))
		}
	}
	k.faults = fault.Merge(k.faults, now.faults...)
	k.accepted = now
}

// masquerade gives packets that leave a network this host's address, where that
// was asked for.
func (k *look) masquerade(ctx context.Context, f topology.Family) error {
	if k.cfg.Masquerade == nil {
		return nil
	}
	var whole netip.Prefix
	var own []netip.Prefix
	for _, n := range k.ready {
		if !k.cfg.Masquerade(n.Network) || !n.Prefix(f).IsValid() {
			continue
		}
		whole = n.Prefix(f)
		for _, p := range n.OwnSubnets() {
			if topology.FamilyOf(p.Addr()) == f {
				own = append(own, p)
			}
		}
	}
	changed, err := k.host.Masquerade(ctx, f, whole, own)
	if changed {
		k.log.Infof("firewall: masquerading %v (%s)", whole, f)
	}
	return err
}

// acceptRules returns what a network needs forwarded, by family: what stays in
// it, and with Router all that leaves by its port, or comes to this node's
// subnets from hosts that routes lead to.
func acceptRules(n route.Network, onLink topology.OnLink, hops topology.NextHops) map[topology.Family][]string {
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
	for _, path := range n.Paths(onLink, hops) {
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
