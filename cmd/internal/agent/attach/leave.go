package attach

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// A network that is being deleted takes no new endpoints. The topology says so,
// but a request may have read it before: so the node closes the network in its
// own records before it gives its subnets back, at a moment when nothing of it is
// in use.

// SetCalled says what people call an endpoint, a container for example; "" where
// they do not.
func (p *Part) SetCalled(called func(ovs.Endpoint) string) { p.records.called = called }

// CloseUnused closes a network of which this node has the subnets own, unless
// others or endpoints use it. It says what does, in words.
func (p *Part) CloseUnused(n topology.Network, own []netip.Prefix, others []string) ([]string, error) {
	_ = p.loadOnce() // a fault of the part
	uses, err := p.behindKernel(n, own)
	if err != nil {
		return nil, err
	}
	uses = append(uses, others...)
	p.records.mu.Lock()
	defer p.records.mu.Unlock()
	uses = append(uses, p.usesOf(n.Name)...)
	if len(uses) == 0 {
		p.closed[n.Name] = true
	}
	slices.SortFunc(uses, topology.CompareNames)
	return slices.Compact(uses), nil
}

// usesOf are the endpoints and promises of a network, in words. It needs r.mu.
func (p *Part) usesOf(network string) (uses []string) {
	for _, m := range []map[string]ovs.Endpoint{p.endpoints, p.pending} {
		for _, e := range m {
			if e.Network == network {
				uses = append(uses, p.calledEndpoint(e))
			}
		}
	}
	for ip, by := range p.taken(network) {
		if _, promised := p.reserved[reservation{network, ip}]; promised {
			uses = append(uses, by)
		}
	}
	return uses
}

// CloseIdle implements membership.Closer: until it is opened again, requests wait
// for the network's subnets (enter).
func (p *Part) CloseIdle(network string) bool {
	_ = p.loadOnce() // a fault of the part
	p.records.mu.Lock()
	defer p.records.mu.Unlock()
	idle := p.busy[network] == 0 && len(p.usesOf(network)) == 0
	if idle {
		p.closed[network] = true
	}
	return idle
}

// begin notes a request in a network, until end is called. closed: the node has let
// go of the network, or is doing so.
func (r *records) begin(network string) (closed bool, end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy[network]++
	return r.closed[network], func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.busy[network]--; r.busy[network] == 0 {
			delete(r.busy, network)
		}
	}
}

// Called is what people call an endpoint; "" where they do not.
func (r *records) Called(e ovs.Endpoint) string {
	if r.called == nil {
		return ""
	}
	return r.called(e)
}

// item names an endpoint in a fault, with its container.
func (r *records) item(e ovs.Endpoint) string {
	item := "endpoint " + e.Name
	if called := r.Called(e); called != "" {
		item += ", " + called
	}
	return item
}

func (p *Part) calledEndpoint(e ovs.Endpoint) string {
	return cmp.Or(p.Called(e), "endpoint "+e.Name)
}

// behindKernel are the devices of this host that have a subnet of the node, and
// assign its addresses without asking anybody.
func (p *Part) behindKernel(n topology.Network, own []netip.Prefix) (uses []string, err error) {
	if !n.Router {
		return nil, nil
	}
	for _, s := range own {
		dev, err := p.host.DeviceOf(s, pipeline.HostPortName(n.Name))
		if err != nil {
			return nil, err
		}
		if dev != "" {
			uses = append(uses, "device "+dev)
		}
	}
	return uses, nil
}

// Reopen undoes the closing of a network.
func (p *Part) Reopen(network string) {
	p.records.mu.Lock()
	defer p.records.mu.Unlock()
	delete(p.closed, network)
}

// Evict closes a network and detaches what is in it: ports and devices are gone
// then. What cannot be removed now is no endpoint all the same.
func (p *Part) Evict(ctx context.Context, network string) error {
	_ = p.loadOnce() // a fault of the part
	var all []ovs.Endpoint
	p.change(func() {
		p.closed[network] = true
		for port, e := range p.endpoints {
			if e.Network == network {
				all = append(all, e)
				delete(p.endpoints, port)
				p.leaving[port], p.plugged[port] = true, true
			}
		}
		for x := range p.reserved {
			if x.network == network {
				delete(p.reserved, x)
			}
		}
	})
	if len(all) == 0 {
		return nil
	}
	errs := []error{p.save()}
	for _, e := range all {
		p.log.Infof("endpoint %s detached: network %s is being deleted", e.Name, network)
		p.note(e, Detached, "network "+network+" is being deleted")
		errs = append(errs, p.sw.Detached(ctx, e.Port))
		if err := p.host.Detach(ctx, e.Port); err != nil {
			errs = append(errs, err)
			continue
		}
		p.unplugged(e.Port)
	}
	return errors.Join(errs...)
}

// checkOpen refuses what is new in a network that this node has let go of. It
// needs r.mu.
func (r *records) checkOpen(network string) error {
	if !r.closed[network] {
		return nil
	}
	return topology.Network{Name: network, Deleting: topology.DeleteUnused}.CheckOpen()
}
