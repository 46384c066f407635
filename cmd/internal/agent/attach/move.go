package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/addresses"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// An endpoint is moved by the node that it goes to: it makes device, port and flows, then
// pins the addresses to itself in one transaction, and the node that had the endpoint
// removes its own when it sees them. So there is at every moment somebody to whom the
// packets go.

// takeOver pins the addresses of an endpoint that is moved here. Where that is refused the
// other node keeps it. Where etcd does not answer it may have been done, and the other node
// may have let go: the endpoint is kept until etcd tells.
func (p *Part) takeOver(ctx context.Context, e ovs.Endpoint, req api.EndpointRequest) error {
	if req.MoveFrom == "" {
		return nil
	}
	var pins []topology.Pin
	for _, ip := range req.IPs {
		pins = append(pins, topology.Pin{
			Network: e.Network, Addr: ip.Unmap(), Node: p.hub.Self().Node, MAC: e.MAC.String(), Endpoint: e.Name,
		})
	}
	err := p.leases.Move(ctx, req.MoveFrom, pins)
	if errors.Is(err, topology.ErrUnavailable) && !errors.Is(err, topology.ErrDenied) || ctx.Err() != nil {
		p.change(func() { p.unsure[e.Port] = time.Now() })
		time.AfterFunc(unsureFor, p.wake.Wake)
		return fmt.Errorf("%w; it may be done: that shows when etcd answers, and both nodes have the endpoint until then",
			err)
	}
	if err != nil {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return errors.Join(err, p.disconnect(limited, e))
	}
	return nil
}

// unsureFor is how long a transaction that was not answered may still be done.
const unsureFor = 15 * time.Second

// decideUnsure removes endpoints that were not moved here after all, and keeps those that
// were.
func (p *Part) decideUnsure() {
	t := p.hub.Topology().Get()
	if !t.Known() || t.Cached || t.Err != nil {
		return
	}
	for _, e := range p.known.Get().Endpoints {
		p.mu.Lock()
		since, unsure := p.unsure[e.Port]
		p.mu.Unlock()
		if !unsure || time.Since(since) < unsureFor {
			continue
		}
		p.change(func() {
			delete(p.unsure, e.Port)
			delete(p.moving, e.Port)
		})
		if !slices.ContainsFunc(e.IPs, func(ip netip.Addr) bool {
			pin := t.Snapshot.Pins[topology.PinID{Network: e.Network, Addr: ip}]
			return pin.Node == p.hub.Self().Node && pin.MAC == e.MAC.String()
		}) {
			p.log.Warnf("endpoint %s of network %s was not moved here", e.Name, e.Network)
			p.detachLater(e, "it was not moved here")
		}
	}
}

// detachLater removes an endpoint; nobody waits for it.
func (p *Part) detachLater(e ovs.Endpoint, why string) {
	p.remove(e.Port)
	p.note(e, Detached, why)
	p.later(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, endpointTimeout)
		defer cancel()
		if err := p.unplug(ctx, e); err != nil {
			p.log.Warn(err)
		}
	})
}

// checkMove refuses a move that does not say what is moved.
func (p *Part) checkMove(req api.EndpointRequest) error {
	bad := func(what, remedy string) error {
		return &topology.Error{Kind: topology.ErrInvalid, Item: "endpoint " + req.Name, What: what, Remedy: remedy}
	}
	switch {
	case req.MoveFrom == "":
	case req.MoveFrom == p.hub.Self().Node:
		return bad("it is on this node already", "run this on the host that it is to move to")
	case len(req.IPs) == 0 || req.MAC == "" || req.Name == "" || req.Attachment != nil:
		return bad("a move needs its name, its addresses and its MAC", "use 'baize endpoint move'")
	}
	return nil
}

// occupiedBut is occupied without those of the addresses wanted that are pinned to the node
// which an endpoint is moved from. It needs p.mu.
func (p *Part) occupiedBut(network string, wanted []netip.Addr, from string) addresses.Taken {
	taken := p.occupied(network, wanted...)
	s := p.hub.Topology().Get().Snapshot
	if from == "" || s == nil {
		return taken
	}
	here := p.taken(network)
	for _, ip := range wanted {
		if _, ours := here[ip]; !ours && s.Pins[topology.PinID{Network: network, Addr: ip}].Node == from {
			delete(taken, ip)
		}
	}
	return taken
}

// MovedAway reports whether a pin says that an endpoint of a node was moved to another one.
func MovedAway(pin topology.Pin, e ovs.Endpoint, self string) bool {
	return pin.MovedFrom == self && pin.Node != "" && pin.Node != self && pin.MAC == e.MAC.String()
}

// lingerFor is how long an endpoint is kept that was moved away: others may not have heard
// of it yet, and send here.
const lingerFor = time.Second

// movedTo is the node that has one of this node's endpoints by now; "" where none has.
func (p *Part) movedTo(s *topology.Snapshot, e ovs.Endpoint) string {
	for _, ip := range e.IPs {
		if pin := s.Pins[topology.PinID{Network: e.Network, Addr: ip}]; MovedAway(pin, e, p.hub.Self().Node) {
			return pin.Node
		}
	}
	return ""
}

// letGoOfMoved removes endpoints that other nodes have by now.
func (p *Part) letGoOfMoved() {
	t := p.hub.Records().Get()
	if !t.Known() || t.Cached {
		return
	}
	before := p.lingering
	p.lingering = map[string]time.Time{}
	known := p.known.Get()
	for _, e := range known.Endpoints {
		to := p.movedTo(t.Snapshot, e)
		if to == "" || known.Moving[e.Port] {
			continue
		}
		since, there := before[e.Port]
		if !there {
			since = time.Now()
			time.AfterFunc(lingerFor, p.wake.Wake)
		}
		if time.Since(since) < lingerFor {
			p.lingering[e.Port] = since
			continue
		}
		p.log.Infof("endpoint %s of network %s was moved to node %s", e.Name, e.Network, to)
		p.detachLater(e, "it was moved to node "+to)
	}
}

// settled are the endpoints whose addresses no other node is expected to have.
func (p *Part) settled(s *topology.Snapshot) []ovs.Endpoint {
	known := p.known.Get()
	return slices.DeleteFunc(slices.Clone(known.Endpoints), func(e ovs.Endpoint) bool {
		return known.Moving[e.Port] || p.movedTo(s, e) != ""
	})
}
