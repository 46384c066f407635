package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/capture"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

const (
	// askTimes and askInterval: RFC 5227 section 1.1 has three probes. A tunnel is longer
	// than a veth pair, and a container is waiting.
	askTimes    = 3
	askInterval = 200 * time.Millisecond
	// askSnapLen is more than any answer has.
	askSnapLen = 128
	// askRate is how many packets a second are looked at that may be one.
	askRate = 1000
	// routeWait is how long the kernel's route to the owner is waited for: of a network that
	// this node has just entered it comes with the kernel part's next pass.
	routeWait = time.Second
	// askLook is how often it is looked for.
	askLook = 50 * time.Millisecond
)

// askOwner implements membership.Asker. Switch and kernel of the owner forward without an
// agent: it is asked by the tunnel to it, and without one by the kernel's route.
func (a *Agent) askOwner(ctx context.Context, c topology.Claim) (string, error) {
	if n, port, ok := a.wayToOwner(c); ok && a.probes() {
		return a.askByTunnel(ctx, c, n, port)
	}
	return a.askByRoute(ctx, c)
}

// askByTunnel sends probes into the tunnel to the owner. What comes back is for a MAC of
// this node that no port has, so it is looked for where it comes in, in the underlay.
func (a *Agent) askByTunnel(ctx context.Context, c topology.Claim, n topology.NetworkView, port int) (string, error) {
	point, err := a.Point(ctx, c.Owner)
	if err != nil {
		return "", err
	}
	ctx, end := context.WithTimeout(ctx, askTimes*askInterval)
	defer end()
	own, ok := n.NodeAddr(topology.IPv4)
	if !ok {
		own, _ = n.NodeAddr(topology.IPv6)
	}
	frame := hostnet.ProbeFrame(topology.MACOf(own), c.Addr)
	ask := func() {
		for range askTimes {
			if err := a.world.Probes.Send(port, uint64(n.VNI), frame); err != nil {
				a.log.Debugf("ask node %s for %s: %v", c.Owner, c.Addr, err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(askInterval):
			}
		}
	}
	var found atomic.Pointer[net.HardwareAddr]
	_, err = capture.Run(ctx, point, capture.Options{
		Filter: capture.Filter{Host: netip.PrefixFrom(c.Addr, c.Addr.BitLen())}, SnapLen: askSnapLen, Rate: askRate,
	}, func() { go ask() }, func(p capture.Packet) {
		if mac := hostnet.Claimant(p.Data, c.Addr); mac != nil && !p.Out && p.Network == c.Network {
			found.Store(&mac)
			end()
		}
	})
	if mac := found.Load(); mac != nil {
		return mac.String() + " answers for it", nil
	}
	return "", err
}

// askByRoute pings the address. The owner's kernel asks behind its switch who has it. Other
// than to a probe an endpoint may refuse the answer.
func (a *Agent) askByRoute(ctx context.Context, c topology.Claim) (string, error) {
	if !a.routedToOwner(ctx, c) {
		return "", nil
	}
	ctx, end := context.WithTimeout(ctx, askTimes*askInterval)
	defer end()
	payload := fmt.Appendf(nil, "baize %016x", rand.Uint64())
	echo := hostnet.NewEcho(uint16(rand.Uint32()))
	var answered atomic.Bool
	var g errgroup.Group
	g.Go(func() error {
		defer end()
		return echo.Run(ctx, func(from netip.Addr, got []byte) {
			if from == c.Addr && string(got) == string(payload) {
				answered.Store(true)
				end()
			}
		})
	})
	for ctx.Err() == nil {
		// Before the sockets are open, and where the owner's kernel says that there is
		// nobody, it is an error.
		pause := askInterval
		if err := echo.Send(c.Addr, payload); err != nil {
			a.log.Debugf("ask node %s for %s: %v", c.Owner, c.Addr, err)
			pause = askLook
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	if err := g.Wait(); err != nil || !answered.Load() {
		return "", err
	}
	return "it answers to a ping", nil
}

// routedToOwner reports whether the kernel's route to an address of the owner of a claim is
// in place.
func (a *Agent) routedToOwner(ctx context.Context, c topology.Claim) bool {
	if n, ok := a.rooms.sw.Outcome().Get().View.Find(c.Network); !ok || !n.Kernel() {
		return false
	}
	until := time.Now().Add(routeWait)
	for {
		routes, err := a.Routes(ctx)
		if err == nil && slices.ContainsFunc(routes, func(r api.Route) bool {
			return r.Network == c.Network && r.Node == c.Owner && r.Prefix.Contains(c.Addr) &&
				r.Kind == string(topology.PathRoute)
		}) {
			return true
		}
		if ctx.Err() != nil || time.Now().After(until) {
			return false
		}
		select {
		case <-ctx.Done():
		case <-time.After(askLook):
		}
	}
}

// wayToOwner is the number of the port to the owner of a claim in its network; ok is false
// where there is none, or only the kernel has a way.
func (a *Agent) wayToOwner(c topology.Claim) (n topology.NetworkView, port int, ok bool) {
	o := a.rooms.sw.Outcome().Get()
	n, ok = o.View.Find(c.Network)
	if !ok {
		return n, 0, false
	}
	for i := range n.Peers {
		if p := &n.Peers[i]; p.Node == c.Owner && p.Router == nil && p.Encap != "" {
			tunnel := o.Observed.Tunnels()[ovs.TunnelID{Node: p.Node, Encap: p.Encap}]
			return n, tunnel.OFPort, tunnel.Live() && tunnel.OFPort > 0
		}
	}
	return n, 0, false
}
