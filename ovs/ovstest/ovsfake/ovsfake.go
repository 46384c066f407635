// Package ovsfake is an Open vSwitch in memory, as strict as the real one: a
// bundle with a flow that ovs-ofctl cannot parse is refused whole, a second
// tunnel of the same configuration has an error and no number, so has a port
// whose device does not exist, a name is on one bridge only, removing a port
// leaves its flows behind, and a restart of ovs-vswitchd loses them all. It
// forwards packets by its flows, so that a test can ask where one ends up.
//
// It runs in a bubble of testing/synctest.
package ovsfake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/forward"
	"github.com/baize-net/baize/ovs/openflow"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// maxName is the longest name of a network device (IFNAMSIZ without its zero).
const maxName = 15

// localPort is the number of a bridge's own port (OFPP_LOCAL).
const localPort = 65534

// Switch is one Open vSwitch with at most one bridge of interest. Its fields are
// for tests that are alone with it.
type Switch struct {
	Bridge  *ovs.Bridge
	Ports   map[string]ovs.ObservedPort
	Table   map[ovs.FlowID]ovs.BoundFlow
	Foreign map[string]string
	// Collectors are by number; SFlow is nil where there is none.
	Collectors map[uint32]ovs.ObservedCollectorSet
	SFlow      *ovs.ObservedSFlow
	// Meters are by number.
	Meters map[uint32]ovs.BoundMeter
	// Devices are the network devices that exist; nil: every one does.
	Devices map[string]bool
	// Latency is what every call takes.
	Latency time.Duration

	mu       sync.Mutex
	next     int
	vswitchd bool // ovs-vswitchd runs
	ovsdb    bool // ovsdb-server answers
	hangs    bool // ovs-vswitchd takes no changes over
	mute     bool // neither server answers
	// connection counts the starts of ovs-vswitchd and the bridges made.
	connection int
	edits      int // changes of flows by others
	restore    struct{ set, owned bool }
	changes    int
	written    int
	changed    chan struct{} // closed at the next change
	rules      map[ovs.FlowID]*forward.Rule
	// tables are the rules as packets pass them, ids those of the flows; nil: to be made.
	tables *forward.Tables
	ids    []openflow.FlowStats
}

// New returns an Open vSwitch that runs, without a bridge.
func New() *Switch {
	return &Switch{
		Ports: map[string]ovs.ObservedPort{}, Table: map[ovs.FlowID]ovs.BoundFlow{}, Foreign: map[string]string{},
		vswitchd: true, ovsdb: true, changed: make(chan struct{}), rules: map[ovs.FlowID]*forward.Rule{},
		Meters: map[uint32]ovs.BoundMeter{}, Collectors: map[uint32]ovs.ObservedCollectorSet{},
	}
}

// touched is called when the flows have changed.
func (f *Switch) touched() { f.tables, f.ids = nil, nil }

// Database returns its OVSDB side.
func (f *Switch) Database() Database { return Database{f} }

// Flows returns its OpenFlow side.
func (f *Switch) Flows() FlowTables { return FlowTables{f} }

// update changes the switch and wakes who waits for it.
func (f *Switch) update(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.wake()
}

// wake needs f.mu.
func (f *Switch) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Changes counts the transactions and bundles that changed something, whoever
// made them.
func (f *Switch) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Written counts the flows and ports that were written or deleted by changes.
func (f *Switch) Written() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written
}

// StopVswitchd ends ovs-vswitchd: with it go all flows.
func (f *Switch) StopVswitchd() {
	f.update(func() {
		f.vswitchd = false
		f.clearFlows()
	})
}

// StartVswitchd starts it again. Ports are made anew, with numbers of their own.
func (f *Switch) StartVswitchd() {
	f.update(func() {
		f.vswitchd, f.hangs = true, false
		f.connection++
		f.clearFlows()
		f.next = 0
		f.takeOver(true)
	})
}

// Hang lets ovs-vswitchd take over no change until it is started again.
func (f *Switch) Hang() { f.update(func() { f.hangs = true }) }

// Mute lets no call be answered until it is taken back: callers wait for as long as
// they do.
func (f *Switch) Mute(mute bool) { f.update(func() { f.mute = mute }) }

// StopOVSDB and StartOVSDB end and start ovsdb-server, whose data stays.
func (f *Switch) StopOVSDB() { f.update(func() { f.ovsdb = false }) }

// StartOVSDB is the other half of StopOVSDB.
func (f *Switch) StartOVSDB() { f.update(func() { f.ovsdb = true }) }

// Wipe empties the database: what a lost conf.db is, or one made anew.
func (f *Switch) Wipe() {
	f.update(func() {
		f.deleteBridge()
		f.restore.set, f.restore.owned = false, false
	})
}

// DelPort removes a port by hand.
func (f *Switch) DelPort(name string) {
	f.update(func() { delete(f.Ports, name) })
}

// DelBridge removes the bridge by hand, with all that is on it.
func (f *Switch) DelBridge() { f.update(f.deleteBridge) }

