package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

var containerChecks = []check{
	{"endpoints", endpoints}, {"leftovers", leftovers}, {"docker", docker},
}

func endpoints(f *Facts, r *result) {
	if len(f.Endpoints) == 0 {
		if f.Agent.Status == nil && f.Switch.Drift == nil {
			r.unchecked("neither the agent nor Open vSwitch says which endpoints there are")
		}
		r.ok("no endpoint is on this node")
		return
	}
	for i := range f.Endpoints {
		r.endpoint(f, &f.Endpoints[i])
	}
	r.ok(fmt.Sprintf("all endpoints (%d) have their interface, address, MAC, MTU and routes", len(f.Endpoints)))
}

// inside returns a command that does something to an endpoint's interface.
func (e *Endpoint) inside(format string, args ...any) string {
	return "nsenter --net=" + arg(e.Netns) + " " + fmt.Sprintf(format, args...)
}

// endpoint looks at one endpoint. What keeps it from being looked at comes first, and is
// the only finding then.
func (r *result) endpoint(f *Facts, e *Endpoint) {
	item := "endpoint " + e.Name
	if e.Container != "" {
		item += ", container " + e.Container
	}
	add := func(code fault.Code, what, evidence, remedy string, commands ...string) {
		r.found(Finding{
			Code: code, Item: item, What: what, Evidence: evidence, Remedy: remedy, Commands: commands,
			Safe: code == fault.EndpointDown,
		})
	}
	renew := e.renew()
	if f.Agent.Status == nil && renew != nil {
		renew = append([]string{"systemctl start baize"}, renew...)
	}
	switch {
	case e.Inside.Why != nil:
		add(fault.EndpointGone, "its network namespace is not there", e.Inside.Why.What,
			"remove the endpoint, if whatever it was for does not come back", "baize endpoint remove "+arg(e.Name))
		return
	case !e.Inside.OK():
		return
	case !e.Inside.There || !e.Host.There:
		which := "no interface in its namespace has its MAC " + e.MAC + " or its name " + e.Ifname
		if e.Inside.There {
			which = "device " + e.Port + ", its end on the host, is not there"
		}
		add(fault.EndpointGone, which, e.Netns, "attach it again; a container is to be started again", renew...)
		return
	}
	e.link(f.userspace(), add)
	if found := r.addresses(e, item); r.masks(e, item) || found {
		return // its routes follow from its addresses
	}
	r.inner(e, item)
}

// link looks at the two ends of an endpoint, but for addresses.
func (e *Endpoint) link(userspace bool, add func(code fault.Code, what, evidence, remedy string, commands ...string)) {
	if !e.Host.Up {
		add(fault.EndpointDown, "its end on the host is down", "device "+e.Port, "set it up",
			"ip link set dev "+arg(e.Port)+" up")
	}
	if !e.Inside.Up {
		add(fault.EndpointDown, "its interface is down", "interface "+e.Inside.Name,
			"set it up, and restore its addresses and routes",
			append([]string{e.inside("ip link set dev %s up", arg(e.Inside.Name))}, e.restoreIPv6()...)...)
	}
	if e.Inside.NoARP {
		add(fault.EndpointDown, "its interface does not take part in ARP: nobody finds it, and it finds nobody",
			"interface "+e.Inside.Name+": NOARP", "let it", e.inside("ip link set dev %s arp on", arg(e.Inside.Name)))
	}
	if e.Inside.Offload && userspace {
		add(fault.EndpointChecksum, "its kernel leaves checksums to its interface, and the userspace datapath reads "+
			"frames as they are: pings pass, and TCP and UDP do not", "interface "+e.Inside.Name+": tx-checksumming on",
			"switch it off", e.inside("ethtool -K %s tx off", arg(e.Inside.Name)))
	}
	if !strings.EqualFold(e.Inside.MAC, e.MAC) {
		add(fault.EndpointMAC, fmt.Sprintf("its interface has MAC %s, and was given %s: what it sends is dropped",
			e.Inside.MAC, e.MAC),
			"interface "+e.Inside.Name, "give it back", e.inside("ip link set dev %s address %s", arg(e.Inside.Name), e.MAC))
	}
	if e.Host.MTU > 0 && e.Host.MTU < min(e.Inside.MTU, e.MTU) {
		command := fmt.Sprintf("ip link set dev %s mtu %d", arg(e.Port), e.MTU)
		add(fault.EndpointMTU, fmt.Sprintf("its end on the host has MTU %d, its interface %d: larger packets vanish",
			e.Host.MTU, e.Inside.MTU), "device "+e.Port, "raise it", command)
	}
	if e.MTU > 0 && e.Inside.MTU > e.MTU {
		add(fault.EndpointMTU, fmt.Sprintf("its interface has MTU %d, its network %d: larger packets vanish", e.Inside.MTU,
			e.MTU),
			"interface "+e.Inside.Name, "lower it", e.inside("ip link set dev %s mtu %d", arg(e.Inside.Name), e.MTU))
	}
}

