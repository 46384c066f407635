// Package attach is the part of the agent that knows the node's endpoints: the
// one way in for the command line, for Docker and for whoever else starts
// containers.
//
// An endpoint is known to its node, not to a port. Its record is in a file of
// the state directory and at its port on the bridge; each restores the other.
// The switch makes ports and flows of the records; attaching waits for those of
// one endpoint. It needs nothing of etcd, unless an address has to be pinned or
// another subnet leased.
package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/baize-net/baize/cmd/internal/agent/addresses"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	// endpointTimeout bounds the attachment of one endpoint, undoTimeout its
	// undoing after a failure.
	endpointTimeout = 30 * time.Second
	undoTimeout     = 10 * time.Second
	// saveWait is how long a request waits for its file: its port has the record as well.
	saveWait = 2 * time.Second
	// lookEvery is how often endpoints whose device is gone are looked for though
	// the kernel reports nothing.
	lookEvery = time.Minute
	// lookPause is the least time between two looks.
	lookPause = 200 * time.Millisecond
	// announceLimit is how long an endpoint's owner may take to configure it.
	announceLimit = 20 * time.Second
)

// Switch makes ports and flows of the endpoints.
type Switch interface {
	// Attached waits until the switch forwards for an endpoint, which put, where it is
	// not nil, makes known.
	Attached(ctx context.Context, e ovs.Endpoint, put func() error) error
	// Detached waits until a port is gone.
	Detached(ctx context.Context, port string) error
	// Elsewhere are the ports of other bridges: those of another agent on this
	// host, for example.
	Elsewhere(ctx context.Context) (map[string]string, error)
}

// Leases is what the node owns in etcd.
type Leases interface {
	// Lease waits until the topology shows subnets of the node in a network that it
	// has none in, and leases them where nobody else does.
	Lease(ctx context.Context, network string) error
	// More leases another subnet of a network.
	More(ctx context.Context, network string, f topology.Family) (netip.Prefix, error)
	// Within leases a subnet in a part of a network.
	Within(ctx context.Context, n topology.NetworkView, f topology.Family, within netip.Prefix) (netip.Prefix, error)
	// Pin says that an address lives on this node. Where another node leases its
	// subnet, that node has to agree first.
	Pin(ctx context.Context, p topology.Pin) error
	// Move pins the addresses of an endpoint of another node to this one, all at once.
	Move(ctx context.Context, from string, pins []topology.Pin) error
	// Claim is for an address that will be pinned, before it is promised to somebody.
	// what it is for is for messages.
	Claim(ctx context.Context, network string, a netip.Addr, what string) error
	// Unclaim gives that up.
	Unclaim(ctx context.Context, network string, a netip.Addr)
	// Joined is why the node has not got its subnets; nil where it has.
	Joined() error
}

// Host is what is done to devices and namespaces of this host (hostnet).
type Host interface {
	Attach(ctx context.Context, spec hostnet.AttachSpec) error
	MakePair(ctx context.Context, spec hostnet.PairSpec) error
	Detach(ctx context.Context, port string) error
	AwaitLink(ctx context.Context, netns string, mac net.HardwareAddr, addrs []netip.Addr) (string, error)
	Announce(ctx context.Context, netns, ifname string, mac net.HardwareAddr, addrs []netip.Addr) error
	// ProbeAddress finds who has an address behind devices of this host; nil where nobody
	// answers.
	ProbeAddress(ctx context.Context, devices []string, a netip.Addr) (*hostnet.Occupant, error)
	Abandoned(port string) (bool, error)
	// LinkExists reports whether there is a device of that name; when in doubt it
	// says yes.
	LinkExists(name string) bool
	// DeviceCalled returns the first name of the device that has one of that name, as its
	// first or its second; "" where there is none.
	DeviceCalled(name string) string
	// Devices are the names of all devices, or an error: nothing is cleaned up on a
	// guess.
	Devices() (map[string]bool, error)
	// LowerMTU makes the MTU of an endpoint's device mtu where it is larger. was is
	// what it was; 0 where nothing had to be done.
	LowerMTU(port, netns string, mac net.HardwareAddr, mtu int) (was int, err error)
	DeviceOf(p netip.Prefix, but string) (string, error)
	// WatchLinks calls fire whenever links or addresses change, until ctx ends.
	WatchLinks(ctx context.Context, fire func()) error
	// Veths lists the devices that endpoints may have left.
	Veths() ([]string, error)
}

