package agent

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

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
)

// askOwner implements membership.Asker. The probes go into the tunnel to the owner, whose
// switch forwards without an agent. What comes back is for a MAC of this node that no port
// has, so it is looked for where it comes in, in the underlay.
func (a *Agent) askOwner(ctx context.Context, c topology.Claim) (net.HardwareAddr, error) {
	n, port, ok := a.wayToOwner(c)
	if !ok {
		return nil, nil
	}
	point, err := a.Point(ctx, c.Owner)
	if err != nil {
		return nil, err
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
		return *mac, nil
	}
	return nil, err
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
