package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/docker"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// Values of Config.DockerPlugin.
const (
	dockerAuto = "auto"
	dockerOn   = "on"
	dockerOff  = "off"
)

// dockerMarks are what an engine that is installed has, started or not yet: at
// boot the agent comes first.
var dockerMarks = []string{"/run/docker", "/var/lib/docker", "/etc/docker"}

// listenDocker returns the plugin's socket; nil where none is to be served.
func (a *Agent) listenDocker() (net.Listener, error) {
	if a.cfg.DockerPlugin == dockerOff || (a.cfg.DockerPlugin == dockerAuto && !hasDocker()) {
		return nil, nil
	}
	l, err := takeOver(a.cfg.DockerSocket)
	if err != nil {
		if a.cfg.DockerPlugin == dockerAuto {
			a.log.Warnf("no Docker plugin: %v", err)
			return nil, nil
		}
		return nil, err
	}
	if len(a.cfg.DockerStandIn) > 0 {
		if err := docker.StartStandIn(append(slices.Clone(a.cfg.DockerStandIn), a.cfg.DockerSocket)); err != nil {
			a.log.Warnf("while no agent runs, Docker will wait for one: %v", err)
		}
	}
	return l, nil
}

// takeOver listens in place of a stand-in, which may come up in this moment.
func takeOver(socket string) (l net.Listener, err error) {
	for range 3 {
		dismissStandIn(socket)
		if l, err = api.Listen(socket); !errors.Is(err, topology.ErrConflict) {
			break
		}
	}
	return l, err
}

// dismissTimeout is ample for a process that has nothing to finish.
const dismissTimeout = 2 * time.Second

func dismissStandIn(socket string) {
	ctx, cancel := context.WithTimeout(context.Background(), dismissTimeout)
	defer cancel()
	docker.Dismiss(ctx, socket)
}

func hasDocker() bool {
	if _, err := exec.LookPath("dockerd"); err == nil {
		return true
	}
	return slices.ContainsFunc(dockerMarks, func(f string) bool {
		_, err := os.Stat(f)
		return err == nil
	})
}

// dockerTask serves the plugin until ctx ends.
func (a *Agent) dockerTask(l net.Listener) task {
	a.plugin = docker.New(a, filepath.Join(a.cfg.StateDir, dockerFile), docker.DefaultEngine, a.log)
	return task{"docker", func(ctx context.Context) error {
		defer a.names.Close()
		return a.plugin.Serve(ctx, l)
	}}
}

// dockerFile, in the state directory, has the networks of this host's engine.
const dockerFile = "docker-networks.json"

// reservedFor is how long an address stays taken that was asked for and never
// given back nor used: its engine died in between.
const reservedFor = 5 * time.Minute

// reservation is an address that an endpoint to come will have.
type reservation struct {
	network string
	addr    netip.Addr
}

// awaitSnapshot returns the topology; a moment after the agent's start there
// may be none yet.
func (a *Agent) awaitSnapshot(ctx context.Context) (*topology.Snapshot, error) {
	for {
		a.mu.Lock()
		s := a.snapshot
		a.mu.Unlock()
		switch {
		case s != nil:
			return s, nil
		case time.Since(a.started) > 2*cacheAfter || !wait(ctx, 20*time.Millisecond):
			return nil, &topology.Error{Kind: topology.ErrUnavailable, Item: "topology", What: "etcd has not answered since the agent started, and no earlier topology is known", Remedy: "check etcd; see 'baize status'"}
		}
	}
}

// Networks implements docker.Node.
func (a *Agent) Networks(ctx context.Context) ([]topology.Network, error) {
	s, err := a.awaitSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	return s.SortedNetworks(), nil
}

// EnsureNetwork implements docker.Node.
func (a *Agent) EnsureNetwork(ctx context.Context, n topology.Network, families []topology.Family, accept func(topology.Network) error) (topology.Network, error) {
	s, err := a.awaitSnapshot(ctx)
	if err != nil {
		return n, err
	}
	if !a.carries(n.Name) {
		return n, &topology.Error{Kind: topology.ErrConflict, Item: "network " + n.Name, What: fmt.Sprintf("this node carries %v only", a.cfg.Networks), Remedy: "add it to the agent's --network"}
	}
	if _, ok := s.Networks[n.Name]; !ok {
		if _, err := a.store.CreateNetwork(ctx, n); err != nil && !errors.Is(err, topology.ErrExists) {
			return n, err
		}
		a.log.Infof("network %s created", n.Name)
	}
	for {
		a.mu.Lock()
		s, joined := a.snapshot, a.joined
		a.mu.Unlock()
		if have, ok := s.Networks[n.Name]; ok {
			if err := accept(have); err != nil {
				return have, err
			}
			v, _ := s.View(a.cfg.Node).Find(n.Name)
			if hasFamilies(v, families) {
				return have, nil
			}
			a.rejoin()
		}
		if !wait(ctx, 20*time.Millisecond) {
			what := "this node has no subnet in it yet"
			if joined != nil {
				what += ": " + joined.Error()
			}
			return n, &topology.Error{Kind: topology.ErrUnavailable, Item: "network " + n.Name, What: what, Remedy: "see 'baize status'"}
		}
	}
}

