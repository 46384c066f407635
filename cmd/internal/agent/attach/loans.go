package attach

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/addresses"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// loan is an address of this node's subnets that another node is about to pin. The
// claim in etcd says the same; the loan is kept beside it, also in the file, for as
// long as etcd does not say what became of the claim.
type loan struct {
	node     string
	revision int64 // of the claim, in etcd
	at       time.Time
}

// lentFor is how long a loan lasts at least where etcd has been restored to before
// its claim.
const lentFor = time.Minute

type lentAddr struct {
	Network  string     `json:"network"`
	Addr     netip.Addr `json:"addr"`
	Node     string     `json:"node"`
	Revision int64      `json:"revision"`
	At       time.Time  `json:"at"`
}

// Lend implements membership.Lender.
func (p *Part) Lend(c topology.Claim) (holder string) {
	_ = p.loadOnce() // a fault of the part
	p.change(func() {
		if holder = p.taken(c.Network)[c.Addr]; holder == "" {
			p.lent[reservation{c.Network, c.Addr}] = loan{c.Node, c.ModRevision, time.Now()}
		}
	})
	if holder == "" {
		// Before the other node hears of it: another agent must not assign it.
		if err := p.save(); err != nil {
			p.log.Warn(err)
		}
	}
	return holder
}

// Probe implements membership.Lender: an endpoint may have taken an address that nobody gave
// it. The others send what is for the address to this node, so behind its ports is where
// somebody would have it.
func (p *Part) Probe(ctx context.Context, c topology.Claim) (holder string, err error) {
	ports := map[string]ovs.Endpoint{}
	for _, e := range p.known.Get().Endpoints {
		if e.Network == c.Network {
			ports[e.Port] = e
		}
	}
	if len(ports) == 0 {
		return "", nil
	}
	found, err := p.host.ProbeAddress(ctx, slices.Sorted(maps.Keys(ports)), c.Addr)
	if err != nil || found == nil {
		return "", err
	}
	p.change(func() { delete(p.lent, reservation{c.Network, c.Addr}) })
	if err := p.save(); err != nil {
		p.log.Warn(err)
	}
	return fmt.Sprintf("%s, which nobody gave it: %s answers for it", p.item(ports[found.Device]), found.MAC), nil
}

// Settle implements membership.Lender.
func (p *Part) Settle(s *topology.Snapshot) {
	p.mu.Lock()
	var gone []reservation
	for x, l := range p.lent {
		_, stands := s.Claims[topology.PinID{Network: x.network, Addr: x.addr}]
		if !stands && (s.Revision >= l.revision || time.Since(l.at) > lentFor) {
			gone = append(gone, x)
		}
	}
	p.mu.Unlock()
	if len(gone) == 0 {
		return
	}
	// Only this adds and removes loans, and whoever allocates now sees a topology that
	// is no older than this one.
	p.change(func() {
		for _, x := range gone {
			delete(p.lent, x)
		}
	})
	if err := p.save(); err != nil {
		p.log.Warn(err)
	}
}

// Lent are the addresses that are lent.
func (p *Part) Lent() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []netip.Addr
	for x := range p.lent {
		out = append(out, x.addr)
	}
	return out
}

// occupied returns the addresses of a network that nobody may be given, and why. It
// needs p.mu: what was lent is not forgotten before the topology has the pin. Of the
// addresses that are wanted it says exactly who has them.
func (p *Part) occupied(network string, wanted ...netip.Addr) addresses.Taken {
	taken := addresses.Taken{}
	for x, l := range p.lent {
		if x.network == network {
			taken[x.addr] = "an endpoint to come of node " + l.node
		}
	}
	if s := p.hub.Topology().Get().Snapshot; s != nil {
		self := p.hub.Self().Node
		taken.AddClaims(s, network, self)
		taken.AddPins(s, network, self, wanted...)
	}
	for a, by := range p.taken(network) {
		taken[a] = by
	}
	return taken
}
