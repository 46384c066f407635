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
	number := func(name string) (string, bool) {
		n, ok := ofports[name]
		if !ok {
			absent[name] = true
			return "", false
		}
		return strconv.Itoa(n), true
	}
	bound = make([]BoundFlow, 0, len(flows))
	actions := map[string]string{} // most are the same few outputs
	for _, f := range flows {
		if i := strings.IndexByte(f.Match, '"'); i >= 0 {
			end := i + 1 + strings.IndexByte(f.Match[i+1:], '"')
			n, ok := number(f.Match[i+1 : end])
			if !ok {
				continue
			}
			f.Match = f.Match[:i] + n + f.Match[end+1:]
		}
		if strings.IndexByte(f.Actions, '"') >= 0 {
			text, done := actions[f.Actions]
			if !done {
				text = bindActions(f.Actions, number)
				actions[f.Actions] = text
			}
			f.Actions = text
		}
		bound = append(bound, BoundFlow{Flow: f, Cookie: CookieOf(f)})
	}
	return bound, slices.Sorted(maps.Keys(absent))
}

func bindActions(actions string, number func(string) (string, bool)) string {
	var out strings.Builder
	for a := range strings.SplitSeq(actions, ",") {
		if i := strings.IndexByte(a, '"'); i >= 0 {
			n, ok := number(strings.Trim(a[i:], `"`))
			if !ok {
				continue
			}
			a = a[:i] + n
		}
		if out.Len() > 0 {
			out.WriteByte(',')
		}
		out.WriteString(a)
	}
	if out.Len() == 0 {
		return "drop"
	}
	return out.String()
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
