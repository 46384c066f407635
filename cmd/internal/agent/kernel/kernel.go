// Package kernel is the part of the agent that keeps this host's kernel as the
// networks need it that kernels forward (transports route and auto, and networks
// with routers): the host's own ports, routes, sysctls, the firewall. What is
// wanted, and what differs, is computed by cmd/internal/kernel.
//
// It publishes which prefixes of other nodes the kernel routes now (Direct); the
// switch makes flows of that, and says which of them its flows rely on. A route
// goes only when no flow relies on it.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	model "github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// passPause is the least time between two passes, whatever happens to routes.
	passPause = 100 * time.Millisecond
	// passTimeout bounds one.
	passTimeout = 60 * time.Second
)

// Config is what the part is started with.
type Config struct {
	// Userspace: the datapath reads frames from packet sockets.
	Userspace bool
	// TunnelPorts are the UDP ports of encapsulations; 0, or none: the usual one.
	TunnelPorts map[topology.Transport]int
	// Every is how often all is looked at though nothing is reported: iptables of
	// the legacy kind reports nothing.
	Every time.Duration
	// Masquerade says whether packets that leave a network get this host's
	// address; nil: those of none do.
	Masquerade func(topology.Network) bool
	// Pods says whether containers of a network are routed by this host, each by a device
	// of its own or by a bridge; nil: those of none are.
	Pods func(topology.Network) bool
	// Protected are addresses that no network may cover, besides the underlay's.
	Protected []model.Protected
}

// State is what the kernel's part in forwarding was at the end of a pass. It is
// immutable.
type State struct {
	View     topology.View
	OnLink   topology.OnLink
	NextHops topology.NextHops
	// Direct are the prefixes of other nodes that the kernel routes.
	Direct map[topology.SubnetID]bool
	// Complete: every network that needs a port of the host's has it.
	Complete bool
	// TunnelDrops counts the tunnelled packets that came in by a device that does not
	// lead to their sender, when the firewall was looked at last.
	TunnelDrops uint64
}

// Part is the part of the agent.
type Part struct {
	cfg       Config
	hub       *hub.Hub
	host      model.Host
	known     *part.Cell[attach.Known]
	segments  *part.Cell[[]ovs.Segment]
	hostPorts *part.Cell[map[string]bool]
	outcome   *part.Cell[openvswitch.Outcome]
	relied    *part.Cell[map[topology.SubnetID]bool]
	learned   *part.Cell[Learned]
	direct    *part.Cell[map[topology.SubnetID]bool]
	state     *part.Cell[State]
	log       *logrus.Entry
	wake      part.Signal
	faults    part.Faults
	stats     part.Stats

	// before is the last observation, firewall the last look at the firewall. Run
	// alone uses them.
	before   model.Observed
	firewall firewall
	// owners are the addresses of endpoints that this host had at the last pass; nil: there
	// was none. leaving are those that went while the switch still had their ports, away
	// those of this node's subnets that were seen on other nodes, without ports.
	owners, leaving, away map[owner]bool
	// settled: the switch has had its first pass, and said what its flows rely on.
	// Before that nothing is taken away: what an earlier run of the agent made is
	// in use.
	settled bool

	// interest says which changes wake the part; nil: all.
	interest atomic.Pointer[model.Interest]

	mu sync.Mutex
	// unwatched is what cannot be watched now, and why.
	unwatched map[string]error
}

// New returns the part. It starts nothing.
func New(
	cfg Config, h *hub.Hub, host model.Host, known *part.Cell[attach.Known],
	in openvswitch.Inputs, sw *openvswitch.Part, log *logrus.Entry,
) *Part {
	return &Part{
		cfg: cfg, hub: h, host: host, known: known, segments: in.Segments, direct: in.Direct,
		hostPorts: sw.HostPorts(), outcome: sw.Outcome(), relied: sw.Relied(),
		learned: part.NewCell(sameLearned), state: part.NewCell[State](nil), wake: part.NewSignal(),
		log: log.WithField("part", "kernel"), unwatched: map[string]error{},
		leaving: map[owner]bool{}, away: map[owner]bool{},
	}
}

