package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/vbauerster/mpb/v8/cwriter"

	"github.com/baize-net/baize/topology"
)

// Values of --color.
const (
	ColorAuto   = "auto" // on a terminal, unless NO_COLOR is set (no-color.org)
	ColorAlways = "always"
	ColorNever  = "never"
)

// Colors lists the values of --color.
func Colors() []string { return []string{ColorAuto, ColorAlways, ColorNever} }

// UseColor decides whether what is written to w has colours. The error is of kind
// ErrInvalid.
func UseColor(w io.Writer, choice string) (bool, error) {
	switch choice {
	case ColorAlways:
		return true, nil
	case ColorNever:
		return false, nil
	case ColorAuto:
		return terminal(w) != nil && os.Getenv("NO_COLOR") == "", nil
	}
	return false, &topology.Error{
		Kind: topology.ErrInvalid, Item: "--color " + choice, What: "unknown",
		Remedy: "use one of " + strings.Join(Colors(), ", "),
	}
}

// terminal returns the terminal that w is, or nil where it is none or knows no escape
// sequences.
func terminal(w io.Writer) *os.File {
	if f, ok := w.(*os.File); ok && IsTerminal(f) && os.Getenv("TERM") != "dumb" {
		return f
	}
	return nil
}

// IsTerminal reports whether a person is at the other end of a file.
func IsTerminal(f *os.File) bool { return cwriter.IsTerminal(int(f.Fd())) }

// colors are those of states; what is not here has none.
var colors = map[string]text.Color{
	"ready": text.FgGreen, "up": text.FgGreen, "ok": text.FgGreen, "established": text.FgGreen,
	"down": text.FgRed, "not ready": text.FgRed, "failed": text.FgRed, "error": text.FgRed, "none": text.FgRed,
	"no answer": text.FgRed, "one way only": text.FgRed, "another node answers": text.FgRed,
	"lossy": text.FgYellow, "small frames only": text.FgYellow, "slow": text.FgYellow,
	"unknown": text.FgYellow, "stale": text.FgYellow, "deleting": text.FgYellow, "warning": text.FgYellow,
}

// Paint gives a state its colour.
func Paint(state string) string { return PaintAs(state, state) }

// PaintAs gives a text the colour of a state.
func PaintAs(state, s string) string {
	c, ok := colors[state]
	if !ok {
		return s
	}
	// Not c.Sprint, which asks the library's own idea of a terminal.
	return c.EscapeSeq() + s + text.Reset.EscapeSeq()
}

// Ago writes how long ago something was, in its largest unit: "3m ago".
func Ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	}
	return fmt.Sprintf("%dd ago", d/(24*time.Hour))
}
