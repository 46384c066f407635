package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// systemd itself reads the drop-ins for Docker's unit.
func TestDockerDropIn(t *testing.T) {
	flannel, err := os.ReadFile("systemd/docker-flannel.conf")
	require.NoError(t, err)
	for name, text := range map[string][]byte{"baize": DockerDropIn, "flannel": flannel} {
		t.Run(name, func(t *testing.T) { testDropIn(t, text) })
	}
}

func testDropIn(t *testing.T, conf []byte) {
	analyze, err := exec.LookPath("systemd-analyze")
	require.NoError(t, err, "apt-get install systemd")
	dir := t.TempDir()
	unit := filepath.Join(dir, "docker.service")
	require.NoError(
		t,
		os.WriteFile(
			unit,
			[]byte("[Unit]\nDescription=Docker\n[Service]\nType=notify\nExecStart=/bin/true -H fd://\n"),
			0o644,
		),
	)
	require.NoError(t, os.Mkdir(unit+".d", 0o755))
	// Verification wants the programs to be there.
	text := strings.NewReplacer("/usr/lib/baize/mk-docker-opts.sh", "/bin/true", "/usr/sbin/dockerd", "/bin/true").
		Replace(string(conf))
	require.NoError(t, os.WriteFile(filepath.Join(unit+".d", "baize.conf"), []byte(text), 0o644))
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.NotContains(t, string(out), "baize.conf")

	// A broken one is noticed, so the above proves something.
	require.NoError(
		t,
		os.WriteFile(filepath.Join(unit+".d", "baize.conf"), []byte(strings.Replace(text, "ExecStart=\n", "", 1)), 0o644),
	)
	out, err = exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput()
	assert.Error(t, err, string(out))
}

// The drop-in for Open vSwitch's unit is systemd's to read, and what it runs ends
// on a machine that is up.
func TestVswitchdDropIn(t *testing.T) {
	conf, err := os.ReadFile("packages/60-baize-vswitchd.conf")
	require.NoError(t, err)
	dir := t.TempDir()
	unit := filepath.Join(dir, "ovs-vswitchd.service")
	require.NoError(t, os.WriteFile(unit, []byte("[Unit]\nDescription=vswitchd\n[Service]\nExecStart=/bin/true\n"), 0o644))
	require.NoError(t, os.Mkdir(unit+".d", 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(unit+".d", "60-baize.conf"), conf, 0o644))
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.NotContains(t, string(out), "60-baize.conf")

	m := regexp.MustCompile(`(?m)^ExecStartPre=/bin/sh -c '(.*)'$`).FindSubmatch(conf)
	require.NotNil(t, m)
	// systemd.unit(5): %% and $$ stand for one each.
	script := strings.NewReplacer("%%", "%", "$$", "$").Replace(string(m[1]))
	uptime := filepath.Join(dir, "uptime")
	script = strings.ReplaceAll(script, "/proc/uptime", uptime)
	for up, ready := range map[string]bool{
		"4.21 3.00\n": false, "10.99 3.00\n": false, "11.00 3.00\n": true, "86400.5 1.0\n": true,
	} {
		require.NoError(t, os.WriteFile(uptime, []byte(up), 0o600))
		_, err := exec.CommandContext(t.Context(), "timeout", "0.3", "/bin/sh", "-c", script).CombinedOutput()
		assert.Equal(t, ready, err == nil, up)
	}
}

// Fail closed: what is run before Docker is what writes the file that is read,
// and neither the agent's stop nor its restart takes Docker along.
func TestDockerDropInFailsClosed(t *testing.T) {
	flannel, err := os.ReadFile("systemd/docker-flannel.conf")
	require.NoError(t, err)
	for variable, conf := range map[string][]byte{"BAIZE_DOCKER_OPTS": DockerDropIn, "DOCKER_NETWORK_OPTIONS": flannel} {
		text := string(conf)
		assert.Contains(t, text, "\nAfter=baize.service\n")
		assert.NotContains(t, text, "\nRequires=")
		assert.NotContains(t, text, "\nExecStartPre=-")
		_, file, ok := strings.Cut(text, "\nEnvironmentFile=-")
		require.True(t, ok)
		file, _, _ = strings.Cut(file, "\n")
		assert.Contains(t, text, " -d "+file+"\n")
		assert.Contains(t, text, " $"+variable+"\n")
		assert.Contains(t, text, " -k "+variable+" ")
		assert.Contains(t, text, " -u "+variable+" ", "what is left of the last start")
	}
}

// The agent's unit: systemd takes it as it is, and it says what others rely on.
func TestAgentUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	require.NoError(t, err, "apt-get install systemd")
	unit, err := os.ReadFile("systemd/baize.service")
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "baize.service")
	require.NoError(t, os.WriteFile(file, regexp.MustCompile(`(?m)^(Exec\w+=[-+]*)/\S+`).ReplaceAll(unit, []byte("${1}/bin/true")), 0o644))
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.NotContains(t, string(out), "baize.service:", "nothing that systemd does not know")
	for _, line := range []string{
		"Type=notify", "Before=docker.service", "KillMode=process", "RuntimeDirectoryPreserve=yes",
		"ExecStart=/usr/bin/baize agent",
		// Findings S10, R10.
		"TimeoutStartSec=infinity", "Environment=BAIZE_READY_AFTER=30s", "WatchdogSec=120", "MemoryMax=1G", "TasksMax=512", "UMask=0077", "RestrictNamespaces=net",
	} {
		assert.Contains(t, string(unit), "\n"+line+"\n")
	}

	// Finding S10: 7.6 it was. Options that it does not have are named with the reason.
	out, err = exec.CommandContext(t.Context(), analyze, "security", "--no-pager", "--offline=true", file).CombinedOutput()
	require.NoError(t, err, string(out))
	m := regexp.MustCompile(`Overall exposure level for baize.service: ([0-9.]+)`).FindSubmatch(out)
	require.NotNil(t, m, string(out))
	exposure, err := strconv.ParseFloat(string(m[1]), 64)
	require.NoError(t, err)
	assert.LessOrEqual(t, exposure, 4.0, string(out))
}

// The agent's drop-in.
func TestFlannelDropIn(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	require.NoError(t, err, "apt-get install systemd")
	unit, err := os.ReadFile("systemd/baize.service")
	require.NoError(t, err)
	dir := t.TempDir()
	file := filepath.Join(dir, "baize.service")
	programs := regexp.MustCompile(`(?m)^(Exec\w+=[-+!@:]*)/\S+`)
	require.NoError(t, os.WriteFile(file, programs.ReplaceAll(unit, []byte("${1}/bin/true")), 0o644))
	require.NoError(t, os.Mkdir(file+".d", 0o755))
	conf, err := os.ReadFile("systemd/baize-flannel.conf")
	require.NoError(t, err)
	require.NoError(
		t,
		os.WriteFile(filepath.Join(file+".d", "flannel.conf"), programs.ReplaceAll(conf, []byte("${1}/bin/true")), 0o644),
	)
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.NotContains(t, string(out), "flannel.conf")
	assert.Contains(t, string(conf), "\nBefore=docker.service\n")

	// Every variable is that of a flag of the agent.
	cli, err := os.ReadFile("../docs/cli.md")
	require.NoError(t, err)
	env, err := os.ReadFile("systemd/baize-flannel.env")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^#?(BAIZE_\w+)=`).FindAllStringSubmatch(string(env)+"BAIZE_FLANNEL=", -1) {
		assert.Contains(t, string(cli), "`"+m[1]+"`", m[1])
	}
}
