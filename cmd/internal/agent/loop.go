package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// passTimeout bounds one reconciliation.
	passTimeout = 60 * time.Second
	// retryFirst and retryLast bound the wait after a failed one.
	retryFirst = 200 * time.Millisecond
	retryLast  = 5 * time.Second
)

// reconcileLoop is the only place that changes bridge, ports and flows, but for
// single ports of endpoints.
func (a *Agent) reconcileLoop(ctx context.Context) error {
	audit := time.NewTicker(a.cfg.AuditInterval)
	defer audit.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	backoff := retryFirst
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-retry.C:
		case <-audit.C:
			a.requestAudit()
		}
		if err := a.reconcile(ctx); err != nil && ctx.Err() == nil {
			retry.Reset(backoff)
			backoff = min(2*backoff, retryLast)
		} else {
			backoff = retryFirst
		}
	}
}

// reconcile is one pass: what etcd says, what Open vSwitch is, the difference.
func (a *Agent) reconcile(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	a.mu.Lock()
	snapshot, audit, waiters := a.snapshot, a.audit, a.waiters
	if !a.held && !a.cached {
		// Perhaps another host has the node's name: its switch is not ours to
		// copy. Liveness will tell.
		snapshot = nil
	}
	a.audit, a.waiters = false, nil
	a.mu.Unlock()

	p := pass{at: time.Now()}
	token := a.restore.token()
	p.err = a.pass(ctx, snapshot, audit, &p)
	p.took = time.Since(p.at)

	a.mu.Lock()
	if p.err != nil && audit {
		a.audit = true
	}
	before := a.last
	a.last = p
	complete := p.err == nil && len(p.outcome.Bound) > 0
	a.forwarded = a.forwarded || complete
	a.mu.Unlock()
	a.logPass(before, p)
	for _, w := range waiters {
		w <- p.err
	}
	if complete {
		a.restore.restored(token)
	}
	if p.err == nil {
		a.checkReady(p)
	}
	return p.err
}

func (a *Agent) pass(ctx context.Context, snapshot *topology.Snapshot, audit bool, p *pass) error {
	observed, err := a.db.Observe(ctx)
	if err != nil {
		return err
	}
	p.outcome.Observed = observed
	if snapshot == nil {
		return nil // nothing is known, so nothing is changed
	}
	if _, registered := snapshot.Nodes[a.cfg.Node]; !registered {
		p.problems = snapshot.Validate()
		if a.speaker != nil {
			a.speaker.Withdraw()
		}
		return nil // not joined yet, or removed while running: membership sees to it
	}
	p.view = snapshot.View(a.cfg.Node)
	endpoints, problems := observed.Endpoints()
	endpoints, err = a.collectGarbage(ctx, endpoints, observed)
	if err != nil {
		return err
	}
	problems = append(problems, a.serveNames(endpoints)...)
	segments, segmentProblems := a.attachSegment(ctx, p.view, audit)
	// Make before break, in the kernel as in the switch: routes come before the
	// flows that lead to them, and go after them.
	p.routes, err = a.makeRoutes(ctx, audit, p.view, observed, endpoints)
	if err != nil {
		return err
	}
	options := a.options(segments)
	options.Direct = p.routes.direct
	want := pipeline.Build(p.view, endpoints, options)
	out, err := converge(ctx, a.db, a.flows, want, observed, audit)
	if err == nil {
		err = p.routes.removeRoutes()
	}
	out.Changes += p.routes.changes
	p.outcome = out
	p.problems = slices.Concat(p.view.Problems, problems, out.Problems, portProblems(out), tunnelProblems(out), restoreProblems(observed), addressProblems(p.view, endpoints), segmentProblems, p.routes.problems, a.flannelProblems(p.view))
	if err != nil {
		return err
	}
	switch {
	case !p.routes.waiting:
		a.announce(p.view)
	case out.Changes > 0:
		a.poke() // its port is made now
	}
	if err := a.finishSegment(ctx, p.view, observed, segments); err != nil {
		return err
	}
	if a.datapath == "netdev" && firstTunnel(observed, out.Observed) {
		if err := a.flows.PurgeDatapath(ctx); err != nil {
			a.log.Warnf("what came by tunnels before there was one may stay unheard: %v", err)
		}
	}
	if a.datapath == "netdev" && (out.Changes > 0 || audit) {
		a.setNeighbours(ctx, p.view, out)
	}
	if a.datapath == "netdev" && audit {
		a.keepIngressDrops(endpoints, segments)
	}
	return nil
}

