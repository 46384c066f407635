//go:build system

package domaintest

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

var (
	traceRounds = flag.Int("trace-rounds", 7, "rounds of TestTrace in each topology: a random fault each, and random pairs")
	traceLabs   = flag.Int("trace-topologies", 1, "topologies of TestTrace: three hosts on one segment, then random ones")
	traceSeed   = flag.Uint64("trace-seed", 1, "seed of TestTrace; 0: another in each run, as 'make test-trace' has it")
)

// pairsARound is how many pairs are tried with one fault.
const pairsARound = 4

// What a trace says is what packets do: between random endpoints of networks of
// every transport, by random protocols, with a random fault each time. The agents
// are stopped meanwhile, because they would repair most of it.
func TestTrace(t *testing.T) {
	t.Parallel()
	seed := *traceSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-trace-seed %d", seed)
	for i := range *traceLabs {
		random := rand.New(rand.NewPCG(seed, uint64(1+i)))
		config := lab.Config{Hosts: 3}
		if i > 0 {
			config = traceTopology(random)
		}
		name := fmt.Sprintf("%d: %d hosts, FRR %v, IPv6 %v", i, config.Hosts, config.FRR, config.IPv6Underlay)
		t.Run(name, func(t *testing.T) { traceIn(t, config, random) })
	}
}

// traceTopology is a random one. Where there are two segments FRR is on the hosts, because
// agents that are stopped announce nothing. It also knows next hops of IPv4 where the nodes'
// own addresses are IPv6.
func traceTopology(random *rand.Rand) lab.Config {
	c := lab.Config{Hosts: 2 + random.IntN(3)}
	if random.IntN(2) == 0 {
		c.Segments, c.FRR, c.IPv6Underlay = lab.MaxSegments, true, random.IntN(2) == 0
	}
	return c
}

func traceIn(t *testing.T, config lab.Config, random *rand.Rand) {
	t.Helper()
	config.NoProof = true
	for i, tr := range []topology.Transport{topology.VXLAN, topology.GRE, topology.Geneve, topology.Route, topology.Auto} {
		config.Networks = append(config.Networks, lab.NetworkSpec{Name: string(tr), Transport: tr, Prefixes: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(20 + i), 0, 0}), 16),
			netip.MustParsePrefix(fmt.Sprintf("fd00:10:%d::/48", 20+i)),
		}})
	}
	d := up(t, topology.VXLAN, config)
	w := &traceWorld{domain: d, random: random, learned: config.FRR}
	s, err := d.Status()
	require.NoError(t, err)
	for _, h := range s.Hosts {
		w.hosts = append(w.hosts, h.Name)
		w.underlay = append(w.underlay, h.Addrs[0])
	}
	w.endpoints = d.Endpoints("")
	for _, e := range w.endpoints {
		d.Serve(e.String())
	}
	w.allAnswered()
	for _, h := range w.hosts {
		require.NoError(t, d.Host(h).StopService(t.Context(), lab.ServiceAgent))
	}
	for round := range *traceRounds {
		w.round(round)
	}
	t.Logf("%d pairs in %d rounds: %d reached each other, %d did not, and trace said so of all",
		w.reached+w.lost, *traceRounds, w.reached, w.lost)
	require.Positive(t, w.reached)
	require.Positive(t, w.lost, "no fault did any harm")
}

// allAnswered waits until each endpoint is answered by one on another host.
func (w *traceWorld) allAnswered() {
	w.T.Helper()
	for _, e := range w.endpoints {
		w.Await(e.String()+" is answered", func() (bool, string) {
			other := w.endpoints[slices.IndexFunc(w.endpoints, func(x lab.EndpointStatus) bool {
				return x.Network == e.Network && x.Node != e.Node
			})]
			for _, to := range other.IPs {
				if _, err := w.Probe(e.String(), to, probe.SendOptions{Datagrams: 1, Timeout: 3 * time.Second}); err != nil {
					return false, err.Error()
				}
			}
			return true, ""
		})
	}
}