// renew is the command that attaches an endpoint anew; a container's engine does it
// itself. An agent that has forgotten it removes nothing.
func (e *Endpoint) renew() []string {
	if e.Engine != "" {
		return nil
	}
	command := fmt.Sprintf("baize endpoint remove %s 2>/dev/null; baize endpoint add %s --network %s --netns %s "+
		"--ifname %s --mac %s",
		arg(e.Name), arg(e.Name), arg(e.Network), arg(e.Netns), arg(e.Ifname), e.MAC)
	for _, a := range e.IPs {
		command += " --ip " + a.String()
	}
	for _, p := range e.Allow {
		command += " --allow " + p.String()
	}
	return []string{command}
}

// restoreIPv6 are the commands that give an interface its IPv6 addresses back, which it
// loses when it goes down (ip-sysctl, keep_addr_on_down).
func (e *Endpoint) restoreIPv6() []string {
	var out []string
	for _, a := range e.IPs {
		if a.Is6() && !e.has(a) {
			out = append(out, e.inside("ip addr add %s dev %s nodad", e.withBits(a), arg(e.Inside.Name)))
		}
	}
	return out
}

func (e *Endpoint) has(a netip.Addr) bool {
	return slices.ContainsFunc(e.Inside.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

// withBits is an address with the length of its network's prefix.
func (e *Endpoint) withBits(a netip.Addr) netip.Prefix {
	for _, p := range e.Prefixes {
		if p.Contains(a) {
			return netip.PrefixFrom(a, p.Bits())
		}
	}
	return netip.PrefixFrom(a, a.BitLen())
}

func (r *result) addresses(e *Endpoint, item string) (found bool) {
	var missing, own []netip.Addr
	var commands []string
	for _, a := range e.IPs {
		// One that is down has lost its IPv6 addresses: that is said already.
		if !e.has(a) && (e.Inside.Up || a.Is4()) {
			missing = append(missing, a)
			commands = append(commands, e.inside("ip addr add %s dev %s", e.withBits(a), arg(e.Inside.Name)))
		}
	}
	for _, p := range e.Inside.Addrs {
		a := p.Addr()
		if !a.IsLinkLocalUnicast() && !a.IsLoopback() && !slices.Contains(e.IPs, a) {
			own = append(own, a)
			commands = append([]string{e.inside("ip addr del %s dev %s", p, arg(e.Inside.Name))}, commands...)
		}
	}
	x := Finding{
		Code: fault.EndpointAddress, Item: item, Commands: commands,
		Evidence: fmt.Sprintf("interface %s has %s; it was given %s", e.Inside.Name, orNone(e.Inside.Addrs), joined(e.IPs)),
		Remedy:   "give it the address it was given; for another one attach it anew, with --ip",
	}
	switch {
	case len(missing) > 0 && len(own) > 0:
		x.What = fmt.Sprintf("its interface has address %s and not %s: what it sends is dropped as spoofed", joined(own),
			joined(missing))
	case len(missing) > 0:
		x.What = "its interface does not have its address " + joined(missing)
	case len(own) > 0:
		x.What = fmt.Sprintf("its interface has address %s of its own making: what it sends from there is dropped as "+
			"spoofed", joined(own))
		x.Severity = fault.Warning
	default:
		return false
	}
	r.found(x)
	return true
}

// masks looks at the lengths of an endpoint's prefixes: to it its network is one Ethernet.
func (r *result) masks(e *Endpoint, item string) (found bool) {
	for _, p := range e.Inside.Addrs {
		want := e.withBits(p.Addr())
		if !slices.Contains(e.IPs, p.Addr()) || p == want || slices.Contains(e.Inside.Addrs, want) || want.IsSingleIP() {
			continue
		}
		r.found(Finding{
			Code: fault.EndpointAddress, Severity: fault.Warning, Item: item,
			What: fmt.Sprintf("its address has the prefix length %d, its network %d: it looks for the others elsewhere",
				p.Bits(), want.Bits()),
			Evidence: fmt.Sprintf("interface %s has %s", e.Inside.Name, orNone(e.Inside.Addrs)),
			Remedy:   "give it that of the network",
			Commands: []string{
				e.inside("ip addr add %s dev %s", want, arg(e.Inside.Name)),
				e.inside("ip addr del %s dev %s", p, arg(e.Inside.Name)),
			},
		})
		found = true
	}
	return found
}

func orNone(list []netip.Prefix) string {
	if len(list) == 0 {
		return "none"
	}
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return strings.Join(out, ", ")
}

func leftovers(f *Facts, r *result) {
	if f.Agent.Status == nil && f.Switch.Drift == nil {
		r.unchecked("neither the agent nor Open vSwitch says which endpoints there are")
		return
	}
	for _, d := range f.Host.Leftovers {
		r.found(Finding{
			Code: fault.Leftover, Item: "device " + d, What: "is named as the end of an endpoint, and belongs to none",
			Remedy: "remove it", Commands: []string{"ip link del dev " + arg(d)},
		})
	}
	r.ok("no device is left over")
}

func docker(f *Facts, r *result) {
	e := f.Engine
	switch {
	case !e.There:
		r.ok("Docker's plugin is not served here")
	case e.Stale:
		r.found(Finding{
			Code: fault.PluginSocketStale, Item: e.Socket,
			What:   "is a socket that nobody serves: Docker waits fifteen seconds for it at each start",
			Remedy: "remove it; an agent that serves the plugin makes it anew", Commands: []string{"rm -f " + e.Socket},
			Safe: true,
		})
	default:
		r.ok("Docker's plugin is served at " + e.Socket)
	}
}
