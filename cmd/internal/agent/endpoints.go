package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
)

// endpointTimeout bounds the attachment of one endpoint.
const endpointTimeout = 30 * time.Second

// Endpoints lists the node's endpoints.
func (a *Agent) Endpoints(ctx context.Context) ([]api.Endpoint, error) {
	endpoints, err := a.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	return apiEndpoints(endpoints), nil
}

// endpoints reads them from their ports, the only record of them.
func (a *Agent) endpoints(ctx context.Context) ([]ovs.Endpoint, error) {
	observed, err := a.db.Observe(ctx)
	if err != nil {
		return nil, err
	}
	endpoints, _ := observed.Endpoints()
	return endpoints, nil
}

func apiEndpoints(endpoints []ovs.Endpoint) []api.Endpoint {
	out := make([]api.Endpoint, len(endpoints))
	for i, e := range endpoints {
		out[i] = api.EndpointOf(e)
	}
	return out
}

// AddEndpoint attaches a namespace to a network. Without a static address
// outside the node's subnets it needs nothing of etcd.
func (a *Agent) AddEndpoint(ctx context.Context, req api.EndpointRequest) (_ api.Endpoint, err error) {
	ctx, cancel := context.WithTimeout(ctx, endpointTimeout)
	defer cancel()
	n, e, err := a.plan(ctx, req)
	if err != nil {
		return api.Endpoint{}, err
	}
	defer a.forget(e)
	defer func() {
		if err != nil {
			a.rejoin() // a pin it may have written
		}
	}()
	a.mu.Lock()
	s := a.snapshot
	a.mu.Unlock()
	if err := a.pinAway(ctx, n, s, e); err != nil {
		return api.Endpoint{}, err
	}
	if err := hostnet.Attach(ctx, a.attachSpec(n, e)); err != nil {
		return api.Endpoint{}, err
	}
	if err := a.connect(ctx, e); err != nil {
		return api.Endpoint{}, errors.Join(err, a.disconnect(context.WithoutCancel(ctx), e))
	}
	if err := hostnet.Announce(ctx, e.Netns, e.Ifname, e.MAC, e.IPs); err != nil {
		a.log.Warnf("announce endpoint %s: %v", e.Name, err)
	}
	a.log.Infof("endpoint %s attached to network %s: %v %s", e.Name, e.Network, e.IPs, e.MAC)
	e.Node = a.cfg.Node
	return api.EndpointOf(e), nil
}

