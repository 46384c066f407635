package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// askAgain is how long the owner of an address that it did not agree to give is
// left in peace, by what nobody waits for.
const askAgain = time.Minute

// asking are the addresses that owners were asked for by the passes. Only they use
// it.
type asking map[topology.PinID]asked

// asked is what became of it.
type asked struct {
	at  time.Time
	err error // why it was refused; nil before there is an answer
}

// syncPins makes the pins in etcd those of the local endpoints that live
// outside the node's subnets. One that is on its way has its pin before its
// port, and whoever adds it sees to that.
func (p *Part) syncPins(ctx context.Context, s *topology.Snapshot, known attach.Known) error {
	self := p.hub.Self().Node
	wanted := p.wantedPins(s, known)
	var errs []error
	for _, e := range known.Endpoints {
		if _, ok := s.Networks[e.Network]; !ok || known.Moving[e.Port] {
			continue // when the network is back, so are its pins; a move writes its own
		}
		for _, ip := range e.IPs {
			id := topology.PinID{Network: e.Network, Addr: ip}
			if want, away := wanted[id]; away && !attach.MovedAway(s.Pins[id], e, self) {
				errs = append(errs, p.syncPin(ctx, s, want))
			}
		}
	}
	for id, pin := range s.Pins {
		if _, ok := wanted[id]; pin.Node == self && !ok && !cameHome(pin, known) {
			if err := p.store.DeletePin(ctx, pin); err != nil {
				errs = append(errs, fmt.Errorf("take back the pin of an endpoint that is gone: %w", err))
			}
		}
	}
	maps.DeleteFunc(p.asking, func(id topology.PinID, _ asked) bool {
		_, ok := wanted[id]
		return !ok
	})
	return errors.Join(errs...)
}

// wantedPins are those of the addresses that endpoints have outside of the node's subnets.
func (p *Part) wantedPins(s *topology.Snapshot, known attach.Known) map[topology.PinID]topology.Pin {
	wanted := map[topology.PinID]topology.Pin{}
	for _, e := range known.All() {
		for _, ip := range e.IPs {
			if _, ok := s.Networks[e.Network]; ok && p.atHome(s, e.Network, ip) {
				continue
			}
			wanted[topology.PinID{Network: e.Network, Addr: ip}] = pinOf(e, ip, p.hub.Self().Node)
		}
	}
	return wanted
}

// cameHome reports whether a pin is that of an endpoint which was moved to the node that
// leases its address. It stays as long as the endpoint: the node that had it may not have
// seen it yet.
func cameHome(pin topology.Pin, known attach.Known) bool {
	return pin.MovedFrom != "" && slices.ContainsFunc(known.All(), func(e ovs.Endpoint) bool {
		return e.Network == pin.Network && slices.Contains(e.IPs, pin.Addr) && e.MAC.String() == pin.MAC
	})
}

// Move implements attach.Leases.
func (p *Part) Move(ctx context.Context, from string, pins []topology.Pin) error {
	return p.store.MovePins(ctx, from, pins)
}

func pinOf(e ovs.Endpoint, ip netip.Addr, self string) topology.Pin {
	return topology.Pin{Network: e.Network, Addr: ip, Node: self, MAC: e.MAC.String(), Endpoint: e.Name}
}

// atHome reports whether an address is in one of the node's own subnets.
func (p *Part) atHome(s *topology.Snapshot, network string, ip netip.Addr) bool {
	return slices.ContainsFunc(s.NodeSubnets(network, p.hub.Self().Node), func(sub topology.Subnet) bool {
		return sub.Prefix.Contains(ip)
	})
}

