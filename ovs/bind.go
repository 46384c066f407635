package ovs

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Bind puts port numbers in the place of quoted port names. A port that is not
// there costs only its own part. A flow that matches on it is left out. An output
// to it is taken out of the actions. A flow that would send nothing any more, or
// has decided on that port, drops, so that its packets do not fall through to a
// more general rule; its class says which port is down ("tunnel to host2 is
// down"). Missing lists such ports by name.
func (s State) Bind(ofports map[string]int) (bound []BoundFlow, missing []string) {
	b := newPortBinder(ofports)
	bound = make([]BoundFlow, 0, len(s.Flows))
	for i := range s.Flows {
		if f, ok := b.bind(&s, s.Flows[i]); ok {
			bound = append(bound, f)
		}
	}
	return bound, slices.Sorted(maps.Keys(b.absent))
}

// Binder binds the flows of states one after the other, as Bind does. A flow that was
// bound the last time, to ports of the same numbers, is not bound again.
//
// The zero Binder is ready to use, from one goroutine at a time.
type Binder struct {
	flows   []Flow
	ofports map[string]int
	bound   []BoundFlow
	at      []int // for each of flows where it is in bound; -1: left out, or without a port
}

// Bind is State.Bind, without the names of the ports that are not there.
func (m *Binder) Bind(s State, ofports map[string]int) []BoundFlow {
	b := newPortBinder(ofports)
	moved := changedPorts(m.ofports, ofports)
	bound, at := make([]BoundFlow, 0, len(s.Flows)), make([]int, 0, len(s.Flows))
	add := func(f Flow) {
		x, ok := b.bind(&s, f)
		if !ok || x.Class != f.Class { // it says what a port is that is not there
			at = append(at, -1)
		} else {
			at = append(at, len(bound))
		}
		if ok {
			bound = append(bound, x)
		}
	}
	next := 0
	for i, j := range aligned(len(s.Flows), len(m.flows), func(i, j int) bool { return s.Flows[i] == m.flows[j] }) {
		for ; next < i; next++ {
			add(s.Flows[next])
		}
		next = i + 1
		if f := &s.Flows[i]; m.at[j] < 0 || namesAny(f.Match, moved) || namesAny(f.Actions, moved) {
			add(*f)
			continue
		}
		at, bound = append(at, len(bound)), append(bound, m.bound[m.at[j]])
	}
	for ; next < len(s.Flows); next++ {
		add(s.Flows[next])
	}
	*m = Binder{s.Flows, ofports, bound, at}
	return bound
}

// changedPorts returns the ports that are not in both with the same number.
func changedPorts(a, b map[string]int) map[string]bool {
	out := map[string]bool{}
	for name, n := range a {
		if other, ok := b[name]; !ok || other != n {
			out[name] = true
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			out[name] = true
		}
	}
	return out
}

// namesAny reports whether a text has the quoted name of one of the ports.
func namesAny(text string, ports map[string]bool) bool {
	for len(ports) > 0 {
		_, rest, quoted := strings.Cut(text, `"`)
		if !quoted {
			return false
		}
		name, end, _ := strings.Cut(rest, `"`)
		if ports[name] {
			return true
		}
		text = end
	}
	return false
}

func newPortBinder(ofports map[string]int) *binder {
	return &binder{ofports: ofports, absent: map[string]bool{}, done: map[string]boundActions{}}
}

// bind binds one flow of a state; false where it is left out.
func (b *binder) bind(s *State, f Flow) (BoundFlow, bool) {
	match, ok := b.match(f.Match)
	if !ok {
		return BoundFlow{}, false
	}
	f.Match = match
	if strings.IndexByte(f.Actions, '"') >= 0 {
		done := b.actions(f.Actions)
		f.Actions = done.text
		if done.down != "" {
			f.Class = s.portLabel(done.down) + isDown
		}
	}
	return BoundFlow{Flow: f, Cookie: CookieOf(f)}, true
}

// isDown ends the class of a flow whose port is not there.
const isDown = " is down"

// DownPort returns what the port is that a flow of this class lacks (Bind); false
// where it lacks none.
func DownPort(class string) (label string, down bool) { return strings.CutSuffix(class, isDown) }

