package sim

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	model "github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/kernel/kernelfake"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
)

// kernel is a host's kernel. fake has the same devices, those of internal ports
// besides, and everything else.
type kernel struct {
	sw   *ovsfake.Switch
	fake *kernelfake.Host

	mu      sync.Mutex
	devices map[string]bool
	second  map[string]string     // devices by their second names
	mtus    map[string]int        // of endpoints' devices
	old     bool                  // without second names
	link    int                   // the underlay's MTU
	taken   map[netip.Addr]string // addresses that endpoints took by themselves, by device
	changed chan struct{}
}

func newKernel(sw *ovsfake.Switch, vtep netip.Addr) *kernel {
	sw.Devices = map[string]bool{}
	k := &kernel{
		sw: sw, fake: &kernelfake.Host{}, devices: map[string]bool{}, second: map[string]string{},
		mtus: map[string]int{}, link: 1500, changed: make(chan struct{}),
	}
	k.fake.AddDevice("eth0", netip.PrefixFrom(vtep, 16))
	// The fake's devices filter strictly, which agents warn of.
	loose := model.SetSysctl{Sysctl: model.Sysctl{Key: "net/ipv4/conf/eth0/rp_filter", Value: "2"}}
	_ = k.fake.Apply(context.Background(), model.Change{Steps: []model.Step{loose}}) // the device is there
	return k
}

func (k *kernel) set(device string, exists bool) {
	k.mu.Lock()
	switch {
	case exists && !k.devices[device]:
		k.fake.AddDevice(device)
	case !exists:
		k.fake.RemoveDevice(device)
	}
	k.devices[device] = exists
	close(k.changed)
	k.changed = make(chan struct{})
	k.mu.Unlock()
	k.sw.SetDevice(device, exists)
}

// remove removes a device by either of its names.
func (k *kernel) remove(name string) {
	k.mu.Lock()
	name = cmp.Or(k.second[name], name)
	maps.DeleteFunc(k.second, func(_, of string) bool { return of == name })
	k.mu.Unlock()
	k.set(name, false)
}

func (k *kernel) veths() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(k.devices)), func(d string) bool { return !k.devices[d] }), nil
}

func (k *kernel) setMTU(device string, mtu int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mtus[device] = mtu
}

func (k *kernel) mtu(device string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mtus[device]
}

// follow makes the devices of the switch's internal ports those of the kernel,
// until stop is closed.
func (k *kernel) follow(stop <-chan struct{}) {
	made, in := map[string]bool{}, 0
	for {
		devices, life, changed := k.sw.Internal()
		for _, d := range sortedKeys(made) {
			if life != in || !slices.Contains(devices, d) {
				k.fake.RemoveDevice(d)
				delete(made, d)
			}
		}
		for _, d := range devices {
			if !made[d] {
				k.fake.AddDevice(d)
				made[d] = true
			}
		}
		in = life
		select {
		case <-stop:
			return
		case <-changed:
		}
	}
}

// fail makes routes, sysctls and firewall fail from now on; nil mends them.
func (k *kernel) fail(err error) {
	for _, s := range []model.Section{
		model.Addresses, model.Neighbours, model.Routes, model.Rules, model.Sysctls, model.NFTables, model.Chains,
	} {
		k.fake.Fail(s, err)
	}
	k.fake.FailLookups(err)
	var refuse func(model.Step) error
	if err != nil {
		refuse = func(model.Step) error { return err }
	}
	k.fake.Refuse(refuse)
}

// host is a kernel as an agent needs it.
type host struct {
	k    *kernel
	vtep netip.Addr
	gate *gate
}

var _ agent.Host = host{}

func (h host) Underlay() (hostnet.Underlay, error) {
	h.gate.bug(MembershipDoor)
	b := h.vtep.As4()
	h.k.mu.Lock()
	defer h.k.mu.Unlock()
	return hostnet.Underlay{
		Addrs: []netip.Addr{h.vtep}, Interface: "eth0", MTU: h.k.link,
		MAC: net.HardwareAddr{0x52, 0x54, b[0], b[1], b[2], b[3]},
	}, nil
}

