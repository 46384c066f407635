package trace

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/baize-net/baize/ovs/forward"
)

// Asker asks a node what becomes of a packet.
type Asker interface {
	Ask(ctx context.Context, q Question) (Hop, error)
}

// What a trace may be of.
const (
	ICMP      = "icmp"
	TCP       = "tcp"
	UDP       = "udp"
	ARP       = "arp" // the question for a link address alone, and its answer
	ND        = "nd"  // the same of IPv6
	Broadcast = "broadcast"
)

// Request is what a trace is of.
type Request struct {
	Source, Destination Party
	// Protocol is one of the above, Port that of TCP and UDP, TTL 0 the usual one.
	Protocol string
	Port     int
	TTL      int
	// NextMAC is the link address that the source sends to; nil: it has to ask.
	NextMAC net.HardwareAddr
}

// maxHops bounds the way of one packet: a broadcast visits every node once.
const maxHops = 2000

// Walk follows a packet from host to host. Before an IP packet is sent, its sender
// asks for the link address of the receiver, and the answer has to come back: both
// are followed first.
func Walk(ctx context.Context, r Request, ask Asker) (Result, error) {
	w := &walk{ctx: ctx, r: r, ask: ask, out: Result{
		Source: r.Source, Destination: r.Destination, Protocol: r.Protocol, Phases: []Phase{},
	}}
	if err := w.run(); err != nil {
		return w.out, err
	}
	w.out.Verdict.Observed = true
	for _, p := range w.out.Phases {
		for _, h := range p.Hops {
			w.out.Verdict.Observed = w.out.Verdict.Observed && h.Observed
		}
	}
	w.notes()
	return w.out, nil
}

type walk struct {
	ctx context.Context
	r   Request
	ask Asker
	out Result
}

// arrival is a packet that somebody gets.
type arrival struct {
	node string
	Exit
}

func (w *walk) run() error {
	src, dst := w.r.Source, w.r.Destination
	if w.r.Protocol == Broadcast {
		return w.broadcast()
	}
	mac := w.r.NextMAC
	if mac == nil {
		var err error
		if mac, err = w.resolve(src, dst); err != nil || mac == nil {
			return err
		}
	}
	if w.r.Protocol == ARP || w.r.Protocol == ND {
		w.out.Verdict = Verdict{
			Outcome: Delivered, Node: dst.Node, Text: fmt.Sprintf("delivered: %s learns that %s is at %s", src, dst, mac),
		}
		return nil
	}
	p := forward.IP(src.mac(), mac, src.Address, dst.Address)
	w.setProtocol(&p)
	about := fmt.Sprintf("%s from %s to %s at %s", w.protocol(), src, dst.from(src.Node), mac)
	arrived, err := w.send("packet", about, Question{Node: src.Node, From: src.Endpoint, Packet: p})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(arrived, func(a arrival) bool { return a.Bridge || slices.Contains(a.IPs, dst.Address) })
	if i < 0 {
		w.lost("the packet", arrived)
		return nil
	}
	w.arrived()
	w.out.Verdict = Verdict{
		Outcome: Delivered, Node: arrived[i].node,
		Text: fmt.Sprintf("delivered to %s on %s", to(arrived[i].Exit), arrived[i].node),
	}
	return nil
}

func to(x Exit) string {
	if x.Bridge {
		return "bridge " + x.Endpoint
	}
	return x.Who()
}

func (w *walk) setProtocol(p *forward.Packet) {
	switch w.r.Protocol {
	case TCP:
		p.Set(forward.IPProto, 6)
		p.Set(forward.TPDst, uint64(w.r.Port))
	case UDP:
		p.Set(forward.TPDst, uint64(w.r.Port))
	default:
		p.Set(forward.IPProto, 1)
		p.Set(forward.ICMPType, 8)
		if w.r.Source.Address.Is6() {
			p.Set(forward.IPProto, 58)
			p.Set(forward.ICMPType, 128)
		}
	}
	if w.r.TTL > 0 {
		p.Set(forward.IPTTL, uint64(w.r.TTL))
	}
}

func (w *walk) protocol() string {
	if w.r.Port != 0 {
		return fmt.Sprintf("%s port %d", w.r.Protocol, w.r.Port)
	}
	return w.r.Protocol
}

