package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/kernel"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	passEvery = 30 * time.Second
	passPause = 100 * time.Millisecond
)

// Part is the part of the agent that speaks BGP: it announces what lives on
// this node and gives the kernel's part what the routers told.
type Part struct {
	cfg     Config
	hub     *hub.Hub
	speaker *Speaker
	state   *part.Cell[kernel.State]
	learned *part.Cell[kernel.Learned]
	log     *logrus.Entry
	wake    part.Signal
	faults  part.Faults
	// sessions are the speaker's faults as of the last pass: it tells who waits for changes.
	sessions part.Faults
	stats    part.Stats
}

// NewPart returns the part. It starts nothing.
func NewPart(cfg Config, h *hub.Hub, log *logrus.Entry) (*Part, error) {
	p := &Part{cfg: cfg, hub: h, log: log.WithField("part", "bgp"), wake: part.NewSignal()}
	var err error
	if p.speaker, err = New(cfg, p.slog(), p.wake.Wake); err != nil {
		return nil, err
	}
	p.cfg = p.speaker.cfg
	return p, nil
}

func (p *Part) slog() *slog.Logger { return slog.New(&slogHandler{p.log}) }

// Follow says where the kernel's part is: what it routes, and where it takes
// next hops from.
func (p *Part) Follow(state *part.Cell[kernel.State], learned *part.Cell[kernel.Learned]) {
	p.state, p.learned = state, learned
	learned.Set(kernel.Learned{Unsettled: true})
}

// Name implements part.Part.
func (p *Part) Name() string { return "bgp" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return fault.Merge(p.faults.Get(), p.speaker.Problems()...) }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) {
	p.faults.Wakes(s)
	p.sessions.Wakes(s)
}

// Passes implements part.Reconciler.
func (p *Part) Passes() part.Passes { return p.stats.Passes() }

// Sessions are those with the routers.
func (p *Part) Sessions() []Session { return p.speaker.Sessions() }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.hub.Records().Wakes(p.wake)
	p.state.Wakes(p.wake)
	// The speaker ends after the last pass: GoBGP does not guard its lists against
	// its own end.
	speakerCtx, endSpeaker := context.WithCancel(context.WithoutCancel(ctx))
	defer endSpeaker()
	g := part.NewGroup(ctx)
	g.Go(func(context.Context) error { return p.speaker.Run(speakerCtx) })
	g.Go(func(ctx context.Context) error {
		defer endSpeaker()
		part.Loop{Wake: p.wake, Every: passEvery, Pause: passPause, Stats: &p.stats}.Run(ctx, p.pass)
		return nil
	})
	return g.Wait()
}

func (p *Part) pass(context.Context) error {
	t := p.hub.Records().Get()
	if !t.Known() {
		return nil
	}
	if _, registered := t.Snapshot.Nodes[p.hub.Self().Node]; !registered {
		p.speaker.Withdraw() // removed while running
		return nil
	}
	v := t.View()
	// What is announced can be reached: the host's ports are there.
	if p.state.Get().Complete {
		id, _ := v.Node.VTEP(topology.IPv4)
		p.speaker.Announce(v.Node.Name, id, locals(v))
	}
	p.sessions.Set(p.speaker.Problems())
	err := p.learn(v)
	for _, f := range p.faults.Set(fault.All(err)) {
		p.log.Warn(f)
	}
	return err
}

// learn gives the kernel's part what the routers told of the networks' prefixes.
func (p *Part) learn(v topology.View) error {
	var within []netip.Prefix
	for _, n := range v.Networks {
		if _, forwarded := n.Host(); forwarded {
			within = append(within, n.Prefixes()...)
		}
	}
	// Asked first: what comes in between is in the list.
	out := kernel.Learned{Unsettled: !p.speaker.Settled(), Hops: map[netip.Prefix]kernel.LearnedHop{}}
	if len(within) > 0 {
		list, err := p.speaker.Learned(within)
		if err != nil {
			return err
		}
		for _, l := range list {
			out.Hops[l.Prefix.Masked()] = kernel.LearnedHop{NextHop: l.NextHop, From: l.From, Stale: l.Stale}
		}
	}
	p.learned.Set(out)
	return nil
}

// locals is what lives here: subnets for endpoints and the node's own pins in
// networks that are routed. Segments are Ethernets, in an auto network reached
// as such, and are not announced.
func locals(v topology.View) []Local {
	var out []Local
	add := func(p netip.Prefix) {
		if hop, ok := v.Node.VTEP(topology.FamilyOf(p.Addr())); ok {
			out = append(out, Local{Prefix: p, NextHop: hop})
		}
	}
	for _, n := range v.Networks {
		if !n.Transport.Routed() {
			continue
		}
		for _, p := range n.Subnets {
			add(p)
		}
		for _, pin := range n.Pins {
			if pin.Node == v.Node.Name {
				add(netip.PrefixFrom(pin.Addr, pin.Addr.BitLen()))
			}
		}
	}
	return out
}

// Cleanup implements part.Part: the routers forget this node.
func (p *Part) Cleanup(ctx context.Context, undo part.Undo) ([]string, error) {
	var missed []Neighbor
	err := undo.Do(func() (err error) { missed, err = Forget(ctx, p.cfg, p.hub.Self().Node, p.slog()); return err })
	if err != nil {
		return nil, err
	}
	var report []string
	for _, n := range missed {
		report = append(
			report,
			fmt.Sprintf(
				"left this node's routes on BGP neighbour %s, to which there is no session: they go there %s after the agent's end",
				n.Addr,
				p.cfg.RestartTime,
			),
		)
	}
	if len(missed) < len(p.cfg.Neighbors) {
		report = append(
			report,
			fmt.Sprintf("withdrew this node's routes from %d BGP neighbours", len(p.cfg.Neighbors)-len(missed)),
		)
	}
	return report, nil
}
