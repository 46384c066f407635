package trace

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// Hop says what becomes of a packet on the node.
func (f Facts) Hop(q Question) Hop {
	h := &hop{
		Facts: f, b: f.bridge(), q: q,
		out: Hop{
			Node: f.View.Node.Name, Observed: f.Observed != nil, Note: f.Note, Packet: q.Packet.String(),
			Steps: []Step{}, Exits: []Exit{},
		},
	}
	h.network, _ = f.View.Find(q.Network)
	switch {
	case f.Observed != nil && f.Observed.Switch.Bridge == nil:
		h.end(StagePort, "the bridge "+f.Wanted.Bridge.Name+" is not there", "the agent makes it: 'baize status' there")
	case h.network.Name == "":
		h.end(StagePort, "the node does not carry network "+q.Network, "'baize network show "+q.Network+"' says which do")
	case q.From != "":
		h.enter()
	case q.Routed:
		h.arriveRouted()
	default:
		h.arrive()
	}
	return h.out
}

type hop struct {
	Facts
	b       *bridge
	q       Question
	network topology.NetworkView
	out     Hop
	// down is what the switch should say of a flow that still sends to a port that
	// is gone: "endpoint c1 is down".
	down string
}

func (h *hop) step(stage string, state State, text string) {
	h.out.Steps = append(h.out.Steps, Step{Stage: stage, State: state, Text: text})
}

// end is the end of a packet, with a step that says so.
func (h *hop) end(stage, text, remedy string) {
	h.out.Steps = append(h.out.Steps, Step{Stage: stage, State: Broken, Text: text, Remedy: remedy})
	h.out.Exits = append(h.out.Exits, Exit{Kind: Dropped, Packet: h.q.Packet, Stage: stage, Text: text, Remedy: remedy})
}

// enter takes a packet from an endpoint or a local bridge.
func (h *hop) enter() {
	port, ok := h.sender(h.q.Network, h.q.From)
	if !ok {
		h.end(StagePort, fmt.Sprintf("no endpoint %s is on the node", h.q.From), "'baize endpoint list' there")
		return
	}
	what := h.q.From
	if e, is := h.endpointAt(port); is {
		what = h.who(e)
		if !h.leaves(e, h.q.Packet) {
			return
		}
	}
	if !h.fastFrom(port, h.q.Packet) && h.usable(port, "endpoint "+what) {
		h.tables(port, h.q.Packet)
	}
}

// usable reports whether packets pass a port, and ends this one where they do not.
func (h *hop) usable(port, what string) bool {
	if h.Observed == nil {
		return true
	}
	p, there := h.Observed.Switch.Ports[port]
	switch {
	case !there:
		h.end(StagePort, fmt.Sprintf("port %s of %s is missing on bridge %s", port, what, h.Wanted.Bridge.Name),
			"a running agent makes it: 'baize status' there")
	case !p.Live():
		text := "has no OpenFlow number yet"
		if p.Error != "" {
			text = "does not work: " + p.Error
		}
		h.end(StagePort, fmt.Sprintf("port %s of %s %s", port, what, text), "'ovs-vsctl list interface "+port+"' there")
	case p.Type == "" && !p.Up:
		h.end(StagePort, fmt.Sprintf("the link of %s is down (port %s)", what, port),
			"'ip link set up' for the interface in its namespace, and for "+port)
	default:
		return true
	}
	return false
}

// arrive takes a packet out of a tunnel: the port is the one whose ends are those
// of the sender's, the other way round.
func (h *hop) arrive() {
	t := h.q.Tunnel
	if t == nil {
		h.end(StagePort, "nothing says where the packet comes from", "")
		return
	}
	if h.Observed != nil && !h.underlay(t.Local) {
		return
	}
	for _, p := range h.tunnelPorts() {
		o := p.Options
		if p.Type != t.Encap || o["remote_ip"] != t.Local.String() ||
			(o["local_ip"] != t.Remote.String() && o["local_ip"] != "") ||
			tunnelPort(p) != t.Port {
			continue
		}
		if !h.usable(p.Name, "the tunnel from "+h.q.Peer) {
			return
		}
		h.step(StageTunnel, Good, fmt.Sprintf("out of %s, the tunnel from %s", p.Name, h.q.Peer))
		h.tables(p.Name, h.q.Packet.Decapsulated())
		return
	}
	h.end(StageTunnel, fmt.Sprintf("no port takes %s packets from %s (%s)", t.Encap, t.Local, h.q.Peer),
		"a running agent makes it: 'baize status' there")
}

