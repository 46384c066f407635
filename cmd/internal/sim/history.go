package sim

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdfake"
	"github.com/baize-net/baize/topology/fault"
)

// harm is one thing that may happen.
type harm struct {
	name   string
	weight int
	do     func(w *World)
}

// harms are all that happens in random histories.
var harms = []harm{
	{"endpoint add", 12, func(w *World) { w.addSomewhere() }},
	{"endpoint add with an address", 6, func(w *World) { w.addChosen() }},
	{"endpoint remove", 4, func(w *World) { w.removeSomewhere() }},
	{"agent killed", 6, func(w *World) { w.pick().Kill() }},
	{"agent stopped", 3, func(w *World) { w.pick().Stop() }},
	{"agent started", 8, func(w *World) { w.pick().Start() }},
	{"agent frozen", 3, func(w *World) {
		if n := w.pick(); n.Runs() {
			n.Freeze()
		}
	}},
	{"agent thawed", 3, func(w *World) {
		if n := w.pick(); n.Runs() {
			n.Thaw()
		}
	}},
	{"machine copied", 2, func(w *World) { w.copySomewhere() }},
	{"vswitchd restarted", 4, func(w *World) {
		n := w.pick()
		n.Switch.StopVswitchd()
		w.Pass(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
		n.Switch.StartVswitchd()
	}},
	{"vswitchd gone", 2, func(w *World) { w.pick().Switch.StopVswitchd() }},
	{"vswitchd hangs", 1, func(w *World) { w.pick().Switch.Hang() }},
	{"ovsdb gone", 2, func(w *World) { w.pick().Switch.StopOVSDB() }},
	{"ovsdb back", 2, func(w *World) { w.pick().Switch.StartOVSDB() }},
	{"conf.db wiped", 3, func(w *World) { w.pick().Switch.Wipe() }},
	{"port deleted", 3, func(w *World) { w.pick().deletePort() }},
	{"flow deleted", 3, func(w *World) { w.pick().Switch.DelFlow([]int{0, 10, 20, 25, 30}[w.rng.IntN(5)]) }},
	{"cut off from etcd", 5, func(w *World) { w.harmWay(etcdfake.Faults{Cut: true}) }},
	{"etcd refused", 2, func(w *World) { w.harmWay(etcdfake.Faults{Refused: true}) }},
	{"etcd slow", 3, func(w *World) {
		w.harmWay(etcdfake.Faults{Delay: time.Duration(w.rng.IntN(8000)) * time.Millisecond})
	}},
	{"answers lost", 3, func(w *World) { w.harmWay(etcdfake.Faults{LoseAnswers: true}) }},
	{"watches stalled", 2, func(w *World) { w.harmWay(etcdfake.Faults{StallWatches: true}) }},
	{"way to etcd mended", 5, func(w *World) { w.harmWay(etcdfake.Faults{}) }},
	{"etcd stopped", 2, func(w *World) { w.Etcd.Stop() }},
	{"etcd started", 4, func(w *World) { w.Etcd.Start() }},
	{"etcd without leader", 2, func(w *World) { w.Etcd.SetLeader(false) }},
	{"etcd with leader", 2, func(w *World) { w.Etcd.SetLeader(true) }},
	{"etcd full", 2, func(w *World) { w.Etcd.SetNoSpace(true) }},
	{"etcd with space", 2, func(w *World) { w.Etcd.SetNoSpace(false) }},
	{"etcd compacted", 3, func(w *World) { w.Etcd.Compact(0) }},
	{"etcd backed up", 2, func(w *World) { w.backup = w.Etcd.Backup() }},
	{"etcd restored from the backup", 1, func(w *World) { w.restore(w.backup) }},
	{"etcd emptied", 1, func(w *World) { w.restore(etcdfake.Backup{}) }},
	{"key deleted", 2, func(w *World) { w.Etcd.Delete(w.pickKey(), false) }},
	{"key spoilt", 2, func(w *World) { w.Etcd.Put(w.pickKey(), spoilt[w.rng.IntN(len(spoilt))]) }},
	{"partition", 3, func(w *World) { w.Partition(w.pick(), w.pick()) }},
	{"network created", 1, func(w *World) {
		// Of a network that vanished the operator would give the VNI away.
		if w.created < maxNetworks && w.reachable() && w.vanished() == nil {
			_ = w.CreateNetwork(fmt.Sprintf("net%d", w.created+1))
		}
	}},
	{"network deleted", 2, func(w *World) { w.deleteSomewhere() }},
	{"deletion cancelled", 1, func(w *World) { w.cancelSomewhere() }},
}

// maxNetworks bounds the networks of a world.
const maxNetworks = 3

// History does random things, with random pauses between them.
func (w *World) History(number int) {
	w.note("history %d", number)
	total := 0
	for _, h := range harms {
		total += h.weight
	}
	for range 5 + w.rng.IntN(20) {
		n := w.rng.IntN(total)
		for _, h := range harms {
			if n -= h.weight; n < 0 {
				w.note("%s", h.name)
				h.do(w)
				break
			}
		}
		// Mostly all at once, sometimes longer than anything takes to time out.
		switch w.rng.IntN(4) {
		case 0:
			w.Pass(time.Duration(w.rng.IntN(40)) * time.Second)
		case 1:
			w.Pass(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
		default:
			w.Pass(time.Duration(w.rng.IntN(100)) * time.Millisecond)
		}
	}
}

func (w *World) pick() *Node {
	n := w.Nodes[w.rng.IntN(len(w.Nodes))]
	w.note("  … %s", n.Hostname)
	return n
}

func (w *World) harmWay(f etcdfake.Faults) {
	if n := w.pick(); n.Etcd != nil {
		n.Etcd.Set(f)
	}
}

// reachable reports whether an operator's write would succeed at once.
func (w *World) reachable() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return w.Operator.Check(ctx) == nil
}

func (w *World) addSomewhere() {
	n := w.pick()
	if len(n.Wanted) >= 4 {
		return
	}
	w.counter++
	network, name := w.networks[w.rng.IntN(len(w.networks))], fmt.Sprintf("c%d", w.counter)
	// A user does not wait before something else happens.
	go func() { _ = n.Add(network, name) }()
}

// addChosen adds an endpoint with an address that somebody chose: of any node's
// subnet, or of nobody's. Few are chosen from, so that they are asked for twice.
func (w *World) addChosen() {
	n := w.pick()
	if len(n.Wanted) >= 4 || !w.reachable() {
		return
	}
	subnets := slices.DeleteFunc(w.Snapshot().SortedSubnets(), func(s topology.Subnet) bool {
		return !s.Prefix.Addr().Is4()
	})
	host := 100 + w.rng.IntN(3)
	network, of := w.networks[w.rng.IntN(len(w.networks))], netip.Prefix{}
	if i := w.rng.IntN(len(subnets) + 1); i < len(subnets) {
		network, of = subnets[i].Network, subnets[i].Prefix
	} else if n, ok := w.Snapshot().Networks[network]; ok {
		of = n.IPv4
	}
	if !of.IsValid() {
		return
	}
	a := of.Addr().As4()
	a[3] = byte(host)
	w.counter++
	name := fmt.Sprintf("chosen%d", w.counter)
	go func() { _ = n.Add(network, name, netip.AddrFrom4(a)) }()
}

// obey does what the remedy of a conflict is, once a node reports it: of two
// endpoints with one address it removes one. Where records were lost nothing else
// helps.
func (w *World) obey() {
	type place struct {
		network string
		ip      netip.Addr
	}
	seen := map[place]*Node{}
	for _, n := range w.Nodes {
		if !n.Runs() {
			continue
		}
		for _, e := range n.Attach().Endpoints() {
			for _, ip := range e.IPs {
				o, twice := seen[place{e.Network, ip}]
				if twice && (n.HasFault(fault.AddressTaken) || o.HasFault(fault.AddressTaken)) {
					w.note("%s is on %s and on %s, and that is reported", ip, o.Name, n.Name)
					_ = n.Remove(e.Network + "/" + e.Name)
					break
				}
				seen[place{e.Network, ip}] = n
			}
		}
	}
}

// deleteSomewhere marks a network, which then goes or not: what uses it may be on
// a host that is lost. The first one stays, so that there is always one.
func (w *World) deleteSomewhere() {
	if len(w.networks) < 2 || !w.reachable() {
		return
	}
	name := w.networks[1+w.rng.IntN(len(w.networks)-1)]
	_, err := w.Operator.MarkNetwork(w.t.Context(), name, topology.DeleteUnused)
	w.note("  … %s: %v", name, err)
	delete(w.records, topology.DefaultPrefix+"/"+topology.NetworkKey(name))
}

func (w *World) cancelSomewhere() {
	if len(w.networks) < 2 || !w.reachable() {
		return
	}
	name := w.networks[1+w.rng.IntN(len(w.networks)-1)]
	_, err := w.Operator.CancelDeletion(w.t.Context(), name)
	w.note("  … %s: %v", name, err)
}

// copySomewhere starts a copy of a machine, beside it or in its place.
func (w *World) copySomewhere() {
	if len(w.copies) > 0 {
		return
	}
	n := w.pick()
	c := n.Clone(1000 + w.counter)
	w.counter++
	w.copies = append(w.copies, c)
	c.Start()
}

// removeCopies switches the copies off, for good.
func (w *World) removeCopies() {
	for _, c := range w.copies {
		c.Stop()
		w.Nodes = slices.DeleteFunc(w.Nodes, func(n *Node) bool { return n == c })
	}
	w.copies = nil
}

func (w *World) removeSomewhere() {
	n := w.pick()
	for _, name := range n.wanted() {
		go func() { _ = n.Remove(name) }()
		return
	}
}

// deletePort removes one of the node's ports by hand.
func (n *Node) deletePort() {
	ports, _ := n.Switch.State()
	for _, name := range sortedKeys(ports) {
		if n.world.rng.IntN(len(ports)) == 0 {
			n.world.note("  … %s", name)
			n.Switch.DelPort(name)
			return
		}
	}
}
