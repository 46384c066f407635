package trace_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// world is a cluster whose hosts have what they should have, until a test changes
// it.
type world struct {
	snap  *topology.Snapshot
	facts map[string]*trace.Facts
}

// Ask implements trace.Asker. Question and answer survive being sent as JSON.
func (w *world) Ask(_ context.Context, q trace.Question) (hop trace.Hop, err error) {
	b, err := json.Marshal(q)
	if err == nil {
		err = json.Unmarshal(b, &q)
	}
	if err != nil {
		return hop, err
	}
	f, ok := w.facts[q.Node]
	if !ok {
		return trace.Computed(w.snap.View(q.Node), pipeline.Options{Datapath: "netdev"}, "not asked", q.Assume).Hop(q), nil
	}
	if b, err = json.Marshal(f.Hop(q)); err == nil {
		err = json.Unmarshal(b, &hop)
	}
	return hop, err
}

// newWorld has three nodes with an endpoint each in network blue. Of host3 etcd
// alone is known.
func newWorld(t *testing.T, transport topology.Transport) *world {
	t.Helper()
	n := topology.Network{
		Name: "blue", VNI: 100, IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10:1::/48"),
		Transport: transport,
	}.Defaults()
	kvs := []topology.KV{}
	put := func(r topology.Record) {
		kvs = append(kvs, topology.KV{
			Key:   r.Key(),
			Value: topology.Encode(r),
			Meta:  topology.Meta{CreateRevision: int64(len(kvs) + 1), ModRevision: int64(len(kvs) + 1)},
		})
	}
	put(n)
	for i := 1; i <= 3; i++ {
		name := fmt.Sprintf("host%d", i)
		put(topology.Node{
			Name: name, ID: name, VTEPs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})},
			Encapsulations: topology.Encapsulations(), UnderlayMTU: 1500,
		})
		put(topology.Subnet{Network: "blue", Node: name, Prefix: netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", i))})
		put(topology.Subnet{Network: "blue", Node: name, Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:10:1:%d::/64", i))})
	}
	w := &world{snap: topology.NewSnapshot(int64(len(kvs)), kvs), facts: map[string]*trace.Facts{}}
	for i := 1; i <= 2; i++ {
		w.observe(t, i)
	}
	return w
}

// observe is a host that has what it should have.
func (w *world) observe(t *testing.T, i int) {
	t.Helper()
	name := fmt.Sprintf("host%d", i)
	view := w.snap.View(name)
	require.Empty(t, view.Problems)
	endpoints := []ovs.Endpoint{{
		Name: "c1", Node: name, Network: "blue", Port: "bzc1", MAC: topology.MACOf(party(i).Address),
		IPs: []netip.Addr{party(i).Address, netip.MustParseAddr(fmt.Sprintf("fd00:10:1:%d::2", i))},
	}}
	opt := pipeline.Options{Datapath: "netdev", Direct: map[topology.SubnetID]bool{}}
	if view.Networks[0].Transport.Direct() == topology.DirectOnLink {
		opt.Direct[topology.SubnetID{Network: "blue", Prefix: netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", 3-i))}] = true
	}
	want := pipeline.Build(view, endpoints, opt)
	o := &trace.Observed{
		Switch: ovs.Observed{Bridge: &want.Bridge, Ports: map[string]ovs.ObservedPort{}},
		Kernel: kernel.Observed{Sysctls: map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}},
		Up:     map[string]bool{"eth0": true, "bn-blue": true},
	}
	o.Way = func(a netip.Addr) kernel.Way {
		own := netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", i))
		switch {
		case a == netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}):
			return kernel.Way{Dev: "lo", Local: true}
		case own.Contains(a):
			return kernel.Way{Dev: "bn-blue"}
		case netip.MustParsePrefix("10.1.0.0/16").Contains(a):
			return kernel.Way{Dev: "eth0", Via: netip.AddrFrom4([4]byte{192, 0, 2, a.As4()[2]})}
		}
		return kernel.Way{Dev: "eth0"}
	}
	for j, p := range want.Ports {
		o.Switch.Ports[p.Name] = ovs.ObservedPort{Port: p, OFPort: 10 + j, Up: true}
	}
	bound, missing := want.Bind(o.Switch.OFPorts())
	require.Empty(t, missing)
	for _, f := range bound {
		o.Flows = append(o.Flows, openflow.Installed{BoundFlow: f})
	}
	w.facts[name] = &trace.Facts{View: view, Endpoints: endpoints, Known: true, Wanted: want, Observed: o}
}

func party(i int) trace.Party {
	a := netip.AddrFrom4([4]byte{10, 1, byte(i), 2})
	return trace.Party{
		Node: fmt.Sprintf(
			"host%d",
			i,
		),
		Network:  "blue",
		Endpoint: "c1",
		Address:  a,
		MAC:      topology.MACOf(a).String(),
		Known:    i < 3,
	}
}

func (w *world) walk(t *testing.T, r trace.Request) trace.Result {
	t.Helper()
	if !r.Source.Address.IsValid() {
		r.Source, r.Destination = party(1), party(2)
	}
	if r.Protocol == "" {
		r.Protocol = trace.ICMP
	}
	out, err := trace.Walk(t.Context(), r, w)
	require.NoError(t, err)
	return out
}

// drop takes flows away that a text is in.
func drop(f *trace.Facts, text string) {
	f.Observed.Flows = slices.DeleteFunc(f.Observed.Flows, func(x openflow.Installed) bool {
		return strings.Contains(fmt.Sprintf("table=%d,%s,actions=%s", x.Table, x.Match, x.Actions), text)
	})
}

func foreign(f *trace.Facts, table int, match, actions string) {
	f.Observed.Flows = append(f.Observed.Flows, openflow.Installed{BoundFlow: ovs.BoundFlow{
		Cookie: 0x77, Flow: ovs.Flow{Table: table, Priority: 60000, Match: match, Actions: actions},
	}})
}

func TestDelivered(t *testing.T) {
	for _, transport := range topology.Transports() {
		w := newWorld(t, transport)
		for _, protocol := range []string{trace.ICMP, trace.TCP, trace.UDP, trace.ARP, trace.Broadcast} {
			if protocol == trace.Broadcast && transport == topology.Route {
				continue // it stays on the host
			}
			out := w.walk(t, trace.Request{Protocol: protocol, Port: 80})
			require.Equal(t, trace.Delivered, out.Verdict.Outcome, "%s %s: %s", transport, protocol, out.Verdict.Text)
			require.Equal(t, "host2", out.Verdict.Node)
			require.Equal(t, protocol != trace.Broadcast, out.Verdict.Observed, "a broadcast goes to host3, too")
			for _, p := range out.Phases {
				require.True(t, p.Arrived)
				for _, h := range p.Hops {
					for _, s := range h.Steps {
						if h.Observed {
							require.Equal(t, trace.Good, s.State, "%s %s: %+v", transport, protocol, s)
						}
					}
				}
			}
		}
		out := w.walk(t, trace.Request{Source: party(1), Destination: party(3)})
		require.Equal(t, trace.Delivered, out.Verdict.Outcome, "%s: %s", transport, out.Verdict.Text)
		require.False(t, out.Verdict.Observed)
		require.Equal(
			t,
			[]string{"host3: computed from etcd, not asked; that an endpoint there has 10.1.3.2 is taken for granted"},
			out.Verdict.Notes,
		)
	}
}

// Containers are called what people call them (U13), by who asks and by the nodes; who sends
// is found by its address where another node's name for it is all that is known.
func TestContainersByName(t *testing.T) {
	w := newWorld(t, topology.VXLAN)
	for i, name := range []string{"web", "db"} {
		w.facts[fmt.Sprintf("host%d", i+1)].Containers = func(ovs.Endpoint) string { return name }
	}
	src, dst := party(1), party(2)
	src.Endpoint, src.Container, dst.Container = src.Address.String(), "web", "db"
	out := w.walk(t, trace.Request{Source: src, Destination: dst})
	require.Equal(t, "delivered to db on host2", out.Verdict.Text)
	require.Equal(t, "who has 10.1.2.2? asks web (10.1.1.2)", out.Phases[0].About)
	require.Contains(t, out.Phases[1].About, "answers db")
	require.Contains(t, out.Phases[2].About, "from web (10.1.1.2) to host2/db (10.1.2.2)")
	hops := out.Phases[2].Hops
	exit := hops[len(hops)-1].Exits[0]
	require.Equal(t, []string{"c1", "db"}, []string{exit.Endpoint, exit.Container})

	delete(w.facts["host1"].Observed.Switch.Ports, "bzc1")
	require.Contains(t, w.walk(t, trace.Request{Source: src, Destination: dst}).Verdict.Text, "of endpoint web is missing")

	dst = party(3)
	dst.Container = "cache"
	w = newWorld(t, topology.VXLAN)
	require.Equal(t, "delivered to cache on host3", w.walk(t, trace.Request{Source: party(1), Destination: dst}).Verdict.Text)
}

// The record that each flow is there for is told with it.
func TestReasons(t *testing.T) {
	out := newWorld(t, topology.VXLAN).walk(t, trace.Request{})
	var told []string
	for _, h := range out.Phases[len(out.Phases)-1].Hops {
		for _, s := range h.Steps {
			told = append(told, fmt.Sprintf("%s %s: %s, %s %d", h.Node, s.Stage, s.Text, s.Key, s.Revision))
		}
	}
	require.Equal(t, []string{
		"host1 classify: a frame enters its network, port bzc1 0",
		"host1 first-hop: nothing that only a router, DHCP server or bridge sends,  0",
		"host1 guard: an endpoint's own addresses, port bzc1 0",
		"host1 steer: to the node of a subnet, subnets/blue/10.1.2.0-24 6",
		"host1 encapsulation: into vx-host2: vxlan, 192.0.2.1 → 192.0.2.2, key 100,  0",
		"host2 encapsulation: out of vx-host1, the tunnel from host1,  0",
		"host2 classify: a frame comes out of a tunnel, nodes/host1 2",
		"host2 tunnel: a frame comes out of a tunnel, subnets/blue/10.1.1.0-24 3",
		"host2 local: to a local endpoint, port bzc1 0",
		"host2 deliver: out of the port that was decided on,  0",
	}, told)
}

// Each fault is named where it is.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		transport   topology.Transport
		request     trace.Request
		harm        func(w *world)
		node, stage string
		says        string
		outcome     trace.Kind
	}{
		"port missing": {harm: func(w *world) { delete(w.facts["host2"].Observed.Switch.Ports, "bzc1") },
			node: "host2", stage: trace.StagePort, says: "endpoint c1 is down: out of OpenFlow port 10, which is not"},
		"source's port missing": {harm: func(w *world) { delete(w.facts["host1"].Observed.Switch.Ports, "bzc1") },
			node: "host1", stage: trace.StagePort, says: "port bzc1 of endpoint c1 is missing on bridge br-baize"},
		"port down": {harm: func(w *world) { w.port("host2", "bzc1", func(p *ovs.ObservedPort) { p.Up = false }) },
			node: "host2", stage: trace.StagePort, says: "the link of endpoint c1 is down"},
		"tunnel without error": {harm: func(w *world) {
			w.port("host2", "vx-host1", func(p *ovs.ObservedPort) { p.Error = "File exists" })
		}, node: "host2", stage: trace.StagePort, says: "port vx-host1 of the tunnel from host1 does not work: File exists"},
		"tunnel elsewhere": {harm: func(w *world) {
			w.port("host1", "vx-host2", func(p *ovs.ObservedPort) { p.Options["remote_ip"] = "192.0.2.99" })
		}, node: "host1", stage: trace.StageTunnel, says: `whose other end "192.0.2.99" is no node's`},
		"another UDP port": {harm: func(w *world) {
			w.port("host1", "vx-host2", func(p *ovs.ObservedPort) { p.Options["dst_port"] = "8472" })
		}, node: "host2", stage: trace.StageTunnel, says: "no port takes vxlan packets from 192.0.2.1 (host1)"},
		"no tunnel back": {harm: func(w *world) { delete(w.facts["host2"].Observed.Switch.Ports, "vx-host1") },
			node: "host2", stage: trace.StageTunnel, says: "no port takes vxlan packets"},
		"flow missing": {harm: func(w *world) { drop(w.facts["host2"], "table=30,metadata=0x64,arp,arp_tpa=10.1.2.2,") },
			node: "host2", stage: "local", says: `the flow for "to a local endpoint" is missing`},
		"foreign drop": {harm: func(w *world) { foreign(w.facts["host2"], 30, "ip", "drop") },
			node: "host2", stage: "local", says: `not Baize's (cookie 0x77) drops the packet in the place of "to a local`},
		"foreign drop of the answer": {harm: func(w *world) { foreign(w.facts["host2"], 20, "arp,arp_op=2", "drop") },
			node: "host2", stage: "steer", says: "the answer of c1 is dropped on host2"},
		"foreign, not understood": {harm: func(w *world) { foreign(w.facts["host1"], 20, "ip", "learn(table=9)") },
			node: "host1", stage: "steer", says: "cannot be followed beyond host1", outcome: trace.Uncertain},
		"foreign match": {harm: func(w *world) { foreign(w.facts["host1"], 20, "ct_state=+trk,ip", "drop") },
			node: "host1", stage: "steer", says: "cannot be followed beyond host1", outcome: trace.Uncertain},
		"changed by hand": {harm: func(w *world) {
			f := w.facts["host1"].Observed.Flows
			for i := range f {
				if f[i].Table == 20 && strings.Contains(f[i].Match, "arp_tpa=10.1.2.0/24") {
					f[i].Actions = "drop"
				}
			}
		}, node: "host1", stage: "steer", says: "was changed by hand"},
		"link of the underlay": {harm: func(w *world) { w.facts["host2"].Observed.Up["eth0"] = false },
			node: "host2", stage: trace.StageUnderlay, says: "the link of eth0 is down, by which 192.0.2.1 is reached"},
		"link of the underlay's bridge": {harm: func(w *world) {
			o := w.facts["host2"].Observed
			o.Way = func(netip.Addr) kernel.Way { return kernel.Way{Dev: "br-phy"} }
			o.Switch.Foreign = map[string]string{"br-phy": "br-phy", "eth0": "br-phy", "eth1": "br-ex"}
			o.Up = map[string]bool{"br-phy": true, "eth0": false, "eth1": true}
		}, node: "host2", stage: trace.StageUnderlay, says: "the link of eth0 is down, by which 192.0.2.1 is reached"},
		"no route to the peer": {harm: func(w *world) {
			w.facts["host1"].Observed.Way = func(netip.Addr) kernel.Way { return kernel.Way{Err: errors.New("unreachable")} }
		}, node: "host1", stage: trace.StageUnderlay, says: "the host has no route to 192.0.2.2"},
		"no bridge": {harm: func(w *world) { w.facts["host2"].Observed.Switch.Bridge = nil },
			node: "host2", stage: trace.StagePort, says: "the bridge br-baize is not there"},
		"nobody has it": {request: trace.Request{Source: party(1), Destination: other("10.1.2.9", "host2")},
			node: "host2", stage: "local", says: pipeline.DropNoEndpoint},
		"nobody leases it": {request: trace.Request{Source: party(1), Destination: other("10.1.99.9", "")},
			node: "host1", stage: "steer", says: pipeline.DropUnleased},
		"no router": {transport: topology.Route, harm: func(w *world) {
			w.facts["host1"].Observed.Kernel.Sysctls["net/ipv4/ip_forward"] = "0"
		}, node: "host1", stage: trace.StageKernel, says: "the kernel is no router: net/ipv4/ip_forward is 0"},
		"TTL": {transport: topology.Route, request: trace.Request{Source: party(1), Destination: party(2), TTL: 1},
			node: "host1", stage: trace.StageKernel, says: "its TTL is over"},
		"TTL on the second host": {transport: topology.Route,
			request: trace.Request{Source: party(1), Destination: party(2), TTL: 2},
			node:    "host2", stage: trace.StageKernel, says: "its TTL is over"},
		"firewall": {transport: topology.Route, harm: func(w *world) {
			w.facts["host2"].Observed.Filter = filter(rule("c", `{"drop":null}`))
		}, node: "host2", stage: trace.StageFirewall, says: "drops it: chain c of table inet t, rule 7"},
		"no route": {transport: topology.Route, harm: func(w *world) {
			w.facts["host1"].Observed.Way = func(netip.Addr) kernel.Way { return kernel.Way{Err: errors.New("unreachable")} }
		}, node: "host1", stage: trace.StageKernel, says: "the kernel has no route to 10.1.2.2"},
		"the kernel asks in vain": {transport: topology.Route, harm: func(w *world) {
			foreign(w.facts["host2"], 30, "arp", "drop")
		},
			node: "host2", stage: "local", says: "not Baize's"},
		"auto goes by the kernel": {transport: topology.Auto, harm: func(w *world) {
			w.facts["host1"].Observed.Up["bn-blue"] = false
		}, node: "host1", stage: trace.StagePort, says: "the host's own port bn-blue is down"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.transport == "" {
				c.transport = topology.VXLAN
			}
			w := newWorld(t, c.transport)
			if c.harm != nil {
				c.harm(w)
			}
			out := w.walk(t, c.request)
			if c.outcome == "" {
				c.outcome = trace.Dropped
			}
			require.Equal(t, c.outcome, out.Verdict.Outcome, out.Verdict.Text)
			require.Equal(t, c.node, out.Verdict.Node, out.Verdict.Text)
			require.Equal(t, c.stage, out.Verdict.Stage, out.Verdict.Text)
			require.Contains(t, out.Verdict.Text, c.says)
		})
	}
}