// resolve follows the question for the receiver's link address and its answer. It
// returns nil, and the verdict is there, where no answer comes.
func (w *walk) resolve(src, dst Party) (net.HardwareAddr, error) {
	about := fmt.Sprintf("who has %s? asks %s", dst.Address, src)
	arrived, err := w.send("question", about, Question{
		Node: src.Node, From: src.Endpoint, Packet: forward.Who(src.mac(), src.Address, dst.Address),
	})
	if err != nil {
		return nil, err
	}
	for _, a := range arrived {
		if a.Kind == Answered {
			w.arrived()
			return answeredMAC(a.Packet), nil
		}
	}
	owner := slices.IndexFunc(arrived, func(a arrival) bool { return a.Bridge || slices.Contains(a.IPs, dst.Address) })
	if owner < 0 {
		w.lost(fmt.Sprintf("the question who has %s", dst.Address), arrived)
		return nil, nil
	}
	a := arrived[owner]
	w.arrived()
	mac, err := net.ParseMAC(a.MAC)
	if a.Bridge || err != nil {
		mac = dst.mac()
	}
	if a.Host { // the kernel answers: its ports are not guarded
		return mac, nil
	}
	about = fmt.Sprintf("%s is at %s, answers %s", dst.Address, mac, to(a.Exit))
	arrived, err = w.send("answer", about, Question{
		Node: a.node, From: a.Endpoint, Packet: forward.Here(mac, src.mac(), dst.Address, src.Address),
	})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(arrived, func(a arrival) bool { return a.Bridge || slices.Contains(a.IPs, src.Address) })
	if i < 0 {
		w.lost(fmt.Sprintf("the answer of %s", to(a.Exit)), arrived)
		return nil, nil
	}
	w.arrived()
	return mac, nil
}

// answeredMAC is the link address that an answer of the switch gives.
func answeredMAC(p forward.Packet) net.HardwareAddr {
	if p.Number(forward.ARPOp) == 2 {
		return p.MAC(forward.ARPSHA)
	}
	return p.MAC(forward.NDTLL)
}

// broadcast follows a frame for everybody.
func (w *walk) broadcast() error {
	src := w.r.Source
	p := forward.Frame(src.mac(), forward.Broadcast, experimental)
	arrived, err := w.send(
		"packet",
		"a broadcast of "+src.String(),
		Question{Node: src.Node, From: src.Endpoint, Packet: p},
	)
	if err != nil {
		return err
	}
	dst := w.r.Destination
	if dst.Address.IsValid() {
		reaches := func(a arrival) bool {
			return a.Kind == Delivered && (slices.Contains(a.IPs, dst.Address) || a.Bridge && a.node == dst.Node)
		}
		i := slices.IndexFunc(arrived, reaches)
		if i < 0 {
			w.lostAt(dst.Node, "the broadcast", arrived)
			return nil
		}
		w.arrived()
		w.out.Verdict = Verdict{
			Outcome: Delivered, Node: arrived[i].node,
			Text: fmt.Sprintf("delivered to %s on %s, among others", to(arrived[i].Exit), arrived[i].node),
		}
		return nil
	}
	w.everybody(arrived)
	return nil
}

// everybody is the verdict of a broadcast that is for nobody in particular: it is
// delivered unless something on the way is not as it should be.
func (w *walk) everybody(arrived []arrival) {
	got, nodes := 0, map[string]bool{}
	for _, a := range arrived {
		if a.Kind == Delivered {
			got++
			nodes[a.node] = true
		}
	}
	for _, h := range w.out.Phases[0].Hops {
		for _, s := range h.Steps {
			if s.State == Broken || s.State == Unknown {
				w.lostAt(h.Node, "the broadcast", arrived)
				w.out.Verdict.Text += fmt.Sprintf("; %d endpoints on %d hosts get it", got, len(nodes))
				return
			}
		}
	}
	w.arrived()
	hosts := len(w.out.Phases[0].Hops)
	text := fmt.Sprintf("goes to %d hosts, and is delivered to %d endpoints on %d of them", hosts, got, len(nodes))
	if slices.ContainsFunc(arrived, func(a arrival) bool { return a.Kind == Uncertain }) {
		text += "; the endpoints of the others are known there only"
	}
	w.out.Verdict = Verdict{Outcome: Delivered, Text: text}
}