// tunnelPorts are the ports that are there, or should be where nobody looked.
func (h *hop) tunnelPorts() (out []ovs.Port) {
	if h.Observed == nil {
		return h.Wanted.Ports
	}
	for _, p := range h.Observed.Switch.Ports {
		out = append(out, p.Port)
	}
	return out
}

// tunnelPort is the UDP port of a tunnel.
func tunnelPort(p ovs.Port) int {
	if n, err := strconv.Atoi(p.Options["dst_port"]); err == nil {
		return n
	}
	return topology.DefaultPort(topology.Transport(p.Type))
}

// tables sends a packet through the switch.
func (h *hop) tables(port string, p forward.Packet) {
	trace := h.b.have.Forward(h.b.numbers[port], p)
	uncertain := false
	for _, s := range trace.Steps {
		step := h.tableStep(s)
		uncertain = uncertain || step.State == Unknown
		h.out.Steps = append(h.out.Steps, step)
	}
	last := h.out.Steps[len(h.out.Steps)-1]
	if uncertain {
		h.out.Exits = append(h.out.Exits, Exit{
			Kind: Uncertain, Packet: p, Stage: last.Stage, Remedy: last.Remedy,
			Text: "a flow that is not Baize's cannot be evaluated",
		})
		return
	}
	if len(trace.Outputs) == 0 {
		kind := Dropped
		if last.State == Good { // to endpoints that nobody knows here
			kind = Uncertain
		}
		h.out.Exits = append(h.out.Exits, Exit{
			Kind: kind, Packet: p, Stage: last.Stage, Text: last.Text, Remedy: last.Remedy,
		})
	}
	for _, o := range trace.Outputs {
		h.output(o)
	}
}

// tableStep tells a flow in words, and compares it with the one that should be
// there.
func (h *hop) tableStep(s forward.Step) Step {
	out := Step{Stage: pipeline.TableName(s.Table), Table: s.Table, State: Good, Flow: h.b.text(s.Rule)}
	if out.Stage == "" {
		out.Stage = "table " + strconv.Itoa(s.Table)
	}
	want := h.b.wanted.Lookup(s.Table, s.Packet)
	if s.Rule != nil {
		out.Cookie, out.Packets = fmt.Sprintf("%#x", s.Rule.Flow.Cookie), h.b.counters[s.Rule.Flow.ID()]
	}
	switch {
	case len(s.Unsure) > 0:
		match, _ := s.Unsure[0].Unknown()
		return out.unknown(
			fmt.Sprintf("a flow that is not Baize's comes first, and nobody can say whether it takes the packet: %s (%s)",
				h.b.text(s.Unsure[0]), match),
		)
	case s.Rule == nil || (h.Observed != nil && (want == nil || !s.Rule.Same(want))):
		return h.mismatch(out, s, want)
	}
	own, ours := h.b.rules[s.Rule.Flow.ID()]
	if !ours {
		own = want // two flows that do the same, or a changed text
	}
	return h.asWanted(out, own.Flow.Flow)
}

// asWanted tells a flow that is as it should be.
func (h *hop) asWanted(out Step, own ovs.Flow) Step {
	out.Text, out.Key, out.Revision = own.Class, own.Reason.Key, own.Reason.Revision
	if strings.HasPrefix(out.Key, "port (") {
		out.Key = "" // of an end that is taken for granted
	}
	switch {
	case own.Class == pipeline.DropNoPorts && !h.Known && h.Observed == nil:
		out.Text = "to the endpoints of " + h.View.Node.Name + ", which are known there only"
	case own.Drops():
		out.State, out.Remedy = Drops, h.remedy(own.Class)
	}
	return out
}

