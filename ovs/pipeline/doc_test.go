package pipeline_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/ovs/pipeline"
)

// The pipeline is documented in one place, and it is true.
func TestDocumentation(t *testing.T) {
	const file = "../../docs/pipeline.md"
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	doc := string(b)

	want := "| table | name | what it answers |\n|---|---|---|\n"
	for _, x := range pipeline.Tables() {
		want += fmt.Sprintf("| %d | %s | %s |\n", x.ID, x.Name, x.Purpose)
	}
	doc = requirePart(t, file, doc, "<!-- tables: checked by a test -->", "<!-- /tables -->", want)

	fields := "| field | what it holds |\n|---|---|\n"
	for _, f := range pipeline.Fields() {
		fields += fmt.Sprintf("| %s | %s |\n", f.Name, f.Holds)
	}
	doc = requirePart(t, file, doc, "<!-- fields: checked by a test -->", "<!-- /fields -->", fields)

	classes := "| label | where |\n|---|---|\n"
	tables := dropTables(t)
	for _, c := range pipeline.DropClasses() {
		classes += fmt.Sprintf("| %s | %s |\n", c, tables[c])
	}
	doc = requirePart(t, file, doc, "<!-- drops: checked by a test -->", "<!-- /drops -->", classes)

	golden, err := os.ReadFile("testdata/three-hosts.golden")
	require.NoError(t, err)
	requirePart(t, file, doc, "<!-- example: three-hosts.golden -->", "<!-- /example -->", "```\n"+string(golden)+"```\n")
}

// requirePart checks one generated part of a document, or rewrites it with -update.
func requirePart(t *testing.T, file, doc, begin, end, want string) string {
	t.Helper()
	before, rest, ok := strings.Cut(doc, begin+"\n")
	require.True(t, ok, "%s lacks %q", file, begin)
	part, after, ok := strings.Cut(rest, end+"\n")
	require.True(t, ok, "%s lacks %q", file, end)
	if *update && part != want {
		part = want
		doc = before + begin + "\n" + want + end + "\n" + after
		require.NoError(t, os.WriteFile(file, []byte(doc), 0o644))
	}
	require.Equal(t, want, part, "run 'go test ./ovs/pipeline -update'")
	return doc
}
