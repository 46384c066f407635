package membership

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// More implements attach.Leases.
func (p *Part) More(ctx context.Context, network string, f topology.Family) (netip.Prefix, error) {
	sub, err := p.store.LeaseSubnet(ctx, network, p.hub.Self().Node, f, true)
	if err != nil {
		return sub.Prefix, err
	}
	return sub.Prefix, p.awaitLease(ctx, sub)
}

// awaitLease waits until the topology has a lease: then it has what others pinned in
// the subnet before it was leased as well. What they claim later they ask for.
func (p *Part) awaitLease(ctx context.Context, sub topology.Subnet) error {
	wake := part.NewSignal()
	p.hub.Topology().Wakes(wake)
	defer p.hub.Topology().Forget(wake)
	id := topology.SubnetID{Network: sub.Network, Prefix: sub.Prefix}
	for {
		if s := p.hub.Topology().Get().Stored; s != nil && s.Subnets[id].Node == sub.Node {
			return nil
		}
		select {
		case <-wake:
			continue
		case <-ctx.Done():
		}
		return &topology.Error{
			Kind: topology.ErrUnavailable, Code: fault.StoreUnavailable, Item: "subnet " + sub.Prefix.String(),
			What: "it is leased, but etcd does not tell yet what else is in it", Remedy: "try again; see 'baize status'",
		}
	}
}

// Within implements attach.Leases: a subnet within a range, or the one that a
// smaller range is in.
func (p *Part) Within(
	ctx context.Context,
	n topology.NetworkView,
	f topology.Family,
	within netip.Prefix,
) (netip.Prefix, error) {
	self := p.hub.Self().Node
	if within.Bits() >= n.SubnetLen(f) {
		prefix, err := within.Addr().Prefix(n.SubnetLen(f))
		if err != nil {
			return prefix, err
		}
		sub, err := p.store.ClaimSubnet(ctx, topology.Subnet{Network: n.Name, Prefix: prefix, Node: self})
		if err != nil {
			return prefix, fmt.Errorf("range %s: %w", within, err)
		}
		p.log.Infof("leased %s in network %s for range %s", prefix, n.Name, within)
		return prefix, p.awaitLease(ctx, sub)
	}
	for prefix := range topology.Candidates(n.Network, f, self) {
		if !within.Contains(prefix.Addr()) {
			continue
		}
		sub, err := p.store.ClaimSubnet(ctx, topology.Subnet{Network: n.Name, Prefix: prefix, Node: self})
		if errors.Is(err, topology.ErrConflict) {
			continue
		}
		if err != nil {
			return prefix, err
		}
		p.log.Infof("leased %s in network %s for range %s", prefix, n.Name, within)
		return prefix, p.awaitLease(ctx, sub)
	}
	return netip.Prefix{}, &topology.Error{
		Kind: topology.ErrFull, Code: fault.NetworkFull, Item: "network " + n.Name,
		What:   fmt.Sprintf("no subnet is free in range %s", within),
		Remedy: "choose another --ip-range",
	}
}
