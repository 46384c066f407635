package event

import (
	"slices"

	"github.com/baize-net/baize/topology/fault"
)

// faultID is what makes two faults one for the journal: what one says may change from
// moment to moment.
type faultID struct {
	code fault.Code
	item string
}

func idOf(f fault.Fault) faultID { return faultID{f.Code, f.Item} }

// Faults returns what happened between two lists of faults: those that are new, with
// the time they were seen first, and those that are gone, without one. Node is left open.
func Faults(before, now []fault.Fault) []Event {
	missing := func(in []fault.Fault, f fault.Fault) bool {
		return !slices.ContainsFunc(in, func(g fault.Fault) bool { return idOf(f) == idOf(g) })
	}
	var out []Event
	seen := map[faultID]bool{}
	once := func(f fault.Fault) bool {
		first := !seen[idOf(f)]
		seen[idOf(f)] = true
		return first
	}
	for _, f := range before {
		if missing(now, f) && once(f) {
			out = append(out, Event{
				Kind: FaultGone, Code: f.Code, Subject: f.Item, Text: fault.Printable("no longer: " + f.What),
			})
		}
	}
	for _, f := range now {
		if missing(before, f) && once(f) {
			text := f.What
			if f.Remedy != "" {
				text += " (" + f.Remedy + ")"
			}
			out = append(out, Event{
				Kind: FaultFound, Code: f.Code, Time: f.Since, Subject: f.Item, Text: fault.Printable(text),
			})
		}
	}
	return out
}