func (s Step) unknown(text string) Step {
	s.State, s.Text = Unknown, text
	s.Remedy = "'ovs-ofctl -O OpenFlow14 dump-flows' there shows it, 'ovs-ofctl del-flows' removes it"
	return s
}

// mismatch tells a flow that took the packet in the place of another.
func (h *hop) mismatch(out Step, s forward.Step, want *forward.Rule) Step {
	out.State, out.Wanted = Broken, h.b.text(want)
	instead := "nothing of Baize's"
	if want != nil {
		instead = fmt.Sprintf("%q", want.Flow.Class)
		out.Key, out.Revision = want.Flow.Reason.Key, want.Flow.Reason.Revision
	}
	const restored = "a running agent restores it: 'baize status' there"
	switch {
	case s.Rule == nil:
		out.Text, out.Remedy = "the flow for it is missing: "+instead, restored
	case !ovs.OwnCookie(s.Rule.Flow.Cookie):
		if _, action := s.Rule.Unknown(); action != "" {
			return out.unknown(
				fmt.Sprintf("a flow that is not Baize's takes the packet, and nobody can say what %s does", action),
			)
		}
		does := "takes"
		if s.Rule.Flow.Drops() {
			does = "drops"
		}
		out.Text = fmt.Sprintf("a flow that is not Baize's (cookie %s) %s the packet in the place of %s",
			out.Cookie, does, instead)
		out.Remedy = fmt.Sprintf("'ovs-ofctl -O OpenFlow14 del-flows %s cookie=%s/-1,table=%d' there, if nobody needs it",
			h.Wanted.Bridge.Name, out.Cookie, s.Table)
	case want != nil && h.b.there(want) && want.Flow.ID() != s.Rule.Flow.ID():
		out.Text, out.Remedy = "another flow with Baize's mark takes the packet in the place of "+instead, restored
	case want != nil && want.Flow.ID() == s.Rule.Flow.ID():
		out.Text, out.Remedy = "the flow for "+instead+" was changed by hand", restored
	default:
		out.Text, out.Remedy = "the flow for "+instead+" is missing, and a more general one takes the packet", restored
		if want != nil && want.Flow.Drops() && !s.Rule.Flow.Drops() {
			out.Text = "an old flow sends on what is to be dropped: " + want.Flow.Class
			if _, down := ovs.DownPort(want.Flow.Class); down {
				h.down = want.Flow.Class + ": "
			}
		}
	}
	return out
}

// remedy says what a person can do about a drop.
func (h *hop) remedy(class string) string {
	switch class {
	case pipeline.DropNoEndpoint, pipeline.DropNoMAC, pipeline.DropKernelAsks, pipeline.DropRoutedHere:
		return "'baize endpoint list' on " + h.View.Node.Name + " shows who is there"
	case pipeline.DropUnleased, pipeline.DropNoRoute:
		return "'baize subnet list --network " + h.q.Network + "' shows which addresses nodes lease"
	case pipeline.DropMAC, pipeline.DropAddress, pipeline.DropNeighbour:
		return "an endpoint sends from its own addresses, and those of 'baize endpoint add --allow'"
	case pipeline.DropUnknownKey:
		return "the nodes do not agree on the network's VNI: 'baize network list', 'baize plan --diff' on both"
	}
	if _, down := ovs.DownPort(class); down {
		return "'baize status' on " + h.View.Node.Name + " names the port and what is wrong with it"
	}
	return "'baize explain' with the flow's line tells more"
}

