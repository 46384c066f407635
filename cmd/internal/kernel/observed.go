package kernel

import (
	"context"
	"maps"
	"net/netip"
	"strings"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Host is a kernel: that of this host (kernel/linux), or a fake one
// (kernel/kernelfake).
type Host interface {
	// Observe reads what is there. Where one part cannot be read, the others are
	// returned, and Failed names it; the error is that of reading nothing at all.
	Observe(ctx context.Context, q Query) (Observed, error)
	// Apply does the steps of a change in their order. A step that fails costs
	// only itself; the errors, *topology.Error with a code, are joined.
	Apply(ctx context.Context, c Change) error
	// Forget takes the connections of addresses out of the kernel's table of connections
	// (conntrack), and returns how many there were.
	Forget(ctx context.Context, addrs []netip.Addr) (int, error)
	// Watch calls w.Fire until ctx ends, and then returns ctx's error.
	Watch(ctx context.Context, w Watcher) error
}

// Query says what an observation is to find out beside the whole state.
type Query struct {
	// Lookups are addresses to ask the kernel the way to. The next hops of
	// Baize's own routes are asked for in any case.
	Lookups []netip.Addr
	// Forwards asks for what has to change where the host becomes a router: the
	// devices that heed router advertisements.
	Forwards bool
	// SkipFirewall leaves out the firewall, which takes several commands.
	SkipFirewall bool
}

// Section is a part of an observation that succeeds or fails on its own.
type Section string

// The sections.
const (
	Addresses  Section = "addresses"
	Neighbours Section = "neighbours"
	Routes     Section = "routes"
	Rules      Section = "rules"
	Sysctls    Section = "sysctls"
	NFTables   Section = "nftables"
	Chains     Section = "iptables"
)

// Observed is what a host's kernel has.
type Observed struct {
	// Devices are the names of all network devices.
	Devices map[string]bool
	// Links are the devices whose names start with PortPrefix.
	Links []Link
	// Addresses are those of all devices, Neighbours the permanent ones of Links.
	Addresses  []Address
	Neighbours []Neighbour
	Routes     route.Observed
	// Rules are those of protocol 173.
	Rules []Rule
	// Sysctls have no key that the kernel does not have.
	Sysctls map[string]string
	// NAT is the table inet baize as NATTable prints it; empty: there is none.
	NAT string
	// Tunnels is the table inet baize-tunnels as TunnelTableText writes it, and
	// TunnelDrops what it has dropped.
	Tunnels     string
	TunnelDrops uint64
	// Drops are the devices with a chain in the table netdev baize, by name.
	Drops []string
	// IPTables are the rules that iptables shows, one entry a tool.
	IPTables []IPTables
	// Lookups are the ways to addresses.
	Lookups map[netip.Addr]Lookup
	// Failed are the sections that could not be read, Skipped: the firewall was not
	// looked at.
	Failed  map[Section]error
	Skipped bool
}

// Lookup is what the kernel says of the way to an address (ip route get).
type Lookup struct {
	// Dev is the device by which the address is on-link; empty: there is a router
	// between, or no way at all.
	Dev string
	// Err: the kernel did not answer.
	Err error
}

// Keep returns the observation with what it could not find out taken from the
// one before: a question that the kernel did not answer withdraws nothing.
func (o Observed) Keep(before Observed) Observed {
	for s := range o.Failed {
		switch s {
		case Addresses:
			o.Addresses = before.Addresses
		case Neighbours:
			o.Neighbours = before.Neighbours
		case Routes:
			o.Routes = before.Routes
		case Rules:
			o.Rules = before.Rules
		case Sysctls:
			o.Sysctls = before.Sysctls
		case NFTables:
			o.nftables(before)
		case Chains:
			o.IPTables = before.IPTables
		}
	}
	if o.Skipped {
		o.nftables(before)
		o.IPTables = before.IPTables
	}
	o.Lookups = maps.Clone(o.Lookups)
	for a, l := range o.Lookups {
		if old, known := before.Lookups[a]; known && l.Err != nil {
			o.Lookups[a] = Lookup{Dev: old.Dev, Err: l.Err}
		}
	}
	return o
}

func (o *Observed) nftables(before Observed) {
	o.NAT, o.Drops = before.NAT, before.Drops
	o.Tunnels, o.TunnelDrops = before.Tunnels, before.TunnelDrops
}

// known reports whether a section may be compared: what was kept from an
// earlier observation is good enough to say what is in place, not to change it.
func (o Observed) known(s Section) bool {
	return o.Failed[s] == nil && (!o.Skipped || (s != NFTables && s != Chains))
}

// Faults are what could not be observed.
func (o Observed) Faults() []fault.Fault {
	var out []fault.Fault
	for _, s := range []Section{Addresses, Neighbours, Routes, Rules, Sysctls, NFTables, Chains} {
		if err := o.Failed[s]; err != nil {
			out = fault.Merge(out, unanswered(string(s)+" of this host", err))
		}
	}
	for _, l := range o.Lookups {
		if l.Err != nil { // one stands for all
			return fault.Merge(out, unanswered("ways to other nodes", l.Err))
		}
	}
	return out
}

func unanswered(item string, err error) fault.Fault {
	return fault.Fault{
		Code:     fault.KernelUnavailable,
		Severity: fault.Warning,
		Item:     item,
		What:     "the kernel does not say what there is: " + err.Error() + ": what was known is kept",
		Remedy:   "it is asked again; 'dmesg' may say more",
	}
}

// PortPrefix starts the name of every host port of Baize's.
const PortPrefix = "bn-"

// underlay tells the devices through which packets may leave for other nodes
// from those of Baize's own networks.
func underlay(dev string) bool {
	return dev != "" && dev != "lo" && !strings.HasPrefix(dev, PortPrefix)
}

// OnLink returns the addresses that the kernel reaches without a router, by the
// device of the underlay.
func (o Observed) OnLink() topology.OnLink {
	out := make(topology.OnLink, len(o.Lookups))
	for a, l := range o.Lookups {
		if underlay(l.Dev) {
			out[a] = l.Dev
		}
	}
	return out
}

// Ask returns the query of a view: which peers are on-link, and which of the
// hops that were learned.
func Ask(v topology.View, learned map[netip.Prefix]Learned) Query {
	var q Query
	seen := map[netip.Addr]bool{}
	add := func(a netip.Addr) {
		if a.IsValid() && !seen[a] {
			seen[a] = true
			q.Lookups = append(q.Lookups, a)
		}
	}
	for _, n := range v.Networks {
		if _, forwarded := n.Host(); forwarded {
			q.Forwards = true
		}
		if !n.Transport.Routed() {
			continue
		}
		for _, p := range n.Peers {
			for _, a := range p.VTEPs {
				add(a)
			}
		}
	}
	for _, l := range learned {
		add(l.Via)
	}
	return q
}

// Learned is a next hop that a router told.
type Learned struct {
	Via netip.Addr
	// Why says who told: "learned by BGP from 192.0.2.1".
	Why string
}

// NextHops returns the ways through routers to what lives on other nodes: a
// routing daemon's of this host, those that our own sessions learned, or, while
// those are not settled after a start, the routes that are there.
func NextHops(
	networks []topology.NetworkView,
	have Observed,
	learned map[netip.Prefix]Learned,
	settled bool,
) topology.NextHops {
	out := topology.NextHops{}
	foreign, onLink := route.Dynamic(have.Routes), have.OnLink()
	own := map[netip.Prefix]route.Route{}
	for _, r := range have.Routes.Own {
		if r.Via.IsValid() {
			own[r.Prefix.Masked()] = r
		}
	}
	for _, n := range networks {
		for _, p := range n.Paths(onLink, nil) {
			prefix := p.Prefix.Masked()
			f, isForeign := foreign[prefix]
			l, isLearned := learned[prefix]
			r, isOwn := own[prefix]
			switch {
			case isForeign && underlay(f.Dev) && (p.Kind != topology.PathRoute || f.Before(route.Route{Prefix: prefix})):
				out[prefix] = topology.NextHop{
					Via:     f.Via,
					Dev:     f.Dev,
					Foreign: true,
					Why:     "kernel route of protocol " + f.ProtocolName(),
				}
			case isLearned && onLink[l.Via] != "":
				out[prefix] = topology.NextHop{Via: l.Via, Dev: onLink[l.Via], Why: l.Why}
			case !settled && isOwn && onLink[r.Via] != "":
				out[prefix] = topology.NextHop{Via: r.Via, Dev: onLink[r.Via], Why: "learned by BGP before the agent's restart"}
			}
		}
	}
	return out
}
