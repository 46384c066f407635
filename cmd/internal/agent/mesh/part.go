// Package mesh is the part of the agent that probes the ways to all peers, all the
// time: frames of two sizes through the real tunnels, as the switch sends those of
// endpoints. What arrives there and here tells loss for each direction, latency and
// the path's MTU; see docs/mesh.md.
//
// All that is decided is decided by the engine, which is pure (engine.go, peer.go,
// window.go, pathmtu.go). Frames go out of the switch and come back from it by an
// OpenFlow connection of their own (Wire): no port, no flow for each peer, and the
// same with the kernel's datapath and the userspace one.
package mesh

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// The most probes a second that the switch gives to the agent, and how many may come
// at once. A round of a thousand peers brings seventy a second.
const (
	MostPackets = 1000
	MostBurst   = 2000
)

// Wire sends frames into tunnels of the switch and receives probes that come out of
// them; openflow.Packets is one.
type Wire interface {
	// Run holds the connection; it returns when that ends.
	Run(ctx context.Context, connected func(), received func(openflow.Packet)) error
	Send(port int, key uint64, frame []byte) error
}

// Config is what the part is started with.
type Config struct {
	// Interval is how long a round through all peers takes.
	Interval time.Duration
	// Ports are the UDP ports of encapsulations; 0: the usual one.
	Ports map[topology.Transport]int
}

// Part is the part of the agent.
type Part struct {
	cfg     Config
	hub     *hub.Hub
	outcome *part.Cell[openvswitch.Outcome]
	wire    Wire
	echo    Echo // nil: paths without encapsulation are not probed
	log     *logrus.Entry
	wake    part.Signal // there may be other ways
	turn    part.Signal // something is due
	faults  part.Faults
	// last is what the switch's last pass that succeeded left. Only the turns use it.
	last openvswitch.Outcome

	mu     sync.Mutex
	engine *engine
	// waiting are those who wait for an answer or a part of a row, several for one
	// perhaps.
	waiting map[chan arrival]awaited
	// paths are the ways without encapsulation, lastPath the last number of one.
	paths       map[Key]*path
	pathsByAddr map[netip.Addr]*path
	pathsByPort map[int]*path
	// hosts are those of silent tunnels, by their ends.
	hosts    map[netip.Addr]*host
	lastPath int
}

// awaited is a frame that somebody waits for.
type awaited struct {
	key    Key
	kind   kind
	stream stream
	seq    uint32
}

// New returns the part. It starts nothing.
func New(
	cfg Config, h *hub.Hub, outcome *part.Cell[openvswitch.Outcome], w Wire, e Echo, log *logrus.Entry,
) *Part {
	return &Part{
		cfg: cfg, hub: h, outcome: outcome, wire: w, echo: e, log: log.WithField("part", "mesh"),
		wake: part.NewSignal(), turn: part.NewSignal(), waiting: map[chan arrival]awaited{},
		engine: newEngine(h.Self().Node, newLife(), cfg.Interval),
	}
}

// newLife draws the number that tells this run of the agent from all others.
func newLife() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return max(1, binary.BigEndian.Uint64(b[:]))
}

// Name implements part.Part.
func (p *Part) Name() string { return "mesh" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Cleanup implements part.Part: nothing is left of probes.
func (p *Part) Cleanup(context.Context, part.Undo) ([]string, error) { return nil, nil }

// Results are what is known of all ways, by node and encapsulation.
func (p *Part) Results() []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.results(time.Now())
}

// results adds what hosts answered to what the engine knows. It needs p.mu.
func (p *Part) results(now time.Time) []Result {
	out := p.engine.results(now)
	for i := range out {
		if h := p.hosts[out[i].Remote]; h != nil && out[i].Verdict == Silent {
			out[i].HostAnswers = h.said
		}
	}
	return out
}

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.outcome.Wakes(p.wake)
	p.hub.Topology().Wakes(p.wake)
	p.mu.Lock()
	p.engine.connect(false, time.Now()) // it may be started again
	p.mu.Unlock()
	p.wake.Wake()
	g := part.NewGroup(ctx)
	g.Go(p.connect)
	g.Go(p.turns)
	if p.echo != nil {
		g.Go(p.listenEchoes)
	}
	return g.Wait()
}

// connectPause is how long after the end of a connection the next is tried.
const connectPause = time.Second

// connect holds the connection to the switch. That there is none the switch's own
// part reports.
func (p *Part) connect(ctx context.Context) error {
	for ctx.Err() == nil {
		err := p.wire.Run(ctx, func() { p.connected(true) }, p.received)
		p.connected(false)
		if ctx.Err() == nil {
			p.log.Debugf("probes: %v", err)
		}
		if !part.Sleep(ctx, connectPause) {
			return nil
		}
	}
	return nil
}