// Part is the part of the agent.
type Part struct {
	*records
	hub    *hub.Hub
	leases Leases
	sw     Switch
	host   Host
	log    *logrus.Entry
	// userspace: the datapath reads frames from packet sockets.
	userspace bool
	faults    part.Faults
	deeds     *part.Queue[Deed]
	// mtus are those that the endpoints' devices are known to have at the most, by
	// port: the kernel is asked when a network's changes. Only look has them.
	mtus map[string]int
	// lingering says since when endpoints are known to have been moved away, by port. Only
	// look has them.
	lingering map[string]time.Time

	// background is what goes on after a request was answered, until lifetime
	// ends; Run sets it. It has a lock of its own: mu is that of the records.
	lifetimeMu sync.Mutex
	lifetime   context.Context
	background sync.WaitGroup

	order order
}

// New returns the part. It starts nothing. SetSwitch comes before Run.
func New(h *hub.Hub, leases Leases, host Host, stateDir string, userspace bool, log *logrus.Entry) *Part {
	log = log.WithField("part", "attach")
	return &Part{
		records: newRecords(filepath.Join(stateDir, recordsFile)),
		hub:     h, leases: leases, host: host, log: log, userspace: userspace, deeds: part.NewQueue[Deed](maxDeeds),
	}
}

// SetSwitch says who makes ports of the endpoints.
func (p *Part) SetSwitch(s Switch) { p.sw = s }

// SetDisk says how the file of the endpoints is written; before Run.
func (p *Part) SetDisk(w atomicfile.Writer) { p.disk = w }

// Name implements part.Part.
func (p *Part) Name() string { return "attach" }

// Faults implements part.Part.
func (p *Part) Faults() []fault.Fault { return p.faults.Get() }

// FaultsWake implements part.FaultTeller.
func (p *Part) FaultsWake(s part.Signal) { p.faults.Wakes(s) }

// Run implements part.Part.
func (p *Part) Run(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	p.lifetimeMu.Lock()
	p.lifetime = ctx
	p.lifetimeMu.Unlock()
	if err := p.loadOnce(); err != nil {
		p.log.Warn(err)
	}
	p.tellInUse()
	p.hub.Records().Wakes(p.wake)
	p.known.Wakes(p.wake)
	g := part.NewGroup(ctx)
	g.Watch(
		"the links of this host",
		p.log,
		func(ctx context.Context) error { return p.host.WatchLinks(ctx, p.wake.Wake) },
	)
	g.Loop(part.Loop{Wake: p.wake, Every: lookEvery, Pause: lookPause}, func(context.Context) error {
		p.look()
		return nil
	})
	err := g.Wait()
	end()
	p.background.Wait()
	return errors.Join(err, p.save())
}

// look finds endpoints whose network device is gone, and what is wrong with the
// others. With a namespace its veth dies, and Open vSwitch would keep the port
// for ever.
func (p *Part) look() {
	p.tellInUse()
	known := p.known.Get()
	devices, err := p.host.Devices()
	if err != nil {
		p.log.Debugf("devices of this host: %v", err)
	}
	for _, e := range known.Endpoints {
		if err != nil || devices[e.Port] {
			continue
		}
		p.log.Infof("endpoint %s of network %s: its namespace is gone, the port is removed", e.Name, e.Network)
		p.remove(e.Port)
		p.unplugged(e.Port)
		p.note(e, Detached, "its namespace is gone")
	}
	if err := p.finish(p.detachNow); err != nil {
		p.log.Warn(err)
	}
	p.decideUnsure()
	p.letGoOfMoved()
	var faults []fault.Fault
	if t := p.hub.Records().Get(); t.Known() {
		endpoints := p.settled(t.Snapshot)
		faults = append(p.endpointFaults(t.View(), endpoints), p.lowerMTUs(t.View(), endpoints)...)
	}
	if err := p.save(); err != nil {
		faults = fault.Add(faults, err)
	}
	for _, f := range p.faults.Set(faults) {
		p.log.Warn(f)
	}
}

// detachNow removes a device, or gives up within moments.
func (p *Part) detachNow(port string) error {
	ctx, cancel := context.WithTimeout(context.Background(), lookPause)
	defer cancel()
	return p.host.Detach(ctx, port)
}

