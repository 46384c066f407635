package scripts

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tiers is a copy of test.sh in a tree of its own, whose tiers print a line at
// their beginning and one at their end; the unit tier fails. Beside the system
// tier they do not end before all have begun what runs side by side.
func tiers(t *testing.T, args ...string) (string, int) {
	t.Helper()
	dir := t.TempDir()
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
	fakes := map[string]string{
		"id": "echo 0",
		// The system tier ends after the unit tier, beside which it runs.
		"go": `case "$*" in
*"-tags system"*)
	echo system begins
	until [ -e "$D/unit" ]; do sleep 0.01; done
	echo system ends
	;;
*"-tags kernel"*) ;;
*) echo unit begins; echo "flags $*"; : >"$D/unit"; echo unit ends; exit 1 ;;
esac`,
	}
	tools := []string{
		"basename", "cat", "date", "dirname", "grep", "mktemp", "mv", "nice", "nproc", "rm", "sed", "setsid", "sh", "sleep",
		"sort", "xargs",
	}
	env := []string{"D=" + dir, "TESTFLAGS=-run Name"}
	return run(t, filepath.Join(dir, "scripts/test.sh"), tools, fakes, env, args...)
}

func TestTiers(t *testing.T) {
	t.Parallel()
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		out, code := tiers(t)
		assert.Equal(t, 1, code, out)
		for _, tier := range []string{"lint", "unit", "system", "kernel"} {
			// Whole, and under its heading.
			_, rest, found := strings.Cut(out, "\n=== "+tier+"\n"+tier+" begins\n")
			require.True(t, found, out)
			body, _, _ := strings.Cut(rest, "===")
			assert.True(t, strings.HasSuffix(body, tier+" ends\n"), out)
		}
		assert.Regexp(t, regexp.MustCompile(`=== summary
lint     ok +\d+ s
unit     FAILED +\d+ s
system   ok +\d+ s
kernel   ok +\d+ s
all      FAILED +\d+ s
$`), out)
		assert.Contains(t, out, "-run Name ./...")
	})
	t.Run("one", func(t *testing.T) {
		t.Parallel()
		out, code := tiers(t, "lint")
		assert.Equal(t, 0, code, out)
		assert.Regexp(t, `^\n=== lint\nlint begins\nlint ends\n=== lint     ok +\d+ s\n`+
			`\n=== summary\nlint     ok +\d+ s\n$`, out)
	})
	t.Run("unknown", func(t *testing.T) {
		t.Parallel()
		out, code := tiers(t, "lint", "frob")
		assert.Equal(t, 2, code)
		assert.Equal(t, "test: unknown tier 'frob': use lint, unit, system or kernel\n", out)
	})
}