// portLabel says for people what a wanted port is: "tunnel to host2".
func (s State) portLabel(name string) string {
	i := slices.IndexFunc(s.Ports, func(p Port) bool { return p.Name == name })
	if i < 0 {
		return "port " + name
	}
	id := s.Ports[i].ExternalIDs
	switch s.Ports[i].Role() {
	case RoleTunnel:
		return "tunnel to " + id[KeyNode]
	case RoleEndpoint:
		return "endpoint " + id[KeyEndpoint]
	case RoleSegment:
		return "port to " + id[KeySegment]
	case RoleHost:
		return "this host's port in network " + id[KeyNetwork]
	}
	return "port " + name
}

type binder struct {
	ofports map[string]int
	absent  map[string]bool
	text    []byte
	// done are actions that were bound before: most are the same few.
	done map[string]boundActions
}

type boundActions struct {
	text string
	down string // the port that the flow would need
}

// number appends the number of a port.
func (b *binder) number(text []byte, name string) ([]byte, bool) {
	n, ok := b.ofports[name]
	if !ok {
		b.absent[name] = true
		return text, false
	}
	return strconv.AppendInt(text, int64(n), 10), true
}

// meter appends the number of a port's meter.
func (b *binder) meter(text []byte, name string) ([]byte, bool) {
	n, ok := b.ofports[name]
	return strconv.AppendInt(text, int64(n)+MeterBase, 10), ok
}

// match binds the one port that a match may name; false where it is not there.
func (b *binder) match(match string) (string, bool) {
	begin, rest, quoted := strings.Cut(match, `"`)
	if !quoted {
		return match, true
	}
	name, end, _ := strings.Cut(rest, `"`)
	text, ok := b.number(append(b.text[:0], begin...), name)
	b.text = text
	return string(append(text, end...)), ok
}

func (b *binder) actions(actions string) boundActions {
	done, ok := b.done[actions]
	if ok {
		return done
	}
	text, sends := b.text[:0], false
	for a := range strings.SplitSeq(actions, ",") {
		start := len(text)
		if start > 0 {
			text = append(text, ',')
		}
		begin, rest, quoted := strings.Cut(a, `"`)
		text = append(text, begin...)
		if quoted {
			name, end, _ := strings.Cut(rest, `"`)
			var there bool
			if begin == meterBegin {
				text, there = b.meter(text, name)
			} else {
				text, there = b.number(text, name)
			}
			if !there {
				done.down = name
				if end == EgressEnd {
					sends, text = false, text[:0]
					break // what follows would deliver it
				}
				text = text[:start]
				continue
			}
			text = append(text, end...)
		}
		sends = sends || sending(a)
	}
	switch {
	case sends:
		done.text, done.down = string(text), ""
	default:
		done.text = "drop"
	}
	b.text = text
	b.done[actions] = done
	return done
}

// sending reports whether an action sends a frame somewhere or has another table
// do so.
func sending(action string) bool {
	return strings.HasPrefix(action, "output:") || strings.HasPrefix(action, "goto_table:") ||
		strings.HasPrefix(action, "resubmit(") || action == "in_port"
}

// Unbind puts quoted port names back in the place of numbers. A number without a
// name stays. Class and reason are not what a switch has: they are left out.
func Unbind(f BoundFlow, names map[int]string) Flow {
	named := func(s, begin, end string, base int) string {
		parts := strings.Split(s, ",")
		for i, p := range parts {
			rest, ok := strings.CutPrefix(p, begin)
			if !ok {
				continue
			}
			if rest, ok = strings.CutSuffix(rest, end); !ok {
				continue
			}
			// A switch prints values of registers in hexadecimal.
			if n, err := strconv.ParseInt(rest, 0, 32); err == nil && names[int(n)-base] != "" {
				parts[i] = begin + `"` + names[int(n)-base] + `"` + end
			}
		}
		return strings.Join(parts, ",")
	}
	out := f.Flow.Bare()
	out.Match = named(out.Match, "in_port=", "", 0)
	out.Actions = named(named(out.Actions, "output:", "", 0), EgressBegin, EgressEnd, 0)
	out.Actions = named(out.Actions, meterBegin, "", MeterBase)
	return out
}
