package kernel

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/topology"
)

// Learned are the next hops that routers have told this node.
type Learned struct {
	// Hops are by the prefix, masked.
	Hops map[netip.Prefix]LearnedHop
	// Unsettled: after a start there may be some that have not been told yet.
	Unsettled bool
}

// LearnedHop is the next hop for one prefix.
type LearnedHop struct {
	NextHop netip.Addr
	// From is the router that told.
	From netip.Addr
	// Stale: it is away and expected back.
	Stale bool
}

func sameLearned(a, b Learned) bool { return a.Unsettled == b.Unsettled && maps.Equal(a.Hops, b.Hops) }

// nextHops returns the next hops by way of routers to what lives on other
// nodes: those of this host's routing daemon, those that this node learned
// itself, or, while it may not have learned all after a start, those of the
// routes that are there.
func (k *look) nextHops(have route.Observed) topology.NextHops {
	out := topology.NextHops{}
	foreign := route.Dynamic(have)
	learned := k.learned.Get()
	own := map[netip.Prefix]route.Route{}
	for _, r := range have.Own {
		if r.Via.IsValid() {
			own[r.Prefix.Masked()] = r
		}
	}
	device := k.deviceCache()
	for _, n := range k.ready {
		for _, path := range n.Paths(k.OnLink, nil) {
			prefix := path.Prefix.Masked()
			f, isForeign := foreign[prefix]
			l, isLearned := learned.Hops[prefix]
			r, isOwn := own[prefix]
			switch {
			case isForeign && underlay(f.Dev) && (path.Kind != topology.PathRoute || f.Before(route.Route{Prefix: prefix})):
				out[prefix] = topology.NextHop{Via: f.Via, Dev: f.Dev, Foreign: true, Why: "kernel route of protocol " + f.ProtocolName()}
			case isLearned && device(l.NextHop) != "":
				out[prefix] = topology.NextHop{Via: l.NextHop, Dev: device(l.NextHop), Why: l.why()}
			case learned.Unsettled && isOwn && device(r.Via) != "":
				out[prefix] = topology.NextHop{Via: r.Via, Dev: device(r.Via), Why: "learned by BGP before the agent's restart"}
			}
		}
	}
	return out
}

func (l LearnedHop) why() string {
	s := fmt.Sprintf("learned by BGP from %s", l.From)
	if l.Stale {
		s += ", which is away and expected back"
	}
	return s
}

// deviceCache asks the kernel once for each next hop.
func (k *look) deviceCache() func(netip.Addr) string {
	devices := map[netip.Addr]string{}
	return func(hop netip.Addr) string {
		dev, asked := devices[hop]
		if !asked {
			dev = k.underlayDevice(hop)
			devices[hop] = dev
		}
		return dev
	}
}
