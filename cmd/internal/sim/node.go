package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/cmd/internal/agent/hub"
	"github.com/baize-net/baize/cmd/internal/agent/standalone"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/atomicfile"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/ovstest/ovsfake"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// Node is one simulated host. Its switch, its devices and its state directory
// outlive its agents.
type Node struct {
	Name   string
	VTEP   netip.Addr
	Switch *ovsfake.Switch
	// Etcd is the way of the agent that runs to etcd.
	Etcd *etcdfake.Host
	// Hostname and Epoch tell machines apart that have one node name.
	Hostname, Epoch, ID string
	// Ahead are the networks that its next agent leases in before it needs them.
	Ahead []string
	// Behind are the addresses that answer behind its switch, whatever runs on it, by whose
	// MAC. It is not changed while others may ask.
	Behind map[netip.Addr]net.HardwareAddr
	// Configure changes what its next agent is started with; nil: nothing.
	Configure func(*agent.Config)

	world  *World
	kernel *kernel
	dir    string
	starts int

	mu    sync.Mutex
	run   *run
	disk  time.Duration // what it takes to write a file
	ended error         // why the last agent ended by itself
	// Wanted are the endpoints that were attached and not removed, by network
	// and name.
	Wanted map[string]api.Endpoint
}

// run is one life of an agent.
type run struct {
	agent  *agent.Agent
	store  *etcdstore.Store
	gate   *gate
	cancel context.CancelFunc
	done   chan struct{}
}

func (w *World) newNode(name string, number int) *Node {
	s := ovsfake.New()
	s.Latency = time.Millisecond
	vtep := netip.AddrFrom4([4]byte{192, 168, byte(number >> 8), byte(number)})
	n := &Node{
		Name: name, VTEP: vtep, Switch: s,
		Hostname: name, Epoch: "boot1", ID: "id-" + name, world: w, kernel: newKernel(s, vtep),
		dir: filepath.Join(w.dir, name), Wanted: map[string]api.Endpoint{},
	}
	go n.kernel.follow(w.over)
	return n
}

// Start starts the node's agent unless it runs.
func (n *Node) Start() {
	if n.Runs() {
		return
	}
	n.starts++
	life := fmt.Sprintf("%s/%d", n.Name, n.starts)
	require.NoError(n.world.t, os.MkdirAll(n.dir, 0o750))
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.PanicLevel)
	n.Etcd = n.world.Etcd.Host(life)
	r := &run{store: n.world.store(n.Etcd, life), gate: newGate(), done: make(chan struct{})}
	cfg := agent.Config{
		Node: n.Name, StateDir: n.dir, Datapath: "netdev", DockerPlugin: "off", LivenessTTL: livenessTTL,
		Networks: n.Ahead, LeaseGrace: n.world.LeaseGrace, Version: "sim",
		Etcd: etcdstore.Config{Endpoints: []string{"fake"}},
	}
	if n.Configure != nil {
		n.Configure(&cfg)
	}
	cfg, err := cfg.Defaults()
	require.NoError(n.world.t, err)
	var store agent.Store = r.store
	if cfg.WithoutEtcd {
		store = standalone.New(n.Name, n.ID, hub.ReadCache(n.dir))
	}
	r.agent, err = agent.New(cfg, agent.World{
		Identity: hub.Identity{Node: n.Name, ID: n.ID, Hostname: n.Hostname, Epoch: n.Epoch},
		Store:    store, Database: database{n.Switch.Database(), r.gate}, Flows: flows{n.Switch.Flows(), r.gate},
		Host: host{n.kernel, n.VTEP, r.gate}, Kernel: routing{n.kernel.fake, r.gate},
		Datapath: "netdev", DatapathReason: "simulated", Disk: n.write, Asker: n.world.behind,
	}, log)
	require.NoError(n.world.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	n.mu.Lock()
	n.run, n.ended = r, nil
	n.mu.Unlock()
	n.world.note("%s: agent %d starts", n.Name, n.starts)
	go func() {
		defer close(r.done)
		if err := r.agent.Run(ctx, nil); err != nil {
			n.world.note("%s: agent ends: %v", n.Name, err)
			n.mu.Lock()
			n.ended = err
			n.mu.Unlock()
		}
		_ = r.store.Close()
	}()
}

// SetDisk says how long the node's disk takes to write a file.
func (n *Node) SetDisk(d time.Duration) {
	n.world.note("%s: disk takes %s", n.Name, d)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disk = d
}

func (n *Node) write(file string, b []byte, mode os.FileMode) error {
	n.mu.Lock()
	d := n.disk
	n.mu.Unlock()
	time.Sleep(d)
	return atomicfile.Write(file, b, mode)
}