// tellInUse gives the hub the networks whose records must not vanish.
func (p *Part) tellInUse() {
	networks := map[string]bool{}
	for _, e := range p.known.Get().All() {
		networks[e.Network] = true
	}
	p.hub.SetInUse(networks)
}

// endpointFaults reports local endpoints whose network is gone, or whose
// address etcd assigns to somebody else.
func (p *Part) endpointFaults(v topology.View, endpoints []ovs.Endpoint) []fault.Fault {
	var out []fault.Fault
	for _, e := range endpoints {
		n, ok := v.Find(e.Network)
		if !ok {
			out = append(out, fault.Fault{
				Code: fault.EndpointCutOff, Severity: fault.Error, Item: p.item(e),
				What:   fmt.Sprintf("this node does not carry its network %s: it is cut off", e.Network),
				Remedy: "create the network again, or remove the endpoint",
			})
			continue
		}
		for _, pin := range n.Pins {
			if pin.Node != v.Node.Name && slices.Contains(e.IPs, pin.Addr) {
				out = append(out, fault.Fault{
					Code: fault.AddressTaken, Severity: fault.Error, Item: p.item(e),
					What:   fmt.Sprintf("its address %s is also pinned to node %s", pin.Addr, pin.Node),
					Remedy: "remove one of the two endpoints",
				})
			}
		}
	}
	return out
}

// lowerMTUs makes the MTU of endpoints that of their networks, where it became
// smaller: a node with a smaller link has joined, for example. Larger packets
// vanish, in whatever the endpoint sends.
func (p *Part) lowerMTUs(v topology.View, endpoints []ovs.Endpoint) (faults []fault.Fault) {
	before := p.mtus
	p.mtus = make(map[string]int, len(endpoints))
	for _, e := range endpoints {
		n, ok := v.Find(e.Network)
		if !ok || e.MAC == nil {
			continue
		}
		if known, ok := before[e.Port]; ok && known <= n.MTU {
			p.mtus[e.Port] = n.MTU // one that is made anew has it
			continue
		}
		was, err := p.host.LowerMTU(e.Port, e.Netns, e.MAC, n.MTU)
		switch {
		case err != nil:
			faults = append(faults, fault.Fault{
				Code: fault.EndpointMTU, Severity: fault.Warning, Item: p.item(e),
				What: fmt.Sprintf("its MTU is %d, packets of network %s have %d at most, larger ones vanish; it cannot be "+
					"lowered while the endpoint runs: %v", was, e.Network, n.MTU, err),
				Remedy: "restart the container, or add the endpoint again",
			})
		case was != 0:
			p.log.Infof("endpoint %s: MTU lowered from %d to %d, as network %s has it now", e.Name, was, n.MTU, e.Network)
		}
		if err == nil {
			p.mtus[e.Port] = n.MTU
		}
	}
	return faults
}