func other(addr, node string) trace.Party {
	a := netip.MustParseAddr(addr)
	return trace.Party{Node: node, Network: "blue", Endpoint: addr, Address: a, MAC: topology.MACOf(a).String()}
}

func (w *world) port(node, name string, change func(*ovs.ObservedPort)) {
	ports := w.facts[node].Observed.Switch.Ports
	p := ports[name]
	options := map[string]string{}
	for k, v := range p.Options {
		options[k] = v
	}
	p.Options = options
	change(&p)
	ports[name] = p
}

// What a firewall may do is no verdict, but it is told.
func TestFirewallNotKnown(t *testing.T) {
	for name, harm := range map[string]func(o *trace.Observed){
		"chain c of table inet t, rule 7": func(o *trace.Observed) {
			o.Filter = filter(rule("c", `{"xt":{"type":"match","name":"recent"}},{"drop":null}`))
		},
		"rules of iptables-legacy, which are not read": func(o *trace.Observed) {
			o.Kernel.IPTables = []kernel.IPTables{{Tool: "iptables-legacy", Family: topology.IPv4, Filter: "-P FORWARD DROP\n"}}
		},
	} {
		w := newWorld(t, topology.Route)
		harm(w.facts["host1"].Observed)
		out := w.walk(t, trace.Request{})
		require.Equal(t, trace.Delivered, out.Verdict.Outcome)
		require.Equal(t, []string{"host1: what the host's firewall does with it is not known: " + name}, out.Verdict.Notes)
	}
}

