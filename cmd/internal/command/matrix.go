package command

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// mostColumns is how many nodes a matrix has; of more only what is wrong is shown.
const mostColumns = 16

// drawMatrix shows ways as a matrix for each encapsulation, from the nodes on the left
// to those at the top, and in words what is wrong.
func drawMatrix(out *bytes.Buffer, list []api.Way, color bool) {
	var encaps []topology.Transport
	for _, w := range list {
		if !slices.Contains(encaps, w.Encap) {
			encaps = append(encaps, w.Encap)
		}
	}
	slices.Sort(encaps)
	for i, e := range encaps {
		of := slices.DeleteFunc(slices.Clone(list), func(w api.Way) bool { return w.Encap != e })
		if i > 0 {
			out.WriteByte('\n')
		}
		drawEncap(out, e, of, color)
	}
	drawWrong(out, list, color)
}

func drawEncap(out *bytes.Buffer, encap topology.Transport, list []api.Way, color bool) {
	at := map[[2]string]api.Way{}
	var nodes []string
	for _, w := range list {
		at[[2]string{w.From, w.To}] = w
		nodes = append(nodes, w.From, w.To)
	}
	slices.SortFunc(nodes, topology.CompareNames)
	nodes = slices.Compact(nodes)
	if len(nodes) > mostColumns {
		fmt.Fprintf(out, "%s: %d nodes, too many for a matrix\n", encap, len(nodes))
		return
	}
	rows := [][]string{append([]string{string(encap)}, nodes...)}
	likes := [][]string{make([]string, len(nodes)+1)}
	for _, from := range nodes {
		row, like := []string{from}, []string{""}
		for _, to := range nodes {
			text, l := "·", ""
			if w, known := at[[2]string{from, to}]; known {
				text, l = shortState(w)
			} else if from != to {
				text = "?"
			}
			row, like = append(row, text), append(like, l)
		}
		rows, likes = append(rows, row), append(likes, like)
	}
	writeCells(out, rows, likes, color)
}

// writeCells aligns cells and gives each the colour of a state.
func writeCells(out *bytes.Buffer, rows, likes [][]string, color bool) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for y, row := range rows {
		for x, cell := range row {
			gap := strings.Repeat(" ", widths[x]-utf8.RuneCountInString(cell))
			cell = cli.Printable(cell)
			if color {
				cell = cli.PaintAs(likes[y][x], cell)
			}
			if x == 0 {
				out.WriteString(cell + gap)
			} else {
				out.WriteString("  " + gap + cell)
			}
		}
		out.WriteByte('\n')
	}
}

// drawWrong says in words what is wrong, or that nothing is.
func drawWrong(out *bytes.Buffer, list []api.Way, color bool) {
	good, unknown := 0, 0
	var wrong []api.Way
	for _, w := range list {
		switch {
		case w.State == api.StateOK:
			good++
		case wrongState(w.State):
			wrong = append(wrong, w)
		default:
			unknown++
		}
	}
	slices.SortFunc(wrong, func(a, b api.Way) int {
		return cmp.Or(topology.CompareNames(a.From, b.From), topology.CompareNames(a.To, b.To), cmp.Compare(a.Encap, b.Encap))
	})
	fmt.Fprintf(out, "\n%d of %s ok", good, fault.Counted(len(list), "way"))
	if unknown > 0 {
		fmt.Fprintf(out, ", %d not known", unknown)
	}
	out.WriteByte('\n')
	for _, w := range wrong {
		_, like := shortState(w)
		what := w.State
		if color {
			what = cli.PaintAs(like, what)
		}
		from, to := cli.Printable(w.From), cli.Printable(w.To)
		fmt.Fprintf(out, "  %s → %s over %s: %s%s\n", from, to, w.Encap, what, wayDetails(w))
	}
}

// wayDetails are the numbers of a way with which something is wrong.
func wayDetails(w api.Way) string {
	var parts []string
	if w.LossOut != nil && *w.LossOut > 0 {
		parts = append(parts, fmt.Sprintf("%d%% lost there", *w.LossOut))
	}
	if w.LossIn != nil && *w.LossIn > 0 {
		parts = append(parts, fmt.Sprintf("%d%% lost on the way back", *w.LossIn))
	}
	if w.State == api.StateNarrow {
		parts = append(parts, fmt.Sprintf("packets up to %d bytes pass", w.Passes))
	}
	if w.State == api.StateSlow {
		parts = append(parts, "answers take "+roundRTT(w.RTT))
	}
	if len(parts) == 0 {
		return ""
	}
	return ", " + strings.Join(parts, ", ")
}