// Name implements part.Part.
func (p *Part) Name() string { return "kernel" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Passes implements part.Reconciler.
func (p *Part) Passes() part.Passes { return p.stats.Passes() }

// State is that at the end of the last pass.
func (p *Part) State() *part.Cell[State] { return p.state }

// Learned is where next hops that routers announced are put.
func (p *Part) Learned() *part.Cell[Learned] { return p.learned }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.hub.Records().Wakes(p.wake)
	p.known.Wakes(p.wake)
	p.segments.Wakes(p.wake)
	p.hostPorts.Wakes(p.wake)
	p.learned.Wakes(p.wake)
	p.relied.Wakes(p.wake)
	g := part.NewGroup(ctx)
	g.Watch("the kernel of this host", p.log, p.watch)
	g.Loop(part.Loop{Wake: p.wake, Every: p.cfg.Every, Pause: passPause, Timeout: passTimeout, Stats: &p.stats}, p.pass)
	return g.Wait()
}

// watch wakes the part when something changes that matters to its last state.
func (p *Part) watch(ctx context.Context) error {
	return p.host.Watch(ctx, model.Watcher{
		Interest: func() model.Interest {
			if i := p.interest.Load(); i != nil {
				return *i
			}
			return model.Interest{All: true}
		},
		Fire: p.wake.Wake,
		Fault: func(what string, err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if err == nil {
				delete(p.unwatched, what)
			} else {
				p.unwatched[what] = err
			}
			p.wake.Wake()
		},
	})
}

func (p *Part) watchFaults() []fault.Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []fault.Fault
	for what, err := range p.unwatched {
		out = append(out, fault.Fault{
			Code: fault.KernelUnavailable, Severity: fault.Warning, Item: "changes of " + what,
			What:   "the kernel does not report them: " + err.Error(),
			Remedy: fmt.Sprintf("they are looked at every %s meanwhile, and the agent tries to watch them again", p.cfg.Every),
		})
	}
	return out
}

// pass brings the kernel to what the topology asks for. What fails costs only
// itself and is a fault.
func (p *Part) pass(ctx context.Context) error {
	t := p.hub.Records().Get()
	if !t.Known() || !p.hostPorts.Known() {
		return nil // which ports there are is not known yet: none would take routes away
	}
	k := look{Part: p, State: State{View: t.View(), Complete: true}, faults: p.watchFaults()}
	p.forget(ctx, p.moved(k.View))
	err := k.run(ctx)
	p.forget(ctx, p.left())
	for _, f := range p.faults.Set(fault.Add(k.faults, err)) {
		p.log.Warn(f)
	}
	if err != nil {
		return err // what was stays
	}
	p.direct.Set(k.Direct)
	p.state.Set(k.State)
	return k.refused
}

// Cleanup implements part.Part. It removes the routes, tables and chains of
// Baize's, those of earlier versions too.
func (p *Part) Cleanup(ctx context.Context, undo part.Undo) (report []string, err error) {
	have, err := p.host.Observe(ctx, model.Query{})
	if err != nil {
		return nil, err
	}
	for _, f := range have.Faults() {
		p.log.Warn(f)
	}
	change, _ := model.Diff(model.State{}, have, nil)
	var errs []error
	for _, s := range change.Steps {
		if err := undo.Do(func() error { return p.host.Apply(ctx, model.Change{Steps: []model.Step{s}}) }); err != nil {
			errs = append(errs, err)
			continue
		}
		if line := removed(s); !slices.Contains(report, line) {
			report = append(report, line)
		}
	}
	return report, errors.Join(errs...)
}

// removed says what a step of Cleanup has removed.
func removed(s model.Step) string {
	switch s := s.(type) {
	case model.ChangeRoute:
		return "removed route " + s.Route.String()
	case model.ChangeRule:
		return "removed rule " + s.Rule.String()
	case model.Restore:
		return fmt.Sprintf("removed chain %s (%s)", s.Chain.Name, s.Tool)
	case model.SetNAT:
		return "removed table inet " + model.Table + " of nftables"
	case model.SetTunnels:
		return "removed table inet " + model.TunnelTable + " of nftables"
	case model.ChangeDrop:
		return "removed table netdev " + model.Table + " of nftables"
	}
	return s.String()
}
