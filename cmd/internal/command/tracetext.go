package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/topology/fault"
)

// traceMarks stand before steps.
var traceMarks = map[trace.State]string{trace.Good: "✓", trace.Drops: "✗", trace.Broken: "✗", trace.Unknown: "?"}

// traceText tells a trace. Question and answer that got through are a line each
// unless all is wanted.
func traceText(w io.Writer, r trace.Result, verbose bool) error {
	var b strings.Builder
	for i, p := range r.Phases {
		last := i == len(r.Phases)-1
		if p.Arrived && !last && !verbose {
			fmt.Fprintf(&b, "✓ %s\n", p.About)
			continue
		}
		fmt.Fprintf(&b, "%s\n", p.About)
		for _, h := range p.Hops {
			hopText(&b, h, verbose)
		}
	}
	v := r.Verdict
	fmt.Fprintf(&b, "\n%s\n", capital(v.Text))
	if v.Remedy != "" {
		fmt.Fprintf(&b, "  → %s\n", v.Remedy)
	}
	if v.Live != "" {
		fmt.Fprintf(&b, "  counted: %s\n", v.Live)
	}
	for _, n := range v.Notes {
		fmt.Fprintf(&b, "  ? %s\n", n)
	}
	_, err := io.WriteString(w, fault.Printable(b.String()))
	return err
}

func hopText(b *strings.Builder, h trace.Hop, verbose bool) {
	fmt.Fprintf(b, "%s", h.Node)
	if !h.Observed {
		fmt.Fprintf(b, "   computed from etcd: %s", h.Note)
	}
	b.WriteByte('\n')
	if verbose {
		fmt.Fprintf(b, "    %s\n", h.Packet)
	}
	rows, raw := stepRows(h.Steps, verbose)
	rows = append(rows, exitRows(h)...)
	var lines strings.Builder
	_ = writeRows(&lines, rows) // a strings.Builder does not fail
	n := 0
	for line := range strings.Lines(lines.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
		for _, l := range raw[n] {
			b.WriteString("        " + l + "\n")
		}
		n++
	}
}

// stepRows are a row for each step; raw are the flows of each, by the row's number.
func stepRows(steps []trace.Step, verbose bool) (rows [][]string, raw map[int][]string) {
	raw = map[int][]string{}
	for _, s := range steps {
		text := s.Text
		if s.Counted > 0 {
			text += fmt.Sprintf(" (+%d)", s.Counted)
		}
		row := []string{"  " + traceMarks[s.State], s.Stage, text}
		if s.Key != "" {
			because := "because of " + s.Key
			if s.Revision != 0 {
				because += fmt.Sprintf(" at revision %d", s.Revision)
			}
			row = append(row, because)
		}
		rows = append(rows, row)
		if verbose {
			raw[len(rows)-1] = rawFlow(s)
		}
	}
	return rows, raw
}

// exitRows say where a packet leaves the switch for good.
func exitRows(h trace.Hop) (rows [][]string) {
	for _, x := range h.Exits {
		switch x.Kind {
		case trace.Delivered:
			text := x.Who()
			if !strings.HasPrefix(x.Port, "(") { // else it is taken for granted
				text += ", out of " + x.Port
			}
			rows = append(rows, []string{"  →", trace.StagePort, text})
		case trace.Answered:
			rows = append(rows, []string{"  →", trace.StagePort, x.Text})
		case trace.Uncertain:
			if n := len(h.Steps); n > 0 && h.Steps[n-1].Text == x.Text {
				continue
			}
			rows = append(rows, []string{"  ?", x.Stage, x.Text})
		}
	}
	return rows
}

// rawFlow is the flow of a step as Open vSwitch has it, and the one that should
// have been in its place.
func rawFlow(s trace.Step) (lines []string) {
	if s.Flow != "" {
		lines = append(lines, fmt.Sprintf("%s (cookie %s, %s so far)",
			s.Flow, s.Cookie, fault.Counted(int(s.Packets), "packet")))
	}
	if s.Wanted != "" {
		lines = append(lines, "wanted: "+s.Wanted)
	}
	return lines
}
