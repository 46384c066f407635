package trace

import "fmt"

// Count compares two traces of one packet, of which the second was made later: it
// counts the packets that took each flow of the way meanwhile, and says how far
// they came. Flows count whatever takes them: those of a whole subnet or port count
// the packets of others as well, so that what counts nothing is what says most.
func Count(before, after Result) Result {
	first := map[string]uint64{}
	for _, h := range last(before).Hops {
		for _, s := range h.Steps {
			first[stepKey(h, s)] = s.Packets
		}
	}
	phase := last(after)
	for i := range phase.Hops {
		h := &phase.Hops[i]
		for j := range h.Steps {
			s := &h.Steps[j]
			if then, ok := first[stepKey(*h, *s)]; ok && s.Packets >= then {
				s.Counted = s.Packets - then
			} else {
				s.Counted = s.Packets // a new flow
			}
		}
	}
	after.Verdict.Live = live(phase)
	return after
}

func stepKey(h Hop, s Step) string { return fmt.Sprint(h.Node, " ", s.Table, " ", s.Cookie) }

// last is the phase that the trace is about.
func last(r Result) Phase {
	if len(r.Phases) == 0 {
		return Phase{}
	}
	return r.Phases[len(r.Phases)-1]
}

// live says how far packets came: to the last flow, in the order of the way, that
// counted any before one that did not.
func live(p Phase) string {
	var seen *Step
	node, fast := "", false
	for i := range p.Hops {
		h := &p.Hops[i]
		for j := range h.Steps {
			s := &h.Steps[j]
			switch {
			case s.Stage == StageFastPath:
				fast = true
			case !h.Observed || s.Cookie == "":
			case s.Counted > 0:
				seen, node = s, h.Node
			case seen == nil:
				return fmt.Sprintf("no packet has come to %s on %s", s.Stage, h.Node)
			default:
				return fmt.Sprintf(
					"packets have come to %s on %s (%d), and none to %s on %s",
					seen.Stage,
					node,
					seen.Counted,
					s.Stage,
					h.Node,
				)
			}
		}
	}
	if seen == nil && fast {
		return "they take the fast path, which counts by endpoint and peer: 'baize status' on both hosts"
	}
	if seen == nil {
		return "no host of the way was asked: nothing is counted"
	}
	return fmt.Sprintf(
		"packets have come as far as the hosts that were asked can see: to %s on %s (%d)",
		seen.Stage,
		node,
		seen.Counted,
	)
}