// experimental is the EtherType of a broadcast that concerns nobody (IEEE 802,
// local experimental 1).
const experimental = 0x88b5

// send follows a packet, and all copies of it, to their ends.
func (w *walk) send(name, about string, first Question) (arrived []arrival, err error) {
	phase := Phase{Name: name, About: about, Hops: []Hop{}}
	queue := []Question{first}
	for len(queue) > 0 && len(phase.Hops) < maxHops {
		q := queue[0]
		queue = queue[1:]
		q.Network, q.Assume = w.r.Source.Network, w.assumed()
		hop, err := w.ask.Ask(w.ctx, q)
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", q.Node, err)
		}
		phase.Hops = append(phase.Hops, hop)
		for _, x := range hop.Exits {
			switch x.Kind {
			case Tunnelled, Forwarded:
				queue = append(queue, Question{
					Node: x.Peer, Peer: hop.Node, Packet: x.Packet, Tunnel: x.Tunnel, Routed: x.Kind == Forwarded,
				})
			default:
				arrived = append(arrived, arrival{hop.Node, x})
			}
		}
	}
	w.out.Phases = append(w.out.Phases, phase)
	return arrived, nil
}

// assumed are the ends that nobody has seen.
func (w *walk) assumed() (out []Party) {
	for _, p := range []Party{w.r.Source, w.r.Destination} {
		if p.Node != "" && (p.Address.IsValid() || p.Endpoint != "") {
			out = append(out, p)
		}
	}
	return out
}

// arrived marks the last phase.
func (w *walk) arrived() { w.out.Phases[len(w.out.Phases)-1].Arrived = true }

// lost is the verdict of a packet that nobody got for whom it was.
func (w *walk) lost(what string, arrived []arrival) { w.lostAt("", what, arrived) }

// lostAt prefers what happened on one node.
func (w *walk) lostAt(node, what string, arrived []arrival) {
	best, rank := arrival{}, -1
	for _, a := range arrived {
		r := map[Kind]int{Dropped: 2, Uncertain: 3, Delivered: 1}[a.Kind]
		if node != "" && a.node == node {
			r += 4
		}
		if r > rank {
			best, rank = a, r
		}
	}
	v := Verdict{Outcome: best.Kind, Node: best.node, Stage: best.Stage, Remedy: best.Remedy}
	switch best.Kind {
	case Dropped:
		v.Text = fmt.Sprintf("%s is dropped on %s: %s", what, best.node, best.Text)
	case Uncertain:
		v.Text = fmt.Sprintf("%s cannot be followed beyond %s: %s", what, best.node, best.Text)
	case Delivered:
		v.Outcome = Dropped
		v.Text = fmt.Sprintf("%s reaches %s on %s, and not who it is for", what, to(best.Exit), best.node)
	default:
		v.Outcome, v.Node = Dropped, w.r.Source.Node
		v.Text = what + " goes nowhere"
	}
	if best.Kind == Dropped && best.Stage != "" {
		v.Text = fmt.Sprintf("%s is dropped on %s, in %s: %s", what, best.node, best.Stage, best.Text)
	}
	w.out.Verdict = v
}

// notes are what the verdict takes for granted.
func (w *walk) notes() {
	notes := []string{}
	add := func(format string, args ...any) {
		if n := fmt.Sprintf(format, args...); !slices.Contains(notes, n) {
			notes = append(notes, n)
		}
	}
	for _, p := range w.out.Phases {
		for _, h := range p.Hops {
			for _, s := range h.Steps {
				if s.Stage == StageFirewall && s.State == Unknown {
					add("%s: %s", h.Node, s.Text)
				}
			}
			if h.Observed {
				continue
			}
			granted := ""
			for _, x := range []Party{w.r.Source, w.r.Destination} {
				if x.Node == h.Node && !x.Known && x.Address.IsValid() {
					granted += fmt.Sprintf("; that an endpoint there has %s is taken for granted", x.Address)
				}
			}
			add("%s: computed from etcd, %s%s", h.Node, h.Note, granted)
		}
	}
	slices.Sort(notes)
	w.out.Verdict.Notes = notes
}