// Devices are the endpoints' devices on the host, whoever they belong to.
func (n *Node) Devices() []string {
	all, _ := n.kernel.veths()
	return all
}

// Runs reports whether an agent runs, frozen or not.
func (n *Node) Runs() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return false
	}
	select {
	case <-n.run.done:
		return false
	default:
		return true
	}
}

// Ended is why the last agent ended by itself.
func (n *Node) Ended() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ended
}

func (n *Node) current() *run {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}

// Agent is the node's running agent.
func (n *Node) Agent() *agent.Agent { return n.current().agent }

// Attach is the agent's part of that name.
func (n *Node) Attach() *attach.Part {
	for _, p := range n.Agent().Parts() {
		if a, ok := p.(*attach.Part); ok {
			return a
		}
	}
	return nil
}

// Stop ends the agent as systemd does.
func (n *Node) Stop() {
	r := n.current()
	if r == nil {
		return
	}
	r.gate.open()
	r.cancel()
	<-r.done
}

// Kill ends the agent at once: nothing that it would do at its end arrives
// anywhere.
func (n *Node) Kill() {
	r := n.current()
	if r == nil || !n.Runs() {
		return
	}
	n.Etcd.Set(etcdfake.Faults{Refused: true})
	r.gate.breakOff()
	saved := n.dir
	n.dir = fmt.Sprintf("%s-%d", filepath.Join(n.world.dir, n.Name), n.starts+1)
	require.NoError(n.world.t, copyDir(saved, n.dir))
	r.cancel()
	<-r.done
}

// Freeze stops the agent in what it does (SIGSTOP), until heal or Kill.
func (n *Node) Freeze() {
	n.Etcd.Set(etcdfake.Faults{Cut: true})
	n.current().gate.close()
}

// Thaw is SIGCONT.
func (n *Node) Thaw() {
	n.Etcd.Set(etcdfake.Faults{})
	n.current().gate.open()
}

// Clone copies the node's disk to a new host. It does not run yet.
func (n *Node) Clone(number int) *Node {
	c := n.world.newNode(n.Name, number)
	c.ID, c.Hostname, c.Epoch = n.ID, n.Name+"-copy", "boot2"
	c.dir = filepath.Join(n.world.dir, c.Hostname)
	require.NoError(n.world.t, copyDir(n.dir, c.dir))
	n.world.Nodes = append(n.world.Nodes, c)
	return c
}

// heal brings the node back to where it can work.
func (n *Node) heal() {
	n.Switch.StartOVSDB()
	n.Switch.Recover()
	if n.Runs() {
		n.Thaw()
		return
	}
	n.Start()
}

// requestTimeout bounds what a user asks of an agent.
const requestTimeout = 40 * time.Second

// Add attaches an endpoint, and remembers it if that succeeded. It may fail
// while something is harmed.
func (n *Node) Add(network, name string, ips ...netip.Addr) error {
	if !n.Runs() {
		return errors.New("no agent runs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	e, err := n.Agent().AddEndpoint(ctx, api.EndpointRequest{
		Name: name, Network: network, Netns: "/run/netns/" + name, IPs: ips,
	})
	n.world.note("%s: endpoint add %s/%s: %v %v", n.Name, network, name, e.IPs, err)
	if err == nil {
		n.mu.Lock()
		n.Wanted[network+"/"+name] = e
		n.mu.Unlock()
	}
	return err
}

