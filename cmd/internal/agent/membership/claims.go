package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// answerWithin is how long a request waits for the answer of an address's owner.
	// Docker waits for a plugin for longer.
	answerWithin = 10 * time.Second
	// lookEvery is how often etcd is asked for it: the watch may be behind.
	lookEvery = time.Second
	// dropTimeout bounds the removal of a claim, which expires anyway.
	dropTimeout = 2 * time.Second
	// attempts bounds how often an address is claimed for one pin: the owner of the
	// subnet changes meanwhile, or starts.
	attempts = 3
)

// Lender lends addresses of the node's subnets to other nodes.
type Lender interface {
	// Lend keeps the address of a claim out of the node's own allocation, unless the
	// node has it in use: then it returns by what.
	Lend(c topology.Claim) (holder string)
	// Probe asks on the wire who has the address of a claim, although nobody of the node's
	// is known to: then it returns who, and the loan is ended.
	Probe(ctx context.Context, c topology.Claim) (holder string, err error)
	// Settle ends the loans of claims that are gone from a topology that etcd has
	// now. Where they were pinned, the pins are in it.
	Settle(s *topology.Snapshot)
}

// Pin implements attach.Leases.
func (p *Part) Pin(ctx context.Context, pin topology.Pin) error {
	if err := p.unleased(ctx, pin); err != nil {
		return err
	}
	for range attempts {
		put, err := p.store.PutPin(ctx, pin)
		if !errors.Is(err, topology.ErrUnclaimed) {
			if s := p.hub.Topology().Get().Snapshot; err == nil && put.Unconfirmed && s != nil {
				if f, ok := unconfirmed(s, put); ok {
					p.log.Warn(f)
				}
			}
			return err
		}
		if err := p.Claim(ctx, pin.Network, pin.Addr, topology.DescribeEndpoint(pin.Endpoint, nil)); err != nil {
			return err
		}
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.AddressUnconfirmed,
		Item: fmt.Sprintf("address %s of network %s", pin.Addr, pin.Network),
		What: "who leases its subnet keeps changing", Remedy: "try again",
	}
}

// passedFor is how long after a claim its address is not asked for again: a pin follows it.
const passedFor = 30 * time.Second

// notePassed notes that nobody answers for the address of a claim, or that somebody does.
func (p *Part) notePassed(c topology.Claim, passed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.passed, func(_ topology.PinID, at time.Time) bool { return time.Since(at) > passedFor })
	delete(p.passed, topology.PinID{Network: c.Network, Addr: c.Addr})
	if passed {
		p.passed[topology.PinID{Network: c.Network, Addr: c.Addr}] = time.Now()
	}
}

// hasPassed reports whether nobody answered for an address a moment ago.
func (p *Part) hasPassed(id topology.PinID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, there := p.passed[id]
	return there && time.Since(at) <= passedFor
}

// unleased asks for an address that nobody leases the subnet of: no node has to agree, and
// somebody may have it all the same. One that was claimed has been through that.
func (p *Part) unleased(ctx context.Context, pin topology.Pin) error {
	s, id := p.hub.Topology().Get().Snapshot, topology.PinID{Network: pin.Network, Addr: pin.Addr}
	if s == nil || s.Pins[id].Node == pin.Node || p.hasPassed(id) {
		return nil
	}
	if _, leased := s.Home(pin.Network, pin.Addr); leased {
		return nil
	}
	return p.vacant(ctx, p.claimOf(pin.Network, pin.Addr, pin.Endpoint))
}

func (p *Part) claimOf(network string, a netip.Addr, what string) topology.Claim {
	self := p.hub.Self()
	return topology.Claim{Network: network, Addr: a, Node: self.Node, ID: self.ID, Endpoint: what}
}

