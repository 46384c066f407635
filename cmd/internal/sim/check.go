package sim

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	model "github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/topology"
)

// rest is longer than agents take to look at a kernel that reports nothing, and
// than the liveness key of an earlier life lasts that a backup brought back.
const rest = time.Minute

// shortGrace is a grace after which all that is not needed is gone while World.Settle
// waits.
const shortGrace = 20 * time.Second

// mostPairs bounds the pairs of endpoints that are tried with packets.
const mostPairs = 200

// attached is an endpoint that has to work.
type attached struct {
	node *Node
	net  string
	name string
	port string
	ips  []netip.Addr
	mac  net.HardwareAddr
}

// Check returns what is not as it must be, when nothing is harmed any more: two
// owners of a subnet, an address twice, an endpoint that is lost or that another
// does not reach, a packet that arrives where it should not.
func (w *World) Check() []string {
	var found []string
	bad := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	s := w.Snapshot()
	checkOwners(s, bad)
	var all []attached
	for _, n := range w.Nodes {
		if err := n.Ended(); err != nil || !n.Runs() {
			bad("%s: no agent runs: %v", n.Hostname, err)
			continue
		}
		all = append(all, n.checkEndpoints(s, bad)...)
	}
	seen := map[string]attached{}
	for _, e := range all {
		for _, ip := range e.ips {
			key := e.net + " " + ip.String()
			if o, twice := seen[key]; twice {
				bad("address %s in network %s: %s on %s, and %s on %s", ip, e.net, o.name, o.node.Name, e.name, e.node.Name)
			}
			seen[key] = e
		}
	}
	w.checkPackets(all, bad)
	for _, n := range w.Nodes {
		if n.Runs() {
			w.checkNeeds(s, n, bad)
		}
	}
	w.checkFlooding(s, all, bad)
	return found
}

// Needs reports whether the node's agent needs a network.
func (n *Node) Needs(network string) bool {
	known := n.Attach().Known().Get()
	return slices.Contains(n.Ahead, network) || slices.ContainsFunc(known.All(), func(e ovs.Endpoint) bool {
		return e.Network == network
	})
}

// checkNeeds looks for networks that a node needs and has no subnets in, and, where
// the grace is short, for those that it has a part of without a need.
func (w *World) checkNeeds(s *topology.Snapshot, n *Node, bad func(string, ...any)) {
	for _, net := range s.SortedNetworks() {
		own := s.NodeSubnets(net.Name, n.Name)
		switch {
		case n.Needs(net.Name):
			if net.Deleting == "" && len(own) < len(net.Families()) {
				bad("%s: it needs network %s, and leases %v", n.Name, net.Name, own)
			}
		case w.LeaseGrace > shortGrace:
		case slices.ContainsFunc(own, func(sub topology.Subnet) bool { return !sub.Reserved }):
			bad("%s: nothing needs network %s, and it leases %v", n.Name, net.Name, own)
		case len(own) == 0 && len(n.Traces(net.Name)) > 0:
			bad("%s: nothing needs network %s, and there is %v", n.Name, net.Name, n.Traces(net.Name))
		}
	}
}

// checkFlooding looks for nodes that get the broadcasts of a network that they need
// not.
func (w *World) checkFlooding(s *topology.Snapshot, all []attached, bad func(string, ...any)) {
	if w.LeaseGrace > shortGrace {
		return
	}
	f := w.fabric()
	for _, a := range all {
		seen := map[*ovsfake.Switch]bool{}
		f.Seen = func(s *ovsfake.Switch) { seen[s] = true }
		f.Send(a.node.Switch, a.port, forward.IP(a.mac, forward.Broadcast, a.ips[0], netip.IPv4Unspecified()))
		for _, n := range w.Nodes {
			if n != a.node && seen[n.Switch] && n.Runs() && !n.Needs(a.net) && len(s.NodeSubnets(a.net, n.Name)) == 0 {
				bad("%s: it does not need network %s, and gets the broadcasts of %s/%s", n.Name, a.net, a.node.Name, a.name)
			}
		}
	}
}

// checkOwners looks for subnets of different nodes that overlap.
func checkOwners(s *topology.Snapshot, bad func(string, ...any)) {
	subnets := s.SortedSubnets()
	for i, a := range subnets {
		for _, b := range subnets[i+1:] {
			if a.Network == b.Network && a.Node != b.Node && a.Prefix.Overlaps(b.Prefix) {
				bad("subnets %s of %s and %s of %s overlap", a.Prefix, a.Node, b.Prefix, b.Node)
			}
		}
	}
}