// Move moves an endpoint, named network/name, from another host to this one.
func (n *Node) Move(from *Node, name string) error {
	if !n.Runs() {
		return errors.New("no agent runs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	old := from.Wanted[name]
	e, err := n.Agent().AddEndpoint(ctx, api.EndpointRequest{
		Name: old.Name, Network: old.Network, Netns: "/run/netns/" + old.Name, IPs: old.IPs, MAC: old.MAC,
		MoveFrom: from.Name,
	})
	n.world.note("%s: endpoint move %s from %s: %v", n.Name, name, from.Name, err)
	if err == nil {
		from.mu.Lock()
		delete(from.Wanted, name)
		from.mu.Unlock()
		n.mu.Lock()
		n.Wanted[name] = e
		n.mu.Unlock()
	}
	return err
}

// Remove detaches an endpoint.
func (n *Node) Remove(name string) error {
	if !n.Runs() {
		return errors.New("no agent runs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	err := n.Agent().RemoveEndpoint(ctx, name)
	n.world.note("%s: endpoint remove %s: %v", n.Name, name, err)
	// Even where it failed it may be gone: what is not wanted is not checked.
	n.mu.Lock()
	delete(n.Wanted, name)
	n.mu.Unlock()
	return err
}

// Forget is a container's end while no agent runs: its device is gone.
func (n *Node) Forget(name string) {
	n.mu.Lock()
	e := n.Wanted[name]
	delete(n.Wanted, name)
	n.mu.Unlock()
	n.kernel.set(e.Port, false)
}

// TakenAway says that an endpoint, by network and name, was taken away on purpose.
func (n *Node) TakenAway(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.Wanted, name)
}

// Traces are what the node has of a network.
func (n *Node) Traces(network string) []string {
	var out []string
	if _, carries := n.Agent().Hub().Records().Get().View().Find(network); carries {
		out = append(out, "it carries the network")
	}
	ports, _ := n.Switch.State()
	for _, name := range sortedKeys(ports) {
		if ports[name].ExternalIDs[ovs.KeyNetwork] == network {
			out = append(out, "port "+name)
		}
	}
	for _, e := range n.Attach().Endpoints() {
		if e.Network == network {
			out = append(out, "endpoint "+e.Name)
		}
	}
	return out
}

// Ready reports whether the agent has told systemd that the node forwards.
func (n *Node) Ready() bool {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	st, err := n.Agent().Status(ctx)
	return err == nil && st.Ready
}

// wanted lists Wanted.
func (n *Node) wanted() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return sortedKeys(n.Wanted)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Faults are what the agent reports.
func (n *Node) Faults() []fault.Fault { return n.Agent().Faults() }

// HasFault reports whether the agent reports a fault of a kind.
func (n *Node) HasFault(code fault.Code) bool {
	for _, f := range n.Faults() {
		if f.Code == code {
			return true
		}
	}
	return false
}

// Snapshot is what etcd has.
func (w *World) Snapshot() *topology.Snapshot {
	s, err := w.Operator.Snapshot(context.Background())
	require.NoError(w.t, err)
	return s
}

// FailKernel makes routes, sysctls and the firewall fail, or mends them.
func (n *Node) FailKernel(fails bool) {
	var err error
	if fails {
		err = errors.New("the kernel refuses")
	}
	n.kernel.fail(err)
}

// SetBug makes the running agent panic at a door from now on, or mends it.
func (n *Node) SetBug(d Door, has bool) {
	n.world.note("%s: bug in %s: %v", n.Name, d, has)
	n.current().gate.setBug(d, has)
}

// TouchLinks has the kernel report a change of its links.
func (n *Node) TouchLinks() { n.kernel.set("dummy0", true) }

// SetUnderlayMTU changes the MTU of the host's underlay.
func (n *Node) SetUnderlayMTU(mtu int) {
	n.kernel.mu.Lock()
	n.kernel.link = mtu
	n.kernel.mu.Unlock()
	n.TouchLinks()
}

// behind is who answers for an address behind the switch of its owner.
func (w *World) behind(_ context.Context, c topology.Claim) (string, error) {
	for _, n := range w.Nodes {
		if mac := n.Behind[c.Addr]; n.Name == c.Owner && mac != nil {
			return mac.String() + " answers for it", nil
		}
	}
	return "", nil
}

// Take gives an address to the endpoint of a device, without asking anybody.
func (n *Node) Take(device string, a netip.Addr) {
	n.kernel.mu.Lock()
	defer n.kernel.mu.Unlock()
	n.kernel.taken = map[netip.Addr]string{a: device}
}

// OldKernel takes the second names of devices from the kernel; NewKernel gives them back.
func (n *Node) OldKernel() { n.secondNames(false) }

// NewKernel undoes OldKernel.
func (n *Node) NewKernel() { n.secondNames(true) }

func (n *Node) secondNames(has bool) {
	n.kernel.mu.Lock()
	defer n.kernel.mu.Unlock()
	n.kernel.old = !has
}

// LoseEndpointsFile takes the file with the endpoints' records from a node whose agent does
// not run.
func (n *Node) LoseEndpointsFile() {
	require.NoError(n.world.t, os.Remove(filepath.Join(n.dir, "endpoints.json")))
}

// RemoveDevice removes an endpoint's device by one of its names, without asking anybody.
func (n *Node) RemoveDevice(name string) { n.kernel.remove(name) }

// MTU is that of an endpoint's device.
func (n *Node) MTU(e api.Endpoint) int { return n.kernel.mtu(e.Port) }

// AddNode adds a host, which does not run yet.
func (w *World) AddNode(name string) *Node {
	n := w.newNode(name, len(w.Nodes)+1)
	n.dir += fmt.Sprintf("-added-%d", len(w.Nodes))
	w.Nodes = append(w.Nodes, n)
	return n
}
