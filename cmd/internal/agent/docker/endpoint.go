package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// createEndpoint plans an endpoint: its addresses are reserved already, its
// MAC follows from them, so that peers that remember the address are right
// after a restart of the container.
func (p *Plugin) createEndpoint(ctx context.Context, r endpointCreation) (endpointAnswer, error) {
	n, err := p.network(ctx, r.NetworkID)
	if err != nil {
		return endpointAnswer{}, err
	}
	item := fmt.Sprintf("Docker endpoint %.12s", r.EndpointID)
	ips, err := r.addresses(item)
	if err != nil {
		return endpointAnswer{}, err
	}
	e := ovs.Endpoint{
		Name: "docker-" + r.EndpointID[:12], Network: n.Network, IPs: ips,
		Labels: map[string]string{LabelEndpoint: r.EndpointID, LabelNetwork: r.NetworkID},
	}
	may, err := allowed(n, r.Options)
	if err != nil {
		return endpointAnswer{}, err
	}
	e.Allow, e.AllowTraffic = may.Prefixes, may.Traffic
	if ports, _ := r.Options[keyPortMap].([]any); len(ports) > 0 && n.Gateway == gatewayNetwork {
		return endpointAnswer{}, &topology.Error{
			Kind: topology.ErrInvalid, Item: item,
			What: "ports cannot be published (-p): the network's own gateway is its way out, and the engine publishes only " +
				"by its own",
			Remedy: "leave -p out, or create the Docker network without " + OptionGateway + "=" + gatewayNetwork,
		}
	}
	out := &endpointInterface{}
	if r.Interface.MacAddress == "" {
		e.MAC = topology.MACOf(e.IPs[0])
		out.MacAddress = e.MAC.String()
	} else if e.MAC, err = topology.ParseMAC(r.Interface.MacAddress); err != nil {
		return endpointAnswer{}, &topology.Error{Kind: topology.ErrInvalid, Item: "--mac-address", What: err.Error()}
	}
	p.mu.Lock()
	p.created[r.EndpointID] = planned{e, time.Now()}
	p.mu.Unlock()
	if err := p.node.Promise(ctx, e); err != nil {
		p.forget(r.EndpointID)
		return endpointAnswer{}, err
	}
	return endpointAnswer{out}, nil
}

// addresses returns those that the engine gives an endpoint. item names it in
// messages.
func (r endpointCreation) addresses(item string) ([]netip.Addr, error) {
	var out []netip.Addr
	if len(r.EndpointID) >= 12 && r.Interface != nil {
		for _, s := range []string{r.Interface.Address, r.Interface.AddressIPv6} {
			if s == "" {
				continue
			}
			a, err := netip.ParsePrefix(s)
			if err != nil {
				return nil, invalid(item, "", "%v", err)
			}
			out = append(out, a.Addr().Unmap())
		}
	}
	if len(out) == 0 {
		remedy := "create the network with '--ipam-driver " + DriverName + "'"
		return nil, invalid(item, remedy, "the engine gives it no address")
	}
	return out, nil
}

// allowed returns what a container is allowed: that of the network's option and that
// of its own. Engines hand over the options of an
// endpoint (--network name=…,driver-opt=…) among their own.
func allowed(n network, options map[string]any) (topology.Allowance, error) {
	given := map[string]string{}
	for k, v := range options {
		if strings.HasPrefix(k, optionPrefix) {
			given[k] = fmt.Sprint(v)
		}
	}
	if unknown := unknownOptions(given, OptionAllow); len(unknown) > 0 {
		err := invalid("option "+unknown[0], "known is "+OptionAllow, "an endpoint has none of that name")
		return topology.Allowance{}, err
	}
	own, err := parseAllow(given[OptionAllow])
	if err != nil {
		return own, err
	}
	return topology.Allowance{
		Prefixes: topology.SortAllowed(slices.Concat(n.Allow, own.Prefixes)),
		Traffic:  topology.SortTraffic(slices.Concat(n.Traffic, own.Traffic)),
	}, nil
}

func (p *Plugin) forget(endpoint string) {
	p.mu.Lock()
	delete(p.created, endpoint)
	p.mu.Unlock()
}

// endpointInfo is shown by 'docker network inspect' of some versions.
func (p *Plugin) endpointInfo(_ context.Context, r endpointName) (operInfo, error) {
	info := operInfo{Value: map[string]any{}}
	for _, e := range p.ours(LabelEndpoint, r.EndpointID) {
		info.Value["baize.network"], info.Value["baize.port"] = e.Network, e.Port
	}
	return info, nil
}

// join makes the endpoint's device and connects it; the engine moves it into
// the container.
func (p *Plugin) join(ctx context.Context, r joinRequest) (joinAnswer, error) {
	n, err := p.network(ctx, r.NetworkID)
	if err != nil {
		return joinAnswer{}, err
	}
	plan, ok := p.planOf(r.EndpointID)
	e := plan.Endpoint
	if !ok {
		return joinAnswer{}, &topology.Error{
			Kind:   topology.ErrNotFound,
			Item:   fmt.Sprintf("Docker endpoint %.12s", r.EndpointID),
			What:   "this agent does not know it: its record was lost",
			Remedy: "start the container again",
		}
	}
	e.Netns = r.SandboxKey
	device, err := p.node.HandOver(ctx, e, p.nameOf(ctx, r.NetworkID, r.EndpointID))
	if err != nil {
		return joinAnswer{}, err
	}
	out := joinAnswer{InterfaceName: interfaceName{SrcName: device, DstPrefix: "eth"}}
	out.InterfaceName.DstName, _ = r.Options[keyIfname].(string)
	if n.Gateway == gatewayNetwork && !n.Internal {
		all, err := p.node.Networks(ctx)
		if err != nil {
			return joinAnswer{}, err
		}
		for _, o := range all {
			if o.Name != n.Network {
				continue
			}
			for _, a := range e.IPs {
				if g := o.Gateway(topology.FamilyOf(a)); !g.IsValid() || g == a {
					continue
				} else if g.Is4() {
					out.Gateway = g.String()
				} else {
					out.GatewayIPv6 = g.String()
				}
			}
		}
	}
	return out, nil
}

// leave disconnects an endpoint that leaves its container.
func (p *Plugin) leave(ctx context.Context, r endpointName) error {
	for _, e := range p.ours(LabelEndpoint, r.EndpointID) {
		if err := p.node.Detach(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plugin) deleteEndpoint(ctx context.Context, r endpointName) error {
	plan, ok := p.planOf(r.EndpointID)
	p.forget(r.EndpointID)
	err := p.leave(ctx, r)
	if ok {
		p.node.Forget(plan.Endpoint)
	}
	return err
}
