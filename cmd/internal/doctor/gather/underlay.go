package gather

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// device returns a device of this host.
func (g *gatherer) device(name string) (hostnet.Interface, bool) {
	i := slices.IndexFunc(g.devices, func(d hostnet.Interface) bool { return d.Name == name })
	if i < 0 {
		return hostnet.Interface{}, false
	}
	return g.devices[i], true
}

// underlay looks at what tunnels go by.
func (g *gatherer) underlay(ctx context.Context) {
	u := &g.facts.Underlay
	u.VXLANPort, u.GenevePort = g.cfg.VXLANPort, g.cfg.GenevePort
	if g.snap == nil {
		u.Skipped = "the topology is not known, and so is who the other nodes are"
		return
	}
	self, registered := g.snap.Nodes[g.facts.Node]
	if !registered {
		u.Skipped = "node " + g.facts.Node + " is not registered"
		return
	}
	u.VTEPs = self.VTEPs
	for _, a := range self.VTEPs {
		i := slices.IndexFunc(g.devices, func(d hostnet.Interface) bool {
			return slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
		})
		if i < 0 {
			u.Lacking = append(u.Lacking, a)
		} else if u.Device == "" {
			u.Device = g.devices[i].Name
		}
	}
	if u.Device == "" {
		return
	}
	g.links()
	u.Takers = g.takers()
	u.ReversePath = reversePaths()
	u.Neighbours = neighbours()
	view := g.snap.View(g.facts.Node)
	g.encaps(view)
	g.needs(view)
	g.forwards(view)
	u.Shaping = g.shaping(ctx)
	g.peers(ctx, view)
}

// links looks at the device of the underlay, and at those below it.
func (g *gatherer) links() {
	u := &g.facts.Underlay
	u.Below = g.below(u.Device)
	for _, name := range append([]string{u.Device}, u.Below...) {
		// Open vSwitch's own devices never have a carrier.
		d, there := g.device(name)
		if there && (u.MTU == 0 || d.MTU <= u.MTU) { // of two the one below, which the other follows
			u.MTU, u.MTUDevice = d.MTU, name
		}
		switch {
		case there && !d.Up:
			u.Down = append(u.Down, name)
		case there && name != u.Device && !d.Carrier:
			u.NoCarrier = append(u.NoCarrier, name)
		case there && name == u.Device && d.NoARP && len(d.MAC) > 0: // point to point links have no address
			u.NoARP = append(u.NoARP, name)
		}
	}
}

// below returns the devices that the packets of a device pass as well.
func (g *gatherer) below(dev string) []string {
	out := map[string]bool{}
	if g.observed != nil {
		for port, bridge := range g.observed.Foreign {
			if bridge == dev && port != dev {
				out[port] = true
			}
		}
	}
	for _, d := range g.devices {
		if d.Master == dev {
			out[d.Name] = true
		}
	}
	if d, ok := g.device(dev); ok && d.Parent != "" {
		out[d.Parent] = true
	}
	for name := range out {
		if _, there := g.device(name); !there {
			delete(out, name) // a tunnel's port, a patch
		}
	}
	return slices.Sorted(maps.Keys(out))
}

func (g *gatherer) encaps(view topology.View) {
	seen := map[string]bool{}
	for _, n := range view.Networks {
		for _, p := range n.Peers {
			if p.Encap != "" {
				seen[string(p.Encap)] = true
			}
		}
	}
	g.facts.Underlay.Encaps = slices.Sorted(maps.Keys(seen))
}

// needs finds the largest packet that a network may send to another node.
func (g *gatherer) needs(view topology.View) {
	u := &g.facts.Underlay
	for _, n := range view.Networks {
		for _, p := range n.Peers {
			for _, a := range p.VTEPs[:min(1, len(p.VTEPs))] {
				if need := n.MTU + topology.Overhead(n.Transport, topology.FamilyOf(a)); need > u.Need {
					u.Need, u.NeedOf = need, fmt.Sprintf("network %s with its MTU of %d", n.Name, n.MTU)
				}
			}
		}
	}
}

// forwards are the ways of packets from other nodes that this host's kernel forwards.
func (g *gatherer) forwards(view topology.View) {
	names := pipeline.NamesOf(view)
	for _, n := range view.Networks {
		if !n.Transport.Routed() || len(n.Subnets) == 0 {
			continue
		}
		g.refusals(n)
		for _, p := range n.Peers {
			for _, theirs := range p.Subnets {
				i := slices.IndexFunc(n.Subnets, func(s netip.Prefix) bool { return s.Addr().Is4() == theirs.Addr().Is4() })
				if i < 0 {
					continue
				}
				g.facts.Host.Forwards = append(g.facts.Host.Forwards, doctor.Forward{
					Network: n.Name, Node: p.Node, From: third(theirs), To: third(n.Subnets[i]),
					In: g.facts.Underlay.Device, Out: names.Host(n.Name),
				})
			}
		}
	}
}