type traceWorld struct {
	*domain
	random        *rand.Rand
	hosts         []string
	underlay      []netip.Addr // of hosts, in their order
	endpoints     []lab.EndpointStatus
	learned       bool // routes between the hosts, by BGP
	reached, lost int
	// near is where the fault is: three of four pairs are chosen there.
	near place
}

// place is a host, and a network where only one is concerned.
type place struct{ host, network string }

func (w *traceWorld) host() string { return w.hosts[w.random.IntN(len(w.hosts))] }

func (w *traceWorld) endpoint() lab.EndpointStatus {
	return w.endpoints[w.random.IntN(len(w.endpoints))]
}

func (p place) concerns(from, to lab.EndpointStatus) bool {
	return (p.host == "" || p.host == from.Node || p.host == to.Node) && (p.network == "" || p.network == from.Network)
}

// round injects a fault, tries pairs, and repairs it.
func (w *traceWorld) round(n int) {
	w.T.Helper()
	asker := newLabAsker(w.domain, w.hosts)
	what, repair := w.fault(n)
	for _, h := range w.hosts {
		w.Must(h, "ovs-appctl", "revalidator/purge")
	}
	for range pairsARound {
		from, to := w.endpoint(), w.endpoint()
		anywhere := w.random.IntN(4) == 0
		for to.Network != from.Network || to.String() == from.String() || (!anywhere && !w.near.concerns(from, to)) {
			from, to = w.endpoint(), w.endpoint()
		}
		w.pair(what, asker, from, to)
	}
	asker.close()
	repair()
}

// pair compares the trace with what happens.
func (w *traceWorld) pair(fault string, ask trace.Asker, from, to lab.EndpointStatus) {
	w.T.Helper()
	family := w.random.IntN(2)
	protocol := []string{trace.ICMP, trace.ICMP, trace.TCP, trace.UDP}[w.random.IntN(4)]
	says, there, back := w.says(ask, from, to, family, protocol)
	does, saw := w.does(from, to, family, protocol)
	if does {
		w.reached++
	} else {
		w.lost++
	}
	w.T.Logf("%s: %s %s to %s (%s): arrives: %v; %s", fault, protocol, from, to, to.IPs[family], does, there.Verdict.Text)
	if says != does {
		for _, r := range []*trace.Result{there, back} {
			if r != nil {
				text, _ := json.MarshalIndent(r, "", " ")
				w.T.Logf("%s", text)
			}
		}
	}
	require.Equal(
		w.T,
		does,
		says,
		"%s: trace and packets disagree about %s from %s to %s: %s",
		fault,
		protocol,
		from,
		to,
		saw,
	)
}

// says is what the traces of both ways say. The receiver need not ask for the
// sender's link address where the sender's question came to it.
func (w *traceWorld) says(
	ask trace.Asker, from, to lab.EndpointStatus, family int, protocol string,
) (arrives bool, there, back *trace.Result) {
	w.T.Helper()
	party := func(e lab.EndpointStatus) trace.Party {
		return trace.Party{
			Node: e.Node, Network: e.Network, Endpoint: e.Name, Address: e.IPs[family], MAC: e.MAC, Known: true,
		}
	}
	port := map[string]int{trace.TCP: 7000, trace.UDP: 7000}[protocol]
	walk := func(r trace.Request) *trace.Result {
		out, err := trace.Walk(w.T.Context(), r, ask)
		require.NoError(w.T, err)
		require.True(w.T, out.Verdict.Observed)
		require.NotEmpty(w.T, out.Verdict.Text)
		return &out
	}
	there = walk(trace.Request{Source: party(from), Destination: party(to), Protocol: protocol, Port: port})
	if there.Verdict.Outcome != trace.Delivered {
		return false, there, nil
	}
	r := trace.Request{Source: party(to), Destination: party(from), Protocol: protocol, Port: 6 * port}
	if slices.ContainsFunc(there.Phases, func(p trace.Phase) bool { return p.Name == "answer" }) {
		r.NextMAC, _ = net.ParseMAC(from.MAC)
	}
	back = walk(r)
	return back.Verdict.Outcome == trace.Delivered, there, back
}

