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
	b := binder{ofports: ofports, absent: map[string]bool{}, done: map[string]boundActions{}}
	bound = make([]BoundFlow, 0, len(s.Flows))
	for _, f := range s.Flows {
		if match, ok := b.match(f.Match); ok {
			f.Match = match
		} else {
			continue
		}
		if strings.IndexByte(f.Actions, '"') >= 0 {
			done := b.actions(f.Actions)
			f.Actions = done.text
			if done.down != "" {
				f.Class = s.portLabel(done.down) + isDown
			}
		}
		bound = append(bound, BoundFlow{Flow: f, Cookie: CookieOf(f)})
	}
	return bound, slices.Sorted(maps.Keys(b.absent))
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
