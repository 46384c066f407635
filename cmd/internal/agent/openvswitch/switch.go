// Package openvswitch is the part of the agent that keeps this node's Open
// vSwitch: bridge, ports and flows. It comes first and alone: it needs the
// topology, the endpoints and Open vSwitch, and nothing else delays it or makes
// it fail.
//
// One goroutine makes all changes (switch.go). What has to happen within
// milliseconds, at the end of an ovs-vswitchd, is in restore.go. Every pass
// begins with what is, so that a start, a change and a repair are the same.
package openvswitch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// passTimeout bounds one pass.
	passTimeout = 60 * time.Second
	// inputsPatience is how long the first pass waits for what other parts have to
	// say: after a restart of the agent nothing yet is not none. Flows that are
	// there go on meanwhile.
	inputsPatience = 3 * time.Second
	// passPause is the least time between two passes that nobody waits for:
	// changes that come thick and fast are made together.
	passPause = 20 * time.Millisecond
)

// Config is what the part is started with.
type Config struct {
	// Bridge is the integration bridge's name.
	Bridge string
	// Datapath is "system" (kernel) or "netdev" (userspace).
	Datapath string
	// Ports are the UDP ports of encapsulations; 0: the usual one.
	Ports map[topology.Transport]int
	// SFlow is how the bridge tells of its packets; nil: not at all.
	SFlow *ovs.SFlow
	// AuditInterval is how often whole flow texts are compared.
	AuditInterval time.Duration
}

// Endpoints knows the endpoints of this node.
type Endpoints interface {
	// Adopt is given the endpoints that ports tell of, and returns those that
	// are to have a port: each may know some that the other has lost.
	Adopt(atPorts []ovs.Endpoint) []ovs.Endpoint
	// Changes wakes a signal whenever Adopt may return something else.
	Changes(s part.Signal)
}

// Inputs are the values of other parts that flows are made of, beside the
// topology and the endpoints.
type Inputs struct {
	// Segments are the ports to local Ethernets.
	Segments *part.Cell[[]ovs.Segment]
	// Direct are the prefixes of other nodes that the kernel routes now.
	Direct *part.Cell[map[topology.SubnetID]bool]
	// HasSegments: a part will set Segments.
	HasSegments bool
}

// NewInputs returns cells without values.
func NewInputs() Inputs {
	return Inputs{
		Segments: part.NewCell(slices.Equal[[]ovs.Segment]),
		Direct:   part.NewCell(maps.Equal[map[topology.SubnetID]bool, map[topology.SubnetID]bool]),
	}
}

// Outcome is what one pass found and did. It is immutable.
type Outcome struct {
	At   time.Time
	Took time.Duration
	// Err is why the pass did not end; its changes may be made in part.
	Err error
	// View is what the node had to know, Want what followed from it.
	View topology.View
	Want ovs.State
	// Observed is the database after the pass.
	Observed ovs.Observed
	// Bound are the wanted flows as they are installed.
	Bound []ovs.BoundFlow
	// Direct is what the installed flows take the kernel to route.
	Direct map[topology.SubnetID]bool
	// Changes counts ports and flows that were added, changed or removed.
	Changes int
	// Complete: the topology was known and all flows are in place.
	Complete bool

	faults []fault.Fault
	// did says what the changes were, revision which topology they were made for.
	did      Changes
	revision int64
}

// Part is the part of the agent.
type Part struct {
	cfg       Config
	db        Database
	flows     FlowTables
	converger converger
	watch     *flowWatch
	hub       *hub.Hub
	endpoints Endpoints
	inputs    Inputs
	log       *logrus.Entry
	host      Host

	wake    part.Signal
	restore *restoreWait
	outcome *part.Cell[Outcome]
	// offers are the interface types that Open vSwitch can make.
	offers *part.Cell[[]string]
	// live are the ports of the host's own and of segments that can forward.
	live *part.Cell[map[string]bool]
	// relied are the prefixes that installed flows take the kernel to route.
	relied *part.Cell[map[topology.SubnetID]bool]
	faults part.Faults
	stats  part.Stats

	// patience is when inputs are waited for no longer; zero before the first
	// topology. Only the passes use it.
	patience time.Time
	// neighbours are the link addresses that the userspace datapath was given. Only the
	// passes use them.
	neighbours neighbours
	// built is the wanted state of the last pass. Only the passes use it.
	built   built
	builder pipeline.Builder
	// deeds are told to whoever keeps a journal.
	deeds *part.Queue[Deed]
	// ended is closed when the part stops: nobody need wait for a pass then.
	ended chan struct{}

	mu      sync.Mutex
	audit   bool
	waiters []*waiter
	// forwarded: there was a pass that put all flows in place.
	forwarded bool
	totals    Totals
}

