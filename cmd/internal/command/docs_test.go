package command

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

// The package's settings: every flag of the agent, none of them set.
func TestDefaultFile(t *testing.T) {
	res := baize(t, "docs", "default")
	require.Equal(t, 0, res.code, res.err)
	for _, want := range []string{
		"\n#BAIZE_ETCD_ENDPOINTS=", "\n#BAIZE_VTEP=\n", "\n#BAIZE_DOCKER_BRIDGE=\n", "\n#BAIZE_AUDIT_INTERVAL=30s\n",
	} {
		assert.Contains(t, res.out, want)
	}
	for line := range strings.Lines(res.out) {
		assert.True(t, line == "\n" || strings.HasPrefix(line, "#"), line)
	}
}

// Every page has the sections that readers of manuals look for, and fits a terminal
// of 80 columns, as man(1) shows it (U15).
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	res := baize(t, "docs", "man", dir)
	require.Equal(t, 0, res.code, res.err)
	pages, err := filepath.Glob(filepath.Join(dir, "*.8"))
	require.NoError(t, err)
	require.Greater(t, len(pages), 15)
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".8")
		cmd := exec.CommandContext(t.Context(), "groff", "-K", "utf8", "-man", "-Tutf8", "-P-cbou", "-ww", "-rLL=80n", page)
		var warnings strings.Builder
		cmd.Stderr = &warnings
		out, err := cmd.Output()
		require.NoError(t, err, "apt-get install groff-base: %s", warnings.String())
		assert.Empty(t, warnings.String(), name)
		text := string(out)
		for line := range strings.Lines(text) {
			assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 80, "%s: %s", name, line)
		}
		for _, want := range []string{
			`\nNAME\n +` + name + ` +- `, `\nSYNOPSIS\n +baize `, `\nDESCRIPTION\n`, `\nEXAMPLES\n +[a-z]`, `\nEXIT STATUS\n`,
		} {
			assert.True(t, regexp.MustCompile(want).MatchString(text), "%s has %q", name, want)
		}
	}
	overview, err := os.ReadFile(filepath.Join(dir, "baize.8"))
	require.NoError(t, err)
	for _, want := range []string{".SH FILES", ".SH ENVIRONMENT", "/etc/default/baize", "BAIZE_ETCD_ENDPOINTS"} {
		assert.True(t, strings.Contains(string(overview), want), "baize has %q", want)
	}
}

func TestDocsAreCurrent(t *testing.T) {
	path := filepath.Join("..", "..", "..", "docs", "cli.md")
	res := baize(t, "docs")
	require.Equal(t, 0, res.code, res.err)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(res.out), 0o644))
		return
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	if string(have) == res.out {
		return
	}
	old, now := strings.Split(string(have), "\n"), strings.Split(res.out, "\n")
	for i := range min(len(old), len(now)) {
		if old[i] != now[i] {
			t.Logf("line %d:\n- %s\n+ %s", i+1, old[i], now[i])
			break
		}
	}
	t.Error("docs/cli.md is out of date: run 'go run ./cmd/baize docs > docs/cli.md'")
}
