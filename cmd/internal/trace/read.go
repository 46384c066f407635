package trace

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// Database is what is read of a host's OVSDB: ovs/vswitch has it.
type Database interface {
	ObserveAll(ctx context.Context) (ovs.Observed, error)
}

// FlowTables is what is read of a host's flows: ovs/openflow has it.
type FlowTables interface {
	Flows(ctx context.Context) ([]openflow.Installed, error)
}

// Kernel is what is read of a host's kernel: kernel/linux has it.
type Kernel interface {
	Observe(ctx context.Context, q kernel.Query) (kernel.Observed, error)
	Way(a netip.Addr) kernel.Way
	Up() (map[string]bool, error)
	Ruleset(ctx context.Context) ([]byte, error)
	Inside(ctx context.Context, netns string, mac net.HardwareAddr) (kernel.Inside, error)
}

// Host is a host that can be read.
type Host struct {
	DB     Database
	Flows  FlowTables
	Kernel Kernel
	// FastPath reads what the programs of the fast path have; nil: there are none.
	FastPath func(context.Context) (fastpath.State, error)
	// Containers is as in Facts.
	Containers func(ovs.Endpoint) string
}

// Read observes the host. Endpoints that the agent knows, and that the switch may
// have lost, are given; those of the switch's ports are found. Where opt.Direct is
// nil, the kernel's own routes say what needs no tunnel.
func (h Host) Read(
	ctx context.Context,
	v topology.View,
	opt pipeline.Options,
	endpoints []ovs.Endpoint,
) (Facts, error) {
	f := Facts{View: v, Known: true, Containers: h.Containers}
	o := Observed{Way: h.Kernel.Way}
	var err error
	if o.Switch, err = h.DB.ObserveAll(ctx); err != nil {
		return f, err
	}
	if o.Switch.Bridge != nil {
		if o.Flows, err = h.Flows.Flows(ctx); err != nil {
			return f, err
		}
	}
	if o.Kernel, err = h.Kernel.Observe(ctx, kernel.Query{}); err != nil {
		return f, err
	}
	if o.Up, err = h.Kernel.Up(); err != nil {
		return f, err
	}
	o.Inside = func(e ovs.Endpoint) (kernel.Inside, error) { return h.Kernel.Inside(ctx, e.Netns, e.MAC) }
	if h.FastPath != nil {
		if o.FastPath, err = h.FastPath(ctx); err != nil {
			return f, err
		}
	}
	rules, err := h.Kernel.Ruleset(ctx)
	if err == nil {
		o.Filter, err = ParseFilter(rules)
	}
	if err != nil {
		o.Filter = Filter{Unread: err.Error()}
	}
	ports, _ := o.Switch.Endpoints()
	f.Endpoints = slices.Clone(endpoints)
	for _, e := range ports {
		same := func(x ovs.Endpoint) bool { return x.Network == e.Network && x.Name == e.Name }
		if !slices.ContainsFunc(f.Endpoints, same) {
			f.Endpoints = append(f.Endpoints, e)
		}
	}
	slices.SortFunc(f.Endpoints, ovs.CompareEndpoints)
	opt.Segments = o.Switch.Segments()
	if opt.Direct == nil {
		opt.Direct = routed(v, o.Kernel)
	}
	f.Observed, f.Wanted = &o, pipeline.Build(v, f.Endpoints, opt)
	return f, nil
}

// routed are the subnets and pins of other nodes that the kernel has routes to.
func routed(v topology.View, k kernel.Observed) map[topology.SubnetID]bool {
	out := map[topology.SubnetID]bool{}
	for _, n := range v.Networks {
		for _, r := range k.Routes.Own {
			if p := r.Prefix.Masked(); n.Transport.Routed() && slices.ContainsFunc(n.Prefixes(), func(x netip.Prefix) bool {
				return x.Contains(p.Addr())
			}) {
				out[topology.SubnetID{Network: n.Name, Prefix: p}] = true
			}
		}
	}
	return out
}
