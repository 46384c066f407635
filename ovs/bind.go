package ovs

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Bind puts port numbers in the place of quoted port names. A port that is
// not there costs only its own part: a flow that matches on it is left out, an
// output to it is taken out of its action list, and a flow that would have
// nothing left to do drops, so that its packets do not fall through to a
// more general rule. Missing lists such ports by name.
func Bind(flows []Flow, ofports map[string]int) (bound []BoundFlow, missing []string) {
	absent := map[string]bool{}
	number := func(text []byte, name string) ([]byte, bool) {
		n, ok := ofports[name]
		if !ok {
			absent[name] = true
			return text, false
		}
		return strconv.AppendInt(text, int64(n), 10), true
	}
	var text []byte
	bound = make([]BoundFlow, 0, len(flows))
	actions := map[string]string{} // most are the same few outputs
	for _, f := range flows {
		if i := strings.IndexByte(f.Match, '"'); i >= 0 {
			end := i + 1 + strings.IndexByte(f.Match[i+1:], '"')
			var ok bool
			if text, ok = number(append(text[:0], f.Match[:i]...), f.Match[i+1:end]); !ok {
				continue
			}
			f.Match = string(append(text, f.Match[end+1:]...))
		}
		if strings.IndexByte(f.Actions, '"') >= 0 {
			done, ok := actions[f.Actions]
			if !ok {
				text = bindActions(text[:0], f.Actions, number)
				done = string(text)
				actions[f.Actions] = done
			}
			f.Actions = done
		}
		bound = append(bound, BoundFlow{Flow: f, Cookie: CookieOf(f)})
	}
	return bound, slices.Sorted(maps.Keys(absent))
}

func bindActions(text []byte, actions string, number func([]byte, string) ([]byte, bool)) []byte {
	for a := range strings.SplitSeq(actions, ",") {
		start := len(text)
		if start > 0 {
			text = append(text, ',')
		}
		prefix, name, quoted := strings.Cut(a, `"`)
		text = append(text, prefix...)
		if quoted {
			var ok bool
			if text, ok = number(text, strings.TrimSuffix(name, `"`)); !ok {
				text = text[:start]
			}
		}
	}
	if len(text) == 0 {
		return append(text, "drop"...)
	}
	return text
}

// Unbind puts quoted port names back in the place of numbers. A number
// without a name stays.
func Unbind(f BoundFlow, names map[int]string) Flow {
	named := func(s, prefix string) string {
		parts := strings.Split(s, ",")
		for i, p := range parts {
			rest, ok := strings.CutPrefix(p, prefix)
			if !ok {
				continue
			}
			if n, err := strconv.Atoi(rest); err == nil && names[n] != "" {
				parts[i] = prefix + `"` + names[n] + `"`
			}
		}
		return strings.Join(parts, ",")
	}
	out := f.Flow
	out.Match, out.Actions = named(out.Match, "in_port="), named(out.Actions, "output:")
	return out
}
