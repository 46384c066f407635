//go:build system

package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// cgroupsOf lists the control groups that a lab has on the machine.
func cgroupsOf(t *testing.T, lab string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*", "*/*"} {
		found, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", pattern))
		require.NoError(t, err)
		for _, f := range found {
			if strings.HasPrefix(filepath.Base(f), "baize-"+lab+"-") {
				all = append(all, f)
			}
		}
	}
	return all
}

func TestDocker(t *testing.T) {
	t.Parallel()
	c := testLab(t, 2)
	c.Docker = true
	etcDocker, err := os.ReadDir("/etc/docker")
	there := err == nil
	start := time.Now()
	l := up(t, c)
	t.Logf("up with 2 engines: %v", time.Since(start))
	for _, s := range l.Steps {
		t.Logf("  %8v %s", s.Elapsed.Round(time.Millisecond), s.Step)
	}
	host1, host2 := l.Host("host1"), l.Host("host2")
	docker := func(h *Host, args ...string) string {
		t.Helper()
		out, err := h.Exec(t.Context(), append([]string{"docker"}, args...)...)
		require.NoError(t, err)
		return strings.TrimSpace(out)
	}

	start = time.Now()
	said := docker(host1, "run", "--rm", "busybox", "sh", "-c", "echo $(uname) from $(readlink /bin/sh)")
	assert.Equal(t, "Linux from busybox", said)
	t.Logf("docker run: %v", time.Since(start))
	docker(host1, "run", "-d", "--init", "--name", "web", "busybox", "sleep", "1000")
	assert.Equal(t, "web", docker(host1, "ps", "--format", "{{.Names}}"))
	assert.Empty(t, docker(host2, "ps", "-a", "--format", "{{.Names}}"), "engines know nothing of each other")
	assert.Contains(t, docker(host1, "images"), "busybox")
	assert.NotEmpty(t, cgroupsOf(t, c.Name))

	s, err := l.Status()
	require.NoError(t, err)
	assert.Empty(t, s.Problems)

	// A container outlives containerd; the engine is started again by itself.
	pid := docker(host1, "inspect", "-f", "{{.State.Pid}}", "web")
	require.NoError(t, host1.Kill(t.Context(), ServiceContainerd, unix.SIGKILL))
	require.NoError(t, host1.AwaitService(t.Context(), ServiceContainerd))
	require.Eventually(t, func() bool {
		out, err := host1.Exec(t.Context(), "docker", "exec", "web", "hostname")
		return err == nil && out != ""
	}, 20*time.Second, 100*time.Millisecond)
	assert.Equal(t, pid, docker(host1, "inspect", "-f", "{{.State.Pid}}", "web"))
	require.NoError(t, host1.Kill(t.Context(), ServiceDockerd, unix.SIGKILL))
	require.NoError(t, host1.AwaitService(t.Context(), ServiceDockerd))
	assert.Equal(t, "web", docker(host1, "ps", "-a", "--format", "{{.Names}}"))

	require.NoError(t, host1.StopService(t.Context(), ServiceDockerd))
	_, err = host1.Exec(t.Context(), "docker", "ps")
	require.Error(t, err)
	require.NoError(t, host1.StartService(t.Context(), ServiceDockerd))
	docker(host1, "start", "web")

	again := up(t, Config{Name: c.Name, BaseDir: c.BaseDir, NoProof: true})
	assert.Empty(t, again.Steps, "a second up is to touch nothing")
	start = time.Now()
	require.NoError(t, l.Down(t.Context()))
	t.Logf("down with 2 engines: %v", time.Since(start))
	assert.Empty(t, cgroupsOf(t, c.Name), "control groups stay")
	now, err := os.ReadDir("/etc/docker")
	assert.Equal(t, there, err == nil)
	assert.Equal(t, etcDocker, now, "the machine's own engine is left alone")
}
