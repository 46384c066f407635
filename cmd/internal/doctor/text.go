package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

// Style is how a report is written.
type Style struct {
	// Verbose writes a line for each check, and not one for each section.
	Verbose bool
	// Paint gives a mark its colour; nil: there is none.
	Paint func(s State, text string) string
}

// marks are what a line of each state begins with.
var marks = map[State]string{OK: "✓", Warning: "!", Failed: "✗", Unchecked: "–"}

func (s Style) mark(state State) string {
	if s.Paint == nil {
		return marks[state]
	}
	return s.Paint(state, marks[state])
}

// label is how wide what stands before a line's text is: a section, or a code.
const label = 11

// Text writes a report for people: a section that is well in a line, and every finding
// with what was seen and what mends it.
func (r Report) Text(s Style) string {
	var b strings.Builder
	for i := 0; i < len(r.Results); {
		n := i
		for n < len(r.Results) && r.Results[n].Section == r.Results[i].Section {
			n++
		}
		s.section(&b, r.Results[i:n])
		i = n
	}
	b.WriteString("\n" + r.Summary() + "\n")
	return b.String()
}

func (s Style) section(b *strings.Builder, results []Result) {
	line := func(x Result, name string) {
		fmt.Fprintf(b, "%s %-*s %s\n", s.mark(x.State), label, name, x.Text)
	}
	well := 0
	for _, x := range results {
		switch {
		case s.Verbose && len(x.Findings) == 0:
			line(x, x.Section+": "+x.Check)
		case x.State == OK:
			if well++; well == 1 {
				line(x, x.Section)
			}
		case x.State == Unchecked:
			x.Text = "not checked, " + x.Check + ": " + x.Text
			line(x, x.Section)
		}
	}
	for _, x := range results {
		for _, f := range x.Findings {
			s.Finding(b, f)
		}
	}
}

// Finding writes one finding.
func (s Style) Finding(b *strings.Builder, f Finding) {
	state := Warning
	if f.Severity == fault.Error {
		state = Failed
	}
	fmt.Fprintf(b, "%s %-*s ", s.mark(state), label, f.Code)
	if f.Node != "" {
		fmt.Fprintf(b, "%s: ", f.Node)
	}
	fmt.Fprintf(b, "%s: %s\n", f.Item, f.What)
	indent := strings.Repeat(" ", label+3)
	for line := range strings.Lines(f.Evidence) {
		fmt.Fprintf(b, "%s%s\n", indent, strings.TrimSpace(line))
	}
	if f.Remedy != "" {
		fmt.Fprintf(b, "%s→ %s\n", indent, f.Remedy)
	}
	for _, c := range f.Commands {
		fmt.Fprintf(b, "%s  $ %s\n", indent, c)
	}
}

// Summary is a report in a line: "1 error, 2 warnings, 20 passed, 1 not checked".
func (r Report) Summary() string {
	errors, warnings := 0, 0
	for _, f := range r.Findings() {
		if f.Severity == fault.Error {
			errors++
		} else {
			warnings++
		}
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{errors, "error"}, {warnings, "warning"}} {
		switch p.n {
		case 0:
		case 1:
			parts = append(parts, "1 "+p.what)
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", p.n, p.what))
		}
	}
	parts = append(parts, fmt.Sprintf("%d passed", r.Count(OK)))
	if n := r.Count(Unchecked); n > 0 {
		parts = append(parts, fmt.Sprintf("%d not checked", n))
	}
	return strings.Join(parts, ", ")
}

// Silent reports whether nothing answered: neither the agent, nor Open vSwitch, nor etcd.
func (f Facts) Silent() bool {
	return f.Agent.Status == nil && !f.Switch.Database.OK() && !f.Store.OK()
}

// Safe returns the commands of a report that --fix runs, each once.
func (r Report) Safe() []string {
	var out []string
	for _, f := range r.Findings() {
		if !f.Safe {
			continue
		}
		for _, c := range f.Commands {
			if !slices.Contains(out, c) {
				out = append(out, c)
			}
		}
	}
	return out
}