// Claim implements attach.Leases: it waits until the address's owner has agreed.
func (p *Part) Claim(ctx context.Context, network string, a netip.Addr, what string) error {
	within, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	wake := part.NewSignal()
	p.hub.Topology().Wakes(wake)
	defer p.hub.Topology().Forget(wake)
	c := p.claimOf(network, a, what)
	for {
		next, err := p.store.ClaimAddress(within, c)
		switch {
		case err != nil && (within.Err() == nil || c.Owner == "" || p.hub.Topology().Get().Err != nil):
			return err
		case err != nil:
			p.Unclaim(ctx, network, a)
			return noAnswer(p.hub.Topology().Get().Snapshot, c)
		case next.Granted():
			err := p.vacant(ctx, next)
			p.notePassed(next, err == nil)
			return err
		case next.Answer == topology.ClaimRefused:
			p.Unclaim(ctx, network, a)
			return refusal(next)
		}
		c = next
		p.awaitAnswer(within, wake, c)
	}
}

// Asker asks on the wire who has the address of a claim, of which only the switch and the
// kernel of its owner know, as the agent there does not run. It says who answers, in words:
// "02:42:0a:01:05:02 answers for it"; "" where nobody does or the owner cannot be reached.
type Asker func(ctx context.Context, c topology.Claim) (answer string, err error)

// SetAsker says who asks the switches of nodes whose agent does not run; nil: they are not
// asked.
func (p *Part) SetAsker(a Asker) { p.asker = a }

// vacant gives up a claim for an address that somebody answers for although no agent spoke
// for it: nobody leases the subnet, or the agent of its owner does not run. Behind this
// node's ports everybody is asked, and behind those of an owner by its tunnel. What this
// node has pinned is its own.
func (p *Part) vacant(ctx context.Context, c topology.Claim) error {
	s := p.hub.Topology().Get().Snapshot
	if c.Answer == topology.ClaimAgreed && c.Owner != "" {
		return nil
	}
	if s != nil && s.Pins[topology.PinID{Network: c.Network, Addr: c.Addr}].Node == c.Node {
		return nil
	}
	holder, err := p.lender.Probe(ctx, c)
	if err == nil && holder == "" {
		holder = p.askOwner(ctx, s, c)
	} else if err == nil {
		holder = fmt.Sprintf("node %s has it: taken by %s", c.Node, holder)
	}
	if err == nil && holder == "" {
		return nil
	}
	p.Unclaim(ctx, c.Network, c.Addr)
	if err != nil {
		return err
	}
	return &topology.Error{
		Kind: topology.ErrConflict, Code: fault.AddressTaken,
		Item: fmt.Sprintf("address %s of network %s", c.Addr, c.Network), What: holder,
		Remedy: "choose another, or leave it out",
	}
}

// askOwner says who has an address of a node whose agent does not run.
func (p *Part) askOwner(ctx context.Context, s *topology.Snapshot, c topology.Claim) (holder string) {
	if c.Owner == "" || p.asker == nil {
		return ""
	}
	answer, err := p.asker(ctx, c)
	if err != nil {
		p.log.Debugf("ask on the wire for %s of node %s: %v", c.Addr, c.Owner, err)
	}
	if answer == "" {
		return ""
	}
	holder = fmt.Sprintf("node %s has it: %s there, though no agent runs", c.Owner, answer)
	if s != nil {
		if called := topology.DescribeEndpoint("", s.LookupAddr(c.Network, c.Addr)); called != "" {
			holder += ", " + called
		}
	}
	return holder
}

// awaitAnswer waits until there may be an answer to a claim.
func (p *Part) awaitAnswer(ctx context.Context, wake part.Signal, c topology.Claim) {
	look := time.NewTimer(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			return
		case <-wake:
		}
		s := p.hub.Topology().Get().Snapshot
		if s == nil {
			continue
		}
		have, there := s.Claims[topology.PinID{Network: c.Network, Addr: c.Addr}]
		if _, runs := s.Alive[c.Owner]; (there && have.ModRevision > c.ModRevision) || !runs {
			return
		}
	}
}

