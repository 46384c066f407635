package attach

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/addresses"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// Endpoints lists the node's endpoints, by network and name.
func (p *Part) Endpoints() []ovs.Endpoint {
	_ = p.loadOnce() // a fault of the part
	out := slices.Clone(p.known.Get().Endpoints)
	for i := range out {
		out[i].Node = p.hub.Self().Node
	}
	slices.SortFunc(out, ovs.CompareEndpoints)
	return out
}

// Add attaches a namespace to a network. Without a static address outside the
// node's subnets it needs nothing of etcd.
func (p *Part) Add(ctx context.Context, req api.EndpointRequest) (ovs.Endpoint, error) {
	ctx, cancel := p.limit(ctx)
	defer cancel()
	switch {
	case req.DryRun:
		return p.rehearse(req)
	case req.Attachment != nil:
		return p.addAttachment(ctx, req)
	}
	return p.add(ctx, req)
}

func (p *Part) add(ctx context.Context, req api.EndpointRequest) (ovs.Endpoint, error) {
	e, t, err := p.requested(req)
	if err != nil {
		return e, err
	}
	n, t, leave, err := p.enter(ctx, p.withNetwork(ctx, t, e.Network), e.Network)
	defer leave()
	if err != nil {
		return e, err
	}
	e, err = p.plan(ctx, t, &n, e, req)
	if err != nil {
		return e, err
	}
	called := e.Name
	if req.Attachment != nil {
		called = calledBy(req)
	}
	e.Port = p.named(ctx, e, called)
	defer func() { p.forget(e) }()
	if req.MoveFrom == "" {
		if err := p.pinAway(ctx, n, t.Snapshot, e); err != nil {
			return e, err
		}
	}
	if err := p.makeDevice(ctx, n, &e); err != nil {
		return e, err
	}
	if err := p.connect(ctx, e, p.disconnect); err != nil {
		return e, err
	}
	if err := p.takeOver(ctx, e, req); err != nil {
		return e, err
	}
	if req.Attachment != nil { // its container is not to wait for those who remember another MAC
		attached := e // e gets its node below
		p.later(func(ctx context.Context) { p.announce(ctx, attached) })
	} else if err := p.host.Announce(ctx, e.Netns, e.Ifname, e.MAC, e.IPs); err != nil {
		p.log.Warnf("announce endpoint %s: %v", e.Name, err)
	} else {
		attached := e
		p.later(func(ctx context.Context) { p.announceAgain(ctx, attached, attached.Ifname) })
	}
	p.log.Infof("endpoint %s attached to network %s: %v %s", e.Name, e.Network, e.IPs, e.MAC)
	p.note(e, Attached, byRequest)
	e.Node = p.hub.Self().Node
	return e, nil
}