// Host is what the userspace datapath has to know of the host's kernel.
type Host interface {
	// OnLink reports whether an address is reached without a router.
	OnLink(a netip.Addr) bool
}

// New returns the part. It starts nothing.
func New(
	cfg Config,
	h *hub.Hub,
	db Database,
	flows FlowTables,
	host Host,
	endpoints Endpoints,
	in Inputs,
	log *logrus.Entry,
) *Part {
	watch := &flowWatch{}
	return &Part{
		cfg: cfg, db: db, flows: flows, converger: newConverger(db, flows, watch), watch: watch, hub: h,
		endpoints: endpoints, inputs: in,
		host: host, log: log.WithField("part", "switch"), wake: part.NewSignal(), restore: newRestoreWait(), audit: true,
		deeds: part.NewQueue[Deed](maxDeeds), outcome: part.NewCell[Outcome](nil),
		offers: part.NewCell(slices.Equal[[]string]),
		live:   part.NewCell(maps.Equal[map[string]bool, map[string]bool]),
		relied: part.NewCell(maps.Equal[map[topology.SubnetID]bool, map[topology.SubnetID]bool]),
	}
}

// Name implements part.Part.
func (p *Part) Name() string { return "switch" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Passes implements part.Reconciler.
func (p *Part) Passes() part.Passes { return p.stats.Passes() }

// Outcome is that of the last pass.
func (p *Part) Outcome() *part.Cell[Outcome] { return p.outcome }

// Offers are the types of interfaces that Open vSwitch can make, once it said
// so.
func (p *Part) Offers() *part.Cell[[]string] { return p.offers }

// HostPorts are the ports, by name, by which this host itself and its segments
// take part in networks, as far as they can forward.
func (p *Part) HostPorts() *part.Cell[map[string]bool] { return p.live }

// Relied are the prefixes of other nodes that installed flows leave to the
// kernel to route.
func (p *Part) Relied() *part.Cell[map[topology.SubnetID]bool] { return p.relied }

// Config returns what the part was started with.
func (p *Part) Config() Config { return p.cfg }

// Ready implements part.Readier: every network that the node carries is
// forwarded.
func (p *Part) Ready() bool {
	t, o := p.hub.Records().Get(), p.outcome.Get()
	return t.Known() && o.Complete && len(o.View.Networks) == len(t.View().Networks)
}

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	p.mu.Lock()
	p.ended = make(chan struct{}) // it may be started again
	p.mu.Unlock()
	p.hub.Records().Wakes(p.wake)
	p.endpoints.Changes(p.wake)
	p.inputs.Segments.Wakes(p.wake)
	p.inputs.Direct.Wakes(p.wake)
	g := part.NewGroup(ctx)
	g.Go(func(ctx context.Context) error { return p.db.Run(ctx, p.wake.Wake) })
	g.Go(p.watchFlows)
	g.Go(func(ctx context.Context) error { p.restore.run(ctx, p.db, p.log); return nil })
	g.Go(p.auditNowAndThen)
	g.Loop(part.Loop{Wake: p.wake, Pause: passPause, Timeout: passTimeout, Stats: &p.stats}, p.pass)
	err := g.Wait()
	p.mu.Lock()
	close(p.ended)
	p.mu.Unlock()
	p.restore.clearLast(p.db, p.log)
	return err
}

// watchFlows notices within milliseconds that ovs-vswitchd was restarted (its
// flows are gone then) or that somebody changed flows by hand.
func (p *Part) watchFlows(ctx context.Context) error {
	// A local socket costs nothing to try, and each pause adds to the outage of an
	// ovs-vswitchd that is started again, which takes a third of a second.
	const often, seldom, restarting = 10 * time.Millisecond, 250 * time.Millisecond, 2 * time.Second
	last := time.Now() // when there was a connection
	for ctx.Err() == nil {
		connected := false
		err := p.flows.Monitor(ctx, func(e openflow.Event) {
			p.watch.event()
			switch e.Kind {
			case openflow.Changed:
				p.requestAudit()
			case openflow.Connected:
				p.restore.back()
				connected = true
				p.deeds.Put(Deed{At: time.Now(), What: Back})
			}
			p.wake.Wake()
		})
		p.watch.lost()
		if ctx.Err() != nil {
			return nil
		}
		p.lostVswitchd() // first of all: see restore.go
		if connected {
			last = time.Now()
			p.lostConnection(err)
		}
		p.log.Debugf("OpenFlow connection: %v", err)
		pause := seldom
		if time.Since(last) < restarting {
			pause = often
		}
		if !part.Sleep(ctx, pause) {
			return nil
		}
	}
	return nil
}

