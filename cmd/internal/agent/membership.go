package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

const (
	// memberTimeout bounds one look at the node's own records.
	memberTimeout = 30 * time.Second
	// memberEvery is how often they are looked at when nothing happens.
	memberEvery = time.Minute
)

// errNoAnswerYet is how every agent begins.
var errNoAnswerYet = fmt.Errorf("no answer yet: %w", topology.ErrUnavailable)

// membershipLoop keeps what the node owns in etcd right: its own record, its
// subnets, the pins of its endpoints, the names of its containers. It writes
// only what differs.
func (a *Agent) membershipLoop(ctx context.Context) error {
	backoff := retryFirst
	for {
		member, cancel := context.WithTimeout(ctx, memberTimeout)
		err := a.ensureMember(member)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		a.mu.Lock()
		before := a.joined
		a.joined = err
		a.mu.Unlock()
		next := memberEvery
		if err != nil {
			starting := time.Since(a.started) < cacheAfter && errors.Is(err, errNoAnswerYet)
			if (before == nil || before.Error() != err.Error()) && !starting {
				a.log.Warn(err)
			}
			next = backoff
			backoff = min(2*backoff, retryLast)
		} else {
			backoff = retryFirst
		}
		a.poke() // ready or not may have changed
		select {
		case <-ctx.Done():
			return nil
		case <-a.join:
		case <-time.After(next):
		}
	}
}

func (a *Agent) ensureMember(ctx context.Context) error {
	a.mu.Lock()
	s, etcdErr, alive, aliveErr := a.snapshot, a.etcdErr, a.alive, a.aliveErr
	a.mu.Unlock()
	switch {
	case etcdErr != nil:
		return etcdErr
	case aliveErr != nil:
		return aliveErr
	case s == nil || !alive:
		return &topology.Error{Kind: errNoAnswerYet, Item: "etcd", What: "has not answered yet", Remedy: "check --etcd-endpoints " + strings.Join(a.cfg.Etcd.Endpoints, ",")}
	}
	observed, err := a.db.Observe(ctx)
	if err != nil {
		return err
	}
	if err := a.register(ctx, s, observed); err != nil {
		return err
	}
	endpoints, _ := observed.Endpoints()
	if a.flannel != nil {
		err = a.flannelMember(ctx, s, endpoints)
	}
	return errors.Join(err, a.leaseSubnets(ctx, s, endpoints), a.leaseSegment(ctx, s), a.syncPins(ctx, s, endpoints), a.syncNames(ctx, s, endpoints))
}

// register writes the node's record when it differs from what etcd has.
func (a *Agent) register(ctx context.Context, s *topology.Snapshot, observed ovs.Observed) error {
	underlay, err := hostnet.VTEP(a.cfg.VTEP, etcdAddrs(a.cfg.Etcd.Endpoints))
	if err != nil {
		return err
	}
	n := topology.Node{
		Name: a.cfg.Node, ID: a.id, Hostname: a.hostname, VTEPs: underlay.Addrs, VTEPMAC: underlay.MAC.String(),
		UnderlayMTU: underlay.MTU, Datapath: a.datapath, Version: a.cfg.Version, Epoch: a.epoch,
	}
	for _, t := range topology.Encapsulations() {
		if slices.Contains(observed.IfaceTypes, string(t)) {
			n.Encapsulations = append(n.Encapsulations, t)
		}
	}
	if have, ok := s.Nodes[n.Name]; ok {
		n.Extra, n.Meta = have.Extra, have.Meta
		if string(topology.Encode(n)) == string(topology.Encode(have)) {
			return nil
		}
	}
	_, err = a.store.RegisterNode(ctx, n)
	return err
}

// carries reports whether the node is to carry a network.
func (a *Agent) carries(network string) bool {
	return len(a.cfg.Networks) == 0 || slices.Contains(a.cfg.Networks, network)
}