func hasFamilies(v topology.NetworkView, families []topology.Family) bool {
	return !slices.ContainsFunc(families, func(f topology.Family) bool {
		return !slices.ContainsFunc(v.Subnets, func(p netip.Prefix) bool { return topology.FamilyOf(p.Addr()) == f })
	})
}

// ReserveAddr implements docker.Node. Only an address outside of the node's
// subnets, and a range that none of them is in, need etcd.
func (a *Agent) ReserveAddr(ctx context.Context, r docker.Reservation) (netip.Addr, error) {
	s, err := a.awaitSnapshot(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	a.mu.Lock()
	joined := a.joined
	a.mu.Unlock()
	n, err := a.networkView(s, r.Network, joined)
	if err != nil {
		return netip.Addr{}, err
	}
	others, err := a.endpoints(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	if r.Range.IsValid() && !r.Addr.IsValid() && !slices.ContainsFunc(n.Subnets, r.Range.Overlaps) {
		sub, err := a.leaseIn(ctx, n, r.Family, r.Range)
		if err != nil {
			return netip.Addr{}, err
		}
		n.Subnets = append(slices.Clone(n.Subnets), sub)
	}
	for {
		addr, err := a.reserve(n, r, others, s)
		if !errors.Is(err, topology.ErrFull) || r.Range.IsValid() {
			return addr, err
		}
		sub, lerr := a.store.LeaseSubnet(ctx, n.Name, a.cfg.Node, r.Family, true)
		if lerr != nil {
			return addr, fmt.Errorf("%w, and another subnet cannot be leased: %w", err, lerr)
		}
		a.log.Infof("network %s: leased %s as well, %v", n.Name, sub.Prefix, err)
		if slices.Contains(n.Subnets, sub.Prefix) {
			return addr, err
		}
		n.Subnets = append(slices.Clone(n.Subnets), sub.Prefix)
	}
}

// reserve chooses an address and takes it.
func (a *Agent) reserve(n topology.NetworkView, r docker.Reservation, others []ovs.Endpoint, s *topology.Snapshot) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := a.taken(n, others, s)
	for _, x := range r.Excluded {
		taken[x] = "kept for another use"
	}
	if r.Addr.IsValid() {
		if err := n.CheckEndpointAddr(r.Addr); err != nil {
			return r.Addr, err
		}
		if by, ok := taken[r.Addr]; ok {
			return r.Addr, &topology.Error{Kind: topology.ErrConflict, Item: "address " + r.Addr.String(), What: "taken by " + by, Remedy: "choose another, or leave it out"}
		}
		a.reserved[reservation{n.Name, r.Addr}] = time.Now()
		return r.Addr, nil
	}
	for _, p := range n.Subnets {
		if topology.FamilyOf(p.Addr()) != r.Family || (r.Range.IsValid() && !p.Overlaps(r.Range)) {
			continue
		}
		for ip := range topology.EndpointAddrs(n.Network, p) {
			if taken[ip] == "" && (!r.Range.IsValid() || r.Range.Contains(ip)) {
				a.reserved[reservation{n.Name, ip}] = time.Now()
				return ip, nil
			}
		}
	}
	where := fmt.Sprintf("this node's subnets %v", n.Subnets)
	if r.Range.IsValid() {
		where = "range " + r.Range.String() + " of " + where
	}
	return netip.Addr{}, &topology.Error{Kind: topology.ErrFull, Item: "network " + n.Name, What: fmt.Sprintf("no %s address is left in %s", r.Family, where), Remedy: "remove containers"}
}

// leaseIn leases a subnet within a range, or the one that a smaller range is
// in.
func (a *Agent) leaseIn(ctx context.Context, n topology.NetworkView, f topology.Family, within netip.Prefix) (netip.Prefix, error) {
	if within.Bits() >= n.SubnetLen(f) {
		p, err := within.Addr().Prefix(n.SubnetLen(f))
		if err != nil {
			return p, err
		}
		if _, err := a.store.ClaimSubnet(ctx, topology.Subnet{Network: n.Name, Prefix: p, Node: a.cfg.Node}); err != nil {
			return p, fmt.Errorf("range %s: %w", within, err)
		}
		a.log.Infof("leased %s in network %s for range %s", p, n.Name, within)
		return p, nil
	}
	for p := range topology.Candidates(n.Network, f, a.cfg.Node) {
		if !within.Contains(p.Addr()) {
			continue
		}
		_, err := a.store.ClaimSubnet(ctx, topology.Subnet{Network: n.Name, Prefix: p, Node: a.cfg.Node})
		if errors.Is(err, topology.ErrConflict) {
			continue
		}
		if err == nil {
			a.log.Infof("leased %s in network %s for range %s", p, n.Name, within)
		}
		return p, err
	}
	return netip.Prefix{}, &topology.Error{Kind: topology.ErrFull, Item: "network " + n.Name, What: fmt.Sprintf("no subnet is free in range %s", within), Remedy: "choose another --ip-range"}
}

// ReleaseAddr implements docker.Node.
func (a *Agent) ReleaseAddr(network string, addr netip.Addr) {
	a.mu.Lock()
	delete(a.reserved, reservation{network, addr})
	a.mu.Unlock()
}

// PinAddrs implements docker.Node.
func (a *Agent) PinAddrs(ctx context.Context, e ovs.Endpoint) error {
	s, err := a.awaitSnapshot(ctx)
	if err != nil {
		return err
	}
	n, err := a.networkView(s, e.Network, nil)
	if err != nil {
		return err
	}
	e.Port = hostnet.HostIfname(e.Network + "/" + e.Name)
	// Until the endpoint has its port this keeps its pins.
	a.mu.Lock()
	a.pending[e.Port] = e
	a.mu.Unlock()
	if err := a.pinAway(ctx, n, s, e); err != nil {
		a.forget(e)
		return err
	}
	return nil
}

// Forget implements docker.Node.
func (a *Agent) Forget(e ovs.Endpoint) {
	e.Port = hostnet.HostIfname(e.Network + "/" + e.Name)
	a.forget(e)
	a.rejoin() // its pins
}

// HandOver implements docker.Node.
func (a *Agent) HandOver(ctx context.Context, e ovs.Endpoint) (device string, err error) {
	s, err := a.awaitSnapshot(ctx)
	if err != nil {
		return "", err
	}
	n, err := a.networkView(s, e.Network, nil)
	if err != nil {
		return "", err
	}
	e.Port = hostnet.HostIfname(e.Network + "/" + e.Name)
	defer a.forget(e)
	offload := a.datapath == "system"
	spec := hostnet.PairSpec{HostIfname: e.Port, MAC: e.MAC, MTU: n.MTU, ChecksumOffload: offload, HostIngressDrop: !offload}
	if err := hostnet.MakePair(ctx, spec); err != nil {
		return "", err
	}
	if err := a.connect(ctx, e); err != nil {
		return "", errors.Join(err, a.disconnect(context.WithoutCancel(ctx), e))
	}
	a.log.Infof("endpoint %s attached to network %s: %v %s", e.Name, e.Network, e.IPs, e.MAC)
	a.announceSoon(e)
	return hostnet.PeerIfname(e.Port), nil
}

// announceLimit is how long an endpoint's owner may take to configure it.
const announceLimit = 20 * time.Second

// announceSoon announces an endpoint's addresses once its owner has configured
// it, so that peers that remember another MAC learn of this one.
func (a *Agent) announceSoon(e ovs.Endpoint) {
	a.background.Go(func() {
		ctx, cancel := context.WithTimeout(a.lifetime, announceLimit)
		defer cancel()
		ifname, err := hostnet.AwaitLink(ctx, e.Netns, e.MAC, e.IPs)
		if err == nil {
			err = hostnet.Announce(ctx, e.Netns, ifname, e.MAC, e.IPs)
		}
		if err != nil {
			a.log.Debugf("announce endpoint %s: %v", e.Name, err)
		}
	})
}

// LocalEndpoints implements docker.Node.
func (a *Agent) LocalEndpoints(ctx context.Context) ([]ovs.Endpoint, error) { return a.endpoints(ctx) }

// Detach implements docker.Node.
func (a *Agent) Detach(ctx context.Context, e ovs.Endpoint) error {
	defer a.rejoin() // its pins
	a.forget(e)
	if err := a.disconnect(ctx, e); err != nil {
		return err
	}
	a.log.Infof("endpoint %s detached from network %s", e.Name, e.Network)
	return nil
}

// Abandoned implements docker.Node.
func (a *Agent) Abandoned(e ovs.Endpoint) (bool, error) { return hostnet.Abandoned(e.Port) }
