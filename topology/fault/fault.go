// Package fault is the one form in which anything that is wrong is reported: by
// the agent's parts, by the pure packages below them, and in errors for people. It
// imports the standard library only, so that every layer may import it.
package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Severity says how much a fault matters.
type Severity string

// The severities.
const (
	// Warning: everything works, but not as it is meant to, or not for long.
	Warning Severity = "warning"
	// Error: something that was asked for does not work.
	Error Severity = "error"
)

// Fault is something wrong that was found and worked around: the rest goes on.
// 'baize status' shows faults. It is a comparable value; Since alone does not
// count in Same.
type Fault struct {
	// Code is stable over versions, "BZ0301"; see codes.go. Empty: an error that
	// nobody has given a code.
	Code Code `json:"code,omitempty"`
	// Severity is that of the code unless set: it is filled in where a fault is
	// written out.
	Severity Severity `json:"severity,omitempty"`
	// Item is the subject: the key, node, port or flow that is wrong.
	Item string `json:"item"`
	// What says what is wrong with it.
	What string `json:"what"`
	// Evidence is what was seen, for somebody who doubts it: a line of a
	// program's output, a value and the value expected.
	Evidence string `json:"evidence,omitempty"`
	// Remedy says what a person can do.
	Remedy string `json:"remedy,omitempty"`
	// Since is when it was seen first; zero where nobody keeps it.
	Since time.Time `json:"since,omitzero"`
}

// String formats as "item: what (remedy)". What comes from keys and other programs
// has spaces in place of control characters: it must not move a terminal's cursor.
func (f Fault) String() string {
	s := f.Item
	if s != "" {
		s += ": "
	}
	s += f.What
	if f.Remedy != "" {
		s += " (" + f.Remedy + ")"
	}
	return Printable(s)
}

// Printable replaces control characters other than line feeds and tabs by spaces.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return ' '
		}
		return r
	}, text)
}

// graded returns the fault with the severity of its code unless it has one.
func (f Fault) graded() Fault {
	if f.Severity == "" {
		f.Severity = f.Code.Severity()
	}
	return f
}

// MarshalJSON implements json.Marshaler.
func (f Fault) MarshalJSON() ([]byte, error) {
	type plain Fault
	return json.Marshal(plain(f.graded()))
}

// Severity returns how much a fault of the code matters, unless it says otherwise.
func (c Code) Severity() Severity {
	switch c {
	case CertificateUnusable, NodeDown, NetworkDeleting, RestoreWaitForeign, ReversePathStrict, KernelUnavailable,
		SessionDown, AddressUnconfirmed, StoreSlow, StoreMemberDown, StoreNearlyFull, CertificateExpires, ClockSkew,
		NetworkNearlyFull, FlowForeign, PortUnknown, SwitchStarved, SwitchMemory, UpcallsLost, UnderlayShaped,
		NeighbourTableFull, ConntrackFull, Leftover, AgentDown, PeerSlow:
		return Warning
	}
	return Error
}

// Same reports whether two faults are one, whenever each was seen first.
func (f Fault) Same(g Fault) bool {
	f.Since, g.Since = time.Time{}, time.Time{}
	return f.graded() == g.graded()
}

// Coded is an error that knows its fault.
type Coded interface {
	error
	Fault() Fault
}

// Of turns an error into a fault.
func Of(err error) Fault {
	var c Coded
	if errors.As(err, &c) {
		return c.Fault()
	}
	return Fault{What: err.Error(), Severity: Error}
}

// All turns an error, or each of several joined ones, into faults; nil for nil.
func All(err error) []Fault { return Add(nil, err) }

// Add appends the faults of an error to those that are not in the list yet.
func Add(list []Fault, err error) []Fault {
	if err == nil {
		return list
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			list = Add(list, e)
		}
		return list
	}
	return Merge(list, Of(err))
}

// Merge appends the faults that are not in the list yet.
func Merge(list []Fault, more ...Fault) []Fault {
	for _, f := range more {
		if !slices.ContainsFunc(list, f.Same) {
			list = append(list, f)
		}
	}
	return list
}

// Keep returns now with Since of those that were in before already, and at for
// the others.
func Keep(before, now []Fault, at time.Time) []Fault {
	out := slices.Clone(now)
	for i := range out {
		out[i].Since = at
		if j := slices.IndexFunc(before, out[i].Same); j >= 0 && !before[j].Since.IsZero() {
			out[i].Since = before[j].Since
		}
	}
	return out
}

// Counted is a number of things, as people read it: "1 node", "2 nodes".
func Counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
