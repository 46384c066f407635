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
			`\nFILES\n +/etc/default/baize\n`,
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

// inlineCommand is a command within a sentence.
var inlineCommand = regexp.MustCompile("`((?:sudo )?(?:bin/)?baize [^`]+)`")

// shellWord is a word, or what quotes make one.
var shellWord = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)

// Every command of ours that a page shows exists, with its flags and as many arguments.
// What is within a sentence may be a part of one.
func TestCommandsInPagesExist(t *testing.T) {
	pages, err := filepath.Glob("../../../docs/*.md")
	require.NoError(t, err)
	found := 0
	for _, page := range append(pages, "../../../README.md", "../../../CONTRIBUTING.md") {
		if filepath.Base(page) == "cli.md" {
			continue // made of the commands themselves
		}
		check := func(text string, whole bool) {
			words, ok := commandOf(text)
			if !ok {
				return
			}
			found++
			_, err := parseLine(testRoot(), words)
			if err != nil && (whole || !strings.Contains(err.Error(), " needs ")) {
				assert.NoError(t, err, "%s: %s", filepath.Base(page), text)
			}
		}
		b, err := os.ReadFile(page)
		require.NoError(t, err)
		fenced := false
		for l := range strings.Lines(string(b)) {
			if strings.HasPrefix(l, "```") {
				fenced = !fenced
			} else if fenced || strings.HasPrefix(l, "    ") {
				check(l, true)
			}
		}
		for _, m := range inlineCommand.FindAllStringSubmatch(string(b), -1) {
			check(strings.ReplaceAll(m[1], "\n", " "), false)
		}
	}
	require.Greater(t, found, 100)
}

// commandOf returns the words after "baize" of a line that a shell is to run, up to a
// comment, a pipe or the next command. Lines with "…" leave something out.
func commandOf(text string) (words []string, ok bool) {
	text = strings.TrimPrefix(strings.TrimSpace(text), "$ ")
	if host, rest, found := strings.Cut(text, "# "); found && !strings.Contains(host, " ") {
		text = rest // a prompt: host1#
	}
	text = strings.TrimPrefix(strings.TrimPrefix(text, "sudo "), "bin/")
	text, ok = strings.CutPrefix(text, "baize ")
	if !ok || strings.Contains(text, "…") || strings.Contains(text, "...") {
		return nil, false
	}
	for _, word := range shellWord.FindAllString(text, -1) {
		switch {
		case word == "#", word == "|", word == "&&", word == "&", word == `\`, strings.HasPrefix(word, ">"), strings.HasPrefix(word, "<"):
			return words, true
		}
		words = append(words, strings.Trim(word, `"'`))
	}
	return words, true
}
