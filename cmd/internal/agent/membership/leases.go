package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// goneWithin is how long it is waited until the topology shows that subnets were
	// given back.
	goneWithin = 5 * time.Second
	// orphanedFor is how long a network of Docker's may have no part on any node: the
	// engine that asked for it is about to use it.
	orphanedFor = time.Minute
)

// lockLeases makes the caller the only one that leases first subnets and gives them
// back, until it calls unlock.
func (p *Part) lockLeases(ctx context.Context) (unlock func(), err error) {
	select {
	case p.leasing <- struct{}{}:
		return func() { <-p.leasing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// decide decides on the node's leases, remembers it, and has the next pass come
// when it is due.
func (p *Part) decide(s *topology.Snapshot, known attach.Known) decision {
	needs, complete := p.needs(s, known)
	p.mu.Lock()
	defer p.mu.Unlock()
	d := decide(situation{
		snapshot: s, self: p.hub.Self().Node, ahead: p.cfg.Networks, needs: needs, complete: complete, grace: p.cfg.Grace,
		now: time.Now(), last: p.lastNeeds,
	})
	p.lastNeeds, p.wanted, p.decided = d.last, d.wanted, known.Complete
	if p.due != nil {
		p.due.Stop()
	}
	if d.next > 0 {
		p.due = time.AfterFunc(d.next, p.wake.Wake)
	}
	return d
}

// leaseLacking leases what the node needs and lacks. A network that is full costs
// only itself.
func (p *Part) leaseLacking(
	ctx context.Context, s *topology.Snapshot, all []lacking, endpoints []ovs.Endpoint,
) error {
	var errs []error
	for _, name := range p.cfg.Networks {
		if _, ok := s.Networks[name]; !ok {
			errs = append(errs, &topology.Error{
				Kind: topology.ErrNotFound, Code: fault.NetworkMissing, Item: "network " + name,
				What:   "does not exist, but --network names it",
				Remedy: "create it with 'baize network create " + name + "'",
			})
		}
	}
	if len(all) == 0 {
		return errors.Join(errs...)
	}
	unlock, err := p.lockLeases(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	for _, l := range all {
		if !p.closing(l.network) {
			_, err := p.leaseOne(ctx, l, endpoints)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// leaseOne leases a subnet, unless the node has one by now: then it returns none. It
// needs the lock of the leases.
func (p *Part) leaseOne(ctx context.Context, l lacking, endpoints []ovs.Endpoint) (topology.Subnet, error) {
	s := p.hub.Topology().Get().Writable()
	n, there := s.Networks[l.network]
	if !there || hasLease(s.NodeSubnets(l.network, p.hub.Self().Node), l.family) {
		return topology.Subnet{}, nil
	}
	sub, err := p.lease(ctx, n, l.family, endpoints)
	if err == nil {
		p.log.Infof("leased %s in network %s", sub.Prefix, l.network)
	}
	return sub, err
}

// Lease implements attach.Leases: a request needs a network that the node has no
// subnets in.
func (p *Part) Lease(ctx context.Context, network string) error {
	if err := p.awaitRegistered(ctx, network); err != nil {
		return err
	}
	unlock, err := p.lockLeases(ctx)
	if err != nil {
		return noLease(network, err)
	}
	defer unlock()
	if p.closing(network) {
		if err := p.giveBack(ctx, network); err != nil {
			return err
		}
	}
	n, there := p.hub.Topology().Get().Writable().Networks[network]
	if !there || n.Layout != "" {
		return nil // it says so itself
	}
	for _, f := range n.Families() {
		sub, err := p.leaseOne(ctx, lacking{network, f}, p.known.Get().Endpoints)
		if err == nil && sub.Prefix.IsValid() {
			err = p.awaitLease(ctx, sub)
		}
		if err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastNeeds[network] = lastNeed{seen: true} // it may be over before the next decision
	return nil
}

// awaitRegistered waits until the node may lease, a moment after the start of its
// agent.
func (p *Part) awaitRegistered(ctx context.Context, network string) error {
	wake := part.NewSignal()
	p.hub.Topology().Wakes(wake)
	defer p.hub.Topology().Forget(wake)
	self := p.hub.Self()
	for {
		t := p.hub.Topology().Get()
		p.mu.Lock()
		alive, aliveErr := p.alive, p.aliveErr
		p.mu.Unlock()
		switch {
		case t.Err != nil:
			return noLease(network, t.Err)
		case t.Cached:
			return noLease(network, errNoAnswerYet)
		case aliveErr != nil:
			return aliveErr
		case alive && t.Known() && t.Writable().Nodes[self.Node].ID == self.ID:
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return noLease(network, errors.Join(ctx.Err(), p.Joined()))
		}
	}
}

// noLease is the error for a network that cannot be leased in now, and never was.
func noLease(network string, why error) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: "network " + network,
		What:   fmt.Sprintf("no subnet is leased here yet and etcd does not answer (%v)", why),
		Remedy: "check etcd; '--network " + network + "' of the agent leases ahead",
	}
}

// closing reports whether the node has begun to give a network back.
func (p *Part) closing(network string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closings[network]
}

// release gives back what nothing on the node needs any more, and finishes what was
// begun: whether etcd did what it did not answer is not known before.
func (p *Part) release(ctx context.Context, idle []string) error {
	var errs []error
	p.mu.Lock()
	begun := slices.Sorted(maps.Keys(p.closings))
	p.mu.Unlock()
	for _, name := range slices.Concat(begun, idle) {
		errs = append(errs, p.releaseOne(ctx, name))
	}
	return errors.Join(errs...)
}

func (p *Part) releaseOne(ctx context.Context, network string) error {
	unlock, err := p.lockLeases(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if !p.closing(network) {
		// Since the decision a part may have come to need it, and a request to use it.
		t := p.hub.Topology().Get()
		if needs, _ := p.needs(t.Writable(), p.known.Get()); needs[network] || !p.closer.CloseIdle(network) {
			return nil
		}
		p.mu.Lock()
		p.closings[network] = true
		p.mu.Unlock()
	}
	return p.giveBack(ctx, network)
}

// giveBack gives back what the node has in a network that it has closed, and opens
// it again once the topology shows that. It needs the lock of the leases.
func (p *Part) giveBack(ctx context.Context, network string) error {
	self := p.hub.Self().Node
	if err := p.store.GiveBack(ctx, network, self); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, goneWithin)
	defer cancel()
	wake := part.NewSignal()
	p.hub.Records().Wakes(wake)
	defer p.hub.Records().Forget(wake)
	gone := func(t hub.Topology) bool {
		return !slices.ContainsFunc(t.Snapshot.NodeSubnets(network, self), func(sub topology.Subnet) bool {
			return !sub.Reserved
		})
	}
	for !gone(p.hub.Records().Get()) {
		select {
		case <-wake:
			continue
		case <-ctx.Done():
		}
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: "network " + network,
			What: "its subnets are given back, but etcd does not tell so yet", Remedy: "see 'baize status'",
		}
	}
	p.closer.Reopen(network)
	p.mu.Lock()
	delete(p.closings, network)
	p.mu.Unlock()
	p.log.Infof("network %s: nothing here needs it, its subnets are given back", network)
	return nil
}

// removeOrphan removes a network of Docker's that no node has a part of: the agent
// that made it, or the last to use it, did not come to it.
func (p *Part) removeOrphan(ctx context.Context, s *topology.Snapshot, n topology.Network) error {
	if n.CreatedBy != topology.CreatedByDocker || len(s.Holders(n.Name)) > 0 {
		return nil
	}
	if needs, complete := p.needs(s, p.known.Get()); needs[n.Name] || !complete || p.sinceUnheld(n.Name) < orphanedFor {
		return nil
	}
	return p.store.GiveBack(ctx, n.Name, p.hub.Self().Node)
}
