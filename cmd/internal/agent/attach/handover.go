package attach

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/addresses"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// An engine asks for an address first, for the endpoint later, and moves its
// device into the container itself. In between the address is reserved, then
// the endpoint is pending.

// Reservation asks for an address of a network.
type Reservation struct {
	Network string
	Family  topology.Family
	// Addr is the address wanted; any where it is not valid.
	Addr netip.Addr
	// Range, where valid, is the part of the network to choose from.
	Range netip.Prefix
	// Excluded are not to be chosen.
	Excluded []netip.Addr
	// Request names the request: one that is repeated, because its answer was
	// lost, gets the same address. "" is a request of its own.
	Request string
}

// Reserve takes an address for an endpoint to come. Only an address outside of
// the node's subnets, and a range that none of them is in, need etcd.
func (p *Part) Reserve(ctx context.Context, r Reservation) (netip.Addr, error) {
	_ = p.loadOnce() // a fault of the part
	t, err := p.hub.Await(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	n, t, leave, err := p.enter(ctx, t, r.Network)
	defer leave()
	if err != nil {
		return netip.Addr{}, err
	}
	if r.Addr.IsValid() {
		if err := addresses.CheckSegment(t.Snapshot, n.Name, r.Addr); err != nil {
			return netip.Addr{}, err
		}
	}
	if r.Range.IsValid() && !r.Addr.IsValid() && !slices.ContainsFunc(n.Subnets, r.Range.Overlaps) {
		sub, err := p.leases.Within(ctx, n, r.Family, r.Range)
		if err != nil {
			return netip.Addr{}, err
		}
		n.Subnets = append(slices.Clone(n.Subnets), sub)
	}
	for {
		addr, err := p.reserve(n, r)
		if err == nil {
			// Before the engine hears of it: another agent must not promise it again.
			if err := p.save(); err != nil {
				p.log.Warn(err)
			}
			return addr, p.claimAway(ctx, n, addr)
		}
		if !errors.Is(err, topology.ErrFull) || r.Range.IsValid() {
			return addr, err
		}
		if n, err = p.grow(ctx, n, r.Family, err); err != nil {
			return addr, err
		}
	}
}

// claimAway claims a reserved address outside of the node's subnets. Where it
// cannot be had it is not reserved any more.
func (p *Part) claimAway(ctx context.Context, n topology.NetworkView, addr netip.Addr) error {
	if slices.ContainsFunc(n.Subnets, func(q netip.Prefix) bool { return q.Contains(addr) }) {
		return nil
	}
	err := p.leases.Claim(ctx, n.Name, addr, "a container that is being started")
	if err != nil {
		p.Release(n.Name, addr)
	}
	return err
}

// reserve chooses an address and takes it.
func (p *Part) reserve(n topology.NetworkView, r Reservation) (addr netip.Addr, err error) {
	p.change(func() {
		if before, ok := p.repeated(r); ok {
			addr = before
			return
		}
		if err = p.checkOpen(n.Name); err != nil {
			return
		}
		taken := p.occupied(n.Name, r.Addr)
		for _, x := range r.Excluded {
			taken[x] = "kept for another use"
		}
		request := addresses.Request{Family: r.Family, Addr: r.Addr, Range: r.Range}
		if addr, err = addresses.Choose(n, request, taken); err == nil {
			p.reserved[reservation{n.Name, addr}] = promise{time.Now(), r.Request}
		}
	})
	return addr, err
}

// Release gives back what Reserve took; other addresses it leaves alone.
func (p *Part) Release(network string, addr netip.Addr) {
	p.change(func() { delete(p.reserved, reservation{network, addr}) })
	s := p.hub.Topology().Get().Snapshot
	if s == nil || s.Claims[topology.PinID{Network: network, Addr: addr}].Node != p.hub.Self().Node {
		return
	}
	p.later(func(ctx context.Context) { p.leases.Unclaim(ctx, network, addr) })
}

// Promise makes an endpoint pending, and its addresses outside the node's
// subnets known to the other nodes.
func (p *Part) Promise(ctx context.Context, e ovs.Endpoint) error {
	t, err := p.hub.Await(ctx)
	if err != nil {
		return err
	}
	n, t, leave, err := p.enter(ctx, t, e.Network)
	defer leave()
	if err != nil {
		return err
	}
	e.Port = p.portOf(e)
	if err := p.await(e, func() error { return p.checkMAC(n, e) }); err != nil { // this keeps its pins
		return err
	}
	// Before the engine hears of it: another agent must know what it made.
	if err := p.save(); err != nil {
		p.log.Warn(err)
	}
	if err := p.pinAway(ctx, n, t.Snapshot, e); err != nil {
		p.forget(e)
		return err
	}
	return nil
}

// Pending are the endpoints that were promised and are not yet handed over.
func (p *Part) Pending() []ovs.Endpoint {
	_ = p.loadOnce() // a fault of the part
	return p.known.Get().Pending
}

// Forget undoes Promise for an endpoint that was not handed over, and removes
// the device that an agent may have made when it was killed.
func (p *Part) Forget(e ovs.Endpoint) {
	e.Port = p.portOf(e)
	p.forget(e)
	if p.has(e.Port) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	if err := errors.Join(p.host.Detach(ctx, e.Port), p.save()); err != nil {
		p.log.Warn(err)
	}
}

// HandOver attaches an endpoint and returns the device, in the host's
// namespace, that is to be moved into e.Netns by somebody else. The port is named
// after what people call the container, where that is known.
func (p *Part) HandOver(ctx context.Context, e ovs.Endpoint, called string) (device string, err error) {
	ctx, cancel := p.limit(ctx)
	defer cancel()
	t, err := p.hub.Await(ctx)
	if err != nil {
		return "", err
	}
	n, err := p.view(t, e.Network)
	if err != nil {
		return "", err
	}
	e.Port = p.portOf(e)
	if p.has(e.Port) {
		// An agent before this one ended before its answer arrived.
		if err := p.retract(ctx, e); err != nil {
			return "", err
		}
	}
	if port := p.named(ctx, e, called); port != e.Port {
		e.Port = port
		// Before there is a device: another agent must know its name.
		if err := p.save(); err != nil {
			p.log.Warn(err)
		}
	}
	spec := hostnet.PairSpec{
		HostIfname:      e.Port,
		MAC:             e.MAC,
		MTU:             n.MTU,
		ChecksumOffload: !p.userspace,
		HostIngressDrop: p.userspace,
	}
	if err := p.host.MakePair(ctx, spec); err != nil {
		return "", err
	}
	if err := p.connect(ctx, e, p.retract); err != nil {
		return "", err
	}
	p.log.Infof("endpoint %s attached to network %s: %v %s", e.Name, e.Network, e.IPs, e.MAC)
	p.note(e, Attached, byEngine)
	p.later(func(ctx context.Context) { p.announce(ctx, e) })
	return hostnet.PeerIfname(e.Port), nil
}

const (
	// nameTries is how many names a port may have that is named after a container or an
	// endpoint: as many of a host may be called the same, one in each network.
	nameTries = 64
	// leaveWait is how long the port of one that has just ended is waited for: started
	// again, it has the name again.
	leaveWait = time.Second
)

// named names the port of a pending endpoint after what people call it, and returns the
// name. A name that something else has, or a port that an agent before this one named, stays.
func (p *Part) named(ctx context.Context, e ovs.Endpoint, called string) string {
	if called == "" || e.Port != portOf(e) {
		return e.Port
	}
	// An agent that was killed, or a switch that lost its ports, has left the device.
	if device := p.host.DeviceCalled(e.Port); device != "" && (device == e.Port || p.rename(e, device)) {
		return device
	}
	for try := range nameTries {
		name := pipeline.EndpointPortName(called, try)
		if !hostnet.ValidIfname(name) {
			break
		}
		if p.isLeaving(name) {
			limited, cancel := context.WithTimeout(ctx, leaveWait)
			err := p.sw.Detached(limited, name)
			cancel()
			if err != nil {
				continue
			}
		}
		if p.host.LinkExists(name) || !p.rename(e, name) {
			continue
		}
		return name
	}
	return e.Port
}

// announce announces an endpoint's addresses once its owner has configured it,
// so that peers that remember another MAC learn of this one.
func (p *Part) announce(ctx context.Context, e ovs.Endpoint) {
	ctx, cancel := context.WithTimeout(ctx, announceLimit)
	defer cancel()
	ifname, err := p.host.AwaitLink(ctx, e.Netns, e.MAC, e.IPs)
	if err == nil {
		err = p.host.Announce(ctx, e.Netns, ifname, e.MAC, e.IPs)
	}
	if err != nil {
		p.log.Debugf("announce endpoint %s: %v", e.Name, err)
		return
	}
	p.announceAgain(ctx, e, ifname)
}

// announceAfter: RFC 5227 section 1.1 announces twice, two seconds apart. What would swallow
// the first (a flow at a peer that is not in yet) is over sooner.
const announceAfter = 200 * time.Millisecond

// announceAgain announces for the second time.
func (p *Part) announceAgain(ctx context.Context, e ovs.Endpoint, ifname string) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(announceAfter):
	}
	if err := p.host.Announce(ctx, e.Netns, ifname, e.MAC, e.IPs); err != nil {
		p.log.Debugf("announce endpoint %s: %v", e.Name, err)
	}
}

// Detach removes an endpoint; one that is gone is fine.
func (p *Part) Detach(ctx context.Context, e ovs.Endpoint) error {
	if err := p.detach(ctx, e, byEngine); err != nil {
		return err
	}
	p.log.Infof("endpoint %s detached from network %s", e.Name, e.Network)
	return nil
}

// Abandoned reports whether an endpoint's device is in no container.
func (p *Part) Abandoned(e ovs.Endpoint) (bool, error) { return p.host.Abandoned(e.Port) }