// does sends packets. Nobody remembers a link address.
func (w *traceWorld) does(from, to lab.EndpointStatus, family int, protocol string) (arrives bool, saw string) {
	w.T.Helper()
	for _, e := range []lab.EndpointStatus{from, to} {
		w.Must(e.String(), "ip", "neigh", "flush", "all")
		_, _ = w.Run(e.Node, "ip", "neigh", "flush", "dev", "bn-"+e.Network) // tunnels have no such device
	}
	const tries = 2 // the first may wait for a neighbour of the underlay
	for range tries {
		var err error
		switch o := (probe.SendOptions{Timeout: 2 * time.Second}); protocol {
		case trace.TCP:
			o.Bytes = 1000
			saw, err = w.Probe(from.String(), to.IPs[family], o)
		case trace.UDP:
			o.Datagrams = 1
			saw, err = w.Probe(from.String(), to.IPs[family], o)
		default:
			saw, err = w.Run(from.String(), "ping", "-n", "-c", "1", "-W", "1", to.IPs[family].String())
		}
		if err == nil {
			return true, saw
		}
		saw += err.Error()
	}
	return false, saw
}

// fault does some harm, says what, and returns what puts it right.
func (w *traceWorld) fault(round int) (what string, repair func()) {
	w.T.Helper()
	h := w.host()
	w.near = place{host: h}
	agent := func() { w.repair(h) }
	switch kind := round % 12; kind {
	case 0:
		w.near = place{}
		return "nothing wrong", func() {}
	case 1:
		what = w.foreignFlow(h)
		return what, func() { w.Must(h, "ovs-ofctl", "-O", "OpenFlow14", "del-flows", "br-baize", "cookie=0xf00/-1") }
	case 2:
		return w.deleteFlows(h), agent
	case 3:
		what = w.changeFlow(h)
		return what, agent
	case 4, 5, 6:
		port := w.port(h, []string{ovs.RoleEndpoint, ovs.RoleTunnel, ovs.RoleTunnel}[kind-4])
		if kind == 6 {
			nobody := "192.168.77.99"
			if strings.Contains(w.Must(h, "ovs-vsctl", "get", "interface", port, "options:remote_ip"), "::") {
				nobody = "fd77::99"
			}
			w.Must(h, "ovs-vsctl", "set", "interface", port, fmt.Sprintf("options:remote_ip=%q", nobody))
			return h + ": another end of " + port, agent
		}
		w.Must(h, "ovs-vsctl", "del-port", "br-baize", port)
		return h + ": no port " + port, agent
	case 7:
		port := w.port(h, ovs.RoleEndpoint)
		w.Must(h, "ip", "link", "set", port, "down")
		w.linkState(h, port, "down")
		return h + ": link down of " + port, func() {
			w.Must(h, "ip", "link", "set", port, "up")
			w.linkState(h, port, "up")
		}
	case 8:
		require.NoError(w.T, w.Host(h).Unplug())
		return h + ": no link", func() {
			require.NoError(w.T, w.Host(h).Plug())
			w.linked(h)
		}
	case 9:
		w.near.network = []string{"route", "auto"}[w.random.IntN(2)]
		return w.firewall(h), func() { w.Must(h, "nft", "delete", "table", "inet", "faulty") }
	case 11:
		return w.inside(h)
	default:
		w.near.network = []string{"route", "auto"}[w.random.IntN(2)]
		w.Must(h, "sysctl", "-qw", "net.ipv4.ip_forward=0")
		return h + ": no router", func() { w.Must(h, "sysctl", "-qw", "net.ipv4.ip_forward=1") }
	}
}

// inside does harm in an endpoint's own namespace.
func (w *traceWorld) inside(h string) (what string, repair func()) {
	w.T.Helper()
	e := w.endpoint()
	for e.Node != h {
		e = w.endpoint()
	}
	w.near.network = e.Network
	do := func(argv ...string) { w.Must(e.String(), argv...) }
	chain := func(hook, rule string) func() {
		do("nft", fmt.Sprintf("add table inet own; add chain inet own c { type filter hook %s priority 0; }; add rule inet own c %s",
			hook, rule))
		return func() { do("nft", "delete", "table", "inet", "own") }
	}
	switch w.random.IntN(4) {
	case 0:
		return e.String() + ": takes nothing from its network", chain("input", "iifname != lo drop")
	case 1:
		return e.String() + ": takes no UDP", chain("prerouting", "meta l4proto udp drop")
	case 2:
		return e.String() + ": sends no TCP", chain("output", "meta l4proto tcp reject")
	default:
		network := netip.PrefixFrom(e.IPs[0], 16).Masked().String() // of those of newTraceWorld
		do("ip", "route", "replace", "unreachable", network)
		return e.String() + ": without its route", func() {
			do("ip", "route", "replace", network, "dev", "eth0", "src", e.IPs[0].String())
		}
	}
}

