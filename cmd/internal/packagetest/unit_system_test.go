//go:build system

package packagetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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

// resolved is the package of systemd-resolved, of which the machine shall have none: it would
// take its names. It is downloaded once.
func resolved(t *testing.T) (deb string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	dir := filepath.Join(cache, "baize", "root")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	found, err := filepath.Glob(filepath.Join(dir, "systemd-resolved_*.deb"))
	require.NoError(t, err)
	if len(found) == 0 {
		run(t, nil, "sh", "-ec", `cd "$0" && exec apt-get -q -o APT::Sandbox::User=root download systemd-resolved`, dir)
	}
	return only(t, dir, "systemd-resolved_*.deb")
}

func install(t *testing.T, to, from string) {
	t.Helper()
	run(t, nil, "install", "-m", "0755", from, to)
}

// boot runs a script of a directory in a machine whose first process is systemd, and returns
// what it said.
func boot(t *testing.T, dir, script string) string {
	t.Helper()
	require.FileExists(t, "/lib/systemd/systemd", "apt-get install systemd")
	install(t, filepath.Join(dir, script), script)
	boot, err := filepath.Abs("boot.sh")
	require.NoError(t, err)
	group := cgroup(t)
	_, err = exec.CommandContext(t.Context(), "sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, group,
		"unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--cgroup", "--propagation", "private",
		"sh", boot, dir, script).CombinedOutput()
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Logf("%s", log)
	require.NoError(t, err)
	return string(log)
}

// unit is the package's unit under a real systemd, process 1 of namespaces of its own: see
// inside-unit.sh.
func unit(t *testing.T, first, next string) {
	dir := t.TempDir()
	for file, from := range map[string]string{
		"old.deb": only(t, first, "*.deb"), "new.deb": only(t, next, "*.deb"),
	} {
		install(t, filepath.Join(dir, file), from)
	}
	install(t, filepath.Join(dir, "resolved.deb"), resolved(t))
	settings := regexp.MustCompile(`(?m)^    (\[Resolve\]\n(?:    .+\n)+)`)
	page, err := os.ReadFile("../../../docs/names.md")
	require.NoError(t, err)
	found := settings.FindSubmatch(page)
	require.NotNil(t, found, "docs/names.md has settings for systemd-resolved")
	conf := strings.ReplaceAll(string(found[1]), "\n    ", "\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "resolved.conf"), []byte(conf), 0o644))

	log := boot(t, dir, "inside-unit.sh")
	assert.Contains(t, log, "ok: a removal stops it, and forwarding goes on")
}
