package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Escape sequences of ECMA-48 and of DEC's private modes, as xterm has them.
const (
	escHome     = "\x1b[H"
	escClear    = "\x1b[2J"
	escLineEnd  = "\x1b[K"            // erases what is behind in the line
	escBelow    = "\x1b[J"            // and what is below
	escNoWrap   = "\x1b[?7l\x1b[?25l" // and no cursor
	escWrap     = "\x1b[?7h\x1b[?25h"
	defaultRows = 24
)

// Screen shows a text that changes. A terminal is drawn anew, and has its first
// lines where it has not enough for all; elsewhere each text follows the one
// before. Close it when nothing more comes.
type Screen struct {
	w     io.Writer
	tty   *os.File
	last  string
	begun bool
}

// NewScreen returns the screen that w is.
func NewScreen(w io.Writer) *Screen { return &Screen{w: w, tty: terminal(w)} }

// Terminal reports whether it is drawn anew.
func (s *Screen) Terminal() bool { return s.tty != nil }

// Show shows a text, unless it is what is shown already.
func (s *Screen) Show(text string) error {
	if s.begun && text == s.last {
		return nil
	}
	out := text
	if s.tty != nil {
		// What was there is written over, not erased before: it does not flicker.
		out = escNoWrap + escHome
		if !s.begun {
			out += escClear
		}
		out += strings.ReplaceAll(fit(text, s.rows()), "\n", escLineEnd+"\n") + escBelow
	}
	s.begun, s.last = true, text
	_, err := io.WriteString(s.w, out)
	return err
}

// Close gives the terminal back.
func (s *Screen) Close() error {
	if s.tty == nil || !s.begun {
		return nil
	}
	_, err := io.WriteString(s.w, escWrap)
	return err
}

// Rows is how many lines the screen has, that of the cursor included; 0 where it has no
// end.
func (s *Screen) Rows() int {
	if s.tty == nil {
		return 0
	}
	return s.rows()
}

func (s *Screen) rows() int {
	if size, err := unix.IoctlGetWinsize(int(s.tty.Fd()), unix.TIOCGWINSZ); err == nil && size.Row > 0 {
		return int(size.Row)
	}
	return defaultRows
}

// fit leaves out what is below the screen, whose last line is the cursor's.
func fit(text string, rows int) string {
	lines := strings.SplitAfter(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) < rows {
		return text
	}
	shown := max(rows-2, 1)
	return strings.Join(lines[:shown], "") + fmt.Sprintf("… %d more lines\n", len(lines)-shown)
}
