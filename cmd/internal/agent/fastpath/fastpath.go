// Package fastpath is the part of the agent that keeps the fast path of the
// transports route and auto: programs at the host's ends of endpoints and at the
// devices of the underlay, which forward past Open vSwitch and the kernel's IP
// stack what both would send to the same place. What they are to have is computed
// by cmd/internal/fastpath from what the kernel's part has in place; where they
// have nothing, packets go the plain way. So nothing depends on this part but speed.
package fastpath

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/kernel"
	"github.com/baize-net/baize/cmd/internal/agent/openvswitch"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	model "github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/cmd/internal/fastpath/bpf"
	hostkernel "github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// passPause is the least time between two passes.
	passPause = 100 * time.Millisecond
	// passTimeout bounds one.
	passTimeout = 60 * time.Second
)

// Programs are the programs of this host (cmd/internal/fastpath/bpf).
type Programs interface {
	Observe(ctx context.Context) (bpf.Seen, error)
	Apply(ctx context.Context, c model.Change) error
	Counters() ([]bpf.Counter, error)
}

// Netfilter says what has to see forwarded packets, and when that changes
// (cmd/internal/kernel/linux).
type Netfilter interface {
	Netfilter(ctx context.Context) (hostkernel.Netfilter, error)
	Watch(ctx context.Context, w hostkernel.Watcher) error
}

// The modes of --fastpath.
const (
	ModeAuto = "auto" // wherever it is possible
	ModeOff  = "off"
)

// CheckMode refuses what is no mode of --fastpath.
func CheckMode(mode string) error {
	if slices.Contains([]string{ModeAuto, ModeOff}, mode) {
		return nil
	}
	return &topology.Error{
		Kind: topology.ErrInvalid, Item: fmt.Sprintf("--fastpath %q", mode), What: "unknown", Remedy: "use auto or off",
	}
}

// Config is what the part is started with.
type Config struct {
	// Mode is one of the modes.
	Mode string
	// Userspace: the datapath reads frames from packet sockets, which have their copy
	// before any program.
	Userspace bool
	// SFlow: Open vSwitch tells of what endpoints send, so it has to have it.
	SFlow bool
	// Every is how often all is looked at though nothing is reported.
	Every time.Duration
}

// State is what the part had in place at the end of a pass. It is immutable.
type State struct {
	// Networks are those that the kernel forwards.
	Networks []model.Network
}

// Part is the part of the agent.
type Part struct {
	cfg      Config
	programs Programs
	filter   Netfilter
	kernel   *part.Cell[kernel.State]
	known    *part.Cell[attach.Known]
	outcome  *part.Cell[openvswitch.Outcome]
	state    *part.Cell[State]
	log      *logrus.Entry
	wake     part.Signal
	faults   part.Faults

	// seers is the last look at what has to see packets, and when it was; stale: it
	// has changed since. The former is of Run alone.
	seers struct {
		netfilter hostkernel.Netfilter
		at        time.Time
	}
	stale atomic.Bool
	// begun: the host's own ports were all there once. Before that nothing is taken
	// away: what an earlier run of the agent made is in use.
	begun bool
}

// New returns the part. It starts nothing.
func New(
	cfg Config, programs Programs, filter Netfilter,
	routes *part.Cell[kernel.State], known *part.Cell[attach.Known], outcome *part.Cell[openvswitch.Outcome],
	log *logrus.Entry,
) *Part {
	return &Part{
		cfg: cfg, programs: programs, filter: filter, kernel: routes, known: known, outcome: outcome,
		state: part.NewCell[State](nil), log: log.WithField("part", "fastpath"), wake: part.NewSignal(),
	}
}

// Name implements part.Part.
func (p *Part) Name() string { return "fastpath" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// State is that at the end of the last pass.
func (p *Part) State() *part.Cell[State] { return p.state }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.kernel.Wakes(p.wake)
	p.known.Wakes(p.wake)
	// Open vSwitch, when it starts, removes what it takes for its own queueing.
	p.outcome.Wakes(p.wake)
	g := part.NewGroup(ctx)
	g.Watch("what sees this host's packets", p.log, func(ctx context.Context) error {
		return p.filter.Watch(ctx, hostkernel.Watcher{
			Interest: func() hostkernel.Interest { return hostkernel.Interest{Firewall: true} },
			Fire:     func() { p.stale.Store(true); p.wake.Wake() },
		})
	})
	g.Loop(part.Loop{Wake: p.wake, Every: p.cfg.Every, Pause: passPause, Timeout: passTimeout}, p.pass)
	return g.Wait()
}

