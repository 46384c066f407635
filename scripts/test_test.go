package scripts

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// goTool is go(1) of tiers of which the unit tier fails.
const goTool = `case "$*" in
*"-tags system"*) echo system begins; echo system ends ;;
*"-tags kernel"*) ;;
list*) echo packages ;;
*"-race -short"*) echo race begins; echo "flags $*"; echo race ends ;;
*) echo unit begins; echo "flags $*"; echo unit ends; exit 1 ;;
esac`

// shellDies is one whose system tier kills the shell that runs it, and does not
// end.
const shellDies = `case "$*" in
*"-tags system"*) echo system begins; echo $$ >"$D/left"; kill -s KILL "$PPID"; exec sleep 600 ;;
*) echo unit begins; echo unit ends ;;
esac`

// oneAwaitsTheOther is one whose kernel tier ends once the race tier has begun.
const oneAwaitsTheOther = `case "$*" in
*"-tags system"*) echo system begins ;;
*"-tags kernel"*) until [ -e "$D/race" ]; do sleep 0.01; done ;;
*"-race -short"*) echo "race begins, nice $(nice)"; : >"$D/race"; exit 1 ;;
esac`

// tiers runs a copy of test.sh, with a go(1) of its own, in a tree of its own,
// whose tiers print a line at their beginning and one at their end.
func tiers(t *testing.T, goTool string, args ...string) (out string, code int, dir string) {
	t.Helper()
	dir = t.TempDir()
	script, err := os.ReadFile("test.sh")
	require.NoError(t, err)
	for name, text := range map[string]string{
		"scripts/test.sh":      string(script),
		"scripts/lint.sh":      "#!/bin/sh\necho lint begins\necho lint ends\n",
		"scripts/kernel-vm.sh": "#!/bin/sh\necho kernel begins\necho kernel ends\n",
		"cmd/x/x_test.go":      "//go:build system\n",
		"ovs/ovs.go":           "",
		"topology/topology.go": "",
	} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o755))
	}
	fakes := map[string]string{"id": "echo 0", "go": goTool}
	tools := []string{
		"basename", "cat", "date", "dirname", "grep", "mktemp", "mv", "nice", "nproc", "rm", "sed", "setsid", "sh", "sleep",
		"sort", "xargs",
	}
	env := []string{"D=" + dir, "TMPDIR=" + t.TempDir(), "TESTFLAGS=-run Name"}
	out, code = run(t, filepath.Join(dir, "scripts/test.sh"), tools, fakes, env, args...)
	return out, code, dir
}

func TestTiers(t *testing.T) {
	t.Parallel()
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		out, code, _ := tiers(t, goTool)
		assert.Equal(t, 1, code, out)
		for _, tier := range []string{"lint", "unit", "race", "system", "kernel"} {
			// Whole, and under its heading.
			_, rest, found := strings.Cut(out, "\n=== "+tier+"\n"+tier+" begins\n")
			require.True(t, found, out)
			body, _, _ := strings.Cut(rest, "===")
			assert.True(t, strings.HasSuffix(body, tier+" ends\n"), out)
		}
		assert.Regexp(t, regexp.MustCompile(`=== summary
lint     ok +\d+ s
unit     FAILED +\d+ s
race     ok +\d+ s
system   ok +\d+ s
kernel   ok +\d+ s
all      FAILED +\d+ s
$`), out)
		assert.Contains(t, out, "-run Name ./...")
	})
	t.Run("one", func(t *testing.T) {
		t.Parallel()
		out, code, _ := tiers(t, goTool, "lint")
		assert.Equal(t, 0, code, out)
		assert.Regexp(t, `^\n=== lint\nlint begins\nlint ends\n=== lint     ok +\d+ s\n`+
			`\n=== summary\nlint     ok +\d+ s\n$`, out)
	})
	t.Run("unknown", func(t *testing.T) {
		t.Parallel()
		for _, arg := range []string{"frob", "lint+frob"} {
			out, code, _ := tiers(t, goTool, "lint", arg)
			assert.Equal(t, 2, code)
			assert.Equal(t, "test: unknown tier 'frob': use lint, unit, race, system or kernel\n", out)
		}
	})
	t.Run("side by side", func(t *testing.T) {
		t.Parallel()
		out, code, _ := tiers(t, oneAwaitsTheOther, "kernel+race", "system")
		assert.Equal(t, 1, code, out)
		assert.Regexp(t, `^
=== kernel
kernel begins
kernel ends
=== kernel   ok +\d+ s

=== race
race begins, nice 19
=== race     FAILED +\d+ s

=== system
system begins
=== system   ok +\d+ s

=== summary
kernel   ok +\d+ s
race     FAILED +\d+ s
system   ok +\d+ s
all      FAILED +\d+ s
$`, out)
	})
	t.Run("a tier's shell dies", func(t *testing.T) {
		t.Parallel()
		out, code, dir := tiers(t, shellDies, "system", "unit")
		assert.Equal(t, 1, code, out)
		assert.Contains(t, out, "system begins\n")
		assert.Regexp(t, `=== summary
system   FAILED +\d+ s
unit     ok +\d+ s
all      FAILED +\d+ s
$`, out)
		left, err := os.ReadFile(filepath.Join(dir, "left"))
		require.NoError(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(left)))
		require.NoError(t, err)
		assert.Eventually(t, func() bool { return unix.Kill(pid, 0) == unix.ESRCH }, 30*time.Second, 20*time.Millisecond,
			"the tier is ended")
	})
}
