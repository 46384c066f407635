package trace

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// Facts are what is known of one node.
type Facts struct {
	View topology.View
	// Endpoints are those of the node, Known says that these are all.
	Endpoints []ovs.Endpoint
	Known     bool
	// Containers returns what people call an endpoint's container, "" where it has none;
	// nil: nobody knows.
	Containers func(ovs.Endpoint) string
	// Wanted is the state that its switch should have.
	Wanted ovs.State
	// Observed is what the host has; nil where it was not asked, and Note says why.
	Observed *Observed
	Note     string
}

// Observed is what a host has.
type Observed struct {
	Switch ovs.Observed
	Flows  []openflow.Installed
	Kernel kernel.Observed
	// Up says of each device of the host whether its link is up.
	Up map[string]bool
	// Way says how the host's kernel sends packets to an address.
	Way func(netip.Addr) kernel.Way
	// Filter is the host's firewall (nftables).
	Filter Filter
	// Inside looks into an endpoint's namespace; nil where nobody does.
	Inside func(ovs.Endpoint) (kernel.Inside, error)
	// FastPath is what the programs have that forward past the switch.
	FastPath fastpath.State
}

// Computed are the facts of a node that etcd alone knows, with ends that are taken
// for granted.
func Computed(view topology.View, opt pipeline.Options, note string, assume []Party) Facts {
	f := Facts{View: view, Note: note, Containers: func(e ovs.Endpoint) string {
		for _, p := range assume {
			if p.Node == e.Node && p.Network == e.Network && slices.Contains(e.IPs, p.Address) {
				return p.Container
			}
		}
		return ""
	}}
	for _, n := range view.Networks {
		for _, s := range n.Segments {
			opt.Segments = append(opt.Segments, ovs.Segment{Name: s.Name, Network: n.Name, Port: "(" + s.Name + ")"})
		}
	}
	for _, p := range assume {
		if p.Node == view.Node.Name && !f.inSegment(p) {
			f.Endpoints = append(f.Endpoints, p.assumed())
		}
	}
	// Whether its kernel has routes to other nodes is not known: on one link it has.
	opt.Direct = map[topology.SubnetID]bool{}
	for _, n := range view.Networks {
		if n.Transport.Direct() != topology.DirectOnLink {
			continue
		}
		for i := range n.Peers {
			for _, p := range n.Peers[i].Subnets {
				opt.Direct[topology.SubnetID{Network: n.Name, Prefix: p}] = !slices.Contains(n.Peers[i].Bridged, p)
			}
		}
	}
	f.Wanted = pipeline.Build(view, f.Endpoints, opt)
	return f
}

// inSegment reports whether a party is behind a local bridge of this node.
func (f *Facts) inSegment(p Party) bool {
	n, _ := f.View.Find(p.Network)
	for _, s := range n.Segments {
		if slices.ContainsFunc(s.Subnets, func(x netip.Prefix) bool { return x.Contains(p.Address) }) {
			return true
		}
	}
	return false
}

// bridge is a switch ready for packets.
type bridge struct {
	wanted, have forward.Tables
	numbers      map[string]int
	names        map[int]string
	// rules are the wanted flows, counters the packets of those that are there.
	rules    map[ovs.FlowID]*forward.Rule
	counters map[ovs.FlowID]uint64
}

func (f *Facts) bridge() *bridge {
	b := &bridge{
		numbers: map[string]int{}, names: map[int]string{}, rules: map[ovs.FlowID]*forward.Rule{},
		counters: map[ovs.FlowID]uint64{},
	}
	if f.Observed != nil {
		b.numbers = f.Observed.Switch.OFPorts()
	} else {
		for i, p := range f.Wanted.Ports {
			b.numbers[p.Name] = i + 1
		}
	}
	for name, n := range b.numbers {
		b.names[n] = name
	}
	bound, _ := f.Wanted.Bind(b.numbers)
	rules := make([]*forward.Rule, len(bound))
	for i, flow := range bound {
		rules[i] = forward.Read(flow)
		b.rules[flow.ID()] = rules[i]
	}
	b.wanted = forward.NewTables(rules)
	b.have = b.wanted
	if f.Observed == nil {
		return b
	}
	rules = rules[:0:0]
	for _, flow := range f.Observed.Flows {
		rules = append(rules, forward.Read(flow.BoundFlow))
		b.counters[flow.ID()] = flow.Packets
	}
	b.have = forward.NewTables(rules)
	return b
}

// there reports whether the switch has a flow.
func (b *bridge) there(r *forward.Rule) bool {
	_, there := b.counters[r.Flow.ID()]
	return there
}

// text is a flow with ports by name.
func (b *bridge) text(r *forward.Rule) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("table=%d %s", r.Flow.Table, pipeline.FormatFlow(ovs.Unbind(r.Flow, b.names)))
}

// port is a port of the bridge, as it is or should be.
func (f *Facts) port(name string) (p ovs.Port, wanted bool) {
	for _, p := range f.Wanted.Ports {
		if p.Name == name {
			return p, true
		}
	}
	if f.Observed != nil {
		return f.Observed.Switch.Ports[name].Port, false
	}
	return ovs.Port{}, false
}

// endpointAt returns the endpoint of a port.
func (f *Facts) endpointAt(port string) (ovs.Endpoint, bool) {
	i := slices.IndexFunc(f.Endpoints, func(e ovs.Endpoint) bool { return e.Port == port })
	if i < 0 {
		return ovs.Endpoint{}, false
	}
	return f.Endpoints[i], true
}

// who is what people call an endpoint: its container, where it has one.
func (f *Facts) who(e ovs.Endpoint) string { return cmp.Or(f.container(e), e.Name) }

func (f *Facts) container(e ovs.Endpoint) string {
	if f.Containers == nil {
		return ""
	}
	return f.Containers(e)
}

// sender returns the port by which an endpoint, known by its name or an address,
// or a local bridge sends.
func (f *Facts) sender(network, name string) (port string, ok bool) {
	addr, _ := netip.ParseAddr(name)
	for _, e := range f.Endpoints {
		if e.Network == network && (e.Name == name || slices.Contains(e.IPs, addr)) {
			return e.Port, true
		}
	}
	for _, p := range f.Wanted.Ports {
		if p.Role() == ovs.RoleSegment && p.ExternalIDs[ovs.KeySegment] == name {
			return p.Name, true
		}
	}
	return "", false
}

// owner returns the peer that has an underlay address.
func (f *Facts) owner(a netip.Addr) string {
	for _, n := range f.View.Networks {
		for i := range n.Peers {
			if slices.Contains(n.Peers[i].VTEPs, a) {
				return n.Peers[i].Node
			}
		}
	}
	return ""
}

// home returns the node where an address of a network lives, by pins and subnets.
func home(n topology.NetworkView, self string, a netip.Addr) string {
	for _, p := range n.Pins {
		if p.Addr == a {
			return p.Node
		}
	}
	contains := func(p netip.Prefix) bool { return p.Contains(a) }
	if slices.ContainsFunc(n.OwnSubnets(), contains) {
		return self
	}
	for i := range n.Peers {
		if slices.ContainsFunc(n.Peers[i].Subnets, contains) {
			return n.Peers[i].Node
		}
	}
	return ""
}

// members returns the devices that an Open vSwitch bridge of the host consists of,
// without its own.
func (o *Observed) members(bridge string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(o.Switch.Foreign)) {
		if o.Switch.Foreign[name] == bridge && name != bridge {
			out = append(out, name)
		}
	}
	return out
}
