// Package membership is the part of the agent that keeps what the node owns in
// etcd: its liveness, its own record, its subnets, the pins of its endpoints.
// It writes only what differs.
package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// passTimeout bounds one look at the node's own records.
	passTimeout = 30 * time.Second
	// passEvery is how often they are looked at when nothing happens.
	passEvery = time.Minute
	// passPause is the least time between two looks.
	passPause = 20 * time.Millisecond
	// handOverTimeout bounds what a cleanup does in etcd.
	handOverTimeout = 5 * time.Second
)

// errNoAnswerYet is how every agent begins.
var errNoAnswerYet = fmt.Errorf("no answer yet: %w", topology.ErrUnavailable)

// Store is what the part needs of etcdstore.Store.
type Store interface {
	KeepAlive(ctx context.Context, l topology.Liveness, ttl time.Duration, onState func(error)) error
	RegisterNode(ctx context.Context, n topology.Node) (topology.Node, error)
	HandOverNode(ctx context.Context, name, id string) error
	CreateNetwork(ctx context.Context, n topology.Network) (topology.Network, error)
	LeaseSubnet(ctx context.Context, network, node string, f topology.Family, another bool) (topology.Subnet, error)
	ClaimSubnet(ctx context.Context, s topology.Subnet) (topology.Subnet, error)
	PutPin(ctx context.Context, p topology.Pin) (topology.Pin, error)
	DeletePin(ctx context.Context, p topology.Pin) error
	MovePins(ctx context.Context, from string, pins []topology.Pin) error
	ClaimAddress(ctx context.Context, c topology.Claim) (topology.Claim, error)
	AnswerClaim(ctx context.Context, c topology.Claim) error
	DropClaim(ctx context.Context, c topology.Claim) error
	LetGo(ctx context.Context, network, node string) error
	AnswerDeletion(ctx context.Context, network, node string, usedBy []string) error
	FinishDeletion(ctx context.Context, network string) error
	GiveBack(ctx context.Context, network, node string) error
	// Moved gives up connections from addresses that this host has no more. It does not block.
	Moved()
}

// Host tells what of this host others have to know.
type Host interface {
	// Underlay finds the addresses that tunnels end at.
	Underlay() (hostnet.Underlay, error)
	// WatchLinks calls fire whenever links or addresses change, until ctx ends.
	WatchLinks(ctx context.Context, fire func()) error
}

// Config is what the part is started with.
type Config struct {
	// Networks are those that the node has subnets in before anything needs them.
	Networks []string
	// Grace is how long the node keeps its subnets after the last need of a network.
	Grace time.Duration
	// LivenessTTL is how long after its death peers see the agent as alive.
	LivenessTTL time.Duration
	// Datapath is "system" or "netdev"; Version is the program's.
	Datapath, Version string
	// Probes: the agent answers the probes of others.
	Probes bool
	// EtcdEndpoints are for messages.
	EtcdEndpoints []string
}

// Part is the part of the agent.
type Part struct {
	cfg    Config
	hub    *hub.Hub
	store  Store
	host   Host
	known  *part.Cell[attach.Known]
	offers *part.Cell[[]string]
	closer Closer
	users  []User
	// unheld are the networks that are to go and of which nobody has a part, since
	// when. Only the passes use it.
	unheld map[string]time.Time
	// leasing is held by who leases first subnets, or gives them back.
	leasing chan struct{}
	log     *logrus.Entry
	wake    part.Signal
	asked   part.Signal // other nodes ask for addresses
	lender  Lender
	asker   Asker
	asking  asking
	started time.Time
	faults  part.Faults
	stats   part.Stats

	mu       sync.Mutex
	alive    bool  // our liveness key is held
	held     bool  // it once was
	aliveErr error // why it is not
	joined   error // what keeps the node from having its subnets
	// lastNeeds are what the last decision remembered, wanted are its networks; due
	// wakes the part for the next.
	lastNeeds map[string]lastNeed
	wanted    []string
	decided   bool
	due       *time.Timer
	// closings are networks that are being given back: closed to endpoints.
	closings map[string]bool
	// passed are addresses that nobody answered for when they were claimed, and when.
	passed map[topology.PinID]time.Time
}

// New returns the part. It starts nothing.
func New(cfg Config, h *hub.Hub, store Store, host Host, log *logrus.Entry) *Part {
	return &Part{
		cfg: cfg, hub: h, store: store, host: host, log: log.WithField("part", "membership"), wake: part.NewSignal(),
		asked: part.NewSignal(), asking: asking{}, joined: errNoAnswerYet, started: time.Now(),
		unheld: map[string]time.Time{}, leasing: make(chan struct{}, 1), closings: map[string]bool{},
		lastNeeds: map[string]lastNeed{}, passed: map[topology.PinID]time.Time{},
	}
}

