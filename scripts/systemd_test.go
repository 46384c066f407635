package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// systemd itself reads the drop-in for Docker's unit.
func TestDockerDropIn(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	require.NoError(t, err, "apt-get install systemd")
	dir := t.TempDir()
	unit := filepath.Join(dir, "docker.service")
	require.NoError(t, os.WriteFile(unit, []byte("[Unit]\nDescription=Docker\n[Service]\nType=notify\nExecStart=/bin/true -H fd://\n"), 0o644))
	require.NoError(t, os.Mkdir(unit+".d", 0o755))
	// Verification wants the programs to be there.
	text := strings.NewReplacer("/usr/lib/baize/mk-docker-opts.sh", "/bin/true", "/usr/sbin/dockerd", "/bin/true").Replace(string(DockerDropIn))
	require.NoError(t, os.WriteFile(filepath.Join(unit+".d", "baize.conf"), []byte(text), 0o644))
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.NotContains(t, string(out), "baize.conf")

	// A broken one is noticed, so the above proves something.
	require.NoError(t, os.WriteFile(filepath.Join(unit+".d", "baize.conf"), []byte(strings.Replace(text, "ExecStart=\n", "", 1)), 0o644))
	out, err = exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
	assert.Error(t, err, string(out))
}

// Fail closed: what is run before Docker is what writes the file that is read,
// and neither the agent's stop nor its restart takes Docker along.
func TestDockerDropInFailsClosed(t *testing.T) {
	text := string(DockerDropIn)
	assert.Contains(t, text, "\nAfter=baize.service\n")
	assert.NotContains(t, text, "\nRequires=")
	assert.NotContains(t, text, "\nExecStartPre=-")
	_, file, ok := strings.Cut(text, "\nEnvironmentFile=-")
	require.True(t, ok)
	file, _, _ = strings.Cut(file, "\n")
	assert.Contains(t, text, " -d "+file+"\n")
	assert.Contains(t, text, " $BAIZE_DOCKER_OPTS\n")
	assert.Contains(t, text, " -k BAIZE_DOCKER_OPTS ")
}
