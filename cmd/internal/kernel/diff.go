package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Diff compares what is wanted with what is there. relied are the prefixes of
// other nodes that the switch hands to the kernel at this moment: the stale
// route of such a prefix stays until it does so no more. A wanted element that
// cannot be is left out and becomes a fault, such as a route whose place
// somebody else's has. Sections that could not be observed are left as they are.
func Diff(want State, have Observed, relied map[netip.Prefix]bool) (Change, []fault.Fault) {
	d := differ{want: want, have: have, relied: relied, newMAC: map[string]bool{}}
	d.sysctls() // before a port is up
	d.links()
	d.addresses()
	d.neighbours()
	d.routes()
	d.rules()
	d.nftables()
	d.iptables()
	return Change{append(d.make, d.breaks...)}, d.faults
}

type differ struct {
	want   State
	have   Observed
	relied map[netip.Prefix]bool
	// make comes before breaks.
	make, breaks []Step
	faults       []fault.Fault
	// newMAC are the devices whose MAC is changed: the kernel forgets their
	// neighbours then, permanent ones too.
	newMAC map[string]bool
}

// links changes devices. One that is not there costs what is on it, and is
// reported once.
func (d *differ) links() {
	have := map[string]Link{}
	for _, l := range d.have.Links {
		have[l.Name] = l
	}
	for _, want := range d.want.Links {
		old, there := have[want.Name]
		if !there {
			d.faults = append(d.faults, fault.Fault{
				Code:     fault.KernelRefused,
				Severity: fault.Warning,
				Item:     "device " + want.Name,
				What:     "it is not there: its addresses and routes wait for it",
				Remedy:   "Open vSwitch makes it: 'ovs-vsctl list interface " + want.Name + "' says what is wrong",
			})
			continue
		}
		change := Link{Name: want.Name, Up: want.Up && !old.Up}
		if want.MAC != old.MAC {
			change.MAC = want.MAC
			d.newMAC[want.Name] = true
		}
		if want.MTU != old.MTU {
			change.MTU = want.MTU
		}
		if change != (Link{Name: want.Name}) {
			d.make = append(d.make, SetLink{change})
		}
	}
}

// sysctls leaves out what this kernel does not have. A host that forwards IPv6
// ignores router advertisements unless told otherwise: devices that heeded them
// go on doing so.
func (d *differ) sysctls() {
	if !d.have.known(Sysctls) {
		return
	}
	for _, s := range d.want.Sysctls {
		old, there := d.have.Sysctls[s.Key]
		if !there || old == s.Value {
			continue
		}
		if s.Key == forwardIPv6 {
			for _, key := range slices.Sorted(maps.Keys(d.have.Sysctls)) {
				dev, ok := strings.CutSuffix(strings.TrimPrefix(key, "net/ipv6/conf/"), "/accept_ra")
				if ok && d.have.Sysctls[key] == "1" && dev != "lo" && !strings.HasPrefix(dev, PortPrefix) {
					d.make = append(d.make, SetSysctl{Sysctl{key, "2"}})
				}
			}
		}
		d.make = append(d.make, SetSysctl{s})
	}
}

// addresses are exactly the wanted ones, link-local ones apart, on the devices
// that are wanted.
func (d *differ) addresses() {
	if !d.have.known(Addresses) {
		return
	}
	for _, a := range d.want.Addresses {
		if d.have.Devices[a.Dev] && !slices.Contains(d.have.Addresses, a) {
			verb := Add
			if a.Prefix.Addr().IsLinkLocalUnicast() {
				verb = Replace // the kernel makes it as well, when the link comes up
			}
			d.make = append(d.make, ChangeAddress{verb, a})
		}
	}
	ours := d.ownDevices()
	for _, a := range d.have.Addresses {
		if ours[a.Dev] && !a.Prefix.Addr().IsLinkLocalUnicast() && !slices.Contains(d.want.Addresses, a) {
			d.breaks = append(d.breaks, ChangeAddress{Delete, a})
		}
	}
}

func (d *differ) ownDevices() map[string]bool {
	out := map[string]bool{}
	for _, l := range d.want.Links {
		out[l.Name] = true
	}
	return out
}

// neighbours that are not wanted are left alone.
func (d *differ) neighbours() {
	if !d.have.known(Neighbours) {
		return
	}
	for _, n := range d.want.Neighbours {
		if d.have.Devices[n.Dev] && (d.newMAC[n.Dev] || !slices.Contains(d.have.Neighbours, n)) {
			d.make = append(d.make, SetNeighbour{n})
		}
	}
}

func (d *differ) routes() {
	if !d.have.known(Routes) {
		return
	}
	want, leads := d.wantedRoutes()
	c, faults := route.Diff(want, d.have.Routes)
	d.faults = append(d.faults, faults...)
	for _, r := range c.Add {
		d.make = append(d.make, ChangeRoute{Add, r})
	}
	for _, r := range c.Replace {
		d.make = append(d.make, ChangeRoute{Replace, r})
	}
	for _, r := range c.Remove {
		// Packets that the switch hands over still need it, unless another one
		// leads them to the same node.
		if p := r.Prefix.Masked(); !d.relied[p] || leads[p] {
			d.breaks = append(d.breaks, ChangeRoute{Delete, r})
		}
	}
}

