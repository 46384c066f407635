//go:build system

package packagetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// cgroup makes a control group of version 2 for the test, below this process's own, and
// returns its directory. Where version 1 has the controllers, it has none: systemd does
// without.
func cgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	require.NoError(t, err)
	at := regexp.MustCompile(`(?m)^\S+ (\S+) cgroup2 rw`).FindSubmatch(mounts)
	require.NotNil(t, at, "no cgroup2 that can be written: systemd needs one (mount -t cgroup2)")
	own, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	below := regexp.MustCompile(`(?m)^0::(.*)$`).FindSubmatch(own)
	require.NotNil(t, below)
	dir := filepath.Join(string(at[1]), string(below[1]), fmt.Sprintf("baize-test-%d", os.Getpid()))
	require.NoError(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		assert.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o644))
		testkit.Await(t, "the control group is empty", func() (bool, string) {
			out, err := exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").CombinedOutput()
			return err == nil, string(out)
		})
	})
	return dir
}

// unit is the package's unit under a real systemd, process 1 of namespaces of its own: see
// inside-unit.sh.
func unit(t *testing.T, first, next string) {
	require.FileExists(t, "/lib/systemd/systemd", "apt-get install systemd")
	dir := t.TempDir()
	for file, from := range map[string]string{
		"old.deb": only(t, first, "*.deb"), "new.deb": only(t, next, "*.deb"),
		"inside-unit.sh": "inside-unit.sh",
	} {
		run(t, nil, "install", "-m", "0755", from, filepath.Join(dir, file))
	}
	boot, err := filepath.Abs("boot.sh")
	require.NoError(t, err)
	group := cgroup(t)
	_, err = exec.CommandContext(t.Context(), "sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, group,
		"unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup", "--propagation", "private",
		"sh", boot, dir).CombinedOutput()
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Logf("%s", log)
	require.NoError(t, err)
	assert.Contains(t, string(log), "ok: a removal stops it, and forwarding goes on")
}
