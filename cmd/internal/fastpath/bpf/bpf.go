// Package bpf is the fast path in this host's kernel: programs at the host's ends
// of endpoints and at the devices of the underlay, and the maps that they read. It
// does what package fastpath says and decides nothing. It is the only importer of
// cilium/ebpf. It works on the network namespace of the calling thread.
//
// Nothing is kept in a file system: a classifier holds its program, and that the
// maps, whether or not an agent runs. An agent that starts finds them by the name
// of the classifier, which has a hash of the programs: others are replaced.
package bpf

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"

	"github.com/baize-net/baize/cmd/internal/fastpath"
	"github.com/baize-net/baize/cmd/internal/rtnetlink"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Host is this host. Its zero value is ready.
type Host struct {
	mu sync.Mutex
	// maps and progs are those that are in use, by name; nil while none are known.
	maps  map[string]*ebpf.Map
	progs map[string]*ebpf.Program
}

// version is the hash of all that is loaded.
var version = sync.OnceValue(func() string {
	h := sha256.New()
	s := spec()
	for _, name := range slices.Sorted(maps.Keys(s.Maps)) {
		m := s.Maps[name]
		fmt.Fprintln(h, name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Programs)) {
		for _, i := range s.Programs[name].Instructions {
			fmt.Fprintln(h, i)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
})

func versioned(prog string) string { return prog + "-" + version() }

// look is one look at the host.
type look struct {
	names
	devices map[string]fastpath.Device
	// programs are by device.
	programs map[string]attached
}

// Seen is what there is.
type Seen struct {
	State fastpath.State
	// Devices are all of this host.
	Devices map[string]fastpath.Device
}

// Observe reads what there is. Entries of devices that are gone have a number in
// the place of the name; what a program of another version has counts as different
// from all that may be wanted.
func (b *Host) Observe(context.Context) (Seen, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, err := handle()
	if err != nil {
		return Seen{}, err
	}
	defer h.Close()
	l, err := see(h)
	if err != nil {
		return Seen{}, err
	}
	out := Seen{State: fastpath.NewState(), Devices: l.devices}
	if err := b.find(l); err != nil {
		return out, err
	}
	for dev, a := range l.programs {
		current := a.name == versioned(a.role())
		if a.role() == progTo {
			out.State.Uplinks[dev] = current
			continue
		}
		out.State.Ports[dev] = fastpath.Port{}
	}
	if b.maps == nil {
		return out, nil
	}
	return out, b.read(l, &out.State)
}

// Read reads what the programs of this host have.
func Read(ctx context.Context) (fastpath.State, error) {
	seen, err := new(Host).Observe(ctx)
	return seen.State, err
}

// read adds what is in the maps.
func (b *Host) read(l look, s *fastpath.State) error {
	err := each(b.maps[mapPorts], func(k uint32, v portValue) {
		dev := l.of(k)
		if a, ok := l.programs[dev]; ok && a.name != versioned(progFrom) || !ok && !strings.HasPrefix(dev, unknown) {
			s.Ports[dev] = fastpath.Port{}
			return
		}
		s.Ports[dev] = l.port(v)
	})
	err = errors.Join(err,
		each(b.maps[mapLocals4], func(k [4]byte, v localValue) { s.Locals[netip.AddrFrom4(k)] = l.local(v) }),
		each(b.maps[mapLocals6], func(k [16]byte, v localValue) { s.Locals[netip.AddrFrom16(k)] = l.local(v) }),
		each(b.maps[mapHops4], func(k hopKey4, v hopValue) {
			s.Hops[netip.PrefixFrom(netip.AddrFrom4(k.Addr), int(k.Bits))] = l.hop(v)
		}),
		each(b.maps[mapHops6], func(k hopKey6, v hopValue) {
			s.Hops[netip.PrefixFrom(netip.AddrFrom16(k.Addr), int(k.Bits))] = l.hop(v)
		}))
	return err
}

// each calls f with every entry of a map.
func each[K, V any](m *ebpf.Map, f func(K, V)) error {
	var k K
	var v V
	i := m.Iterate()
	for i.Next(&k, &v) {
		f(k, v)
	}
	return i.Err()
}

// see looks at devices and classifiers.
func see(h *netlink.Handle) (look, error) {
	l := look{
		names:   names{map[string]uint32{}, map[uint32]string{}},
		devices: map[string]fastpath.Device{}, programs: map[string]attached{},
	}
	links, err := rtnetlink.Dump(h.LinkList)
	if err != nil {
		return l, fmt.Errorf("listing devices: %w", err)
	}
	with, err := hooked(h)
	if err != nil {
		return l, err
	}
	for _, x := range links {
		at := x.Attrs()
		l.index[at.Name], l.name[uint32(at.Index)] = uint32(at.Index), at.Name
		l.devices[at.Name] = fastpath.Device{
			Ethernet: at.EncapType == "ether", Away: x.Type() == "veth" && at.NetNsID >= 0,
		}
		if !with[at.Index] {
			continue
		}
		a, there, err := ours(h, at.Index)
		if err != nil {
			return l, err
		}
		if there {
			l.programs[at.Name] = a
		}
	}
	return l, nil
}

// find opens what an agent before this one has left, if it is of this version.
func (b *Host) find(l look) error {
	if b.maps != nil {
		return nil
	}
	found, progs := map[string]*ebpf.Map{}, map[string]bool{}
	for _, dev := range slices.Sorted(maps.Keys(l.programs)) {
		a := l.programs[dev]
		if a.name != versioned(a.role()) || progs[a.role()] {
			continue
		}
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(a.id))
		if err != nil {
			return fmt.Errorf("opening the program of device %s: %w", dev, err)
		}
		progs[a.role()] = true
		info, err := p.Info()
		if err != nil {
			return fmt.Errorf("the program of device %s: %w", dev, err)
		}
		ids, _ := info.MapIDs()
		for _, id := range ids {
			m, err := ebpf.NewMapFromID(id)
			if err != nil {
				return fmt.Errorf("opening a map of the program of device %s: %w", dev, err)
			}
			mi, err := m.Info()
			if err != nil {
				return fmt.Errorf("a map of the program of device %s: %w", dev, err)
			}
			if found[mi.Name] != nil {
				m.Close()
				continue
			}
			found[mi.Name] = m
		}
		p.Close()
	}
	if len(progs) == 0 {
		return nil
	}
	// The program of the underlay's devices does not have the map of the ports.
	b.maps = found
	return b.load()
}

// load makes maps and programs where there are none, and the programs that no
// device has.
func (b *Host) load() error {
	if len(b.progs) == len(spec().Programs) {
		return nil
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raising the limit of locked memory: %w", err)
	}
	c, err := ebpf.NewCollectionWithOptions(spec(), ebpf.CollectionOptions{MapReplacements: b.maps})
	if err != nil {
		return err
	}
	old := b.maps
	b.maps, b.progs = c.Maps, c.Programs
	for _, m := range old { // the collection has its own descriptors
		m.Close()
	}
	return nil
}

// Apply does a change. What fails costs only itself; the errors are joined. Entries
// come before the programs that read them.
func (b *Host) Apply(ctx context.Context, c fastpath.Change) error {
	if c.Empty() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h, err := handle()
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := see(h)
	if err != nil {
		return err
	}
	if !c.Add.Empty() {
		if err := b.load(); err != nil {
			return unavailable(err)
		}
	}
	x := applying{Host: b, look: l, h: h}
	x.remove(c.Remove)
	if err := ctx.Err(); err != nil {
		return err
	}
	x.add(c.Add)
	x.failed("what was decided", x.changed())
	return errors.Join(x.errs...)
}

// changed makes the programs decide anew.
func (x *applying) changed() error {
	if x.maps == nil {
		return nil
	}
	var n uint32
	if err := x.maps[mapGeneration].Lookup(uint32(0), &n); err != nil {
		return err
	}
	return x.maps[mapGeneration].Put(uint32(0), n+1)
}

func unavailable(err error) error {
	return &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.FastPathRefused, Item: "the fast path",
		What:   "the kernel does not take its programs: " + err.Error(),
		Remedy: "packets go through Open vSwitch and the kernel's routes; Linux 5.12 or later has what it needs",
	}
}