// connect makes an endpoint known and waits until the switch forwards for it.
// On an error undo removes it, its device included.
func (p *Part) connect(
	ctx context.Context, e ovs.Endpoint, undo func(context.Context, ovs.Endpoint) error,
) error {
	err := p.sw.Attached(ctx, e, func() error {
		if err := p.put(e); err != nil {
			return err
		}
		p.keep(ctx)
		return nil
	})
	if err == nil {
		return nil
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return errors.Join(err, undo(limited, e))
}

// disconnect forgets an endpoint, waits until its port is gone and removes its
// device.
func (p *Part) disconnect(ctx context.Context, e ovs.Endpoint) error {
	p.remove(e.Port)
	return p.unplug(ctx, e)
}

// detach is disconnect on somebody's request, which is told.
func (p *Part) detach(ctx context.Context, e ovs.Endpoint, by string) error {
	had := p.has(e.Port)
	p.remove(e.Port)
	if had {
		p.note(e, Detached, by)
	}
	return p.unplug(ctx, e)
}

// retract disconnects an endpoint that is pending again: its engine asks once
// more, perhaps the next agent, or deletes it.
func (p *Part) retract(ctx context.Context, e ovs.Endpoint) error {
	if err := p.await(e); err != nil {
		p.remove(e.Port) // its network is being deleted
	}
	return p.unplug(ctx, e)
}

// unplug waits until the port of an endpoint that is to have none is gone, and
// removes its device.
func (p *Part) unplug(ctx context.Context, e ovs.Endpoint) error {
	p.keep(ctx)
	err := p.sw.Detached(ctx, e.Port)
	// A switch that does not answer has used up the request's time, and not the device's.
	if derr := p.detachNow(e.Port); derr != nil {
		return errors.Join(err, derr)
	}
	p.unplugged(e.Port)
	return err
}

// keep saves what changed. A disk that is slow is waited for for a while; the file is
// written all the same, and until then the ports have the records.
func (p *Part) keep(ctx context.Context) {
	saved := make(chan error, 1)
	go func() { saved <- p.save() }()
	wait := time.NewTimer(saveWait)
	defer wait.Stop()
	select {
	case err := <-saved:
		if err != nil {
			p.log.Warn(err)
		}
	case <-ctx.Done():
	case <-wait.C:
		p.log.Warnf("%s: the disk takes longer than %s to write it", p.file, saveWait)
	}
}

// view returns the network as this node has it.
func (p *Part) view(t hub.Topology, network string) (topology.NetworkView, error) {
	if n, ok := t.View().Find(network); ok {
		return n, nil
	}
	return topology.NetworkView{}, addresses.Unknown(t.Snapshot, network, p.hub.Self().Node, p.leases.Joined())
}

// enter begins a request for something new in a network: where the node has no
// subnets in it, they are leased. They are not given back before leave is called,
// which there is also with an error.
func (p *Part) enter(
	ctx context.Context, t hub.Topology, network string,
) (n topology.NetworkView, _ hub.Topology, leave func(), err error) {
	closed, leave := p.begin(network)
	have, there := t.Snapshot.Networks[network]
	if err := have.CheckOpen(); err != nil {
		return n, t, leave, err
	}
	n, err = p.view(t, network)
	if !there || have.Layout != "" || (err == nil && !closed && hasSubnets(n)) {
		return n, t, leave, err
	}
	if leaseErr := p.leases.Lease(ctx, network); leaseErr != nil && len(n.Subnets) == 0 {
		return n, t, leave, leaseErr
	}
	t = p.hub.Topology().Get()
	n, err = p.view(t, network)
	return n, t, leave, err
}

// hasSubnets reports whether the node has a subnet of each of a network's families.
func hasSubnets(n topology.NetworkView) bool {
	return !slices.ContainsFunc(n.Families(), func(f topology.Family) bool {
		return !slices.ContainsFunc(n.Subnets, func(s netip.Prefix) bool { return topology.FamilyOf(s.Addr()) == f })
	})
}

// limit bounds a request: by time, and by the life of the agent. An agent that
// stops undoes what is not done rather than leave half of it.
func (p *Part) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, endpointTimeout)
	p.lifetimeMu.Lock()
	lifetime := p.lifetime
	p.lifetimeMu.Unlock()
	if lifetime == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(lifetime, cancel)
	return ctx, func() { stop(); cancel() }
}

// later runs f after the request was answered, until the part ends.
func (p *Part) later(f func(ctx context.Context)) {
	p.lifetimeMu.Lock()
	ctx := p.lifetime
	p.lifetimeMu.Unlock()
	if ctx == nil || ctx.Err() != nil {
		return
	}
	p.background.Go(func() {
		if err := fault.Protect(func() error { f(ctx); return nil }); err != nil {
			p.log.Error(err)
		}
	})
}

// Cleanup implements part.Part: the endpoints' devices. Their ports go with the
// switch's.
func (p *Part) Cleanup(ctx context.Context, undo part.Undo) (report []string, err error) {
	if err := p.loadOnce(); err != nil {
		p.log.Warn(err)
	}
	devices, err := p.host.Veths()
	if err != nil {
		return nil, err
	}
	// Another bridge's agent may have its own on this host.
	elsewhere, err := p.sw.Elsewhere(ctx)
	if err != nil {
		return nil, err
	}
	devices = slices.DeleteFunc(devices, func(d string) bool { return elsewhere[d] != "" })
	for _, e := range p.known.Get().Endpoints {
		if !slices.Contains(devices, e.Port) {
			devices = append(devices, e.Port)
		}
	}
	slices.Sort(devices)
	for _, d := range devices {
		if err := undo.Do(func() error { return p.host.Detach(ctx, d) }); err != nil {
			return report, err
		}
		report = append(report, "removed network device "+d)
	}
	files, err := undo.RemoveFiles(p.file)
	return append(report, files...), err
}