// Remove detaches an endpoint, named by name or network/name.
func (p *Part) Remove(ctx context.Context, name string) error {
	ctx, cancel := p.limit(ctx)
	defer cancel()
	var found []ovs.Endpoint
	for _, e := range p.Endpoints() {
		if e.Name == name || e.Network+"/"+e.Name == name {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return &topology.Error{
			Kind: topology.ErrNotFound, Item: "endpoint " + name, What: "no such endpoint on node " + p.hub.Self().Node,
			Remedy: "see 'baize endpoint list'",
		}
	case 1:
		return p.detach(ctx, found[0], byRequest)
	}
	return &topology.Error{
		Kind: topology.ErrConflict, Item: "endpoint " + name, What: "there is one in several networks",
		Remedy: "name it " + found[0].Network + "/" + name,
	}
}

// requested reads a request, and the topology to answer it with.
func (p *Part) requested(req api.EndpointRequest) (ovs.Endpoint, hub.Topology, error) {
	_ = p.loadOnce() // a fault of the part
	t := p.hub.Records().Get()
	e, err := endpointOf(req)
	if err == nil {
		err = p.checkMove(req)
	}
	if err == nil && !t.Known() {
		err = unknownTopology(req.Network)
	}
	return e, t, err
}

// networkWait is how long a network that is not there is waited for.
const networkWait = 2 * time.Second

// withNetwork returns a topology that has a network. One that was created a moment ago may
// be on its way: who creates a network and attaches a namespace at once, with the same
// script, is not told that there is none.
func (p *Part) withNetwork(ctx context.Context, t hub.Topology, network string) hub.Topology {
	wake := part.NewSignal()
	p.hub.Records().Wakes(wake)
	defer p.hub.Records().Forget(wake)
	limit := time.NewTimer(networkWait)
	defer limit.Stop()
	for {
		if _, there := t.Snapshot.Networks[network]; there {
			return t
		}
		select {
		case <-wake:
			if now := p.hub.Records().Get(); now.Known() {
				t = now
			}
		case <-limit.C:
			return t
		case <-ctx.Done():
			return t
		}
	}
}

// plan chooses addresses and MAC. The endpoint is pending then: they are taken until
// it is put or forgotten. n grows by the subnets that are leased for it.
func (p *Part) plan(
	ctx context.Context, t hub.Topology, n *topology.NetworkView, e ovs.Endpoint, req api.EndpointRequest,
) (ovs.Endpoint, error) {
	static := req.IPs
	if err := p.checkStatic(t, *n, static); err != nil {
		return e, err
	}
	for {
		full, err := p.choose(*n, &e, static, req.MoveFrom)
		if err == nil || full == 0 {
			return e, err
		}
		// Leasing another subnet takes a round trip to etcd: choose again after
		// it, with what others chose meanwhile.
		if *n, err = p.grow(ctx, *n, full, err); err != nil {
			return e, err
		}
	}
}

// checkStatic refuses addresses that somebody else assigns.
func (p *Part) checkStatic(t hub.Topology, n topology.NetworkView, static []netip.Addr) error {
	if err := p.checkBehindKernel(n, static); err != nil {
		return err
	}
	for _, ip := range static {
		if err := addresses.CheckSegment(t.Snapshot, n.Name, ip.Unmap()); err != nil {
			return err
		}
	}
	return nil
}

// endpointOf reads what was asked for, but for addresses.
func endpointOf(req api.EndpointRequest) (ovs.Endpoint, error) {
	e := ovs.Endpoint{Name: req.Name, Network: req.Network, Netns: hostnet.NetnsPath(req.Netns), Ifname: req.Ifname}
	if req.Attachment != nil {
		e.Name, e.Ifname, e.Labels = req.Attachment.EndpointName(), req.Attachment.Ifname, labelsOf(req)
	}
	if e.Ifname == "" {
		e.Ifname = "eth0"
	}
	if e.Name == "" {
		e.Name = filepath.Base(e.Netns)
	}
	if err := topology.CheckName("endpoint", e.Name); err != nil {
		return e, err
	}
	e.Port = portOf(e)
	allow := make([]string, len(req.Allow), len(req.Allow)+len(req.AllowTraffic))
	for i, p := range req.Allow {
		allow[i] = p.String()
	}
	for _, t := range req.AllowTraffic {
		allow = append(allow, string(t))
	}
	may, err := topology.ParseAllowance("--allow", allow)
	if err != nil {
		return e, err
	}
	e.Allow, e.AllowTraffic = may.Prefixes, may.Traffic
	if req.MAC != "" {
		mac, err := topology.ParseMAC(req.MAC)
		if err != nil {
			return e, &topology.Error{Kind: topology.ErrInvalid, Item: "--mac", What: err.Error()}
		}
		e.MAC = mac
	}
	return e, nil
}

// portOf returns the name that an endpoint's device can be found by without any record: that
// of its port, or where this has a name for people the second one.
func portOf(e ovs.Endpoint) string { return hostnet.HostIfname(e.Network + "/" + e.Name) }

// choose fills in addresses and MAC and makes the endpoint pending. full names
// the family that the node's subnets have no address left in.
func (p *Part) choose(
	n topology.NetworkView,
	e *ovs.Endpoint,
	static []netip.Addr,
	from string,
) (full topology.Family, err error) {
	p.change(func() {
		if full, err = p.fit(n, e, static, from); err == nil {
			p.pending[e.Port] = *e
			if delete(p.unfinished, e.Port); from != "" {
				p.moving[e.Port] = true
			}
		}
	})
	return full, err
}

// checkMAC refuses the link address of an endpoint to come where somebody else has
// it. It needs p.mu.
func (p *Part) checkMAC(n topology.NetworkView, e ovs.Endpoint) error {
	s := p.hub.Topology().Get().Snapshot
	if s == nil {
		s = topology.NewSnapshot(0, nil)
	}
	return addresses.CheckMAC(n, s, p.hub.Self().Node, e, p.known.Get().All())
}

// grow leases another subnet of a family that is full, for the reason given.
func (p *Part) grow(
	ctx context.Context,
	n topology.NetworkView,
	f topology.Family,
	why error,
) (topology.NetworkView, error) {
	more, err := p.leases.More(ctx, n.Name, f)
	if err != nil {
		return n, fmt.Errorf("%w, and another subnet cannot be leased: %w", why, err)
	}
	if slices.Contains(n.Subnets, more) {
		return n, why // the node has it already: it is full too
	}
	p.log.Infof("network %s: leased %s as well, %v", n.Name, more, why)
	n.Subnets = append(slices.Clone(n.Subnets), more)
	return n, nil
}

// checkBehindKernel refuses addresses of a subnet that a device of this host,
// such as docker0, has and assigns from without asking anybody.
func (p *Part) checkBehindKernel(n topology.NetworkView, static []netip.Addr) error {
	if !n.Router {
		return nil
	}
	for _, s := range n.Subnets {
		elsewhere := func(ip netip.Addr) bool {
			return topology.FamilyOf(ip) == topology.FamilyOf(s.Addr()) && !s.Contains(ip)
		}
		if slices.ContainsFunc(static, elsewhere) {
			continue
		}
		dev, err := p.host.DeviceOf(s, pipeline.HostPortName(n.Name))
		if err != nil {
			return err
		}
		if dev != "" {
			return &topology.Error{
				Kind: topology.ErrConflict, Item: "network " + n.Name,
				What:   fmt.Sprintf("%s has %s, this node's subnet, and assigns its addresses itself", dev, s),
				Remedy: "let Docker start the container on this node, or take " + dev + " away first",
			}
		}
	}
	return nil
}

// pinAway writes a pin for each address outside the node's subnets. Only this
// needs etcd: nobody else can say that the address is free.
func (p *Part) pinAway(ctx context.Context, n topology.NetworkView, s *topology.Snapshot, e ovs.Endpoint) error {
	for _, ip := range e.IPs {
		if slices.ContainsFunc(n.Subnets, func(q netip.Prefix) bool { return q.Contains(ip) }) {
			continue
		}
		pin := topology.Pin{Network: e.Network, Addr: ip, Node: p.hub.Self().Node, MAC: e.MAC.String(), Endpoint: e.Name}
		if have, ok := s.Pins[topology.PinID{Network: e.Network, Addr: ip}]; ok && have.Node == pin.Node &&
			have.MAC == pin.MAC {
			continue // restarted while etcd is down
		}
		err := p.leases.Pin(ctx, pin)
		if errors.Is(err, topology.ErrConflict) {
			return err
		}
		if err != nil {
			return fmt.Errorf("address %s lives outside this node's subnets and must be pinned in etcd: %w", ip, err)
		}
	}
	return nil
}

// makeDevice makes the pair of a pending endpoint. Where the kernel has no second names,
// the port gets the one that everybody finds it by.
func (p *Part) makeDevice(ctx context.Context, n topology.NetworkView, e *ovs.Endpoint) error {
	spec := p.attachSpec(n, *e)
	err := p.host.Attach(ctx, spec)
	if spec.HostAltname == "" || !errors.Is(err, errors.ErrUnsupported) || !p.rename(*e, spec.HostAltname) {
		return err
	}
	e.Port = spec.HostAltname
	return p.host.Attach(ctx, p.attachSpec(n, *e))
}

func (p *Part) attachSpec(n topology.NetworkView, e ovs.Endpoint) hostnet.AttachSpec {
	spec := hostnet.AttachSpec{
		Netns: e.Netns, Ifname: e.Ifname, HostIfname: e.Port, MAC: e.MAC, MTU: n.MTU,
		// The userspace datapath reads frames from a packet socket: checksums
		// must be finished, and the kernel must not take the frames as well.
		ChecksumOffload: !p.userspace, HostIngressDrop: p.userspace,
	}
	if name := portOf(e); name != e.Port {
		spec.HostAltname = name // plugins find the device by it where no agent runs
	}
	for _, ip := range e.IPs {
		f := topology.FamilyOf(ip)
		spec.Addrs = append(spec.Addrs, netip.PrefixFrom(ip, n.Prefix(f).Bits()))
		if g := n.Gateway(f); g.IsValid() && g != ip {
			spec.Gateways = append(spec.Gateways, g)
		}
	}
	return spec
}