// applying is one Apply at work.
type applying struct {
	*Host
	look
	h    *netlink.Handle
	errs []error
}

func (x *applying) failed(item string, err error) {
	if err == nil || errors.Is(err, ebpf.ErrKeyNotExist) {
		return
	}
	x.errs = append(x.errs, &topology.Error{
		Kind: topology.ErrUnavailable, Code: fault.FastPathRefused, Item: "the fast path, " + item,
		What: err.Error(), Remedy: "its packets go through Open vSwitch and the kernel's routes; it is tried again",
	})
}

func (x *applying) remove(s fastpath.State) {
	for dev := range s.Ports {
		i, err := x.to(dev)
		if err == nil && x.maps != nil {
			x.failed("port "+dev, x.maps[mapPorts].Delete(i))
			x.failed("counters of "+dev, x.forget(i))
		}
	}
	if x.maps != nil {
		for a := range s.Locals {
			m, key := localKey(a)
			x.failed("address "+a.String(), x.maps[m].Delete(key))
		}
		for p := range s.Hops {
			m, key := hopKey(p)
			x.failed("prefix "+p.String(), x.maps[m].Delete(key))
		}
	}
	for _, dev := range s.Devices() {
		if i, err := x.to(dev); err == nil && !strings.HasPrefix(dev, unknown) {
			x.failed("device "+dev, detach(x.h, i))
		}
	}
}