// Follow says where the node's endpoints are known, who lends their addresses, and
// what its switch can do.
func (p *Part) Follow(known *part.Cell[attach.Known], lender Lender, offers *part.Cell[[]string]) {
	p.known, p.lender, p.offers = known, lender, offers
}

// Name implements part.Part.
func (p *Part) Name() string { return "membership" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Passes implements part.Reconciler.
func (p *Part) Passes() part.Passes { return p.stats.Passes() }

// Cleanup implements part.Part: this installation ends, and the next one of the
// name may have its subnets. Etcd need not answer for that.
func (p *Part) Cleanup(ctx context.Context, undo part.Undo) ([]string, error) {
	self := p.hub.Self()
	if p.store == nil || self.ID == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	err := undo.Do(func() error { return p.store.HandOverNode(ctx, self.Node, self.ID) })
	switch {
	case err == nil:
		return []string{fmt.Sprintf("left node %s in etcd to the next installation of the name; "+
			"'baize node remove %s' gives its subnets back", self.Node, self.Node)}, nil
	case errors.Is(err, topology.ErrNotFound):
		return nil, nil
	}
	return []string{
		fmt.Sprintf("left node %s in etcd to this installation (%v): 'baize node remove %s' gives its subnets back, "+
			"'baize node hand-over %s' lets the next installation have them", self.Node, err, self.Node, self.Node),
	}, nil
}

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.hub.Topology().Wakes(p.wake)
	p.known.Wakes(p.wake)
	p.offers.Wakes(p.wake)
	p.hub.Topology().Wakes(p.asked)
	p.known.Wakes(p.asked)
	for _, u := range p.users {
		u.Wakes(p.wake)
	}
	g := part.NewGroup(ctx)
	g.Go(p.keepAlive)
	g.Watch(
		"the links of this host",
		p.log,
		func(ctx context.Context) error { return p.host.WatchLinks(ctx, p.wake.Wake) },
	)
	g.Loop(part.Loop{Wake: p.wake, Every: passEvery, Pause: passPause, Timeout: passTimeout, Stats: &p.stats}, p.pass)
	g.Loop(part.Loop{Wake: p.asked, Every: passEvery, Pause: passPause, Timeout: passTimeout}, p.answer)
	return g.Wait()
}

// keepAlive holds the node's liveness key. A second host with the node's name
// is refused here, before it touches anything.
func (p *Part) keepAlive(ctx context.Context) error {
	self := p.hub.Self()
	l := topology.Liveness{
		Node: self.Node, ID: self.ID, Hostname: self.Hostname, Epoch: self.Epoch, Probes: p.cfg.Probes,
	}
	for {
		err := p.store.KeepAlive(ctx, l, p.cfg.LivenessTTL, p.aliveChanged)
		if ctx.Err() != nil {
			return nil
		}
		p.aliveChanged(err)
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if !held && errors.Is(err, topology.ErrConflict) {
			return part.Fatal(err)
		}
		p.log.Warn(err)
		if !part.Sleep(ctx, p.cfg.LivenessTTL) {
			return nil
		}
	}
}

func (p *Part) aliveChanged(err error) {
	p.mu.Lock()
	p.alive, p.aliveErr = err == nil, err
	p.held = p.held || err == nil
	p.mu.Unlock()
	if err == nil {
		p.hub.Hold()
	}
	p.wake.Wake()
}

// Joined is why the node has not got its subnets; nil where it has.
func (p *Part) Joined() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.joined
}

// Ready implements part.Readier: the node is registered and has a subnet in
// every network that something on it needs. A network that is full must not keep the
// others from being used.
func (p *Part) Ready() bool {
	t := p.hub.Records().Get()
	if !t.Known() {
		return false
	}
	p.mu.Lock()
	wanted, decided, joined := p.wanted, p.decided, p.joined
	p.mu.Unlock()
	v := t.View()
	lacks := slices.ContainsFunc(wanted, func(name string) bool { _, has := v.Find(name); return !has })
	return decided && v.Node.ID == p.hub.Self().ID && (!lacks || (joined != nil && len(v.Networks) > 0))
}

func (p *Part) pass(ctx context.Context) error {
	if p.store != nil {
		p.store.Moved()
	}
	err := p.ensure(ctx)
	p.mu.Lock()
	before := p.joined
	p.joined = err
	aliveErr := p.aliveErr
	p.mu.Unlock()
	starting := time.Since(p.started) < hub.CacheAfter && errors.Is(err, errNoAnswerYet)
	if err != nil && (before == nil || before.Error() != err.Error()) && !starting {
		p.log.Warn(err)
	}
	p.faults.Set(fault.Merge(fault.Add(fault.All(aliveErr), err), p.unconfirmed()...))
	return err
}

