// Package kernel is the model of what Baize wants of this host's kernel: links,
// addresses, neighbours, routes, rules, sysctls and firewall. It is to the
// kernel what package ovs is to Open vSwitch. Wanted computes a State from the
// node's view of the topology, a Host observes what is there, Diff compares the
// two, and the Change that it returns is applied step by step; states and
// changes print as the shell commands that would do the same. Everything here
// is pure: effects live in kernel/linux, a fake host in kernel/kernelfake.
//
// Only what is Baize's own is ever changed: the devices named bn-…, routes and
// rules of protocol 173, the nftables tables named baize, the iptables chains
// named BAIZE-…. What belongs to others is reported where it stands in the way.
package kernel

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
)

// State is what is wanted of a host's kernel.
type State struct {
	// Links are the host's own ports in networks: devices that Open vSwitch makes.
	Links      []Link        `json:"links"`
	Addresses  []Address     `json:"addresses"`
	Neighbours []Neighbour   `json:"neighbours"`
	Routes     []route.Route `json:"routes"`
	Rules      []Rule        `json:"rules"`
	Sysctls    []Sysctl      `json:"sysctls"`
	Firewall   Firewall      `json:"firewall"`
}

// Link is a device with the settings that it is to have.
type Link struct {
	Name string `json:"name"`
	MAC  string `json:"mac"`
	MTU  int    `json:"mtu"` // in bytes of IP packet
	Up   bool   `json:"up"`
}

// Address is an address of a device, with its mask.
type Address struct {
	Dev    string       `json:"dev"`
	Prefix netip.Prefix `json:"prefix"`
}

// String writes the address as ip-address(8) takes it.
func (a Address) String() string { return a.Prefix.String() + " dev " + a.Dev }

// Neighbour is a permanent entry of the neighbour table.
type Neighbour struct {
	Dev  string     `json:"dev"`
	Addr netip.Addr `json:"addr"`
	MAC  string     `json:"mac"`
}

// String writes the neighbour as ip-neighbour(8) takes it.
func (n Neighbour) String() string {
	return fmt.Sprintf("%s lladdr %s dev %s nud permanent", n.Addr, n.MAC, n.Dev)
}

// Rule is a rule of the routing policy (ip-rule(8)).
type Rule struct {
	Family   topology.Family `json:"family"`
	Priority int             `json:"priority"`
	// From and To are zero where any address matches.
	From  netip.Prefix `json:"from,omitzero"`
	To    netip.Prefix `json:"to,omitzero"`
	Table int          `json:"table"`
}

// String writes the rule as ip-rule(8) takes it.
func (r Rule) String() string {
	from := "all"
	if r.From.IsValid() {
		from = r.From.String()
	}
	s := fmt.Sprintf("priority %d from %s", r.Priority, from)
	if r.To.IsValid() {
		s += " to " + r.To.String()
	}
	return s + fmt.Sprintf(" table %d", r.Table)
}

// Sysctl is a setting of the kernel.
type Sysctl struct {
	// Key is as sysctl(8) takes it where a device's name has dots: with slashes,
	// "net/ipv4/ip_forward".
	Key   string `json:"key"`
	Value string `json:"value"`
}

// String writes the setting as sysctl(8) does.
func (s Sysctl) String() string {
	key := s.Key
	if !strings.Contains(key, ".") { // the name of a device may have dots
		key = strings.ReplaceAll(key, "/", ".")
	}
	return key + "=" + s.Value
}

// The sysctls that make a host a router.
const (
	forwardIPv4 = "net/ipv4/ip_forward"
	forwardIPv6 = "net/ipv6/conf/all/forwarding"
)

// Empty reports whether nothing is wanted.
func (s State) Empty() bool {
	return len(s.Links)+len(s.Addresses)+len(s.Neighbours)+len(s.Routes)+len(s.Rules)+len(s.Sysctls) == 0 &&
		s.Firewall.empty()
}

// String writes the commands that bring a bare host to the state. The host's
// iptables are taken for Docker's, whose policy is to drop.
func (s State) String() string {
	c, _ := Diff(s, s.bare(), nil)
	return c.String()
}

// bare is a host that has the devices and nothing else.
func (s State) bare() Observed {
	o := Observed{Devices: map[string]bool{}, Sysctls: map[string]string{}}
	for _, l := range s.Links {
		o.Links, o.Devices[l.Name] = append(o.Links, Link{Name: l.Name}), true
	}
	for _, r := range s.Routes {
		o.Devices[r.Dev] = true
	}
	for _, d := range s.Firewall.Drops.Devices {
		o.Devices[d] = true
	}
	for _, x := range s.Sysctls {
		o.Sysctls[x.Key] = ""
	}
	for _, f := range families {
		if s.Firewall.accepts(f) != nil {
			o.IPTables = append(o.IPTables, IPTables{Tool: tool(f), Family: f, Filter: "-P FORWARD DROP\n"})
		}
	}
	return o
}

var families = []topology.Family{topology.IPv4, topology.IPv6}

func compareAddresses(a, b Address) int {
	return cmp.Or(cmp.Compare(a.Dev, b.Dev), topology.ComparePrefixes(a.Prefix, b.Prefix))
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