// lostConnection counts an end of ovs-vswitchd, and tells of it.
func (p *Part) lostConnection(err error) {
	p.mu.Lock()
	p.totals.Lost++
	p.mu.Unlock()
	p.deeds.Put(Deed{At: time.Now(), What: Lost, Err: err})
}

// lostVswitchd is called when the OpenFlow connection ends.
func (p *Part) lostVswitchd() {
	p.mu.Lock()
	restorable := p.forwarded
	p.mu.Unlock()
	// The userspace datapath dies with its process: there is nothing to keep,
	// and holding its bridges could cut off the host itself.
	p.restore.lost(p.cfg.Datapath == "system" && restorable)
}

func (p *Part) auditNowAndThen(ctx context.Context) error {
	for part.Sleep(ctx, p.cfg.AuditInterval) {
		p.requestAudit()
		p.wake.Wake()
	}
	return nil
}

func (p *Part) requestAudit() {
	p.mu.Lock()
	p.audit = true
	p.mu.Unlock()
}

// pass is one reconciliation: what the topology asks for, what Open vSwitch is,
// the difference.
func (p *Part) pass(ctx context.Context) error {
	p.mu.Lock()
	audit, waiters := p.audit, p.waiters
	p.audit, p.waiters = false, nil
	p.mu.Unlock()
	before := p.outcome.Get()
	p.restore.atWork(true)
	token := p.restore.token()
	o := Outcome{At: time.Now()}
	o.Err = p.reconcile(ctx, audit, &o)
	o.Took = time.Since(o.At)
	o.Complete = o.Err == nil && len(o.Bound) > 0
	p.mu.Lock()
	p.audit = p.audit || (audit && o.Err != nil)
	p.forwarded = p.forwarded || o.Complete
	p.mu.Unlock()
	if o.Complete {
		p.restore.restored(token)
	}
	p.restore.atWork(false)
	if !errors.Is(ctx.Err(), context.Canceled) { // an agent that stops is no fault of the switch
		p.report(before, o)
	}
	p.note(o)
	p.publish(o)
	p.answer(waiters, o)
	return o.Err
}

func (p *Part) publish(o Outcome) {
	p.outcome.Set(o)
	if len(o.Observed.IfaceTypes) > 0 {
		p.offers.Set(o.Observed.IfaceTypes)
	}
	if o.Err != nil {
		return // what was is better than a guess
	}
	live := map[string]bool{}
	for name, port := range o.Observed.Ports {
		if role := port.Role(); port.Owned() && port.Live() && (role == ovs.RoleHost || role == ovs.RoleSegment) {
			live[name] = true
		}
	}
	p.live.Set(live)
	if o.Complete {
		p.relied.Set(o.Direct)
	}
}

func (p *Part) reconcile(ctx context.Context, audit bool, o *Outcome) error {
	observed, err := p.db.Observe(ctx)
	if err != nil {
		return err
	}
	o.Observed = observed
	t := p.hub.Records().Get()
	if !t.Known() {
		return nil // so nothing is changed
	}
	if _, registered := t.Snapshot.Nodes[p.hub.Self().Node]; !registered {
		return nil // not joined yet, or removed while running: membership sees to it
	}
	o.View = t.View()
	atPorts, faults := observed.Endpoints()
	endpoints := p.endpoints.Adopt(atPorts)
	if p.waitForInputs(o.View) {
		return nil
	}
	o.Direct = p.inputs.Direct.Get()
	sameTopology := p.built.topology.Known() && p.built.topology.SameView(t)
	o.Want = p.want(t, endpoints, p.inputs.Segments.Get(), o.Direct)
	out, err := p.converger.converge(ctx, o.Want, observed, audit)
	o.Observed, o.Bound, o.Changes, o.did = out.Observed, out.Bound, out.Changes, out.Did
	o.did.Own = o.did.Own && sameTopology
	o.revision = t.Snapshot.Revision
	o.faults = slices.Concat(faults, out.Problems, portProblems(out), tunnelProblems(out), restoreProblems(observed))
	if err != nil {
		return err
	}
	if p.cfg.Datapath == "netdev" {
		p.userspace(ctx, observed, *o)
	}
	return nil
}

// built is a wanted state with what it was made of.
type built struct {
	topology  hub.Topology
	endpoints []ovs.Endpoint
	segments  []ovs.Segment
	direct    map[topology.SubnetID]bool
	state     ovs.State
}