// repair lets the agent put a host right, and stops it again.
func (w *traceWorld) repair(h string) {
	w.T.Helper()
	require.NoError(w.T, w.Host(h).StartService(w.T.Context(), lab.ServiceAgent))
	w.AwaitRun(h+" is as it should be", h, "baize", "plan", "--diff")
	require.NoError(w.T, w.Host(h).StopService(w.T.Context(), lab.ServiceAgent))
}

func (w *traceWorld) linkState(h, port, state string) {
	w.T.Helper()
	w.Await("Open vSwitch sees the link of "+port, func() (bool, string) {
		out := w.Must(h, "ovs-vsctl", "get", "interface", port, "link_state")
		return strings.TrimSpace(out) == state, out
	})
}

// linked waits until a host reaches the others, and by routes that a peer of BGP has to
// learn again.
func (w *traceWorld) linked(h string) {
	w.T.Helper()
	for i, other := range w.hosts {
		if other != h {
			w.AwaitRun(h+" reaches "+other, h, "ping", "-c", "1", "-W", "1", w.underlay[i].String())
		}
	}
	if w.learned {
		w.allAnswered()
	}
}

// port is a random port of a host.
func (w *traceWorld) port(h, role string) string {
	w.T.Helper()
	out := w.Must(h, "ovs-vsctl", "--bare", "--columns=name", "find", "port", "external_ids:"+ovs.KeyRole+"="+role)
	names := strings.Fields(out)
	require.NotEmpty(w.T, names)
	slices.Sort(names)
	name := names[w.random.IntN(len(names))]
	key := map[string]string{ovs.RoleEndpoint: ovs.KeyNetwork, ovs.RoleTunnel: ovs.KeyEncap}[role]
	out = w.Must(h, "ovs-vsctl", "get", "port", name, "external_ids:"+key)
	w.near.network = strings.Trim(strings.TrimSpace(out), `"`) // networks have the names of their encapsulations
	return name
}

// foreignFlow adds a flow of somebody else's.
func (w *traceWorld) foreignFlow(h string) string {
	w.T.Helper()
	tables := []int{0, 5, 10, 15, 20, 25, 30, 70}
	matches := []string{
		"ip", "arp", "ipv6", "icmp", "icmp6,icmp_type=135", "udp,udp_dst=7000", "tcp6", "dl_dst=" + w.endpoint().MAC,
		"arp,arp_op=2", "dl_src=" + w.endpoint().MAC,
	}
	flow := fmt.Sprintf("cookie=0xf00,table=%d,priority=60000,%s,actions=drop",
		tables[w.random.IntN(len(tables))], matches[w.random.IntN(len(matches))])
	w.Must(h, "ovs-ofctl", "-O", "OpenFlow14", "add-flow", "br-baize", flow)
	return h + ": foreign flow " + flow
}

// ownFlow is a random flow of Baize's, as a match for ovs-ofctl.
func (w *traceWorld) ownFlow(h string) string {
	w.T.Helper()
	out := w.Must(h, "ovs-ofctl", "-O", "OpenFlow14", "dump-flows", "br-baize")
	var flows []string
	for line := range strings.Lines(out) {
		cookie, rest, ok := strings.Cut(strings.TrimSpace(line), ", ")
		if _, table, found := strings.Cut(rest, "table="); ok && found && strings.HasPrefix(cookie, "cookie=0xba12") {
			table, _, _ = strings.Cut(table, ",")
			flows = append(flows, cookie+"/-1,table="+table)
		}
	}
	require.NotEmpty(w.T, flows)
	slices.Sort(flows)
	return flows[w.random.IntN(len(flows))]
}

