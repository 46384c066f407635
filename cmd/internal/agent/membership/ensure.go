package membership

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/topology"
)

// ensureEvery is how often a network that is not to be seen yet is looked for: it may
// have gone again.
const ensureEvery = time.Second

// EnsureNetwork creates a network where there is none of that name, asks accept
// whether the one that is there will do, and waits until this node has a subnet
// in it in each of the families.
func (p *Part) EnsureNetwork(
	ctx context.Context,
	n topology.Network,
	families []topology.Family,
	accept func(topology.Network) error,
) (topology.Network, error) {
	t, err := p.hub.Await(ctx)
	if err != nil {
		return n, err
	}
	wake := part.NewSignal()
	p.hub.Records().Wakes(wake)
	defer p.hub.Records().Forget(wake)
	for {
		have, done, err := p.ensureNetwork(ctx, t, n, families, accept)
		if done || err != nil {
			return have, err
		}
		look := time.NewTimer(ensureEvery)
		select {
		case <-wake:
		case <-look.C:
		case <-ctx.Done():
			look.Stop()
			return n, noLease(n.Name, errors.Join(ctx.Err(), p.Joined()))
		}
		look.Stop()
		t = p.hub.Records().Get()
	}
}

// ensureNetwork is one attempt. The last node that used a network of that name may be
// removing it: then there is none a moment later.
func (p *Part) ensureNetwork(
	ctx context.Context, t hub.Topology, n topology.Network, families []topology.Family,
	accept func(topology.Network) error,
) (have topology.Network, done bool, err error) {
	have, there := t.Snapshot.Networks[n.Name]
	if !there {
		_, err := p.store.CreateNetwork(ctx, n)
		if err == nil {
			p.log.Infof("network %s created", n.Name)
		}
		if errors.Is(err, topology.ErrExists) {
			err = nil
		}
		return n, false, err
	}
	if err := have.CheckOpen(); err != nil {
		return have, false, err
	}
	if err := accept(have); err != nil {
		return have, false, err
	}
	if v, _ := t.View().Find(n.Name); hasFamilies(v, families) && !p.closing(n.Name) {
		return have, true, nil
	}
	err = p.Lease(ctx, n.Name)
	if errors.Is(err, topology.ErrNotFound) {
		err = nil
	}
	return have, false, err
}

func hasFamilies(v topology.NetworkView, families []topology.Family) bool {
	return !slices.ContainsFunc(families, func(f topology.Family) bool {
		return !slices.ContainsFunc(v.Subnets, func(p netip.Prefix) bool { return topology.FamilyOf(p.Addr()) == f })
	})
}