// wantedRoutes returns the routes that can be, and the prefixes of those that
// lead to other nodes.
func (d *differ) wantedRoutes() (want []route.Route, leads map[netip.Prefix]bool) {
	ours := d.ownDevices()
	leads = map[netip.Prefix]bool{}
	for _, r := range d.want.Routes {
		if !r.Unreachable && !d.have.Devices[r.Dev] {
			continue // links has reported it, or it went with its device
		}
		if r.Metric == route.MetricYield && d.needless(r) {
			continue
		}
		want = append(want, r)
		if !r.Unreachable && !ours[r.Dev] {
			leads[r.Prefix.Masked()] = true
		}
	}
	return want, leads
}

// needless reports whether a route that yields is not there, and a foreign one
// that is leads to the same device.
func (d *differ) needless(r route.Route) bool {
	same := func(f route.Foreign) bool { return f.Prefix == r.Prefix.Masked() && f.Dev == r.Dev }
	return !slices.Contains(d.have.Routes.Own, r) && slices.ContainsFunc(d.have.Routes.Foreign, same)
}

func (d *differ) rules() {
	if !d.have.known(Rules) {
		return
	}
	for _, r := range d.want.Rules {
		if !slices.Contains(d.have.Rules, r) {
			d.make = append(d.make, ChangeRule{Add, r})
		}
	}
	for _, r := range d.have.Rules {
		if !slices.Contains(d.want.Rules, r) {
			d.breaks = append(d.breaks, ChangeRule{Delete, r})
		}
	}
}

func (d *differ) nftables() {
	if !d.have.known(NFTables) {
		return
	}
	f := d.want.Firewall
	if NATTable(natTexts(f.NAT)) != d.have.NAT {
		d.make = append(d.make, SetNAT{f.NAT})
	}
	if TunnelTableText(tunnelTexts(f.Tunnels)) != d.have.Tunnels {
		d.make = append(d.make, SetTunnels{f.Tunnels})
	}
	for _, dev := range f.Drops.Devices {
		if d.have.Devices[dev] && !slices.Contains(d.have.Drops, dev) {
			d.make = append(d.make, ChangeDrop{Add, dev})
		}
	}
	for _, dev := range d.have.Drops {
		if !slices.Contains(f.Drops.Devices, dev) && (!f.Drops.Use || !d.have.Devices[dev]) {
			d.breaks = append(d.breaks, ChangeDrop{Delete, dev})
		}
	}
}

// iptables lets pass what other rules may drop, in every kind of iptables that
// has such, and takes away what earlier versions have left.
func (d *differ) iptables() {
	if !d.have.known(Chains) {
		return
	}
	for _, t := range d.have.IPTables {
		want := d.want.Firewall.accepts(t.Family)
		if !AcceptChain.Forces(t.Filter) {
			want = nil
		}
		d.chain(t.Tool, AcceptChain, t.Filter, want)
		d.chain(t.Tool, MasqChain, t.NAT, nil)
	}
}

func (d *differ) chain(tool string, c Chain, have string, want []string) {
	input := c.Change(have, want)
	switch {
	case input == "":
	case len(want) == 0:
		d.breaks = append(d.breaks, Restore{tool, c, input})
	default:
		d.make = append(d.make, Restore{tool, c, input})
	}
}

// Direct returns the subnets of other nodes that packets follow the kernel's
// routes to, so that the switch may hand them over: what is wanted and in place,
// or a routing daemon's.
func Direct(in Input, want State, have Observed) map[topology.SubnetID]bool {
	inPlace := route.InPlace(want.Routes, have.Routes)
	out := map[topology.SubnetID]bool{}
	for _, n := range in.carried(nil) {
		for _, p := range n.Paths(in.OnLink, in.NextHops) {
			if p.Kind == topology.PathRoute && (p.Foreign || inPlace[p.Prefix.Masked()]) {
				out[topology.SubnetID{Network: n.Name, Prefix: p.Prefix}] = true
			}
		}
	}
	return out
}

// Strict reports a filter that drops packets of peers which see this node on
// their link while it does not see them on its own (rp_filter, RFC 3704).
func Strict(in Input, have Observed) []fault.Fault {
	var out []fault.Fault
	for _, n := range in.carried(nil) {
		if n.Transport.Direct() != topology.DirectOnLink {
			continue
		}
		for _, p := range n.Paths(in.OnLink, in.NextHops) {
			// The greater of the two is in force: 1 is strict, 2 loose.
			in := max(have.Sysctls["net/ipv4/conf/all/rp_filter"], have.Sysctls["net/ipv4/conf/"+p.Dev+"/rp_filter"])
			if p.Kind != topology.PathRoute || in != "1" {
				continue
			}
			out = fault.Merge(out, fault.Fault{
				Code: fault.ReversePathStrict, Severity: fault.Warning, Item: "sysctl net.ipv4.conf." + p.Dev + ".rp_filter",
				What:   "strict: while a peer moves to or from the link, its packets are dropped",
				Remedy: fmt.Sprintf("'sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.%s.rp_filter=2'", p.Dev),
			})
		}
	}
	return out
}
