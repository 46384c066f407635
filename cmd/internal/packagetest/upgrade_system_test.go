//go:build system && versions

package packagetest

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// upgradeRuns is how many containers start while the package is upgraded.
var upgradeRuns = flag.Int("upgrade-runs", 100, "containers that Debian's engine starts while the package is upgraded")

// Row U1: the package is upgraded, again and again, under a real systemd, while Debian's
// engine starts and ends containers: none fails. See inside-upgrade.sh.
func TestUpgradeUnderLoad(t *testing.T) {
	dir := t.TempDir()
	install(t, filepath.Join(dir, "old.deb"), only(t, build(t, "0.0.1"), "*.deb"))
	install(t, filepath.Join(dir, "new.deb"), only(t, build(t, "0.0.2"), "*.deb"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "runs"), []byte(strconv.Itoa(*upgradeRuns)), 0o644))
	assert.Contains(t, boot(t, dir, "inside-upgrade.sh"), "ok: no container failed")
}
