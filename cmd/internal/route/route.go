// Package route keeps Baize's routes in this host's kernel. What is wanted is
// a plain value ([]Route); what is there is read back every time; Diff, which
// is pure, compares the two, and Apply does the difference.
//
// Routes of Baize are those of Protocol in the main table, and no others: a
// foreign route is never changed or removed, and reported where it stands in
// the way. Nothing is remembered, and nothing is torn down on exit.
package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Protocol is the number by which Baize's routes are told from others
// (rtnetlink(7), rtm_protocol): 'ip route show proto 173'. It is none of
// /etc/iproute2/rt_protos; 186, which one might expect of Baize, is BGP's.
const Protocol = 173

// Metrics of the routes. The kernel gives an IPv6 route without one the same.
const (
	metricIPv4 = 0
	metricIPv6 = 1024
)

// MetricYield is the metric of routes that any other goes before, and may: of a
// docker0 that has the node's subnet, for example. It is no problem then.
const MetricYield = 17300

// Route is one route of the main table. It is a comparable value.
type Route struct {
	Prefix netip.Prefix `json:"prefix"`
	// Via is the next hop's address; zero: the prefix is on the device's link.
	Via netip.Addr `json:"via,omitzero"`
	// Dev is the device's name; empty for an unreachable route.
	Dev string `json:"dev,omitempty"`
	// Src is the source address of the host's own packets; zero: the kernel's
	// choice.
	Src netip.Addr `json:"src,omitzero"`
	// Unreachable refuses packets with an ICMP message, so that they do not
	// leave by the default route.
	Unreachable bool `json:"unreachable,omitempty"`
	// Metric is the kernel's priority, low before high; 0: the family's usual
	// (0 for IPv4, 1024 for IPv6).
	Metric int `json:"metric,omitempty"`
}

func (r Route) metric() int {
	if r.Metric == 0 && r.Prefix.Addr().Is6() {
		return metricIPv6
	}
	return r.Metric
}

// UsedMetric returns the metric that the kernel gives the route.
func (r Route) UsedMetric() int { return r.metric() }

// normal returns the one way of writing a route.
func (r Route) normal() Route {
	r.Prefix, r.Metric = r.Prefix.Masked(), r.metric()
	return r
}

// String writes the route as ip-route(8) takes it.
func (r Route) String() string {
	s := r.Prefix.String()
	if r.Unreachable {
		s = "unreachable " + s
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Dev != "" && !r.Unreachable {
		s += " dev " + r.Dev
	}
	if r.Src.IsValid() {
		s += " src " + r.Src.String()
	}
	if m := r.metric(); m != 0 {
		s += fmt.Sprintf(" metric %d", m)
	}
	return s
}

// key is what the kernel tells routes of one table apart by.
type key struct {
	prefix netip.Prefix
	metric int
}

func (r Route) key() key { return key{r.Prefix.Masked(), r.metric()} }

// Foreign is a route of somebody else.
type Foreign struct {
	Route
	// Protocol is the kernel's number of who made it (rt_protos).
	Protocol int
}

// daemons are the protocol numbers of routing daemons (rtnetlink.h, rt_protos).
var daemons = map[int]string{
	11:  "zebra",
	12:  "bird",
	42:  "babel",
	99:  "openr",
	186: "bgp",
	187: "isis",
	188: "ospf",
	189: "rip",
	192: "eigrp",
}

// ProtocolName returns the protocol's name where it is a routing daemon's, or
// its number.
func (f Foreign) ProtocolName() string {
	if name := daemons[f.Protocol]; name != "" {
		return name
	}
	return strconv.Itoa(f.Protocol)
}

// Before reports whether the kernel prefers the route to one of ours for the
// same prefix, or has it in its place.
func (f Foreign) Before(r Route) bool { return f.metric() <= r.metric() }

// Dynamic returns the routes of routing daemons by their prefixes, where they
// are the best that are not ours and lead to a router.
func Dynamic(o Observed) map[netip.Prefix]Foreign {
	out := map[netip.Prefix]Foreign{}
	for p, f := range bestForeign(o) {
		if daemons[f.Protocol] != "" && !f.Unreachable && f.Via.IsValid() {
			out[p] = f
		}
	}
	return out
}

// bestForeign returns, of the foreign routes of each prefix, the one that the
// kernel prefers.
func bestForeign(o Observed) map[netip.Prefix]Foreign {
	out := map[netip.Prefix]Foreign{}
	for _, f := range o.Foreign {
		p := f.Prefix.Masked()
		if old, ok := out[p]; !ok || f.metric() < old.metric() {
			out[p] = f
		}
	}
	return out
}

// Observed are the routes of the main table.
type Observed struct {
	Own     []Route
	Foreign []Foreign
}

// Change is what one Apply is to do, in this order: Add and Replace, which
// make, and Remove, which breaks.
type Change struct {
	Add, Replace, Remove []Route
}

// Empty reports whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Add)+len(c.Replace)+len(c.Remove) == 0 }

// Size returns how many routes are changed.
func (c Change) Size() int { return len(c.Add) + len(c.Replace) + len(c.Remove) }

// Diff compares what is wanted with what is there. A wanted route whose place
// another occupies is left out and becomes a fault; so does a foreign route
// that the kernel would prefer to ours. Of two wanted routes for one place the
// first is taken.
func Diff(want []Route, have Observed) (Change, []fault.Fault) {
	var c Change
	var problems []fault.Fault
	foreign := bestForeign(have)
	own := make(map[key]Route, len(have.Own))
	for _, r := range have.Own {
		own[r.key()] = r.normal()
	}
	wanted := make(map[key]bool, len(want))
	for _, r := range want {
		k := r.key()
		if wanted[k] {
			continue
		}
		wanted[k] = true
		old, there := own[k]
		if f, ok := foreign[k.prefix]; ok && f.metric() <= r.metric() && r.metric() < MetricYield {
			problems = append(problems, conflict(r, f))
			if f.metric() == r.metric() && !there {
				continue
			}
		}
		switch {
		case !there:
			c.Add = append(c.Add, r.normal())
		case old != r.normal():
			c.Replace = append(c.Replace, r.normal())
		}
	}
	for k, r := range own {
		if !wanted[k] {
			c.Remove = append(c.Remove, r)
		}
	}
	slices.SortFunc(c.Remove, func(a, b Route) int {
		return cmp.Or(topology.ComparePrefixes(a.Prefix, b.Prefix), cmp.Compare(a.Metric, b.Metric))
	})
	return c, problems
}

func conflict(r Route, f Foreign) fault.Fault {
	return fault.Fault{
		Code:     fault.RouteForeign,
		Severity: fault.Error,
		Item:     "route " + r.Prefix.String(),
		What: fmt.Sprintf(
			"another route occupies its place: %s (protocol %d): it is left alone, and packets follow it",
			f.Route,
			f.Protocol,
		),
		// Quoting the foreign route lets a person delete that very one.
		Remedy: fmt.Sprintf(
			"'ip route del %s proto %d' if nobody needs it, or choose another prefix for the network",
			f.Route,
			f.Protocol,
		),
	}
}