// DelFlow removes one of the flows by hand: the first of a table.
func (f *Switch) DelFlow(table int) {
	f.update(func() {
		ids := slices.SortedFunc(maps.Keys(f.Table), func(a, b ovs.FlowID) int { return int(a.Cookie>>1) - int(b.Cookie>>1) })
		for _, id := range ids {
			if id.Table == table {
				f.dropFlow(id)
				f.edits++
				return
			}
		}
	})
}

// SetDevice says whether a network device exists. A port on one that goes has
// an error from then on.
func (f *Switch) SetDevice(name string, exists bool) {
	f.update(func() {
		if f.Devices == nil {
			f.Devices = map[string]bool{}
		}
		f.Devices[name] = exists
		if p, there := f.Ports[name]; there {
			f.Ports[name] = f.made(p, true)
		}
	})
}

func (f *Switch) deleteBridge() {
	f.Bridge = nil
	f.connection++
	clear(f.Ports)
	clear(f.Collectors)
	f.SFlow = nil
	f.clearFlows()
}

func (f *Switch) clearFlows() {
	clear(f.Table)
	clear(f.rules)
	clear(f.Meters)
	f.touched()
}

func (f *Switch) dropFlow(id ovs.FlowID) {
	delete(f.Table, id)
	delete(f.rules, id)
	f.touched()
}

// takeOver makes the ports that ovs-vswitchd has not made yet, or all.
func (f *Switch) takeOver(all bool) {
	if !f.vswitchd || f.hangs {
		return
	}
	if all {
		for name, p := range f.Ports {
			p.OFPort, p.Error = 0, ""
			f.Ports[name] = p
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Ports)) {
		if p := f.Ports[name]; p.OFPort == 0 && p.Error == "" {
			f.Ports[name] = f.made(p, false)
		}
	}
}

// made returns a port as ovs-vswitchd makes it. One with an error is not tried
// again.
func (f *Switch) made(p ovs.ObservedPort, again bool) ovs.ObservedPort {
	fail := func(what string) ovs.ObservedPort {
		p.OFPort, p.Error, p.Up = -1, what, false
		return p
	}
	if len(p.Name) > maxName {
		return fail(fmt.Sprintf("could not open network device %s (File name too long)", p.Name))
	}
	if p.Type == "" && f.Devices != nil && !f.Devices[p.Name] {
		return fail(fmt.Sprintf("could not open network device %s (No such device)", p.Name))
	}
	if isTunnel(p.Type) {
		for name, o := range f.Ports {
			if name != p.Name && o.OFPort > 0 && o.Type == p.Type && maps.Equal(tunnelConfig(o), tunnelConfig(p)) {
				return fail(fmt.Sprintf("could not add network device %s to ofproto (File exists)", p.Name))
			}
		}
	}
	if p.OFPort <= 0 || !again {
		f.next++
		p.OFPort = f.next
	}
	p.Error, p.Up = "", true
	return p
}

func isTunnel(kind string) bool { return kind == "vxlan" || kind == "gre" || kind == "geneve" }

// tunnelConfig is what tells packets of one tunnel from those of another.
func tunnelConfig(p ovs.ObservedPort) map[string]string {
	out := map[string]string{}
	for _, k := range []string{"local_ip", "remote_ip", "key", "in_key", "dst_port"} {
		if v := p.Options[k]; v != "" {
			out[k] = v
		}
	}
	return out
}

// FlowTexts returns the flows as text with port names in place of numbers,
// sorted: two switches that went different ways can be compared.
func (f *Switch) FlowTexts() []ovs.Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := map[int]string{}
	for _, p := range f.Ports {
		if p.OFPort > 0 {
			names[p.OFPort] = p.Name
		}
	}
	out := make([]ovs.Flow, 0, len(f.Table))
	for _, b := range f.Table {
		out = append(out, ovs.Unbind(b, names))
	}
	slices.SortFunc(out, ovs.CompareFlows)
	return out
}

// State returns the ports of the bridge, and whether there is one.
func (f *Switch) State() (ports map[string]ovs.ObservedPort, bridge bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.Ports), f.Bridge != nil
}

// Internal returns the devices that ovs-vswitchd has made for ports of type
// internal, in which of its lives it did, and what is closed at the next change of
// the switch. They end with ovs-vswitchd, as those of the userspace datapath do.
func (f *Switch) Internal() (devices []string, life int, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.Ports)) {
		if p := f.Ports[name]; f.vswitchd && p.Type == "internal" && p.OFPort > 0 {
			devices = append(devices, name)
		}
	}
	return devices, f.connection, f.changed
}

// pause is the time a call takes; it ends early with ctx.
func (f *Switch) pause(ctx context.Context) error {
	for {
		f.mu.Lock()
		mute, changed := f.mute, f.changed
		f.mu.Unlock()
		if !mute {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
	if f.Latency == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(f.Latency)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// until waits for a change.
func (f *Switch) until(ctx context.Context, changed <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-changed:
		return f.pause(ctx) == nil
	}
}

func unavailable(item, what string) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.SwitchUnavailable, Item: item, What: what,
		Remedy: "systemctl start openvswitch-switch",
	}
}

// Recover starts ovs-vswitchd if it does not run, or hangs.
func (f *Switch) Recover() {
	f.mu.Lock()
	broken := !f.vswitchd || f.hangs
	f.mu.Unlock()
	if broken {
		f.StartVswitchd()
	}
}
