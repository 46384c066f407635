package membership

import (
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/attach"
	"github.com/baize-net/baize/topology"
)

// A node leases a subnet of each family in the networks that something on it
// needs, and gives them back a grace after nothing does. What is to be leased and
// given back is a pure function of the topology, of what the parts need, and of
// when that was so last.

// situation is what is decided on.
type situation struct {
	snapshot *topology.Snapshot
	self     string
	// ahead are networks that an operator wants leased before anything needs them.
	ahead []string
	// needs are the networks that parts of the agent need. What is promised and requests
	// at work need a network for a moment only: they keep it from being closed
	// (Closer.CloseIdle).
	needs map[string]bool
	// complete: every part has said what it needs. Nothing yet is not none.
	complete bool
	grace    time.Duration
	now      time.Time
	// last is what the decision before this one remembered.
	last map[string]lastNeed
}

// lastNeed is what is known of the last need of a network.
type lastNeed struct {
	// idle is since when nothing is known to need it; zero while something does.
	idle time.Time
	// seen: this agent has seen it needed.
	seen bool
}

// lacking is a family of a network that is to be leased.
type lacking struct {
	network string
	family  topology.Family
}

// decision is what follows.
type decision struct {
	// wanted are the networks that the node is to have subnets in, by name.
	wanted  []string
	lacking []lacking
	// idle are the networks to be given back now.
	idle []string
	last map[string]lastNeed
	// next is how long it takes until one more is idle; 0: none will be.
	next time.Duration
}

// decide says what the node is to lease and to give back. Networks of sources have
// their own ways, and those that are being deleted as well (deletion.go).
func decide(x situation) decision {
	d := decision{last: map[string]lastNeed{}}
	for _, n := range x.snapshot.SortedNetworks() {
		if n.Layout != "" || n.Deleting != "" {
			continue
		}
		own := x.snapshot.NodeSubnets(n.Name, x.self)
		switch {
		case x.needed(n, own):
			d.wanted = append(d.wanted, n.Name)
			for _, f := range n.Families() {
				if !hasLease(own, f) {
					d.lacking = append(d.lacking, lacking{n.Name, f})
				}
			}
			d.last[n.Name] = lastNeed{seen: true}
		case len(own) > 0 && x.complete:
			last := x.last[n.Name]
			if last.idle.IsZero() {
				last.idle = x.now
			}
			d.last[n.Name] = last
			if left := x.graceOf(n, last) - x.now.Sub(last.idle); left <= 0 {
				d.idle = append(d.idle, n.Name)
			} else if d.next == 0 || left < d.next {
				d.next = left
			}
		}
	}
	return d
}

// needed reports whether the node is to have subnets in a network.
func (x situation) needed(n topology.Network, own []topology.Subnet) bool {
	return x.needs[n.Name] || slices.Contains(x.ahead, n.Name) ||
		// The kernel of every node is a router in it, and Docker may have its subnet.
		n.Router ||
		// A person wants it here, or somebody on this host assigns its addresses.
		slices.ContainsFunc(own, func(sub topology.Subnet) bool { return sub.Reserved || sub.Segment != "" })
}

// graceOf is how long a network that is not needed is kept. Who removes a network
// of Docker's has removed it: only an agent that did not see that waits.
func (x situation) graceOf(n topology.Network, last lastNeed) time.Duration {
	if n.CreatedBy == topology.CreatedByDocker && last.seen {
		return 0
	}
	return x.grace
}

// hasLease reports whether there is a subnet of a family for endpoints.
func hasLease(own []topology.Subnet, f topology.Family) bool {
	return slices.ContainsFunc(own, func(sub topology.Subnet) bool {
		return topology.FamilyOf(sub.Prefix.Addr()) == f && sub.Segment == ""
	})
}

// needs are the networks that parts of the agent need.
func (p *Part) needs(s *topology.Snapshot, known attach.Known) (needs map[string]bool, complete bool) {
	needs, complete = map[string]bool{}, known.Complete
	for _, e := range known.All() {
		needs[e.Network] = true
	}
	for name := range s.Networks {
		for _, u := range p.users {
			uses, known := u.Uses(name)
			complete = complete && known
			if len(uses) > 0 {
				needs[name] = true
			}
		}
	}
	return needs, complete
}