// collectGarbage removes endpoints whose network device is gone: with a
// namespace its veth dies, and OVS would keep the port for ever.
func (a *Agent) collectGarbage(ctx context.Context, endpoints []ovs.Endpoint, observed ovs.Observed) ([]ovs.Endpoint, error) {
	var gone []string
	endpoints = slices.DeleteFunc(endpoints, func(e ovs.Endpoint) bool {
		// Open vSwitch reports no error of its own: the link is down.
		if p := observed.Ports[e.Port]; (p.Up && p.Error == "") || hostnet.LinkExists(e.Port) {
			return false
		}
		a.log.Infof("endpoint %s of network %s: its namespace is gone, the port is removed", e.Name, e.Network)
		gone = append(gone, e.Port)
		return true
	})
	if len(gone) == 0 {
		return endpoints, nil
	}
	defer a.rejoin() // its pins
	if err := a.db.Apply(ctx, ovs.DBChange{RemovePorts: gone}); err != nil {
		return nil, fmt.Errorf("remove the ports of namespaces that are gone: %w", err)
	}
	for _, port := range gone {
		delete(observed.Ports, port)
	}
	return endpoints, nil
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

// setNeighbours tells the userspace datapath the peers' link addresses, so
// that the first packet to a peer does not wait for ARP.
func (a *Agent) setNeighbours(ctx context.Context, v topology.View, out outcome) {
	done := map[string]bool{}
	tunnels := out.Observed.Tunnels()
	for _, n := range v.Networks {
		for _, p := range n.Peers {
			if p.Encap == "" {
				continue
			}
			port := tunnels[ovs.TunnelID{Node: p.Node, Encap: p.Encap}]
			bridge := port.Status["tunnel_egress_iface"]
			if p.RemoteMAC == "" || bridge == "" || done[p.Node] || !hostnet.OnLink(p.Remote) {
				continue
			}
			done[p.Node] = true
			mac, err := topology.ParseMAC(p.RemoteMAC)
			if err == nil {
				err = a.flows.NeighSet(ctx, bridge, p.Remote, mac)
			}
			if err != nil {
				a.log.Debugf("neighbour %s: %v", p.Remote, err)
			}
		}
	}
}

// keepIngressDrops puts the rules back that keep the kernel from taking the
// userspace datapath's frames as well: firewall managers flush what is not
// theirs.
func (a *Agent) keepIngressDrops(endpoints []ovs.Endpoint, segments []ovs.Segment) {
	devices := make([]string, len(endpoints))
	for i, e := range endpoints {
		devices[i] = e.Port
	}
	for _, s := range segments {
		devices = append(devices, s.Port)
	}
	if err := hostnet.SyncIngressDrops(devices); err != nil {
		a.log.Warn(err)
	}
}

// addressProblems reports local endpoints whose address etcd gives to
// somebody else.
func addressProblems(v topology.View, endpoints []ovs.Endpoint) []fault.Fault {
	var out []fault.Fault
	for _, e := range endpoints {
		n, ok := v.Find(e.Network)
		if !ok {
			out = append(out, fault.Fault{
				Item: fmt.Sprintf("endpoint %s", e.Name), What: fmt.Sprintf("this node does not carry its network %s: it is cut off", e.Network),
				Remedy: "create the network again, or remove the endpoint",
			})
			continue
		}
		for _, p := range n.Pins {
			if p.Node != v.Node.Name && slices.Contains(e.IPs, p.Addr) {
				out = append(out, fault.Fault{
					Item: fmt.Sprintf("endpoint %s", e.Name), What: fmt.Sprintf("its address %s is also pinned to node %s", p.Addr, p.Node),
					Remedy: "remove one of the two endpoints",
				})
			}
		}
	}
	return out
}

// settle waits for a pass that began after the call.
func (a *Agent) settle(ctx context.Context) error {
	w := make(chan error, 1)
	a.mu.Lock()
	a.waiters = append(a.waiters, w)
	a.mu.Unlock()
	a.poke()
	select {
	case <-ctx.Done():
		return &topology.Error{Kind: topology.ErrUnavailable, Item: "Open vSwitch", What: "did not take the change in time", Remedy: "see 'baize status'"}
	case err := <-w:
		return err
	}
}

// checkReady tells systemd, once, that the node forwards: the node has its
// subnets and Open vSwitch is as they ask for.
func (a *Agent) checkReady(p pass) {
	a.mu.Lock()
	carried := 0
	for name := range a.snapshotNetworks() {
		if a.carries(name) {
			carried++
		}
	}
	// A network that is full must not keep the others from being used.
	joined := len(p.view.Networks) == carried || (a.joined != nil && len(p.view.Networks) > 0)
	// Docker is started after this, with what its file says.
	ready := p.view.Node.ID == a.id && joined && (a.flannel == nil || a.flannel.told) && (a.cfg.DockerBridge == "" || a.segment.written)
	a.ready = a.ready || ready
	a.mu.Unlock()
	if !ready {
		return
	}
	a.readyOnce.Do(func() {
		a.log.Infof("ready after %s: %d networks, %d ports, %d flows", time.Since(a.started).Round(time.Millisecond),
			len(p.view.Networks), len(p.outcome.Want.Ports), len(p.outcome.Bound))
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS=forwarding"); err != nil {
			a.log.Warnf("tell systemd that the node is ready: %v", err)
		}
	})
}

// snapshotNetworks needs a.mu.
func (a *Agent) snapshotNetworks() map[string]topology.Network {
	if a.snapshot == nil {
		return nil
	}
	return a.snapshot.Networks
}

func (a *Agent) logPass(before, p pass) {
	if p.err != nil {
		if before.err == nil || before.err.Error() != p.err.Error() {
			a.log.Errorf("reconcile: %v", p.err)
		}
		return
	}
	if before.err != nil {
		a.log.Info("reconcile: works again")
	}
	if p.outcome.Changes > 0 {
		a.log.Infof("reconciled in %s: %d changes, %d ports, %d flows", p.took.Round(time.Millisecond), p.outcome.Changes, len(p.outcome.Want.Ports), len(p.outcome.Bound))
	}
	for _, pr := range p.problems {
		if !slices.Contains(before.problems, pr) {
			a.log.Warn(pr)
		}
	}
}