// output tells where a packet goes that leaves the switch.
func (h *hop) output(o forward.Output) {
	name := h.b.names[o.Port]
	p, _ := h.port(name)
	switch {
	case name == "":
		h.end(StagePort, fmt.Sprintf("%sout of OpenFlow port %d, which is not there any more", h.down, o.Port),
			"a running agent puts it right: 'baize status' there")
	case o.Back:
		h.out.Exits = append(
			h.out.Exits,
			Exit{Kind: Answered, Packet: o.Packet, Port: name, Text: "the switch answers itself"},
		)
	case p.Role() == ovs.RoleTunnel:
		h.tunnel(p, o.Packet)
	case p.Role() == ovs.RoleHost:
		h.toKernel(p, o.Packet)
	case p.Role() == ovs.RoleSegment:
		if h.usable(name, "bridge "+p.ExternalIDs[ovs.KeySegment]) {
			h.out.Exits = append(h.out.Exits, Exit{
				Kind: Delivered, Packet: o.Packet, Port: name, Endpoint: p.ExternalIDs[ovs.KeySegment], Bridge: true,
			})
		}
	default:
		h.deliver(name, o.Packet)
	}
}

func (h *hop) deliver(port string, p forward.Packet) {
	e, ok := h.endpointAt(port)
	if !ok {
		h.out.Exits = append(h.out.Exits, Exit{Kind: Uncertain, Packet: p, Port: port, Stage: StagePort,
			Text: fmt.Sprintf("out of port %s, which is not Baize's", port)})
		return
	}
	if h.usable(port, "endpoint "+h.who(e)) && h.takes(e, p) {
		h.deliverTo(e, port, p)
	}
}

func (h *hop) deliverTo(e ovs.Endpoint, port string, p forward.Packet) {
	h.out.Exits = append(h.out.Exits, Exit{
		Kind: Delivered, Packet: p, Port: port, Endpoint: e.Name, Container: h.container(e), MAC: e.MAC.String(), IPs: e.IPs,
	})
}

// tunnel sends a packet to another host.
func (h *hop) tunnel(p ovs.Port, packet forward.Packet) {
	have := p
	if h.Observed != nil {
		have = h.Observed.Switch.Ports[p.Name].Port // somebody may have changed it
	}
	local, _ := netip.ParseAddr(have.Options["local_ip"])
	remote, err := netip.ParseAddr(have.Options["remote_ip"])
	peer := h.owner(remote)
	switch {
	case err != nil || peer == "":
		h.end(StageTunnel, fmt.Sprintf("into %s, whose other end %q is no node's", p.Name, have.Options["remote_ip"]),
			"a running agent puts it right: 'baize status' there")
		return
	case h.Observed != nil && !h.usable(p.Name, "the tunnel to "+peer):
		return
	}
	h.out.Steps = append(h.out.Steps, Step{
		Stage: StageTunnel, State: Good,
		Text: fmt.Sprintf("into %s: %s, %s → %s, key %d", p.Name, p.Type, local, remote, packet.Number(forward.TunID)),
	})
	if h.Observed != nil && !h.underlay(remote) {
		return
	}
	h.out.Exits = append(h.out.Exits, Exit{
		Kind: Tunnelled, Packet: packet.Decapsulated(), Port: p.Name, Peer: peer,
		Tunnel: &Tunnel{Encap: p.Type, Local: local, Remote: remote, Port: tunnelPort(have)},
	})
}

// underlay reports whether the host has a way to an underlay address, and ends the
// packet where it has none.
func (h *hop) underlay(to netip.Addr) bool {
	way := h.Observed.Way(to)
	if way.Err != nil || way.Local {
		h.end(StageUnderlay, fmt.Sprintf("the host has no route to %s", to), "'ip route get "+to.String()+"' there")
		return false
	}
	devices := h.Observed.members(way.Dev) // the bridge's own device is up in any case
	if len(devices) == 0 {
		devices = []string{way.Dev}
	}
	for _, d := range devices {
		if h.Observed.Up[d] {
			return true
		}
	}
	h.end(StageUnderlay, fmt.Sprintf("the link of %s is down, by which %s is reached", devices[0], to),
		"'ip link show "+devices[0]+"' there")
	return false
}