// pass brings the programs to what the kernel's part has in place.
func (p *Part) pass(ctx context.Context) error {
	p.begun = p.begun || p.kernel.Known() && p.kernel.Get().Complete && p.known.Get().Complete
	if !p.begun {
		return nil
	}
	seen, err := p.programs.Observe(ctx)
	if err != nil {
		return p.report(fault.Add(nil, err), err)
	}
	in := p.input(seen)
	unread := p.kept(ctx, &in)
	want, networks := model.Wanted(in)
	change := model.Diff(want, seen.State)
	if !change.Empty() {
		p.log.Debugf("the fast path changes:\n%s", change)
		err = p.programs.Apply(ctx, change)
	}
	if err != nil {
		for i := range networks {
			if networks[i].Used {
				networks[i].Why += "; some of it failed"
			}
		}
	}
	p.state.Set(State{Networks: networks})
	err = errors.Join(err, unread)
	return p.report(fault.Add(nil, err), err)
}

func (p *Part) report(faults []fault.Fault, err error) error {
	for _, f := range p.faults.Set(faults) {
		p.log.Warn(f)
	}
	return err
}

// input is what the wanted state is computed from.
func (p *Part) input(seen bpf.Seen) model.Input {
	k := p.kernel.Get()
	in := model.Input{
		View: k.View, Endpoints: p.known.Get().Endpoints, Direct: k.Direct, OnLink: k.OnLink, NextHops: k.NextHops,
		Devices: seen.Devices, HostPorts: map[string]string{}, Kept: map[string]string{},
	}
	names := pipeline.NamesOf(k.View)
	for _, n := range k.View.Networks {
		if _, ok := n.Host(); !ok {
			continue
		}
		if port := names.Host(n.Name); hasDevice(seen, port) {
			in.HostPorts[n.Name] = port
		}
	}
	switch {
	case p.cfg.Mode == ModeOff:
		in.Off = "switched off (--fastpath off)"
	case p.cfg.Userspace:
		// By packet sockets, which have their copy before any program.
		in.Switch = "the userspace datapath reads by itself what they send"
	case p.cfg.SFlow:
		in.Switch = "Open vSwitch samples what they send (sFlow)"
	}
	return in
}

func hasDevice(seen bpf.Seen, name string) bool {
	_, ok := seen.Devices[name]
	return ok
}

// kept finds what has to see the packets of networks. Where the host does not say,
// what it said last counts, and at first everything has to.
func (p *Part) kept(ctx context.Context, in *model.Input) error {
	if in.Off != "" {
		return nil
	}
	have, err := p.netfilter(ctx)
	if p.seers.at.IsZero() {
		in.Off = "it is not known what has to see this host's packets"
		return err
	}
	for _, n := range in.View.Networks {
		if !n.Transport.Routed() {
			continue
		}
		devs := []string{in.HostPorts[n.Name]}
		for _, path := range n.Paths(in.OnLink, in.NextHops) {
			if path.Kind == topology.PathRoute && !slices.Contains(devs, path.Dev) {
				devs = append(devs, path.Dev)
			}
		}
		if why := have.Concerns(n.Prefixes(), devs); why != "" {
			in.Kept[n.Name] = "its packets have to be seen: " + why
		}
	}
	return err
}

// netfilter is what has to see packets: read when it has changed, and now and then,
// since iptables of the legacy kind reports nothing. It takes several commands.
func (p *Part) netfilter(ctx context.Context) (hostkernel.Netfilter, error) {
	if !p.stale.Swap(false) && !p.seers.at.IsZero() && time.Since(p.seers.at) < p.cfg.Every-p.cfg.Every/10 {
		return p.seers.netfilter, nil
	}
	have, err := p.filter.Netfilter(ctx)
	if err != nil {
		p.stale.Store(true)
		return p.seers.netfilter, &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.KernelUnavailable, Item: "what has to see this host's packets",
			What: err.Error() + ": what was known is kept", Remedy: "it is asked again; 'dmesg' may say more",
		}
	}
	p.seers.netfilter, p.seers.at = have, time.Now()
	return have, nil
}

// Counters are the packets that took the fast path, by endpoint's port and node.
func (p *Part) Counters() ([]bpf.Counter, error) { return p.programs.Counters() }

// Cleanup implements part.Part. It removes the programs, with all they have, and
// those of other versions.
func (p *Part) Cleanup(ctx context.Context, undo part.Undo) (report []string, err error) {
	seen, err := p.programs.Observe(ctx)
	if err != nil {
		return nil, err
	}
	devices := seen.State.Devices()
	if len(devices) == 0 {
		return nil, nil
	}
	remove := func() error { return p.programs.Apply(ctx, model.Diff(model.NewState(), seen.State)) }
	if err := undo.Do(remove); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("removed the fast path of %d devices", len(devices))}, nil
}