// checkEndpoints returns those of the node whose networks exist.
func (n *Node) checkEndpoints(s *topology.Snapshot, bad func(string, ...any)) []attached {
	ports, _ := n.Switch.State()
	known := map[string]bool{}
	var out []attached
	for _, e := range n.Attach().Endpoints() {
		known[e.Network+"/"+e.Name] = true
		if _, ok := s.Networks[e.Network]; !ok {
			continue
		}
		p, there := ports[e.Port]
		switch {
		case !there:
			bad("%s: endpoint %s/%s has no port", n.Name, e.Network, e.Name)
		case !p.Live():
			bad("%s: endpoint %s/%s: port %s: %s", n.Name, e.Network, e.Name, e.Port, p.Error)
		default:
			out = append(out, attached{n, e.Network, e.Name, e.Port, e.IPs, e.MAC})
		}
	}
	for _, name := range n.wanted() {
		if !known[name] {
			bad("%s: endpoint %s is lost", n.Name, name)
		}
	}
	return out
}

// checkPackets sends packets between endpoints of a network: each arrives at
// its owner's port and nowhere else.
func (w *World) checkPackets(all []attached, bad func(string, ...any)) {
	slices.SortFunc(all, func(a, b attached) int {
		return cmpStrings(a.net, b.net, a.node.Name, b.node.Name, a.name, b.name)
	})
	var pairs [][2]attached
	for i, a := range all {
		for j, b := range all {
			if i != j && a.net == b.net {
				pairs = append(pairs, [2]attached{a, b})
			}
		}
	}
	if len(pairs) > mostPairs {
		w.rng.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
		pairs = pairs[:mostPairs]
	}
	f := w.fabric()
	for _, p := range pairs {
		a, b := p[0], p[1]
		for i := range min(len(a.ips), len(b.ips)) {
			w.checkPacket(f, a, b, i, bad)
		}
	}
}

// checkPacket sends a packet from a to b's address number i, as an endpoint does:
// to the link address that it was told when it asked.
func (w *World) checkPacket(f *ovsfake.Fabric, a, b attached, i int, bad func(string, ...any)) {
	try := func(kind string, to attached, out []ovsfake.Arrival, lost int) bool {
		if len(out) == 1 && lost == 0 && out[0].Switch == to.node.Switch && out[0].Port == to.port {
			return true
		}
		var where []string
		for _, o := range out {
			where = append(where, w.owner(o.Switch)+"/"+o.Port)
		}
		bad("%s from %s/%s %s to %s/%s %s arrives at %v, %d lost", kind,
			a.node.Name, a.name, a.ips[i], b.node.Name, b.name, b.ips[i], where, lost)
		return false
	}
	mac, who := b.mac, b
	routed := w.transports[a.net] == topology.Route && a.node != b.node
	if routed {
		who = a // its own switch answers
	}
	out, lost := f.Send(a.node.Switch, a.port, forward.Who(a.mac, a.ips[i], b.ips[i]))
	if !try("question", who, out, lost) {
		return
	}
	if routed {
		mac = out[0].Packet.MAC(forward.EthSrc)
	}
	out, lost = f.Send(a.node.Switch, a.port, forward.IP(a.mac, mac, a.ips[i], b.ips[i]))
	if len(out) == 1 && lost == 0 && out[0].Switch == a.node.Switch && out[0].Port == model.PortPrefix+a.net {
		out, lost = w.route(f, a, b, i)
	}
	try("packet", b, out, lost)
}

// route is what the kernels make of a packet that came to the host's own port of
// a network.
func (w *World) route(f *ovsfake.Fabric, a, b attached, i int) (out []ovsfake.Arrival, lost int) {
	from, to := a.ips[i], b.ips[i]
	n := a.node
	for range 3 {
		o, err := n.kernel.fake.Observe(context.Background(), model.Query{})
		if err != nil {
			return nil, 1
		}
		r := way(o, to)
		switch {
		case r.Dev == "" || r.Unreachable:
			return nil, 1
		case !r.Via.IsValid() && strings.HasPrefix(r.Dev, model.PortPrefix):
			l := slices.IndexFunc(o.Links, func(l model.Link) bool { return l.Name == r.Dev })
			mac, err := net.ParseMAC(o.Links[l].MAC)
			require.NoError(w.t, err)
			// The kernel asks for who has it, unless it has been told.
			return f.Send(n.Switch, r.Dev, forward.IP(mac, b.mac, from, to))
		}
		w.mu.Lock()
		down := w.down[[2]netip.Addr{n.VTEP, r.Via}]
		w.mu.Unlock()
		next := slices.IndexFunc(w.Nodes, func(n *Node) bool { return n.VTEP == r.Via })
		if down || next < 0 {
			return nil, 1
		}
		n = w.Nodes[next]
	}
	return nil, 1 // in circles
}