func (h host) Attach(ctx context.Context, s hostnet.AttachSpec) error {
	if err := h.gate.pass(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	h.k.mu.Lock()
	old := h.k.old
	h.k.mu.Unlock()
	if old && s.HostAltname != "" {
		return errors.ErrUnsupported
	}
	h.k.setMTU(s.HostIfname, s.MTU)
	h.k.set(s.HostIfname, true)
	if s.HostAltname != "" {
		h.k.mu.Lock()
		defer h.k.mu.Unlock()
		h.k.second[s.HostAltname] = s.HostIfname
	}
	return nil
}

func (h host) MakePair(ctx context.Context, s hostnet.PairSpec) error {
	if err := h.gate.pass(ctx); err != nil {
		return err
	}
	h.k.setMTU(s.HostIfname, s.MTU)
	h.k.set(s.HostIfname, true)
	return nil
}

func (h host) Detach(ctx context.Context, port string) error {
	if err := errors.Join(ctx.Err(), h.gate.pass(ctx)); err != nil {
		return err
	}
	h.k.remove(port)
	return nil
}

// LowerMTU refuses as the kernel's does.
func (h host) LowerMTU(port, _ string, _ net.HardwareAddr, mtu int) (int, error) {
	was := h.k.mtu(port)
	switch {
	case was <= mtu:
		return 0, nil
	case mtu < 1280:
		return was, errors.New("an interface with less than 1280 loses IPv6")
	}
	h.k.setMTU(port, mtu)
	return was, nil
}

func (h host) LinkExists(name string) bool {
	h.gate.bug(AttachDoor)
	h.k.mu.Lock()
	defer h.k.mu.Unlock()
	return h.k.devices[cmp.Or(h.k.second[name], name)]
}

func (h host) DeviceCalled(name string) string {
	h.gate.bug(AttachDoor)
	h.k.mu.Lock()
	defer h.k.mu.Unlock()
	if name = cmp.Or(h.k.second[name], name); h.k.devices[name] {
		return name
	}
	return ""
}

func (h host) Devices() (map[string]bool, error) {
	h.gate.bug(AttachDoor)
	h.k.mu.Lock()
	defer h.k.mu.Unlock()
	out := maps.Clone(h.k.devices)
	maps.DeleteFunc(out, func(_ string, there bool) bool { return !there })
	return out, nil
}

func (h host) Veths() ([]string, error) { return h.k.veths() }

func (h host) WatchLinks(ctx context.Context, fire func()) error {
	for {
		h.gate.bug(LinksDoor)
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

// routing is a kernel as the agent's part for it needs it.
type routing struct {
	model.Host
	gate *gate
}

func (r routing) Observe(ctx context.Context, q model.Query) (model.Observed, error) {
	r.gate.bug(KernelDoor)
	return r.Host.Observe(ctx, q)
}

// The rest is for what the simulation does not have.

func (host) AwaitLink(context.Context, string, net.HardwareAddr, []netip.Addr) (string, error) {
	return "eth0", nil
}

func (host) Announce(context.Context, string, string, net.HardwareAddr, []netip.Addr) error {
	return nil
}

func (h host) ProbeAddress(_ context.Context, devices []string, a netip.Addr) (*hostnet.Occupant, error) {
	h.k.mu.Lock()
	defer h.k.mu.Unlock()
	if d := h.k.taken[a]; slices.Contains(devices, d) {
		return &hostnet.Occupant{Device: d, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, nil
	}
	return nil, nil
}

func (host) Abandoned(string) (bool, error) { return false, nil }

func (host) DeviceOf(netip.Prefix, string) (string, error) { return "", nil }

func (host) OnLink(netip.Addr) bool { return true }

func (host) FindBridge(string) (*hostnet.Bridge, error) { return nil, nil }

func (host) Enslave(string, string) (bool, error) { return false, nil }
