package testkit

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Block is a fenced block of a page: what follows the fence, and its lines.
type Block struct {
	Name  string
	Lines []string
}

// Text returns the lines as one text, without a line feed at the end.
func (b Block) Text() string { return strings.Join(b.Lines, "\n") }

// Blocks returns the fenced blocks of a Markdown page in their order.
func Blocks(t testing.TB, page string) []Block {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	var out []Block
	open := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if name, fence := strings.CutPrefix(line, "```"); fence {
			if open = !open; open {
				out = append(out, Block{Name: name})
			}
		} else if open {
			out[len(out)-1].Lines = append(out[len(out)-1].Lines, line)
		}
	}
	require.NotEmpty(t, out, "%s has no fenced block", page)
	return out
}

// Marked returns the indented blocks of a page that follow a comment
// "<!-- try: NAME -->", without their indentation, by the name. Blocks of one
// name are joined.
func Marked(t testing.TB, page string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	out := map[string]string{}
	for _, part := range strings.Split(string(b), "<!-- try: ")[1:] {
		name, rest, _ := strings.Cut(part, " -->\n")
		for line := range strings.Lines(rest) {
			command, ok := strings.CutPrefix(line, "    ")
			if !ok {
				break
			}
			out[name] += command
		}
	}
	require.NotEmpty(t, out, "%s has no block to try", page)
	return out
}

// Typed is what a page has somebody type as root: on a host, or on every one where
// Host is empty. Text has several lines where it is a here-document.
type Typed struct{ Host, Text string }

// prompted is a line with a prompt: "# " or "host1# ".
var prompted = regexp.MustCompile(`^([a-z0-9]*)# +(.*)`)

// TypedAsRoot returns the commands of a page's indented blocks whose lines begin with a
// prompt, in their order; lines without one go on with the command before.
func TypedAsRoot(t testing.TB, page string) (out []Typed) {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	open := false
	for line := range strings.Lines(string(b)) {
		line, indented := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    ")
		m := prompted.FindStringSubmatch(line)
		switch {
		case !indented:
			open = false
		case m != nil:
			open = true
			out = append(out, Typed{Host: m[1], Text: m[2]})
		case open:
			out[len(out)-1].Text += "\n" + line
		}
	}
	require.NotEmpty(t, out, "%s has no command with a prompt", page)
	return out
}

// assignment is what a command may have before it.
var assignment = regexp.MustCompile(`^[A-Z_]+=\S+ `)

// Commands are the commands of a page's shell blocks, indented or fenced as "sh": lines that
// begin with a word in small letters.
func Commands(t testing.TB, page string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	fenced := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if fence, ok := strings.CutPrefix(line, "```"); ok {
			fenced = fence == "sh"
			continue
		}
		command, indented := strings.CutPrefix(line, "    ")
		first, _, _ := strings.Cut(assignment.ReplaceAllString(command, ""), " ")
		if (fenced || indented) && first != "" && strings.Trim(first, "abcdefghijklmnopqrstuvwxyz-/") == "" {
			out = append(out, command)
		}
	}
	return out
}
