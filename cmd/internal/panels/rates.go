package panels

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/topology"
)

// Rate is what goes in a second.
type Rate struct{ Bits, Packets float64 }

// Plus adds rates; nil is not known.
func (r *Rate) Plus(x *Rate) *Rate {
	switch {
	case r == nil:
		return x
	case x == nil:
		return r
	}
	return &Rate{r.Bits + x.Bits, r.Packets + x.Packets}
}

// Answered are the last two answers of nodes about their links.
type Answered struct {
	Before, Now map[string]*api.Traffic
	// Silent says why a node did not answer.
	Silent map[string]error
}

// Both is what two nodes say of a link between them: how the way from each is, and what
// goes from the first to the second and back.
func (a Answered) Both(x, y string, encap topology.Transport) (one, two api.Link, there, back *Rate) {
	one, sent, received := a.end(x, y, encap)
	two, sentBack, receivedThere := a.end(y, x, encap)
	// What arrived; Open vSwitch's userspace datapath counts twice what it sends.
	return one, two, cmp.Or(receivedThere, sent), cmp.Or(received, sentBack)
}

// end is what one node says of a link: how the way from it is, and what it counts.
func (a Answered) end(node, peer string, encap topology.Transport) (l api.Link, sent, received *Rate) {
	l, known := findLink(a.Now[node], peer, encap)
	before, earlier := findLink(a.Before[node], peer, encap)
	if !known || !earlier || l.Counted == nil || before.Counted == nil {
		return l, nil, nil
	}
	seconds := time.Duration(a.Now[node].At - a.Before[node].At).Seconds()
	x, y := before.Counted, l.Counted
	return l, rateOf(x.SentBytes, y.SentBytes, x.SentPackets, y.SentPackets, seconds),
		rateOf(x.ReceivedBytes, y.ReceivedBytes, x.ReceivedPackets, y.ReceivedPackets, seconds)
}

// rateOf is the rate between two readings; nil where the counters, or the agent, began
// anew.
func rateOf(bytes0, bytes1, packets0, packets1 uint64, seconds float64) *Rate {
	if seconds <= 0 || bytes1 < bytes0 || packets1 < packets0 {
		return nil
	}
	return &Rate{8 * float64(bytes1-bytes0) / seconds, float64(packets1-packets0) / seconds}
}

// findLink finds one in an answer.
func findLink(t *api.Traffic, peer string, encap topology.Transport) (api.Link, bool) {
	if t == nil {
		return api.Link{}, false
	}
	i := slices.IndexFunc(t.Links, func(l api.Link) bool { return l.Node == peer && l.Encap == encap })
	if i < 0 {
		return api.Link{}, false
	}
	return t.Links[i], true
}

// AskTraffic asks the nodes with a running agent, for whole seconds, what they count of
// their links.
func AskTraffic(
	ctx context.Context, s Asker, snap *topology.Snapshot, wait time.Duration,
) (map[string]*api.Traffic, map[string]error, error) {
	nodes := []string{}
	for _, n := range snap.SortedNodes() {
		if _, alive := snap.Alive[n.Name]; alive && n.Router == nil {
			nodes = append(nodes, n.Name)
		}
	}
	if len(nodes) == 0 {
		return nil, nil, nil
	}
	return Ask[*api.Traffic](ctx, s, api.TrafficKind, nodes, nil, wait)
}

// ratesOf are the rates of all links that two answers in a row tell of, from A to B and
// back, A before B by name.
func ratesOf(a Answered, at time.Time) console.Rates {
	out := console.Rates{At: at, Links: []console.LinkRate{}}
	type id struct {
		a, b  string
		encap topology.Transport
	}
	seen := map[id]bool{}
	for node, t := range a.Now {
		if t == nil {
			continue
		}
		for _, l := range t.Links {
			k := id{node, l.Node, l.Encap}
			if topology.CompareNames(k.a, k.b) > 0 {
				k.a, k.b = k.b, k.a
			}
			_, _, there, back := a.Both(k.a, k.b, k.encap)
			if seen[k] || there == nil && back == nil {
				continue
			}
			seen[k] = true
			bits := func(r *Rate) float64 {
				if r == nil {
					return -1
				}
				return r.Bits
			}
			out.Links = append(out.Links, console.LinkRate{A: k.a, B: k.b, Encap: k.encap, AB: bits(there), BA: bits(back)})
		}
	}
	slices.SortFunc(out.Links, func(x, y console.LinkRate) int {
		return cmp.Or(topology.CompareNames(x.A, y.A), topology.CompareNames(x.B, y.B), cmp.Compare(x.Encap, y.Encap))
	})
	return out
}