func (p *Part) connected(yes bool) {
	p.mu.Lock()
	p.engine.connect(yes, time.Now())
	p.mu.Unlock()
	p.turn.Wake()
}

// received takes a frame. It is called from the connection's goroutine, and what it
// sends is small: a switch that does not take it is waited for by nobody else.
func (p *Part) received(packet openflow.Packet) {
	if packet.Key != pipeline.ProbeKey {
		return
	}
	p.take(packet.Port, packet.Frame, time.Now())
}

// take gives a frame to the engine, sends what that answers, and hands the frame to
// who waits for it.
func (p *Part) take(port int, b []byte, now time.Time) {
	p.mu.Lock()
	out, got, woken, err := p.engine.receive(port, b, now)
	var waits []chan arrival
	if err == nil {
		waits = p.answered(got)
	}
	p.mu.Unlock()
	if err != nil {
		p.log.Debugf("from port %d: %v", port, err)
		return
	}
	p.send(out)
	for _, c := range waits {
		c <- got // it has room
	}
	if woken {
		p.turn.Wake()
	}
}

// answered returns who waits for a frame, once.
func (p *Part) answered(got arrival) (waits []chan arrival) {
	k := awaited{key: got.key, kind: got.frame.kind}
	switch got.frame.kind {
	case kindAnswer:
		k.stream, k.seq = got.frame.answersStream, got.frame.answers
	case kindRow:
		k.seq = got.frame.seq
	default:
		return nil
	}
	for c, x := range p.waiting {
		if x == k {
			waits = append(waits, c)
			delete(p.waiting, c)
		}
	}
	return waits
}

func (p *Part) send(out []outgoing) {
	for _, o := range out {
		if o.port >= firstPath {
			p.sendEcho(o)
			continue
		}
		if err := p.wire.Send(o.port, pipeline.ProbeKey, o.frame); err != nil {
			p.log.Debugf("send a probe: %v", err)
			return
		}
	}
}

// turns sends what is due.
func (p *Part) turns(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			p.aim()
		case <-p.turn:
		case <-timer.C:
		}
		now := time.Now()
		p.mu.Lock()
		out, next := p.engine.turn(now)
		ask := p.silentHosts(out, now)
		var results []Result
		news := p.engine.news
		if p.engine.news = false; news {
			results = p.results(now)
		}
		p.mu.Unlock()
		p.send(out)
		p.askHosts(ask)
		if news {
			p.report(results)
		}
		timer.Reset(max(leastTurn, time.Until(next)))
	}
}

// leastTurn is the least time between two turns: what is due within it is sent
// together.
const leastTurn = 20 * time.Millisecond

// report makes faults of results.
func (p *Part) report(results []Result) {
	for _, f := range p.faults.Set(faultsOf(results, p.cfg.Ports)) {
		p.log.Warn(f)
	}
}

// aim tells the engine which ways there are.
func (p *Part) aim() {
	t, o := p.hub.Topology().Get(), p.outcome.Get()
	if o.Complete {
		p.last = o // a pass that failed knows less than the one before
	}
	if !t.Known() {
		return
	}
	targets := targetsOf(p.last.View, p.last.Observed, t.Snapshot.Alive, p.echo != nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aimPaths(targets)
	p.engine.aim(targets, time.Now())
}

// targetsOf returns the ways of a view: one for each peer and encapsulation, and,
// with paths, one to each peer that packets go to without any. Hosts that do not run
// Baize answer no probes.
func targetsOf(v topology.View, observed ovs.Observed, alive map[string]topology.Liveness, paths bool) []Target {
	at := map[Key]int{}
	var out []Target
	tunnels := observed.Tunnels()
	add := func(n *topology.NetworkView, peer *topology.Peer, t Target) {
		j, there := at[t.Key]
		if !there {
			j, at[t.Key] = len(out), len(out)
			var l topology.Liveness
			l, t.Alive = alive[peer.Node]
			t.Answers, t.Local, t.Remote = l.Probes || t.Echo, peer.Local, peer.Remote
			out = append(out, t)
		}
		if size := n.MTU + ethernet; size > out[j].Size {
			out[j].Size, out[j].Network = size, n.Name
		}
	}
	for i := range v.Networks {
		n := &v.Networks[i]
		for j := range n.Peers {
			peer := &n.Peers[j]
			if peer.Router != nil {
				continue
			}
			if peer.Encap != "" {
				t := Target{Key: Key{peer.Node, peer.Encap}}
				if port := tunnels[ovs.TunnelID{Node: t.Node, Encap: t.Encap}]; port.Live() {
					t.Port = port.OFPort
				}
				add(n, peer, t)
			}
			if paths && n.Transport.Routed() {
				add(n, peer, Target{Key: Key{peer.Node, topology.Route}, Echo: true})
			}
		}
	}
	return out
}
