package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documents are the Markdown files people read.
func documents(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"../*.md", "../docs/*.md"} {
		m, err := filepath.Glob(pattern)
		require.NoError(t, err)
		out = append(out, m...)
	}
	require.Contains(t, out, "../README.md")
	return out
}

func TestLinksInDocuments(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInAnchor := regexp.MustCompile("[^a-z0-9 _-]")
	// anchors as GitHub forms them.
	anchors := func(file string) []string {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		var out []string
		for _, m := range heading.FindAllStringSubmatch(string(b), -1) {
			out = append(out, strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
		}
		return out
	}
	for _, doc := range documents(t) {
		b, err := os.ReadFile(doc)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, hasAnchor := strings.Cut(m[1], "#")
			target := doc
			if path != "" {
				target = filepath.Join(filepath.Dir(doc), path)
			}
			if !assert.FileExists(t, target, "%s links to %s", doc, m[1]) || !hasAnchor {
				continue
			}
			assert.Contains(t, anchors(target), anchor, "%s links to %s", doc, m[1])
		}
	}
}

// U16: what people look for has a page, and README.md leads to it.
func TestPagesThatPeopleLookFor(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	for page, headings := range map[string][]string{
		"first-hosts.md":     {"## 1. etcd, on one host", "## The life of a node", "## The life of a network", "## Questions"},
		"troubleshooting.md": {"## By symptom", "## By code"},
		"security.md":        {"## Whom Baize trusts", "## What is not protected"},
		"performance.md":     {"# Performance"},
	} {
		assert.Contains(t, string(readme), "](docs/"+page+")")
		b, err := os.ReadFile("../docs/" + page)
		require.NoError(t, err)
		for _, heading := range headings {
			assert.Contains(t, strings.Split(string(b), "\n"), heading, page)
		}
	}
}

// TestLinesOfDocuments keeps prose readable in a terminal and in a diff; tables
// and code may be wider.
func TestLinesOfDocuments(t *testing.T) {
	const most = 120
	for _, doc := range documents(t) {
		b, err := os.ReadFile(doc)
		require.NoError(t, err)
		fenced, number := false, 0
		for line := range strings.Lines(string(b)) {
			number++
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
			}
			if fenced || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "    ") {
				continue
			}
			n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))
			assert.LessOrEqual(t, n, most, "%s:%d has %d columns", doc, number, n)
		}
	}
}

// TestMakeTargets checks that every target that a document or a script names
// exists, and that 'make help' lists it.
func TestMakeTargets(t *testing.T) {
	b, err := os.ReadFile("../Makefile")
	require.NoError(t, err)
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):.*## `).FindAllStringSubmatch(string(b), -1) {
		listed[m[1]] = true
	}
	help, err := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-C", "..").CombinedOutput()
	require.NoError(t, err, string(help))

	files, err := filepath.Glob("*.sh")
	require.NoError(t, err)
	files = append(append(files, "../.ci/run"), documents(t)...)
	mention := regexp.MustCompile("(?:^|[`'(]|sudo |v' )make ([a-z][a-z-]*)")
	found := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		for line := range strings.Lines(string(b)) {
			for _, m := range mention.FindAllStringSubmatch(line, -1) {
				found++
				assert.True(t, listed[m[1]], "%s names 'make %s', which is no listed target: %s", f, m[1], line)
				assert.Regexp(t, `(?m)^  make `+m[1]+` +\S`, string(help))
			}
		}
	}
	assert.Greater(t, found, 10)
}
