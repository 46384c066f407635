package forward

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/baize-net/baize/ovs"
)

// Rule is a flow that was read.
type Rule struct {
	Flow    ovs.BoundFlow
	match   []constraint
	actions []action
	// unknownMatch and unknownAction are what Read did not understand; empty: all
	// of it.
	unknownMatch, unknownAction string
}

// Meter returns the number of the meter that limits the packets of the rule.
func (r *Rule) Meter() (id uint32, metered bool) {
	if len(r.actions) > 0 && r.actions[0].kind == "meter" {
		return r.actions[0].meter, true
	}
	return 0, false
}

// String is the flow as ovs-ofctl(8) takes it, without its cookie.
func (r *Rule) String() string {
	match := ""
	if r.Flow.Match != "" {
		match = r.Flow.Match + ","
	}
	return fmt.Sprintf("table=%d,priority=%d,%sactions=%s", r.Flow.Table, r.Flow.Priority, match, r.Flow.Actions)
}

// Unknown names what Read did not understand of the rule: a part of its match, so
// that nobody can say which packets it takes, or an action, so that nobody can say
// what it does with them.
func (r *Rule) Unknown() (match, action string) { return r.unknownMatch, r.unknownAction }

// Same reports whether two rules do the same with the same packets, however they
// are written.
func (r *Rule) Same(o *Rule) bool {
	if r.Flow.Table != o.Flow.Table || r.Flow.Priority != o.Flow.Priority || len(r.match) != len(o.match) ||
		r.unknownMatch != o.unknownMatch || r.unknownAction != o.unknownAction {
		return false
	}
	for _, c := range r.match {
		if !slices.Contains(o.match, c) {
			return false
		}
	}
	return slices.Equal(r.actions, o.actions)
}

// Overlaps reports whether there is a packet that both rules match. It says yes
// where a match was not understood.
func (r *Rule) Overlaps(o *Rule) bool {
	if r.Flow.Table != o.Flow.Table {
		return false
	}
	for _, a := range r.match {
		for _, b := range o.match {
			both := a.mask.and(b.mask)
			if a.field == b.field && a.value.and(both) != b.value.and(both) {
				return false
			}
		}
	}
	return true
}

// Parse reads a flow as ovs-ofctl does, and refuses what it refuses, with its
// words where they are known. It knows the fields and actions that Baize's own
// pipeline uses.
func Parse(f ovs.BoundFlow) (*Rule, error) {
	r := &Rule{Flow: f}
	if f.Table < 0 || f.Table > 254 {
		return r, fmt.Errorf("unknown table \"%d\"", f.Table)
	}
	if f.Priority < 0 || f.Priority > 65535 {
		return r, fmt.Errorf("invalid priority %d", f.Priority)
	}
	for part := range matchParts(f.Match) {
		cs, err := parseMatch(part)
		if err != nil {
			return r, err
		}
		r.addMatch(cs)
	}
	for _, c := range r.match {
		for _, t := range fieldTypes {
			if t.field == c.field && !implied(r.match, t.needs) && (t.or == nil || !implied(r.match, t.or)) {
				return r, errors.New("actions are invalid with specified match (OFPBMC_BAD_PREREQ)")
			}
		}
	}
	var err error
	r.actions, err = parseActions(f)
	return r, err
}

// Read reads a flow that a switch has, which may be anybody's. What it does not
// understand it notes (Unknown).
func Read(f ovs.BoundFlow) *Rule {
	r := &Rule{Flow: f}
	for part := range matchParts(f.Match) {
		cs, err := parseMatch(part)
		if err != nil {
			r.unknownMatch = part
			continue
		}
		r.addMatch(cs)
	}
	if f.Actions == "drop" {
		return r
	}
	for _, text := range splitActions(f.Actions) {
		a, err := parseAction(text)
		if err != nil {
			r.unknownAction = text
			continue
		}
		r.actions = append(r.actions, a)
	}
	return r
}

// addMatch adds constraints, each once: "icmp6" and "nd_target" both imply IPv6.
func (r *Rule) addMatch(cs []constraint) {
	for _, c := range cs {
		if !slices.Contains(r.match, c) {
			r.match = append(r.match, c)
		}
	}
}

// matchParts are the parts of a match.
func matchParts(match string) func(func(string) bool) {
	if match == "" {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(match, ",")
}

func implied(match, needs []constraint) bool {
	for _, n := range needs {
		found := false
		for _, c := range match {
			found = found || c.field == n.field && c.value == n.value
		}
		if !found {
			return false
		}
	}
	return true
}

func parseMatch(part string) ([]constraint, error) {
	name, text, ok := strings.Cut(part, "=")
	if !ok {
		if cs, ok := shorthands[name]; ok {
			return cs, nil
		}
		return nil, fmt.Errorf("unknown keyword %s", name)
	}
	t, ok := fieldTypes[name]
	if !ok {
		return nil, fmt.Errorf("unknown keyword %s", name)
	}
	v, m, err := parseValue(t, name, text)
	if err != nil {
		return nil, err
	}
	return []constraint{{t.field, v.and(m), m}}, nil
}