// ensure makes the node's records what they are to be.
func (p *Part) ensure(ctx context.Context) error {
	t, known := p.hub.Topology().Get(), p.known.Get()
	var d decision
	if t.Known() {
		d = p.decide(t.Writable(), known)
	}
	p.mu.Lock()
	alive, aliveErr := p.alive, p.aliveErr
	p.mu.Unlock()
	switch {
	case t.Err != nil:
		return t.Err
	case aliveErr != nil:
		return aliveErr
	case !t.Known() || t.Cached || !alive:
		return &topology.Error{
			Kind: errNoAnswerYet, Code: fault.StoreUnavailable, Item: "etcd", What: "has not answered yet",
			Remedy: "check --etcd-endpoints " + strings.Join(p.cfg.EtcdEndpoints, ","),
		}
	}
	s := t.Writable()
	if err := p.register(ctx, s); err != nil {
		return err
	}
	if !known.Complete {
		return nil // it wakes this part when it is
	}
	return errors.Join(
		p.followDeletions(ctx, s),
		p.leaseLacking(ctx, s, d.lacking, known.Endpoints),
		p.release(ctx, d.idle),
		p.syncPins(ctx, s, known),
	)
}

// register writes the node's record when it differs from what etcd has.
func (p *Part) register(ctx context.Context, s *topology.Snapshot) error {
	underlay, err := p.host.Underlay()
	if err != nil {
		return err
	}
	self := p.hub.Self()
	n := topology.Node{
		Name: self.Node, ID: self.ID, Hostname: self.Hostname, VTEPs: underlay.Addrs, VTEPMAC: underlay.MAC.String(),
		UnderlayMTU: underlay.MTU, Datapath: p.cfg.Datapath, Version: p.cfg.Version, Epoch: self.Epoch,
	}
	offered := p.offers.Get()
	if len(offered) == 0 {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: "Open vSwitch",
			What:   "has not said yet what tunnels it can make",
			Remedy: "systemctl start openvswitch-switch",
		}
	}
	for _, t := range topology.Encapsulations() {
		if slices.Contains(offered, string(t)) {
			n.Encapsulations = append(n.Encapsulations, t)
		}
	}
	if have, ok := s.Nodes[n.Name]; ok {
		n.Extra, n.Meta = have.Extra, have.Meta
		if string(topology.Encode(n)) == string(topology.Encode(have)) {
			return nil
		}
	}
	_, err = p.store.RegisterNode(ctx, n)
	return err
}

// lease takes the subnets that the node had when its records vanished, else the one that
// local endpoints already have addresses of, so that a lease lost is never a renumbering;
// else any.
func (p *Part) lease(
	ctx context.Context,
	n topology.Network,
	f topology.Family,
	endpoints []ovs.Endpoint,
) (topology.Subnet, error) {
	if back, ok := p.leaseBack(ctx, n, f); ok {
		return back, nil
	}
	for _, e := range endpoints {
		for _, ip := range e.IPs {
			if e.Network != n.Name || topology.FamilyOf(ip) != f {
				continue
			}
			prefix, err := ip.Prefix(n.SubnetLen(f))
			if err != nil || prefix.Contains(n.Prefix(f).Addr()) {
				continue
			}
			claim := topology.Subnet{Network: n.Name, Prefix: prefix, Node: p.hub.Self().Node}
			if sub, err := p.store.ClaimSubnet(ctx, claim); err == nil {
				return sub, nil
			}
		}
	}
	return p.store.LeaseSubnet(ctx, n.Name, p.hub.Self().Node, f, false)
}

// leaseBack leases the subnets again that are in force and gone from etcd. ok: it got one.
func (p *Part) leaseBack(ctx context.Context, n topology.Network, f topology.Family) (out topology.Subnet, ok bool) {
	t := p.hub.Topology().Get()
	for _, sub := range t.Own.NodeSubnets(n.Name, p.hub.Self().Node) {
		if topology.FamilyOf(sub.Prefix.Addr()) != f || sub.Segment != "" {
			continue
		}
		if _, there := t.Stored.Subnets[topology.SubnetID{Network: n.Name, Prefix: sub.Prefix}]; there {
			continue
		}
		sub.Meta, sub.LetGo, sub.UsedBy, sub.UsedByMore = topology.Meta{}, false, nil, 0
		if again, err := p.store.ClaimSubnet(ctx, sub); err == nil && !ok {
			out, ok = again, true
		}
	}
	return out, ok
}