// third is an address of a subnet that an endpoint may have.
func third(p netip.Prefix) netip.Addr { return p.Addr().Next().Next() }

// takers finds who else has the UDP ports of the tunnels.
func (g *gatherer) takers() []doctor.Taker {
	ports := []int{g.cfg.VXLANPort, g.cfg.GenevePort}
	var out []doctor.Taker
	for _, d := range g.devices {
		own := strings.HasPrefix(d.Name, "vxlan_sys_") || strings.HasPrefix(d.Name, "genev_sys_")
		if slices.Contains(ports, d.UDPPort) && d.UDPPort != 0 && !own {
			out = append(out, doctor.Taker{Port: d.UDPPort, Device: d.Name})
		}
	}
	inodes := map[string]int{}
	for _, file := range []string{"/proc/self/net/udp", "/proc/self/net/udp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 10 {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseInt(hex, 16, 32)
			// Sockets of the kernel's own have no inode.
			if err == nil && slices.Contains(ports, int(port)) && f[9] != "0" {
				inodes["socket:["+f[9]+"]"] = int(port)
			}
		}
	}
	return append(out, owners(inodes)...)
}

// owners finds the processes of sockets.
func owners(inodes map[string]int) []doctor.Taker {
	if len(inodes) == 0 {
		return nil
	}
	var out []doctor.Taker
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	seen := map[string]bool{}
	for _, l := range links {
		to, err := os.Readlink(l)
		port, ok := inodes[to]
		if err != nil || !ok {
			continue
		}
		pid := strings.Split(l, "/")[2]
		if seen[pid+to] {
			continue
		}
		seen[pid+to] = true
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		n, _ := strconv.Atoi(pid)
		out = append(out, doctor.Taker{Port: port, Process: strings.TrimSpace(string(name)), PID: n})
	}
	return out
}

func number(file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

func reversePaths() map[string]int {
	out := map[string]int{}
	files, _ := filepath.Glob("/proc/sys/net/ipv4/conf/*/rp_filter")
	for _, f := range files {
		out[filepath.Base(filepath.Dir(f))] = number(f)
	}
	return out
}

// shaping lists what tc(8) does to the packets of the underlay.
func (g *gatherer) shaping(ctx context.Context) []doctor.Shaping {
	var out []doctor.Shaping
	for _, dev := range append([]string{g.facts.Underlay.Device}, g.facts.Underlay.Below...) {
		text, err := run(ctx, "tc", "qdisc", "show", "dev", dev)
		if err != nil {
			continue
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			switch f[1] {
			case "netem", "tbf":
				out = append(out, doctor.Shaping{Device: dev, Line: line, Undo: "tc qdisc del dev " + dev + " root"})
			case "clsact", "ingress":
				out = append(out, filters(ctx, dev, f[1])...)
			}
		}
	}
	return out
}

// filters lists the filters of a device that drop.
func filters(ctx context.Context, dev, kind string) []doctor.Shaping {
	var out []doctor.Shaping
	for _, side := range []string{"ingress", "egress"} {
		if side == "egress" && kind == "ingress" {
			continue
		}
		text, err := run(ctx, "tc", "filter", "show", "dev", dev, side)
		if err != nil || !strings.Contains(text, "action drop") {
			continue
		}
		out = append(out, doctor.Shaping{
			Device: dev, Line: strings.Join(strings.Fields(side+" "+text), " "),
			Undo: fmt.Sprintf("tc filter del dev %s %s", dev, side),
		})
	}
	return out
}

const (
	// echoes is how many are sent to each peer, echoWait is how long one is waited for.
	echoes   = 3
	echoWait = time.Second
	// atATime is how many peers are asked at the same time, mostPeers how many at all.
	atATime   = 16
	mostPeers = 128
)

// peers finds the way to each other node of this node's networks, and asks it.
func (g *gatherer) peers(ctx context.Context, view topology.View) {
	seen := map[netip.Addr]bool{}
	var all []doctor.Peer
	for _, n := range view.Networks {
		for _, p := range n.Peers {
			for _, a := range p.VTEPs {
				_, alive := g.snap.Alive[p.Node]
				reachable := slices.ContainsFunc(g.facts.Underlay.VTEPs, func(own netip.Addr) bool { return own.Is4() == a.Is4() })
				if !seen[a] && reachable {
					seen[a] = true
					all = append(all, doctor.Peer{Node: p.Node, Addr: a, Alive: alive, Here: g.deviceWith(a)})
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b doctor.Peer) int { return a.Addr.Compare(b.Addr) })
	slots := make(chan struct{}, atATime)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			way(ctx, &all[i])
			if i < mostPeers && all[i].RouteError == "" {
				ask(ctx, &all[i])
			}
		})
	}
	wg.Wait()
	g.facts.Underlay.Peers = all
}

