package kernel

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	model "github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// firewallEvery is how often the firewall is read at most, while nothing else is
// wanted of it: reading iptables takes several commands.
const firewallEvery = time.Second

// firewall is what the last look at the firewall was.
type firewall struct {
	at     time.Time
	wanted model.Firewall
}

// look is one pass.
type look struct {
	*Part
	State
	in     model.Input
	want   model.State
	have   model.Observed
	faults []fault.Fault
	// refused: some steps failed, and are tried again soon.
	refused error
}

func (k *look) run(ctx context.Context) error {
	learned := k.learned.Get()
	query := model.Ask(k.View, learned.hops())
	query.SkipFirewall = !k.settled || time.Since(k.firewall.at) < k.firewallRest()
	faults, err := k.observe(ctx, query, learned)
	if err == nil && !k.settled && k.outcome.Get().Complete {
		k.settled = true
		query.SkipFirewall = false
		faults, err = k.observe(ctx, query, learned)
	}
	if err == nil && k.settled && query.SkipFirewall && !reflect.DeepEqual(k.want.Firewall, k.firewall.wanted) {
		query.SkipFirewall = false
		faults, err = k.observe(ctx, query, learned)
	}
	if err != nil {
		return err
	}
	k.faults = append(k.faults, faults...)
	change, faults := model.Diff(k.want, k.have, k.reliedPrefixes())
	k.faults = append(k.faults, faults...)
	if !change.Empty() {
		k.note(change)
		if k.refused = k.host.Apply(ctx, change); k.refused != nil {
			// A route that failed is not in place, and its packets take the tunnel.
			k.faults = fault.Add(k.faults, k.refused)
		}
		have, err := k.host.Observe(ctx, query)
		if err != nil {
			return err
		}
		k.have = have.Keep(k.have)
	}
	k.before = k.have
	k.TunnelDrops = k.have.TunnelDrops
	k.remember(query)
	k.Direct = model.Direct(k.in, k.want, k.have)
	k.faults = append(k.faults, k.have.Faults()...)
	k.faults = append(k.faults, model.Strict(k.in, k.have)...)
	return nil
}

// firewallRest is how long one look at the firewall is good for: one that has
// nothing of Baize's needs no more than audits.
func (k *look) firewallRest() time.Duration {
	if w := k.firewall.wanted; len(w.NAT)+len(w.Accept)+len(w.Drops.Devices)+len(w.Tunnels) == 0 {
		return k.cfg.Every - k.cfg.Every/10
	}
	return firewallEvery
}

// remember keeps when the firewall was looked at. A pass that did not look
// answers for what may have woken it: it is made up for.
func (k *look) remember(q model.Query) {
	switch rest := k.firewallRest(); {
	case !k.settled:
	case k.refused != nil:
		k.firewall = firewall{}
	case !q.SkipFirewall:
		k.firewall = firewall{at: time.Now(), wanted: k.want.Firewall}
	case rest == firewallEvery:
		time.AfterFunc(rest-time.Since(k.firewall.at), k.wake.Wake)
	}
}

// observe reads the kernel and computes what is wanted of it.
func (k *look) observe(ctx context.Context, q model.Query, learned Learned) ([]fault.Fault, error) {
	have, err := k.host.Observe(ctx, q)
	if err != nil {
		return nil, err
	}
	k.have = have.Keep(k.before)
	k.input(learned)
	interest := k.in.Interest()
	k.interest.Store(&interest)
	k.withoutIPv6()
	var faults []fault.Fault
	k.want, faults = model.Wanted(k.in)
	return faults, nil
}

// input is what the wanted state is computed from.
func (k *look) input(learned Learned) {
	known, live, names := k.known.Get(), k.hostPorts.Get(), pipeline.NamesOf(k.View)
	k.OnLink, k.Complete = k.have.OnLink(), true
	k.in = model.Input{
		View: k.View, Ports: map[string]string{}, Endpoints: map[string][]netip.Addr{}, Bridges: map[string]string{},
		OnLink: k.OnLink, Protected: model.Protect(k.View, k.have, k.cfg.Protected...),
	}
	var ready []topology.NetworkView
	for _, n := range k.View.Networks {
		if _, ok := n.Host(); !ok {
			continue
		}
		port := names.Host(n.Name)
		if !live[port] {
			k.Complete = false
			continue
		}
		k.in.Ports[n.Name] = port
		ready = append(ready, n)
		if k.cfg.Masquerade != nil && k.cfg.Masquerade(n.Network) {
			k.in.Masquerade = append(k.in.Masquerade, n.Name)
		}
		if k.cfg.Pods != nil && k.cfg.Pods(n.Network) {
			k.in.Pods = append(k.in.Pods, n.Name)
		}
	}
	k.NextHops = model.NextHops(ready, k.have, learned.hops(), !learned.Unsettled)
	k.in.NextHops = k.NextHops
	for _, e := range known.Endpoints {
		k.in.Endpoints[e.Network] = append(k.in.Endpoints[e.Network], e.IPs...)
	}
	segments := k.segments.Get()
	for _, s := range segments {
		k.in.Bridges[s.Network] = s.Name
	}
	k.in.Userspace, k.in.TunnelPorts = k.cfg.Userspace, k.cfg.TunnelPorts
	if !k.cfg.Userspace {
		return
	}
	// Firewall managers flush what is not theirs.
	k.in.Drops.Use = true
	for _, e := range known.All() {
		k.in.Drops.Devices = append(k.in.Drops.Devices, e.Port)
	}
	for _, s := range segments {
		k.in.Drops.Devices = append(k.in.Drops.Devices, s.Port)
	}
	slices.Sort(k.in.Drops.Devices)
}

// withoutIPv6 leaves out bridges that have no IPv6 address of their network: the
// host forwards nothing to them.
func (k *look) withoutIPv6() {
	for _, n := range k.View.Networks {
		dev := k.in.Bridges[n.Name]
		if !slices.ContainsFunc(k.have.Addresses, func(a model.Address) bool {
			return a.Dev == dev && n.IPv6.IsValid() && n.IPv6.Contains(a.Prefix.Addr())
		}) {
			delete(k.in.Bridges, n.Name)
		}
	}
}

// reliedPrefixes are those that flows leave to a route that is not, or not any
// more, the one that is wanted. The switch gives them up once it sees Direct, and
// wakes this part.
func (k *look) reliedPrefixes() map[netip.Prefix]bool {
	direct := model.Direct(k.in, k.want, k.have)
	out := map[netip.Prefix]bool{}
	if !k.settled {
		for _, r := range k.have.Routes.Own {
			out[r.Prefix.Masked()] = true
		}
	}
	for id := range k.relied.Get() {
		if !direct[id] {
			out[id.Prefix.Masked()] = true
		}
	}
	return out
}

// note logs what is changed of the host as a whole; its ports and routes are
// many.
func (k *look) note(c model.Change) {
	for _, s := range c.Steps {
		line := strings.TrimSpace(s.String())
		switch s := s.(type) {
		case model.Restore, model.SetNAT, model.SetTunnels:
			k.log.Info(line)
		case model.SetSysctl:
			if strings.Contains(s.Key, "/"+model.PortPrefix) {
				k.log.Debug(line)
			} else {
				k.log.Infof("this host forwards packets: %s", line)
			}
		default:
			k.log.Debug(line)
		}
	}
}
