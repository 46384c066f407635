package gather

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// netfilter reads the packet filter's rules.
func (g *gatherer) netfilter(ctx context.Context) {
	h := &g.facts.Host
	out, err := run(ctx, "nft", "-a", "list", "ruleset")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		h.Netfilter.Skipped = "nft is not installed, which shows the rules: apt-get install nftables"
	case err != nil:
		h.Netfilter.Why = &fault.Fault{Code: fault.KernelUnavailable, Item: "nft list ruleset", What: err.Error()}
	}
	h.NFTables = out
	// To look at a table of iptables-legacy makes it: only at those that are there.
	for _, t := range []struct {
		file, tool string
		to         *string
	}{
		{"/proc/thread-self/net/ip_tables_names", "iptables-legacy-save", &h.Legacy},
		{"/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save", &h.Legacy6},
	} {
		if b, err := os.ReadFile(t.file); err == nil && strings.TrimSpace(string(b)) != "" {
			*t.to, _ = run(ctx, t.tool)
		}
	}
}

// host looks at what is left of the kernel.
func (g *gatherer) host(context.Context) {
	h := &g.facts.Host
	h.Conntrack = number("/proc/sys/net/netfilter/nf_conntrack_count")
	h.ConntrackMax = number("/proc/sys/net/netfilter/nf_conntrack_max")
	g.leftovers()
	e := &g.facts.Engine
	e.Socket = g.cfg.PluginSocket
	if _, err := os.Lstat(e.Socket); err != nil {
		return
	}
	e.There = true
	conn, err := net.DialTimeout("unix", e.Socket, time.Second)
	if err != nil {
		e.Stale = true
		return
	}
	_ = conn.Close()
}

// leftovers finds devices named as those of endpoints that no endpoint and no port has.
func (g *gatherer) leftovers() {
	known := map[string]bool{}
	for _, e := range g.own {
		known[e.Port] = true
	}
	if g.observed != nil {
		for name := range g.observed.Ports {
			known[name] = true
		}
	}
	if st := g.facts.Agent.Status; st != nil {
		for _, e := range st.Endpoints {
			known[e.Port] = true
		}
		for _, s := range st.Segments {
			known[s.Port] = true
		}
	}
	names, err := hostnet.Veths(hostnet.HostPrefix)
	if err != nil {
		return
	}
	now, _ := hostnet.Interfaces("")
	for _, name := range names {
		// One that is on its way is no leftover: it was not there when this began.
		before := slices.ContainsFunc(g.devices, func(d hostnet.Interface) bool { return d.Name == name })
		bridged := slices.ContainsFunc(now, func(d hostnet.Interface) bool { return d.Name == name && d.Master != "" })
		if !known[name] && before && !bridged {
			g.facts.Host.Leftovers = append(g.facts.Host.Leftovers, name)
		}
	}
}

// endpoints looks at every endpoint, and into its namespace.
func (g *gatherer) endpoints(ctx context.Context) {
	var view topology.View
	if g.snap != nil {
		view = g.snap.View(g.facts.Node)
	}
	for _, e := range g.known() {
		x := doctor.Endpoint{
			Name: e.Name, Network: e.Network, Port: e.Port, Netns: e.Netns, Ifname: e.Ifname, IPs: e.IPs, MAC: e.MAC,
			Engine: e.Engine, Container: e.Container, Allow: e.Allow,
		}
		n, carried := view.Find(e.Network)
		if carried {
			x.MTU, x.Prefixes = n.MTU, n.Prefixes()
		}
		if d, there := g.device(e.Port); there {
			x.Host = interfaceOf(d)
		}
		x.Inside = inside(e)
		if g.facts.Switch.Datapath == "netdev" && x.Inside.There {
			x.Inside.Offload, _ = hostnet.ChecksumOffload(e.Netns, x.Inside.Name)
		}
		if carried && x.Inside.There && x.Inside.Up {
			x.Inner = inner(ctx, &x, n)
		}
		g.facts.Endpoints = append(g.facts.Endpoints, x)
	}
}

// known are the endpoints of this node: those that the agent tells, or, where it does not
// answer, those of its file and of Open vSwitch.
func (g *gatherer) known() []api.Endpoint {
	if st := g.facts.Agent.Status; st != nil {
		return st.Endpoints
	}
	all := slices.Clone(g.own)
	if g.observed != nil {
		more, _ := g.observed.Endpoints()
		for _, e := range more {
			if !slices.ContainsFunc(all, func(x ovs.Endpoint) bool { return x.Port == e.Port }) {
				all = append(all, e)
			}
		}
	}
	out := make([]api.Endpoint, len(all))
	for i, e := range all {
		out[i] = api.EndpointOf(e)
	}
	return out
}

func interfaceOf(d hostnet.Interface) doctor.Interface {
	return doctor.Interface{There: true, Name: d.Name, Up: d.Up, MTU: d.MTU, MAC: d.MAC.String(), Addrs: d.Addrs,
		NoARP: d.NoARP}
}

// inside looks for the interface of an endpoint in its namespace: by its name, or, where
// an engine named it, by its MAC.
func inside(e api.Endpoint) doctor.Interface {
	var out doctor.Interface
	if e.Netns == "" {
		out.Skipped = "its namespace is not known"
		return out
	}
	list, err := hostnet.Interfaces(e.Netns)
	if err != nil {
		x := fault.Of(err)
		out.Why = &x
		if !errors.Is(err, topology.ErrNotFound) {
			out.Why, out.Skipped = nil, x.What
		}
		return out
	}
	named := func(d hostnet.Interface) bool { return e.Ifname != "" && d.Name == e.Ifname }
	addressed := func(d hostnet.Interface) bool {
		return strings.EqualFold(d.MAC.String(), e.MAC) ||
			slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool { return slices.Contains(e.IPs, p.Addr()) })
	}
	for _, is := range []func(hostnet.Interface) bool{named, addressed} {
		if i := slices.IndexFunc(list, is); i >= 0 {
			return interfaceOf(list[i])
		}
	}
	return out
}