// deleteFlows deletes some flows of Baize's.
func (w *traceWorld) deleteFlows(h string) string {
	w.T.Helper()
	const some = 40
	for range some {
		w.Must(h, "ovs-ofctl", "-O", "OpenFlow14", "del-flows", "br-baize", w.ownFlow(h))
	}
	return h + ": flows deleted"
}

// changeFlow lets flows of Baize's drop, by hand: they keep their cookies.
func (w *traceWorld) changeFlow(h string) string {
	w.T.Helper()
	table := []int{10, 20, 30}[w.random.IntN(3)]
	w.Must(h, "ovs-ofctl", "-O", "OpenFlow14", "mod-flows", "br-baize", fmt.Sprintf("table=%d,%s,actions=drop", table,
		[]string{"ip", "arp", "icmp6", "ipv6"}[w.random.IntN(4)]))
	return fmt.Sprintf("%s: flows changed in table %d", h, table)
}

// firewall adds rules that drop what a host forwards.
func (w *traceWorld) firewall(h string) string {
	w.T.Helper()
	e := w.endpoint()
	for e.Network != w.near.network {
		e = w.endpoint()
	}
	// None of connections: of those that come in by the fast path the kernel's packet
	// filter sees the answers only, which begin none. An agent that runs turns it off then.
	rule := []string{
		"ip daddr " + e.IPs[0].String() + " drop", "ip6 saddr " + e.IPs[1].String() + " drop", "meta l4proto icmp drop",
		"udp dport 7000 reject", `iifname "bn-route" drop`, `oifname "bn-*" drop`,
	}[w.random.IntN(6)]
	hook := []string{"forward", "prerouting"}[w.random.IntN(2)]
	if strings.HasPrefix(rule, "oifname") || strings.Contains(rule, "reject") {
		hook = "forward"
	}
	for _, line := range []string{
		"add table inet faulty",
		"add chain inet faulty c { type filter hook " + hook + " priority -10; }",
		"add rule inet faulty c " + `iifname "bn-*" ` + rule,
		"add rule inet faulty c " + `oifname "bn-*" ` + rule,
	} {
		if hook == "prerouting" && strings.Contains(line, "oifname") {
			continue
		}
		w.Must(h, "nft", line)
	}
	return h + ": firewall, " + hook + ": " + rule
}

// labAsker asks the hosts of a lab.
type labAsker struct {
	d       *domain
	streams map[string]*hopStream
}

type hopStream struct {
	in   io.WriteCloser
	out  *json.Decoder
	wait func() error
}

// newLabAsker prepares all hosts: one that is cut off from etcd answers all the same.
func newLabAsker(d *domain, hosts []string) *labAsker {
	d.T.Helper()
	a := &labAsker{d: d, streams: map[string]*hopStream{}}
	for _, h := range hosts {
		s, err := a.start(h)
		require.NoError(d.T, err)
		var node string
		require.NoError(d.T, s.out.Decode(&node))
		require.Equal(d.T, h, node)
		a.streams[h] = s
	}
	return a
}

func (a *labAsker) start(host string) (*hopStream, error) {
	argv, env, err := a.d.ExecCommand(host, []string{"baize", "trace-hop", "--node", host})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(a.d.T.Context(), argv[0], argv[1:]...)
	cmd.Env = env
	cmd.WaitDelay = time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &hopStream{in: in, out: json.NewDecoder(out), wait: func() error {
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%w: %s", err, said.String())
		}
		return nil
	}}, nil
}

// Ask implements trace.Asker.
func (a *labAsker) Ask(_ context.Context, q trace.Question) (hop trace.Hop, err error) {
	s := a.streams[q.Node]
	if err = json.NewEncoder(s.in).Encode(q); err == nil {
		err = s.out.Decode(&hop)
	}
	if err != nil {
		return hop, fmt.Errorf("%w: %w", err, s.wait())
	}
	return hop, nil
}

func (a *labAsker) close() {
	for host, s := range a.streams {
		_ = s.in.Close()
		require.NoError(a.d.T, s.wait(), host)
	}
}
