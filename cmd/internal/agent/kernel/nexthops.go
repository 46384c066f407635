package kernel

import (
	"fmt"
	"maps"
	"net/netip"

	model "github.com/baize-net/baize/cmd/internal/kernel"
)

// Learned are the next hops that routers announced to this node.
type Learned struct {
	// Hops are by the prefix, masked.
	Hops map[netip.Prefix]LearnedHop
	// Unsettled: after a start there may be some that have not been announced yet.
	Unsettled bool
}

// LearnedHop is the next hop for one prefix.
type LearnedHop struct {
	NextHop netip.Addr
	// From is the router that announced it.
	From netip.Addr
	// Stale: it is away and expected back.
	Stale bool
}

func sameLearned(a, b Learned) bool { return a.Unsettled == b.Unsettled && maps.Equal(a.Hops, b.Hops) }

// hops are the next hops as the model of the kernel has them.
func (l Learned) hops() map[netip.Prefix]model.Learned {
	out := make(map[netip.Prefix]model.Learned, len(l.Hops))
	for p, h := range l.Hops {
		out[p] = model.Learned{Via: h.NextHop, Why: h.why()}
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