// forget removes the counters of a device.
func (x *applying) forget(index uint32) error {
	var old []countKey
	err := each(x.maps[mapCounters], func(k countKey, _ []countValue) {
		if k.Ifindex == index {
			old = append(old, k)
		}
	})
	for _, k := range old {
		err = errors.Join(err, x.maps[mapCounters].Delete(k))
	}
	var slots []uint32
	var size int
	err = errors.Join(err, each(x.maps[mapRecent], func(slot uint32, all []recentValue) {
		size = len(all)
		if slices.ContainsFunc(all, func(v recentValue) bool { return v.Port == index }) {
			slots = append(slots, slot)
		}
	}))
	for _, slot := range slots {
		err = errors.Join(err, x.maps[mapRecent].Put(slot, make([]recentValue, size)))
	}
	return err
}

func (x *applying) add(s fastpath.State) {
	for p, hop := range s.Hops {
		v, err := x.hopValue(hop)
		if err == nil {
			m, key := hopKey(p)
			err = x.maps[m].Put(key, v)
		}
		x.failed("prefix "+p.String(), err)
	}
	for a, local := range s.Locals {
		v, err := x.localValue(local)
		if err == nil {
			m, key := localKey(a)
			err = x.maps[m].Put(key, v)
		}
		x.failed("address "+a.String(), err)
	}
	for dev, p := range s.Ports {
		x.failed("port "+dev, x.addPort(dev, p))
	}
	for dev := range s.Uplinks {
		i, err := x.to(dev)
		if err == nil {
			err = attach(x.h, i, versioned(progTo), x.progs[progTo].FD())
		}
		x.failed("device "+dev, err)
	}
}

func (x *applying) addPort(dev string, p fastpath.Port) error {
	i, err := x.to(dev)
	if err != nil {
		return err
	}
	v, err := x.portValue(p)
	if err != nil {
		return err
	}
	if err := x.maps[mapPorts].Put(i, v); err != nil {
		return err
	}
	if x.programs[dev].name == versioned(progFrom) {
		return nil
	}
	return attach(x.h, i, versioned(progFrom), x.progs[progFrom].FD())
}

// Counter are the packets of one endpoint and node that took the fast path.
type Counter struct {
	// Dev is the host's end of the endpoint, Node fastpath.NodeID of the other node;
	// 0 for another endpoint of this one, which counts at the sender.
	Dev  string
	Node uint64
	// Direction is "sent" or "received".
	Direction string
	// Packets counts those of the wire, Bytes with their Ethernet headers, once for
	// packets that are cut into several.
	Packets, Bytes uint64
}

// Counters are since the device has been in use.
func (b *Host) Counters() ([]Counter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.maps == nil {
		return nil, nil
	}
	h, err := handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := rtnetlink.Dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	name := map[uint32]string{}
	for _, l := range links {
		name[uint32(l.Attrs().Index)] = l.Attrs().Name
	}
	sums, err := b.sums()
	var out []Counter
	for k, v := range sums {
		c := Counter{Dev: name[k.Ifindex], Node: k.Node, Direction: "sent", Packets: v.Packets, Bytes: v.Bytes}
		if k.Direction == dirReceived {
			c.Direction = "received"
		}
		if c.Dev != "" {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Counter) int {
		return bytes.Compare(a.sortKey(), b.sortKey())
	})
	return out, err
}

// sums adds up what processors have counted, and what they have not put to the
// counters yet.
func (b *Host) sums() (map[countKey]countValue, error) {
	sums := map[countKey]countValue{}
	add := func(k countKey, packets, bytes uint64) {
		v := sums[k]
		sums[k] = countValue{v.Packets + packets, v.Bytes + bytes}
	}
	err := each(b.maps[mapCounters], func(k countKey, all []countValue) {
		for _, v := range all {
			add(k, v.Packets, v.Bytes)
		}
	})
	return sums, errors.Join(err, each(b.maps[mapRecent], func(slot uint32, all []recentValue) {
		direction := uint32(dirSent)
		if slot >= recentSlots {
			direction = dirReceived
		}
		for _, v := range all {
			if v.Packets > 0 {
				add(countKey{v.Node, v.Port, direction}, v.Packets, v.Bytes)
			}
		}
	}))
}

func (c Counter) sortKey() []byte {
	return binary.BigEndian.AppendUint64([]byte(c.Dev+"\x00"+c.Direction+"\x00"), c.Node)
}