// docker0 of a node is a part of the network: what is behind it is not known.
func TestSegment(t *testing.T) {
	w := newWorld(t, topology.VXLAN)
	sub := topology.Subnet{
		Network: "blue", Node: "host3", Prefix: netip.MustParsePrefix("10.1.33.0/24"), Segment: "docker0",
	}
	w.snap = w.snap.With(
		99,
		[]topology.KV{{Key: sub.Key(), Value: topology.Encode(sub), Meta: topology.Meta{ModRevision: 99}}},
		nil,
	)
	for i := 1; i <= 2; i++ {
		w.observe(t, i)
	}
	behind := other("10.1.33.7", "host3")
	behind.Endpoint = "docker0"
	out := w.walk(t, trace.Request{Source: party(1), Destination: behind})
	require.Equal(t, "delivered to bridge docker0 on host3", out.Verdict.Text)
	out = w.walk(t, trace.Request{Source: behind, Destination: party(1)})
	require.Equal(t, "delivered to c1 on host1", out.Verdict.Text)
}

// A broadcast that is for nobody in particular.
func TestBroadcast(t *testing.T) {
	w := newWorld(t, topology.VXLAN)
	out := w.walk(t, trace.Request{Source: party(1), Destination: trace.Party{Network: "blue"}, Protocol: trace.Broadcast})
	require.Equal(
		t,
		"goes to 3 hosts, and is delivered to 1 endpoints on 1 of them; the endpoints of the others are known there only",
		out.Verdict.Text,
	)
	foreign(w.facts["host2"], 5, "", "drop")
	out = w.walk(t, trace.Request{Source: party(1), Destination: trace.Party{Network: "blue"}, Protocol: trace.Broadcast})
	require.Equal(t, trace.Dropped, out.Verdict.Outcome)
	require.Contains(t, out.Verdict.Text, "the broadcast is dropped on host2, in tunnel: a flow that is not Baize's")
}

