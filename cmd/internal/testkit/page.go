package testkit

import (
	"os"
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