// connect puts the endpoint's port on the bridge and waits until OVS forwards
// for it.
func (a *Agent) connect(ctx context.Context, e ovs.Endpoint) error {
	if err := a.db.Apply(ctx, ovs.DBChange{AddPorts: []ovs.Port{e.AsPort()}}); err != nil {
		return err
	}
	if err := a.db.WaitApplied(ctx); err != nil {
		return err
	}
	if err := a.settle(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	port, there := a.last.outcome.Observed.Ports[e.Port]
	a.mu.Unlock()
	if !there || !port.Live() {
		return &topology.Error{Kind: topology.ErrUnavailable, Item: "endpoint " + e.Name, What: "Open vSwitch did not take its port " + e.Port + ": " + port.Error, Remedy: "look into ovs-vswitchd's log"}
	}
	return nil
}

// RemoveEndpoint detaches an endpoint, named by name or network/name.
func (a *Agent) RemoveEndpoint(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, endpointTimeout)
	defer cancel()
	endpoints, err := a.endpoints(ctx)
	if err != nil {
		return err
	}
	var found []ovs.Endpoint
	for _, e := range endpoints {
		if e.Name == name || e.Network+"/"+e.Name == name {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return &topology.Error{Kind: topology.ErrNotFound, Item: "endpoint " + name, What: "no such endpoint on node " + a.cfg.Node, Remedy: "see 'baize endpoint list'"}
	case 1:
	default:
		return &topology.Error{Kind: topology.ErrConflict, Item: "endpoint " + name, What: "there is one in several networks", Remedy: "name it " + found[0].Network + "/" + name}
	}
	defer a.rejoin() // its pins
	return a.disconnect(ctx, found[0])
}

func (a *Agent) disconnect(ctx context.Context, e ovs.Endpoint) error {
	return errors.Join(
		a.db.Apply(ctx, ovs.DBChange{RemovePorts: []string{e.Port}}),
		a.settle(ctx),
		hostnet.Detach(ctx, e.Port),
	)
}

// plan chooses name, addresses and MAC and keeps them for this endpoint until
// its port is in the database.
func (a *Agent) plan(ctx context.Context, req api.EndpointRequest) (topology.NetworkView, ovs.Endpoint, error) {
	a.mu.Lock()
	s, joined := a.snapshot, a.joined
	a.mu.Unlock()
	n, err := a.networkView(s, req.Network, joined)
	if err != nil {
		return n, ovs.Endpoint{}, err
	}
	if err := checkBehindKernel(n, req.IPs); err != nil {
		return n, ovs.Endpoint{}, err
	}
	observed, err := a.db.Observe(ctx)
	if err != nil {
		return n, ovs.Endpoint{}, err
	}
	e := ovs.Endpoint{Name: req.Name, Network: req.Network, Netns: hostnet.NetnsPath(req.Netns), Ifname: req.Ifname}
	if e.Ifname == "" {
		e.Ifname = "eth0"
	}
	if e.Name == "" {
		e.Name = filepath.Base(e.Netns)
	}
	if err := topology.CheckName("endpoint", e.Name); err != nil {
		return n, e, err
	}
	e.Port = hostnet.HostIfname(e.Network + "/" + e.Name)
	if req.MAC != "" {
		if e.MAC, err = topology.ParseMAC(req.MAC); err != nil {
			return n, e, &topology.Error{Kind: topology.ErrInvalid, Item: "--mac", What: err.Error()}
		}
	}

	others, _ := observed.Endpoints()
	// Leasing another subnet takes a round trip to etcd: choose again after
	// it, with what others chose meanwhile.
	for {
		full, err := a.choose(n, &e, req.IPs, others, s)
		if err == nil || full == 0 {
			return n, e, err
		}
		sub, lerr := a.store.LeaseSubnet(ctx, n.Name, a.cfg.Node, full, true)
		if lerr != nil {
			return n, e, fmt.Errorf("%w, and another subnet cannot be leased: %w", err, lerr)
		}
		a.log.Infof("network %s: leased %s as well, %v", n.Name, sub.Prefix, err)
		if slices.Contains(n.Subnets, sub.Prefix) {
			return n, e, err // the node has it already: it is full too
		}
		n.Subnets = append(slices.Clone(n.Subnets), sub.Prefix)
	}
}

// checkBehindKernel refuses addresses of a subnet that docker0, for example, has
// and gives away without asking anybody.
func checkBehindKernel(n topology.NetworkView, static []netip.Addr) error {
	if !n.Router {
		return nil
	}
	for _, p := range n.Subnets {
		elsewhere := func(ip netip.Addr) bool {
			return topology.FamilyOf(ip) == topology.FamilyOf(p.Addr()) && !p.Contains(ip)
		}
		if slices.ContainsFunc(static, elsewhere) {
			continue
		}
		dev, err := hostnet.DeviceOf(p, pipeline.HostPortName(n.Name))
		if err != nil {
			return err
		}
		if dev != "" {
			return &topology.Error{Kind: topology.ErrConflict, Item: "network " + n.Name, What: fmt.Sprintf("%s has the addresses of %s, this node's subnet, and gives them away", dev, p),
				Remedy: "let Docker start the container on this node, or take " + dev + " away first"}
		}
	}
	return nil
}

func (a *Agent) networkView(s *topology.Snapshot, network string, joined error) (topology.NetworkView, error) {
	if s == nil {
		return topology.NetworkView{}, &topology.Error{Kind: topology.ErrUnavailable, Item: "network " + network, What: "etcd has not answered since the agent started, and no earlier topology is known", Remedy: "check etcd; see 'baize status'"}
	}
	if n, ok := s.View(a.cfg.Node).Find(network); ok {
		return n, nil
	}
	if _, ok := s.Networks[network]; !ok {
		var names []string
		for _, n := range s.SortedNetworks() {
			names = append(names, n.Name)
		}
		return topology.NetworkView{}, &topology.Error{Kind: topology.ErrNotFound, Item: "network " + network, What: "does not exist; there are: " + strings.Join(names, ", "), Remedy: "create it with 'baize network create'"}
	}
	what := "node " + a.cfg.Node + " has no subnet in it"
	if joined != nil {
		what += ": " + joined.Error()
	}
	return topology.NetworkView{}, &topology.Error{Kind: topology.ErrUnavailable, Item: "network " + network, What: what, Remedy: "see 'baize status'"}
}

// choose fills in addresses and MAC and enters the endpoint into pending.
// full names the family that the node's subnets have no address left in.
func (a *Agent) choose(n topology.NetworkView, e *ovs.Endpoint, static []netip.Addr, others []ovs.Endpoint, s *topology.Snapshot) (full topology.Family, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range others {
		if o.Port == e.Port {
			return 0, exists(*e)
		}
	}
	if _, ok := a.pending[e.Port]; ok {
		return 0, exists(*e)
	}
	taken := a.taken(n, others, s)

	ips := map[topology.Family]netip.Addr{}
	for _, ip := range static {
		ip = ip.Unmap()
		f := topology.FamilyOf(ip)
		if err := n.CheckEndpointAddr(ip); err != nil {
			return 0, err
		}
		if other, dup := ips[f]; dup {
			return 0, &topology.Error{Kind: topology.ErrInvalid, Item: "--ip", What: fmt.Sprintf("two %s addresses, %s and %s", f, other, ip), Remedy: "give one a family"}
		}
		if sub, ok := segmentOf(s, n.Name, ip); ok {
			return 0, &topology.Error{Kind: topology.ErrConflict, Item: "address " + ip.String(), What: fmt.Sprintf("%s of node %s gives the addresses of %s away", sub.Segment, sub.Node, sub.Prefix), Remedy: "choose another, or leave --ip out"}
		}
		if by, ok := taken[ip]; ok {
			return 0, &topology.Error{Kind: topology.ErrConflict, Item: "address " + ip.String(), What: "taken by " + by, Remedy: "choose another, or leave --ip out"}
		}
		ips[f] = ip
	}
	for _, f := range n.Families() {
		if ips[f].IsValid() {
			continue
		}
		ip, ok := freeAddr(n, f, ips[topology.IPv4], taken)
		if !ok {
			return f, &topology.Error{Kind: topology.ErrFull, Item: "network " + n.Name, What: fmt.Sprintf("no %s address is left in this node's subnets %v", f, n.Subnets), Remedy: "remove endpoints"}
		}
		ips[f] = ip
	}
	e.IPs = nil
	for _, f := range n.Families() {
		e.IPs = append(e.IPs, ips[f])
	}
	if e.MAC == nil {
		e.MAC = topology.MACOf(e.IPs[0])
	}
	for _, o := range others {
		if o.Network == n.Name && slices.Equal(o.MAC, e.MAC) {
			return 0, &topology.Error{Kind: topology.ErrConflict, Item: "MAC " + e.MAC.String(), What: "that of endpoint " + o.Name, Remedy: "choose another with --mac"}
		}
	}
	a.pending[e.Port] = *e
	return 0, nil
}

// taken returns the addresses of a network that are in use, as far as this
// node knows, and by whom. It needs a.mu.
func (a *Agent) taken(n topology.NetworkView, others []ovs.Endpoint, s *topology.Snapshot) map[netip.Addr]string {
	taken := map[netip.Addr]string{}
	for r, since := range a.reserved {
		if time.Since(since) > reservedFor {
			delete(a.reserved, r)
		} else if r.network == n.Name {
			taken[r.addr] = "a container that is being started"
		}
	}
	for _, o := range others {
		if o.Network == n.Name {
			for _, ip := range o.IPs {
				taken[ip] = "endpoint " + o.Name
			}
		}
	}
	for _, p := range a.pending {
		if p.Network == n.Name {
			for _, ip := range p.IPs {
				taken[ip] = "endpoint " + p.Name
			}
		}
	}
	for id, p := range s.Pins {
		if id.Network == n.Name && p.Node != a.cfg.Node {
			taken[id.Addr] = "an endpoint of node " + p.Node
		}
	}
	return taken
}

func exists(e ovs.Endpoint) error {
	return &topology.Error{Kind: topology.ErrExists, Item: "endpoint " + e.Name, What: "is in network " + e.Network + " already", Remedy: "remove it first, or choose another name"}
}

// freeAddr prefers the IPv6 address that ends like the IPv4 one: people read
// them side by side.
func freeAddr(n topology.NetworkView, f topology.Family, v4 netip.Addr, taken map[netip.Addr]string) (netip.Addr, bool) {
	for _, p := range n.Subnets {
		if topology.FamilyOf(p.Addr()) != f {
			continue
		}
		if f == topology.IPv6 && v4.IsValid() {
			for _, q := range n.Subnets {
				if !q.Contains(v4) {
					continue
				}
				if ip, ok := topology.AddrAt(p, topology.HostIndex(q, v4)); ok && taken[ip] == "" && ip != n.GatewayIPv6 {
					return ip, true
				}
			}
		}
		for ip := range topology.EndpointAddrs(n.Network, p) {
			if taken[ip] == "" {
				return ip, true
			}
		}
	}
	return netip.Addr{}, false
}

// forget takes an endpoint out of pending: its port is in the database now,
// or it failed.
func (a *Agent) forget(e ovs.Endpoint) {
	a.mu.Lock()
	delete(a.pending, e.Port)
	a.mu.Unlock()
}

// pinAway writes a pin for each address outside the node's subnets. Only this
// needs etcd: nobody else can say that the address is free.
func (a *Agent) pinAway(ctx context.Context, n topology.NetworkView, s *topology.Snapshot, e ovs.Endpoint) error {
	for _, ip := range e.IPs {
		if slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			continue
		}
		pin := topology.Pin{Network: e.Network, Addr: ip, Node: a.cfg.Node, MAC: e.MAC.String()}
		if have, ok := s.Pins[topology.PinID{Network: e.Network, Addr: ip}]; ok && have.Node == pin.Node && have.MAC == pin.MAC {
			continue // restarted while etcd is down
		}
		if _, err := a.store.PutPin(ctx, pin); err != nil {
			return fmt.Errorf("address %s lives outside this node's subnets and must be pinned in etcd: %w", ip, err)
		}
	}
	return nil
}

func (a *Agent) attachSpec(n topology.NetworkView, e ovs.Endpoint) hostnet.AttachSpec {
	spec := hostnet.AttachSpec{
		Netns: e.Netns, Ifname: e.Ifname, HostIfname: e.Port, MAC: e.MAC, MTU: n.MTU,
		// The userspace datapath reads frames from a packet socket: checksums
		// must be finished, and the kernel must not take the frames as well.
		ChecksumOffload: a.datapath == "system", HostIngressDrop: a.datapath != "system",
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
