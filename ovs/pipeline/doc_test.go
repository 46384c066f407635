package pipeline_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs/pipeline"
)

// between returns the part of a document between two lines.
func between(t *testing.T, text, begin, end string) (before, part, after string) {
	t.Helper()
	before, rest, ok := strings.Cut(text, begin+"\n")
	require.True(t, ok, "docs/pipeline.md lacks %q", begin)
	part, after, ok = strings.Cut(rest, end+"\n")
	require.True(t, ok, "docs/pipeline.md lacks %q", end)
	return before, part, after
}

// The pipeline is documented in one place, and it is true.
func TestDocumentation(t *testing.T) {
	const file = "../../docs/pipeline.md"
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	doc := string(b)

	_, tables, _ := between(t, doc, "<!-- tables: checked by a test -->", "<!-- /tables -->")
	want := "| table | name | what it answers |\n|---|---|---|\n"
	for _, x := range pipeline.Tables() {
		want += fmt.Sprintf("| %d | %s | %s |\n", x.ID, x.Name, x.Purpose)
	}
	require.Equal(t, want, tables)

	golden, err := os.ReadFile("testdata/three-hosts.golden")
	require.NoError(t, err)
	before, example, after := between(t, doc, "<!-- example: three-hosts.golden -->", "<!-- /example -->")
	fenced := "```\n" + string(golden) + "```\n"
	if *update && example != fenced {
		doc = before + "<!-- example: three-hosts.golden -->\n" + fenced + "<!-- /example -->\n" + after
		require.NoError(t, os.WriteFile(file, []byte(doc), 0o644))
		example = fenced
	}
	require.Equal(t, fenced, example, "run 'go test ./ovs/pipeline -update'")
}