// leaseSubnets gets a subnet in every network the node carries. A network
// that is full costs only itself.
func (a *Agent) leaseSubnets(ctx context.Context, s *topology.Snapshot, endpoints []ovs.Endpoint) error {
	var errs []error
	for _, name := range a.cfg.Networks {
		if _, ok := s.Networks[name]; !ok {
			errs = append(errs, &topology.Error{Kind: topology.ErrNotFound, Item: "network " + name, What: "does not exist, but --network names it", Remedy: "create it with 'baize network create " + name + "'"})
		}
	}
	for _, n := range s.SortedNetworks() {
		if !a.carries(n.Name) || a.isFlannels(n) {
			continue
		}
		own := s.NodeSubnets(n.Name, a.cfg.Node)
		for _, f := range n.Families() {
			if slices.ContainsFunc(own, func(sub topology.Subnet) bool {
				return topology.FamilyOf(sub.Prefix.Addr()) == f && sub.Segment == ""
			}) {
				continue
			}
			sub, err := a.lease(ctx, n, f, endpoints)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			a.log.Infof("leased %s in network %s", sub.Prefix, n.Name)
		}
	}
	return errors.Join(errs...)
}

// lease takes the subnet that local endpoints already have addresses of, so
// that a lease lost is never a renumbering; else any.
func (a *Agent) lease(ctx context.Context, n topology.Network, f topology.Family, endpoints []ovs.Endpoint) (topology.Subnet, error) {
	for _, e := range endpoints {
		for _, ip := range e.IPs {
			if e.Network != n.Name || topology.FamilyOf(ip) != f {
				continue
			}
			p, err := ip.Prefix(n.SubnetLen(f))
			if err != nil || p.Contains(n.Prefix(f).Addr()) {
				continue
			}
			if sub, err := a.store.ClaimSubnet(ctx, topology.Subnet{Network: n.Name, Prefix: p, Node: a.cfg.Node}); err == nil {
				return sub, nil
			}
		}
	}
	return a.store.LeaseSubnet(ctx, n.Name, a.cfg.Node, f, false)
}

// syncPins makes the pins in etcd those of the local endpoints that live
// outside the node's subnets.
func (a *Agent) syncPins(ctx context.Context, s *topology.Snapshot, endpoints []ovs.Endpoint) error {
	// An endpoint being attached has its pin before it has its port.
	a.mu.Lock()
	for _, e := range a.pending {
		endpoints = append(endpoints, e)
	}
	a.mu.Unlock()
	var errs []error
	wanted := map[topology.PinID]bool{}
	for _, e := range endpoints {
		if _, ok := s.Networks[e.Network]; !ok {
			continue
		}
		own := s.NodeSubnets(e.Network, a.cfg.Node)
		for _, ip := range e.IPs {
			if slices.ContainsFunc(own, func(sub topology.Subnet) bool { return sub.Prefix.Contains(ip) }) {
				continue
			}
			want := topology.Pin{Network: e.Network, Addr: ip, Node: a.cfg.Node, MAC: e.MAC.String()}
			id := topology.PinID{Network: e.Network, Addr: ip}
			wanted[id] = true
			if have, ok := s.Pins[id]; ok && have.Node == want.Node && have.MAC == want.MAC {
				continue
			}
			if _, err := a.store.PutPin(ctx, want); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for id, p := range s.Pins {
		if p.Node == a.cfg.Node && !wanted[id] {
			if err := a.store.DeletePin(ctx, p); err != nil {
				errs = append(errs, fmt.Errorf("take back the pin of an endpoint that is gone: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// etcdAddrs returns the addresses among etcd's endpoints.
func etcdAddrs(endpoints []string) []netip.Addr {
	var out []netip.Addr
	for _, e := range endpoints {
		if _, rest, ok := strings.Cut(e, "://"); ok {
			e = rest
		}
		if ap, err := netip.ParseAddrPort(e); err == nil {
			out = append(out, ap.Addr())
		}
	}
	return out
}
