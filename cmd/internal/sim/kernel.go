package sim

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/topology"
)

// kernel is a host's kernel: its devices.
type kernel struct {
	sw *ovsfake.Switch

	mu      sync.Mutex
	devices map[string]bool
	changed chan struct{}
	broken  error // what everything fails with
}

func newKernel(sw *ovsfake.Switch) *kernel {
	sw.Devices = map[string]bool{}
	return &kernel{sw: sw, devices: map[string]bool{}, changed: make(chan struct{})}
}

func (k *kernel) set(device string, exists bool) {
	k.mu.Lock()
	k.devices[device] = exists
	close(k.changed)
	k.changed = make(chan struct{})
	k.mu.Unlock()
	k.sw.SetDevice(device, exists)
}

func (k *kernel) has(device string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.devices[device]
}

// fail makes routes, sysctls and firewall fail from now on; nil mends them.
func (k *kernel) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.broken = err
}

func (k *kernel) err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.broken
}

// host is a kernel as an agent needs it.
type host struct {
	k    *kernel
	vtep netip.Addr
}

var _ agent.Host = host{}

func (h host) Underlay() (hostnet.Underlay, error) {
	b := h.vtep.As4()
	return hostnet.Underlay{
		Addrs: []netip.Addr{h.vtep}, Interface: "eth0", MTU: 1500, MAC: net.HardwareAddr{0x52, 0x54, b[0], b[1], b[2], b[3]},
	}, nil
}

func (h host) Attach(_ context.Context, s hostnet.AttachSpec) error {
	h.k.set(s.HostIfname, true)
	return nil
}

func (h host) MakePair(_ context.Context, s hostnet.PairSpec) error {
	h.k.set(s.HostIfname, true)
	return nil
}

func (h host) Detach(_ context.Context, port string) error {
	h.k.set(port, false)
	return nil
}

func (h host) LinkExists(name string) bool { return h.k.has(name) }

func (h host) Veths() ([]string, error) {
	h.k.mu.Lock()
	defer h.k.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(h.k.devices)), func(d string) bool { return !h.k.devices[d] }), nil
}

func (h host) WatchLinks(ctx context.Context, fire func()) error {
	for {
		h.k.mu.Lock()
		changed := h.k.changed
		h.k.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			fire()
		}
	}
}

func (h host) WatchRoutes(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

func (h host) Routes() (route.Observed, error) { return route.Observed{}, h.k.err() }

func (h host) Forward(...topology.Family) ([]string, error) { return nil, h.k.err() }

func (h host) SetHostPort(hostnet.HostPort) error { return h.k.err() }

func (h host) ChangeRoutes(route.Change) error { return h.k.err() }

func (h host) AcceptForwarded(context.Context, topology.Family, []string) (bool, error) {
	return false, h.k.err()
}

func (h host) Masquerade(context.Context, topology.Family, netip.Prefix, []netip.Prefix) (bool, error) {
	return false, h.k.err()
}

func (h host) SyncIngressDrops([]string) error { return h.k.err() }

// The rest is for what the simulation does not have.

func (host) AwaitLink(context.Context, string, net.HardwareAddr, []netip.Addr) (string, error) {
	return "eth0", nil
}

func (host) Announce(context.Context, string, string, net.HardwareAddr, []netip.Addr) error {
	return nil
}

func (host) Abandoned(string) (bool, error) { return false, nil }

func (host) DeviceOf(netip.Prefix, string) (string, error) { return "", nil }

func (host) CleanRoutes() ([]route.Route, error) { return nil, nil }

func (host) OnLinkDevice(netip.Addr) string { return "eth0" }

func (host) OnLink(netip.Addr) bool { return true }

func (host) StrictReversePath(string) bool { return false }

func (host) FindBridge(string) (*hostnet.Bridge, error) { return nil, nil }

func (host) Enslave(string, string) (bool, error) { return false, nil }

func (host) AddOnLink(netip.Prefix, string) error { return nil }
