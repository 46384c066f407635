package kernel

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/route"
)

// Watcher says what a watch is for.
type Watcher struct {
	// Interest says which changes matter at this moment; nil: all of them. It is
	// called often, and has to be quick.
	Interest func() Interest
	// Fire is a trigger to look again. It is called once at the start, then after
	// changes, at a bounded rate, from one goroutine; it must not block.
	Fire func()
	// Fault hears that something cannot be watched, and with nil that it can again;
	// may be nil. Meanwhile the watch tries again, and fires when it succeeds.
	Fault func(what string, err error)
}

// Interest is what of a host's kernel matters. All others may change as often as
// they like: a routing daemon with a full table wakes nobody.
type Interest struct {
	// All: everything matters; Firewall: every chain of nftables does.
	All, Firewall bool
	// Networks are the prefixes that Baize has routes and addresses in.
	Networks []netip.Prefix
	// Addrs are addresses whose way matters: those of peers, and of next hops.
	Addrs []netip.Addr
	// Devices are more that matter than the host's own ports: bridges, the
	// underlay's.
	Devices []string
	// Neighbours are the addresses of permanent neighbours.
	Neighbours []netip.Addr
	// Sysctls are keys of settings that no message tells of.
	Sysctls []string
}

// Interest returns what matters for the state that is wanted.
func (in Input) Interest() Interest {
	var i Interest
	for _, n := range in.View.Networks {
		h, ok := n.Host()
		if ok || in.Bridges[n.Name] != "" {
			i.Networks = append(i.Networks, n.Prefixes()...)
		}
		i.Neighbours = slices.AppendSeq(i.Neighbours, maps.Keys(h.Neighbours))
		if dev := in.Ports[n.Name]; ok && dev != "" {
			for _, s := range PortSysctls(dev) {
				i.Sysctls = append(i.Sysctls, s.Key)
			}
		}
	}
	i.Addrs = Ask(in.View, nil).Lookups
	for _, h := range in.NextHops {
		if !slices.Contains(i.Addrs, h.Via) {
			i.Addrs = append(i.Addrs, h.Via)
		}
	}
	for _, dev := range in.Bridges {
		i.Devices = append(i.Devices, dev)
	}
	for _, dev := range in.OnLink {
		if !slices.Contains(i.Devices, dev) {
			i.Devices = append(i.Devices, dev)
		}
	}
	slices.Sort(i.Devices)
	slices.SortFunc(i.Neighbours, netip.Addr.Compare)
	return i
}

// mainTable is RT_TABLE_MAIN of rtnetlink(7).
const mainTable = 254

// Route reports whether a route matters: one of Baize's, one in its networks, or
// one by which a peer may be reached.
func (i Interest) Route(table, protocol int, p netip.Prefix) bool {
	if i.All {
		return true
	}
	if table != mainTable || !p.IsValid() {
		return false
	}
	return protocol == route.Protocol ||
		slices.ContainsFunc(i.Networks, func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) }) ||
		slices.ContainsFunc(i.Addrs, p.Contains)
}

// Address reports whether an address of a device matters.
func (i Interest) Address(a netip.Addr) bool {
	return i.All || slices.Contains(i.Addrs, a) ||
		slices.ContainsFunc(i.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// Device reports whether a device matters.
func (i Interest) Device(name string) bool {
	return i.All || strings.HasPrefix(name, PortPrefix) || slices.Contains(i.Devices, name)
}

// Neighbour reports whether the entry of an address in the neighbour table matters.
func (i Interest) Neighbour(a netip.Addr) bool { return i.All || slices.Contains(i.Neighbours, a) }

// Chain reports whether a chain of nftables matters, those of iptables-nft
// included; empty: the whole table has changed.
func (i Interest) Chain(table, chain string) bool {
	if i.Firewall {
		return true
	}
	switch table {
	case Table, TunnelTable:
		return true
	case AcceptChain.Table:
		return i.All || slices.Contains([]string{"", AcceptChain.Parent, AcceptChain.Name, AcceptChain.Behind}, chain)
	}
	return i.All || table == ""
}

// Times of a Pacer.
const (
	// paceSettle is how long changes gather before the first trigger.
	paceSettle = 20 * time.Millisecond
	// paceFirst is the least time between two triggers. It doubles up to paceLast
	// while they follow each other without a rest: what is changed by hand is back
	// within a second also then.
	paceFirst = 100 * time.Millisecond
	paceLast  = 500 * time.Millisecond
)

// Pacer passes wake-ups on at a bounded rate. Any number of them until the next
// trigger are one.
type Pacer struct{ wake chan struct{} }

// NewPacer returns a pacer that has been woken.
func NewPacer() *Pacer {
	p := &Pacer{make(chan struct{}, 1)}
	p.Wake()
	return p
}

// Wake asks for a trigger. It never blocks.
func (p *Pacer) Wake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run calls fire after wake-ups until ctx ends, and returns ctx's error.
func (p *Pacer) Run(ctx context.Context, fire func()) error {
	pause := paceFirst
	last := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		}
		wait := paceSettle
		if rest := pause - time.Since(last); rest > 0 {
			wait, pause = max(rest, paceSettle), min(2*pause, paceLast)
		} else {
			pause = paceFirst
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		// What came meanwhile is part of this one.
		select {
		case <-p.wake:
		default:
		}
		last = time.Now()
		fire()
	}
}