func TestCount(t *testing.T) {
	w := newWorld(t, topology.VXLAN)
	before := w.walk(t, trace.Request{})
	count := func(table int) {
		f := w.facts["host1"].Observed.Flows
		for i := range f {
			if f[i].Table == table {
				f[i].Packets += 3
			}
		}
	}
	require.Equal(
		t,
		"no packet has come to classify on host1",
		trace.Count(before, w.walk(t, trace.Request{})).Verdict.Live,
	)
	count(pipeline.TableClassify)
	count(pipeline.TableFirstHop)
	count(pipeline.TableGuard)
	require.Equal(t, "packets have come to guard on host1 (3), and none to steer on host1",
		trace.Count(before, w.walk(t, trace.Request{})).Verdict.Live)
	count(pipeline.TableSteer)
	require.Equal(t, "packets have come to steer on host1 (3), and none to classify on host2",
		trace.Count(before, w.walk(t, trace.Request{})).Verdict.Live)
	delete(w.facts, "host2")
	require.Equal(t, "packets have come as far as the hosts that were asked can see: to steer on host1 (3)",
		trace.Count(before, w.walk(t, trace.Request{})).Verdict.Live)
}

// What the datapath remembers of a packet says why it was dropped.
func TestDrops(t *testing.T) {
	w := newWorld(t, topology.VXLAN)
	f := w.facts["host1"]
	foreign(f, 20, "udp", "drop")
	a := netip.MustParseAddr
	mac := "dl_src=" + party(1).MAC
	linkLocal := ovs.LinkLocal(topology.MACOf(party(1).Address)).String()
	got := f.Drops([]openflow.Dropped{
		{InPort: "bzc1", Header: mac + ",dl_type=0x0800,nw_src=10.1.7.7/255.255.0.0", Packets: 2, Ago: 3 * time.Second},
		{InPort: "bzc1", Header: mac + ",dl_type=0x0800,nw_src=172.16.0.1", Ago: time.Second},
		{InPort: "bzc1", Header: mac + ",dl_type=0x0800,nw_src=172.16.0.2", Ago: 2 * time.Second},
		{
			InPort: "vxlan_sys_4789", Local: a("192.0.2.1"), Remote: a("192.0.2.2"), Ago: -1,
			Header: "tun_id=0x64,dl_type=0x0806,arp_tpa=10.1.1.9",
		},
		{InPort: "bzc1", Header: mac + ",dl_type=0x0800,nw_src=10.1.1.2,nw_proto=17", Ago: time.Second},
		{
			InPort: "bzc1",
			Header: mac + ",dl_type=0x0800,nw_src=10.1.1.2,nw_dst=10.1.2.2",
			Ago:    time.Second,
		}, // it would pass now
		{
			InPort: "eth0",
			Header: "dl_type=0x0800",
			Ago:    time.Second,
		}, // of another bridge
		{InPort: "bzc1", Header: mac + ",dl_type=0x86dd,ipv6_src=::,nw_proto=58,icmp_type=135,nd_target=" + linkLocal},
	}, 2)
	for i := range got {
		got[i].Header = strings.TrimPrefix(got[i].Header, mac+",")
	}
	require.Equal(t, []trace.Drop{
		{
			Reason: pipeline.DropNoEndpoint, Table: "local", From: "node host2", Packets: 1,
			Header: "tun_id=0x64,dl_type=0x0806,arp_tpa=10.1.1.9",
		},
		{
			Reason: "a flow that is not Baize's", Table: "steer", From: "endpoint c1", Packets: 1, Seconds: 1,
			Header: "dl_type=0x0800,nw_src=10.1.1.2,nw_proto=17",
		},
		{ // it asks whether its own address is taken
			Reason: "for nobody but the port that it came from", Table: "deliver", From: "endpoint c1", Packets: 1,
			Header: "dl_type=0x86dd,ipv6_src=::,nw_proto=58,icmp_type=135,nd_target=" + linkLocal,
		},
		{
			Reason: pipeline.DropAddress, Table: "guard", From: "endpoint c1", Packets: 1, Seconds: 1,
			Header: "dl_type=0x0800,nw_src=172.16.0.1",
		},
		{
			Reason: pipeline.DropAddress, Table: "guard", From: "endpoint c1", Packets: 1, Seconds: 2,
			Header: "dl_type=0x0800,nw_src=172.16.0.2",
		},
	}, got)
}
