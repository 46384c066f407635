package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/baize-net/baize/cmd/internal/docker"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Lookup implements names.Directory.
func (a *Agent) Lookup(network, name string) ([]netip.Addr, bool) {
	a.mu.Lock()
	s := a.snapshot
	a.mu.Unlock()
	if s == nil {
		return nil, false
	}
	return s.Lookup(network, name)
}

// LookupAddr implements names.Directory.
func (a *Agent) LookupAddr(network string, addr netip.Addr) []string {
	a.mu.Lock()
	s := a.snapshot
	a.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.LookupAddr(network, addr)
}

// NamesChanged implements docker.Node.
func (a *Agent) NamesChanged() { a.rejoin() }

// serveNames has a name server in every container of Docker's that is in a
// network.
func (a *Agent) serveNames(endpoints []ovs.Endpoint) []fault.Fault {
	if a.plugin == nil {
		return nil
	}
	wanted := map[string][]string{}
	for _, e := range endpoints {
		if e.Labels[docker.LabelEndpoint] != "" && e.Netns != "" {
			wanted[e.Netns] = append(wanted[e.Netns], e.Network)
		}
	}
	var out []fault.Fault
	for _, err := range a.names.Sync(wanted) {
		if !errors.Is(err, topology.ErrNotFound) { // a container that is ending
			out = append(out, fault.Of(err))
		}
	}
	return out
}

// syncNames publishes what this node's containers are called.
func (a *Agent) syncNames(ctx context.Context, s *topology.Snapshot, endpoints []ovs.Endpoint) error {
	var called map[string][]string
	if a.plugin != nil {
		var known bool
		if called, known = a.plugin.Names(); !known {
			return nil // containers go on while their engine is down, so do their names
		}
	}
	wanted := namesOf(endpoints, called)
	var errs []error
	for _, n := range s.SortedNetworks() {
		next := topology.Names{Network: n.Name, Node: a.cfg.Node, Names: wanted[n.Name]}
		have, there := s.Names[topology.NamesID{Network: n.Name, Node: a.cfg.Node}]
		if (there || len(next.Names) > 0) && !reflect.DeepEqual(have.Names, next.Names) {
			errs = append(errs, a.store.PutNames(ctx, next))
		}
	}
	return errors.Join(errs...)
}

// namesOf returns, by network, the addresses of containers by what they are
// called.
func namesOf(endpoints []ovs.Endpoint, called map[string][]string) map[string]map[string][]netip.Addr {
	out := map[string]map[string][]netip.Addr{}
	for _, e := range endpoints {
		for _, name := range called[e.Labels[docker.LabelEndpoint]] {
			if out[e.Network] == nil {
				out[e.Network] = map[string][]netip.Addr{}
			}
			name = topology.CanonicalName(name)
			out[e.Network][name] = append(out[e.Network][name], e.IPs...)
		}
	}
	for _, network := range out {
		for name := range maps.Keys(network) {
			slices.SortFunc(network[name], netip.Addr.Compare)
			network[name] = slices.Compact(network[name])
		}
	}
	return out
}