// deviceWith is the device of this host that has an address, with its prefix; empty where none has.
func (g *gatherer) deviceWith(a netip.Addr) (here doctor.Assigned) {
	for _, d := range g.devices {
		for _, p := range d.Addrs {
			if p.Addr() == a {
				return doctor.Assigned{Device: d.Name, Prefix: p}
			}
		}
	}
	return here
}

// way asks the kernel how a peer is reached.
func way(ctx context.Context, p *doctor.Peer) {
	p.Policies = blockingPolicies(p.Addr)
	routes, err := netlink.RouteGet(p.Addr.AsSlice())
	if err == nil && len(routes) > 0 {
		if l, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
			p.Dev = l.Attrs().Name
		}
		hop := p.Addr
		if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
			hop = gw.Unmap()
			p.Via = hop.String()
		}
		p.Fixed = fixed(routes[0].LinkIndex, hop)
		return
	}
	if err == nil {
		return
	}
	if p.RouteError = refusal(err); p.RouteError == "" {
		p.RouteError = err.Error()
		return
	}
	p.Blocked = refusing(ctx, p.Addr)
}

// refusing is the route that refuses packets to an address, as ip(8) prints it; empty where
// none of the main table does.
func refusing(ctx context.Context, to netip.Addr) string {
	family := "-4"
	if to.Is6() {
		family = "-6"
	}
	for _, kind := range []string{"blackhole", "unreachable", "prohibit"} {
		out, err := run(ctx, "ip", family, "route", "show", "type", kind, "match", to.String())
		if line, _, _ := strings.Cut(strings.TrimSpace(out), "\n"); err == nil && line != "" {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// fixed is the link address that somebody wrote down for a neighbour; empty where nobody did.
func fixed(link int, a netip.Addr) string {
	list, _ := netlink.NeighList(link, 0)
	for _, n := range list {
		if have, ok := netip.AddrFromSlice(n.IP); ok && have.Unmap() == a && n.State&unix.NUD_PERMANENT != 0 {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

// refusal says what kind of route refuses a packet; empty where the error is another one.
func refusal(err error) string {
	switch {
	case errors.Is(err, unix.EINVAL):
		return "a blackhole takes its packets"
	case errors.Is(err, unix.EACCES):
		return "a route prohibits it"
	case errors.Is(err, unix.EHOSTUNREACH):
		return "a route says unreachable"
	case errors.Is(err, unix.ENETUNREACH):
		return "there is no route"
	}
	return ""
}

// refusals looks for what keeps packets of a network that is routed from other nodes.
func (g *gatherer) refusals(n topology.NetworkView) {
	refusing := refusingRoutes(n)
	for to, kind := range refusing {
		g.facts.Host.Refusals = append(g.facts.Host.Refusals, doctor.Refusal{
			Network: n.Name, To: to.String(), Why: "a route says " + kind, Route: kind + " " + to.String(),
		})
	}
	for _, p := range n.Peers {
		for _, theirs := range p.Subnets {
			to := third(theirs)
			_, err := netlink.RouteGet(to.AsSlice())
			told := slices.ContainsFunc(slices.Collect(maps.Keys(refusing)), func(r netip.Prefix) bool { return r.Contains(to) })
			if why := refusal(err); err != nil && why != "" && !told {
				g.facts.Host.Refusals = append(g.facts.Host.Refusals, doctor.Refusal{
					Network: n.Name, Node: p.Node, To: to.String(), Why: why,
				})
			}
		}
	}
}

// refusingRoutes are those of others in the main table that refuse packets of a network:
// blackhole, unreachable or prohibit, by destination.
func refusingRoutes(n topology.NetworkView) map[netip.Prefix]string {
	kinds := map[int]string{
		unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit",
	}
	out := map[netip.Prefix]string{}
	main := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	list, _ := netlink.RouteListFiltered(netlink.FAMILY_ALL, main, netlink.RT_FILTER_TABLE)
	for _, x := range list {
		if x.Dst == nil || kinds[x.Type] == "" || x.Protocol == route.Protocol {
			continue
		}
		a, _ := netip.AddrFromSlice(x.Dst.IP)
		bits, _ := x.Dst.Mask.Size()
		if n.Prefix(topology.FamilyOf(a.Unmap())).Contains(a.Unmap()) {
			out[netip.PrefixFrom(a.Unmap(), bits)] = kinds[x.Type]
		}
	}
	return out
}

// ask sends ICMP echoes.
func ask(ctx context.Context, p *doctor.Peer) {
	conn, err := probe.ListenICMP(p.Addr)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	e, _ := probe.Ping(ctx, conn, p.Addr, echoes, echoWait)
	p.Sent, p.Answered = e.Sent, e.Received
}