// Unclaim implements attach.Leases: it gives up a claim of this node. One that it
// cannot give up expires.
func (p *Part) Unclaim(ctx context.Context, network string, a netip.Addr) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropTimeout)
	defer cancel()
	if err := p.store.DropClaim(ctx, p.claimOf(network, a, "")); err != nil {
		p.log.Debugf("give up the claim of %s in network %s: %v", a, network, err)
	}
}

// refusal is the error for an address that its owner has in use.
func refusal(c topology.Claim) error {
	return &topology.Error{
		Kind: topology.ErrConflict, Code: fault.AddressTaken,
		Item: fmt.Sprintf("address %s of network %s", c.Addr, c.Network),
		What: fmt.Sprintf("node %s has it: taken by %s", c.Owner, c.Holder), Remedy: "choose another, or leave it out",
	}
}

// noAnswer is the error for an address whose owner runs and does not answer.
func noAnswer(s *topology.Snapshot, c topology.Claim) error {
	what := fmt.Sprintf("node %s leases its subnet and does not say whether the address is free", c.Owner)
	if s != nil {
		if v := s.Nodes[c.Owner].Version; v != "" {
			what += fmt.Sprintf(" (its agent has version %s)", v)
		}
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.AddressUnconfirmed,
		Item: fmt.Sprintf("address %s of network %s", c.Addr, c.Network), What: what,
		Remedy: fmt.Sprintf("see 'baize status' on node %s, and update its agent if it is older than this one; "+
			"or choose another address", c.Owner),
	}
}

// answer answers the claims of other nodes for addresses of this node's subnets.
func (p *Part) answer(ctx context.Context) error {
	t := p.hub.Topology().Get()
	self := p.hub.Self()
	p.mu.Lock()
	alive := p.alive
	p.mu.Unlock()
	if t.Err != nil || !t.Known() || t.Cached || !alive || t.Stored.Nodes[self.Node].ID != self.ID {
		return nil // nothing that is known is sure to be so now
	}
	if !p.known.Get().Complete {
		return nil
	}
	p.lender.Settle(t.Stored)
	var open errgroup.Group
	open.SetLimit(answersAtOnce)
	for _, c := range t.Stored.Claims {
		home, _ := t.Stored.Home(c.Network, c.Addr)
		if c.Owner != self.Node || c.Answer != "" || home.Node != self.Node || home.Segment != "" {
			continue
		}
		open.Go(func() error { return p.answerOne(ctx, t.Stored, home, c) })
	}
	return open.Wait()
}

// answersAtOnce is how many claims are looked into at the same time.
const answersAtOnce = 8

// answerOne answers a claim. Where it cannot be asked for the address on the wire, it has no
// answer yet.
func (p *Part) answerOne(ctx context.Context, s *topology.Snapshot, home topology.Subnet, c topology.Claim) error {
	var err error
	if c.Answer = topology.ClaimAgreed; topology.HostIndex(home.Prefix, c.Addr) < 2 {
		c.Holder = "the node itself"
	} else if c.Holder = p.lend(s, c); c.Holder == "" {
		if c.Holder, err = p.lender.Probe(ctx, c); err != nil {
			return err
		}
	}
	if c.Holder != "" {
		c.Answer = topology.ClaimRefused
	}
	p.log.Infof("address %s of network %s: node %s asks for it: %s %s", c.Addr, c.Network, c.Node, c.Answer, c.Holder)
	return p.store.AnswerClaim(ctx, c)
}

// lend lends an address, or says what has it.
func (p *Part) lend(s *topology.Snapshot, c topology.Claim) (holder string) {
	if holder = p.lender.Lend(c); holder == "" || strings.Contains(holder, ", container ") {
		return holder
	}
	if called := topology.DescribeEndpoint("", s.LookupAddr(c.Network, c.Addr)); called != "" {
		holder += ", " + called
	}
	return holder
}