// want returns the wanted state: that of the pass before, as most passes are
// audits for which nothing changed, or one built anew.
func (p *Part) want(
	t hub.Topology, endpoints []ovs.Endpoint, segments []ovs.Segment, direct map[topology.SubnetID]bool,
) ovs.State {
	b := &p.built
	if b.topology.Known() && b.topology.SameView(t) && slices.Equal(b.segments, segments) &&
		maps.Equal(b.direct, direct) && reflect.DeepEqual(b.endpoints, endpoints) {
		return b.state
	}
	*b = built{t, endpoints, segments, direct, p.builder.Build(t.View(), endpoints, pipeline.Options{
		Bridge: p.cfg.Bridge, Datapath: p.cfg.Datapath, Ports: p.cfg.Ports, Segments: segments, Direct: direct,
		SFlow: p.cfg.SFlow,
	})}
	return b.state
}

// waitForInputs reports that flows would be made of values that other parts have
// not given yet.
func (p *Part) waitForInputs(v topology.View) bool {
	missing := p.inputs.HasSegments && !p.inputs.Segments.Known()
	for _, n := range v.Networks {
		if _, forwarded := n.Host(); forwarded && !p.inputs.Direct.Known() {
			missing = true
		}
	}
	if !missing {
		return false
	}
	now := time.Now()
	if p.patience.IsZero() {
		p.patience = now.Add(inputsPatience)
		time.AfterFunc(inputsPatience, p.wake.Wake)
	}
	return now.Before(p.patience)
}

// userspace does what the userspace datapath needs beside ports and flows. It
// is a matter of first packets: no failure of it is one of the pass.
func (p *Part) userspace(ctx context.Context, before ovs.Observed, o Outcome) {
	if firstTunnel(before, o.Observed) {
		if err := p.flows.PurgeDatapath(ctx); err != nil {
			p.log.Warnf("packets that came for a tunnel before there was one may stay unheard: %v", err)
		}
	}
	if o.Changes > 0 {
		p.setNeighbours(ctx, o)
	}
}

// firstTunnel reports whether there is a tunnel of an encapsulation of which
// there was none. The userspace datapath of Open vSwitch 3.1 keeps giving the
// host what came for that UDP port before, as long as it goes on coming.
func firstTunnel(before, after ovs.Observed) bool {
	types := func(o ovs.Observed) map[string]bool {
		out := map[string]bool{}
		for _, p := range o.Ports {
			if p.ExternalIDs[ovs.KeyRole] == ovs.RoleTunnel {
				out[p.Type] = true
			}
		}
		return out
	}
	had := types(before)
	for t := range types(after) {
		if !had[t] {
			return true
		}
	}
	return false
}

// neighbours are what an ovs-vswitchd was given: of each peer's address the bridge, link
// address and port. One that was started anew has forgotten it.
type neighbours struct {
	lost uint64 // Totals.Lost when it was given
	of   map[netip.Addr]string
}

// setNeighbours gives the userspace datapath the peers' link addresses, so
// that the first packet to a peer does not wait for ARP.
func (p *Part) setNeighbours(ctx context.Context, o Outcome) {
	if lost := p.Totals().Lost; p.neighbours.of == nil || p.neighbours.lost != lost {
		p.neighbours = neighbours{lost, map[netip.Addr]string{}}
	}
	done, tunnels := map[string]bool{}, o.Observed.Tunnels()
	for _, n := range o.View.Networks {
		for _, peer := range n.Peers {
			if peer.Encap == "" || peer.RemoteMAC == "" || done[peer.Node] {
				continue
			}
			port := tunnels[ovs.TunnelID{Node: peer.Node, Encap: peer.Encap}]
			bridge := port.Status["tunnel_egress_iface"]
			if bridge == "" || !p.host.OnLink(peer.Remote) {
				continue
			}
			done[peer.Node] = true
			given := fmt.Sprint(bridge, peer.RemoteMAC, port.OFPort)
			if p.neighbours.of[peer.Remote] == given {
				continue
			}
			mac, err := topology.ParseMAC(peer.RemoteMAC)
			if err == nil {
				err = p.flows.NeighSet(ctx, bridge, peer.Remote, mac)
			}
			if err != nil {
				p.log.Debugf("neighbour %s: %v", peer.Remote, err)
				continue
			}
			p.neighbours.of[peer.Remote] = given
		}
	}
}

func (p *Part) report(before, o Outcome) {
	faults := fault.Add(o.faults, o.Err)
	fresh := p.faults.Set(faults)
	if o.Err != nil {
		if before.Err == nil || before.Err.Error() != o.Err.Error() {
			p.log.Errorf("reconcile: %v", o.Err)
		}
		return
	}
	if before.Err != nil {
		p.log.Info("reconcile: works again")
	}
	if o.Changes > 0 {
		p.log.Infof(
			"reconciled in %s: %d changes, %d ports, %d flows",
			o.Took.Round(time.Millisecond),
			o.Changes,
			len(o.Want.Ports),
			len(o.Bound),
		)
	}
	for _, f := range fresh {
		p.log.Warn(f)
	}
}