// SendRouted sends a packet from behind a host, which routes it, and says where it
// comes out: at which ports of which nodes.
func (w *World) SendRouted(n *Node, from, to netip.Addr) (where []string) {
	o, err := n.kernel.fake.Observe(context.Background(), model.Query{})
	require.NoError(w.t, err)
	r := way(o, to)
	l := slices.IndexFunc(o.Links, func(l model.Link) bool { return l.Name == r.Dev })
	if l < 0 || r.Unreachable {
		return nil
	}
	mac, err := net.ParseMAC(o.Links[l].MAC)
	require.NoError(w.t, err)
	out, lost := w.fabric().Send(n.Switch, r.Dev, forward.IP(mac, topology.AnyRouterMAC(), from, to))
	for _, a := range out {
		where = append(where, w.owner(a.Switch)+"/"+a.Port)
	}
	for range lost {
		where = append(where, "lost in a tunnel")
	}
	return where
}

// way is the route of a kernel to an address.
func way(o model.Observed, to netip.Addr) (best route.Route) {
	all := slices.Clone(o.Routes.Own)
	for _, f := range o.Routes.Foreign {
		all = append(all, f.Route)
	}
	for _, r := range all {
		if r.Prefix.Contains(to) && (!best.Prefix.IsValid() || r.Prefix.Bits() > best.Prefix.Bits()) {
			best = r
		}
	}
	return best
}

func (w *World) owner(s *ovsfake.Switch) string {
	for _, n := range w.Nodes {
		if n.Switch == s {
			return n.Hostname
		}
	}
	return "?"
}

func cmpStrings(pairs ...string) int {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] != pairs[i+1] {
			if pairs[i] < pairs[i+1] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// CheckSilence returns who writes to etcd, or changes a switch or a kernel,
// although nothing happens. All rest before: what an agent left in a kernel, such
// as the rule of a device that is gone, is removed when it looks again.
func (w *World) CheckSilence(d time.Duration) []string {
	w.Pass(rest)
	revision := w.Etcd.Revision()
	before := w.Etcd.Keys("")
	changes := map[string]int{}
	for _, n := range w.Nodes {
		changes[n.Hostname] = n.Switch.Changes()
		n.kernel.fake.Log() // of before
	}
	w.Pass(d)
	var found []string
	if now := w.Etcd.Revision(); now != revision {
		what := fmt.Sprintf("etcd was written %d times in %s:", now-revision, d)
		after := w.Etcd.Keys("")
		for _, key := range slices.Sorted(maps.Keys(after)) {
			if before[key] != after[key] {
				what += fmt.Sprintf(" %s %s → %s", key, before[key], after[key])
			}
		}
		found = append(found, what)
	}
	for _, n := range w.Nodes {
		if c := n.Switch.Changes() - changes[n.Hostname]; c > 0 {
			found = append(found, fmt.Sprintf("%s: the switch was changed %d times in %s", n.Hostname, c, d))
		}
		if steps := n.kernel.fake.Log(); len(steps) > 0 {
			found = append(found, fmt.Sprintf("%s: the kernel was changed in %s: %s", n.Hostname, d, strings.Join(steps, "; ")))
		}
	}
	return found
}

// CheckForwarding returns which of the wanted endpoints do not reach each other,
// whatever etcd has.
func (w *World) CheckForwarding() []string {
	var found []string
	var all []attached
	for _, n := range w.Nodes {
		for _, e := range n.Wanted {
			mac, err := net.ParseMAC(e.MAC)
			if err != nil {
				found = append(found, err.Error())
				continue
			}
			all = append(all, attached{n, e.Network, e.Name, e.Port, e.IPs, mac})
		}
	}
	w.checkPackets(all, func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) })
	return found
}
