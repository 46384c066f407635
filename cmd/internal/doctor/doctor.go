// Package doctor says what is wrong with a host or a cluster: checks are functions of
// facts that somebody gathered (doctor/gather), or that came in a file or from another
// host. A section of checks has a file of its own; within a section, and from one
// section to the next, causes come before what follows from them.
package doctor

import (
	"cmp"
	"slices"
	"time"

	"github.com/baize-net/baize/topology/fault"
)

// State is what became of a check.
type State string

// The states. Unchecked is neither good nor bad: Result.Text says why nobody knows.
const (
	OK        State = "ok"
	Warning   State = "warning"
	Failed    State = "failed"
	Unchecked State = "unchecked"
)

// Finding is something wrong.
type Finding struct {
	Code     fault.Code     `json:"code"`
	Severity fault.Severity `json:"severity"`
	// Node is where it is, Item its subject: a flow, a port, a key, another node.
	Node string `json:"node"`
	Item string `json:"item"`
	What string `json:"what"`
	// Evidence is what was seen.
	Evidence string `json:"evidence,omitempty"`
	// Remedy is what to do in words, Commands are what a root shell on Node mends it by.
	Remedy   string   `json:"remedy,omitempty"`
	Commands []string `json:"commands,omitempty"`
	// Safe: Commands take nothing from anybody, so --fix runs them.
	Safe bool `json:"safe,omitempty"`
	// Since is when the agent saw it first.
	Since time.Time `json:"since,omitzero"`
}

// Result is what became of one check.
type Result struct {
	Section string `json:"section"`
	Check   string `json:"check"`
	State   State  `json:"state"`
	// Text says what is in order, or why it was not checked.
	Text     string    `json:"text,omitempty"`
	Findings []Finding `json:"findings,omitempty"`
}

// Report is what a doctor says of one host.
type Report struct {
	Node    string    `json:"node"`
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	Results []Result  `json:"results"`
}

// Findings returns all findings of a report.
func (r Report) Findings() []Finding {
	var out []Finding
	for _, x := range r.Results {
		out = append(out, x.Findings...)
	}
	return out
}

// Count returns how many checks ended in a state.
func (r Report) Count(s State) int {
	n := 0
	for _, x := range r.Results {
		if x.State == s {
			n++
		}
	}
	return n
}

// check is one check of a section: it looks at the facts and says so in a result.
type check struct {
	name string
	look func(f *Facts, r *result)
}

// section is what one file of this package checks.
type section struct {
	name   string
	checks []check
}

// sections are in causal order: the agent and the store say what should be, the switch
// does it, by the underlay and the host, for containers.
var sections = []section{
	{"agent", agentChecks}, {"store", storeChecks}, {"switch", switchChecks}, {"underlay", underlayChecks},
	{"mesh", meshChecks}, {"host", hostChecks}, {"containers", containerChecks},
}

// Sections returns the names of the sections in their order.
func Sections() []string {
	var out []string
	for _, s := range sections {
		out = append(out, s.name)
	}
	return out
}

// result is a Result while a check works on it.
type result struct{ Result }

// ok says what is in order, unless something else was said.
func (r *result) ok(text string) { r.Text = cmp.Or(r.Text, text) }

// unchecked says why a check was not made.
func (r *result) unchecked(why string) { r.State, r.Text = Unchecked, why }

// found adds a finding. What it leaves open is filled in.
func (r *result) found(f Finding) { r.Findings = append(r.Findings, f) }

// Examine looks at the facts of one host.
func Examine(f Facts) Report {
	out := Report{Node: f.Node, At: f.At, Version: f.Version, Results: []Result{}}
	for _, s := range sections {
		for _, c := range s.checks {
			r := result{Result{Section: s.name, Check: c.name}}
			c.look(&f, &r)
			out.Results = append(out.Results, r.Result)
		}
	}
	out.takeAgents(&f)
	out.once()
	out.followVanished()
	for i := range out.Results {
		out.Results[i].settle(f.Node)
		for j := range out.Results[i].Findings {
			f.Store.complete(out.Results[i].Findings[j].Commands)
		}
	}
	return out
}

// settle grades the findings of a check, and derives its state from them.
func (r *Result) settle(node string) {
	for i := range r.Findings {
		x := &r.Findings[i]
		x.Node = cmp.Or(x.Node, node)
		x.Severity = cmp.Or(x.Severity, x.Code.Severity())
		for _, s := range []*string{&x.Item, &x.What, &x.Evidence, &x.Remedy} {
			*s = fault.Printable(*s)
		}
	}
	r.Text = fault.Printable(r.Text)
	failed := slices.ContainsFunc(r.Findings, func(x Finding) bool { return x.Severity == fault.Error })
	switch {
	case failed:
		r.State = Failed
	case len(r.Findings) > 0:
		r.State = Warning
	case r.State == "":
		r.State = OK
	}
}

// of makes a finding of a fault.
func of(x fault.Fault) Finding {
	f := Finding{
		Code: x.Code, Severity: x.Severity, Item: x.Item, What: x.What, Evidence: x.Evidence, Remedy: x.Remedy,
		Since: x.Since,
	}
	return remedied(f)
}