// syncPin writes one pin unless it is there, and has one confirmed that was written
// while its owner could not be asked. It waits for nobody: an answer wakes the part.
func (p *Part) syncPin(ctx context.Context, s *topology.Snapshot, want topology.Pin) error {
	id := topology.PinID{Network: want.Network, Addr: want.Addr}
	have, there := s.Pins[id]
	if there && have.Node == want.Node && have.MAC == want.MAC {
		home, leased := s.Home(want.Network, want.Addr)
		if _, runs := s.Alive[home.Node]; !have.Unconfirmed || (leased && !runs) {
			delete(p.asking, id)
			return nil
		}
		return p.ask(ctx, s, want)
	}
	_, err := p.store.PutPin(ctx, want)
	if errors.Is(err, topology.ErrUnclaimed) {
		return p.ask(ctx, s, want)
	}
	if err == nil {
		delete(p.asking, id)
	}
	return err
}

// ask asks the owner of an address, and writes the pin once it has agreed. Until
// then the error says what is waited for, or why it was refused.
func (p *Part) ask(ctx context.Context, s *topology.Snapshot, want topology.Pin) error {
	id := topology.PinID{Network: want.Network, Addr: want.Addr}
	before := p.asking[id]
	lately := time.Since(before.at) < askAgain
	if before.err != nil && lately {
		return before.err
	}
	claim, stands := s.Claims[id]
	stands = stands && claim.Node == want.Node
	switch {
	case stands && claim.Answer == topology.ClaimRefused:
		err := refusal(claim)
		p.asking[id] = asked{at: time.Now(), err: err}
		return errors.Join(err, p.store.DropClaim(ctx, claim))
	case !stands && lately:
		return unanswered(s, want) // it expired, or is not to be seen yet
	case !stands:
		p.asking[id] = asked{at: time.Now()}
	}
	c, err := p.store.ClaimAddress(ctx, p.claimOf(want.Network, want.Addr, topology.DescribeEndpoint(want.Endpoint, nil)))
	if err != nil {
		return err
	}
	if !c.Granted() {
		return unanswered(s, want)
	}
	if _, err := p.store.PutPin(ctx, want); err != nil {
		return err
	}
	delete(p.asking, id)
	return nil
}

// unanswered is the error for an address whose owner has not answered.
func unanswered(s *topology.Snapshot, want topology.Pin) error {
	home, _ := s.Home(want.Network, want.Addr)
	return noAnswer(s, topology.Claim{Network: want.Network, Addr: want.Addr, Owner: home.Node})
}

// unconfirmed are the addresses of this node's endpoints whose owners do not run
// and did not agree.
func (p *Part) unconfirmed() []fault.Fault {
	t := p.hub.Topology().Get()
	if !t.Known() {
		return nil
	}
	var out []fault.Fault
	for _, pin := range t.Snapshot.SortedPins() {
		if pin.Node != p.hub.Self().Node || !pin.Unconfirmed {
			continue
		}
		if f, ok := unconfirmed(t.Snapshot, pin); ok {
			out = append(out, f)
		}
	}
	return out
}

// unconfirmed is what is wrong with a pin whose owner could not be asked, as long as
// it cannot.
func unconfirmed(s *topology.Snapshot, pin topology.Pin) (fault.Fault, bool) {
	home, leased := s.Home(pin.Network, pin.Addr)
	if _, runs := s.Alive[home.Node]; runs || !leased {
		return fault.Fault{}, false
	}
	what := fmt.Sprintf("it is in %s, which node %s leases; its agent does not run and could not be asked: "+
		"an endpoint there may have it", home.Prefix, home.Node)
	if names := topology.DescribeEndpoint("", s.LookupAddr(pin.Network, pin.Addr)); names != "" {
		what += ", " + names
	}
	return fault.Fault{
		Code: fault.AddressUnconfirmed, Severity: fault.Warning,
		Item: fmt.Sprintf("address %s of network %s, endpoint %s", pin.Addr, pin.Network, pin.Endpoint), What: what,
		Remedy: fmt.Sprintf("start the agent on node %s, or, if the host is gone for good, run 'baize node remove %s'",
			home.Node, home.Node),
	}, true
}
