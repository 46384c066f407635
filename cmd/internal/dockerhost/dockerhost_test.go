package dockerhost_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/dockerhost"
	"github.com/baize-net/baize/cmd/internal/hostfile"
)

const (
	unitFile = "/lib/systemd/system/docker.service"
	dropIn   = "/etc/systemd/system/docker.service.d/baize.conf"
	unit     = "[Service]\nExecStart=/usr/bin/dockerd -H fd:// \\\n  --containerd=/run/containerd/containerd.sock\n"
)

func host(t *testing.T, files map[string]string) dockerhost.Host {
	t.Helper()
	h := dockerhost.Host{Root: t.TempDir()}
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(h.Root+name), 0o755))
		require.NoError(t, os.WriteFile(h.Root+name, []byte(text), 0o644))
	}
	return h
}

func tree(t *testing.T, h dockerhost.Host) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.Walk(h.Root, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, h.Root)] = string(b)
		return err
	}))
	return out
}

func TestThereAndBack(t *testing.T) {
	h := host(t, map[string]string{unitFile: unit, "/etc/docker/daemon.json": `{"log-driver": "journald"}`})
	h.Network = "blue"
	before := tree(t, h)

	changes, err := h.Plan()
	require.NoError(t, err)
	assert.Equal(t, before, tree(t, h), "a plan changes nothing")
	require.NoError(t, hostfile.Apply(h.Root, changes))
	after := tree(t, h)
	assert.Len(t, after, len(before)+3)
	assert.Contains(t, after[dropIn],
		"\nExecStart=\nExecStart=/usr/bin/dockerd -H fd://    --containerd=/run/containerd/containerd.sock "+
			"$BAIZE_DOCKER_OPTS\n")
	assert.Contains(t, after[dropIn], "/usr/local/lib/baize/mk-docker-opts.sh -c ")
	assert.Contains(t, after["/etc/systemd/system/baize.service.d/docker.conf"],
		"BAIZE_DOCKER_BRIDGE=docker0\nEnvironment=BAIZE_DOCKER_NETWORK=blue\n")
	info, err := os.Stat(h.Root + "/usr/local/lib/baize/mk-docker-opts.sh")
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o755), info.Mode())

	changes, err = h.Plan()
	require.NoError(t, err)
	assert.Empty(t, changes, "a second time there is nothing to do")

	changes, err = h.Undo()
	require.NoError(t, err)
	require.NoError(t, hostfile.Apply(h.Root, changes))
	assert.Equal(t, before, tree(t, h))
	assert.NoDirExists(t, filepath.Dir(h.Root+dropIn))
	changes, err = h.Undo()
	require.NoError(t, err)
	assert.Empty(t, changes)
}

func TestWhatIsThereIsUsed(t *testing.T) {
	h := host(t, map[string]string{
		unitFile: "[Service]\nExecStart=/usr/sbin/dockerd -H fd:// $DOCKER_OPTS\n", "/usr/lib/baize/mk-docker-opts.sh": "",
		"/etc/systemd/system/docker.service.d/a.conf": "[Service]\nExecStart=\nExecStart=/opt/dockerd $DOCKER_OPTS --debug\n",
	})
	changes, err := h.Plan()
	require.NoError(t, err)
	require.Len(t, changes, 2, "the packaged script is used")
	assert.Contains(t, string(changes[0].Text), "\nExecStart=/opt/dockerd $DOCKER_OPTS --debug $BAIZE_DOCKER_OPTS\n",
		"the operator's own options stay")
	assert.Contains(t, string(changes[0].Text), " /usr/lib/baize/mk-docker-opts.sh ")
}

func TestRefuses(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"no such unit":           {},
		`"bip": "10.9.0.1/24"`:   {unitFile: unit, "/etc/docker/daemon.json": `{"bip": "10.9.0.1/24"}`},
		`"mtu": 1400`:            {unitFile: unit, "/etc/docker/daemon.json": `{"mtu": 1400, "debug": true}`},
		"Docker does not start":  {unitFile: unit, "/etc/docker/daemon.json": `{`},
		"no ExecStart":           {unitFile: "[Service]\n"},
		"with --bip=10.9.0.1/24": {unitFile: "[Service]\nExecStart=/usr/bin/dockerd --bip=10.9.0.1/24\n"},
		"is read after /etc/systemd": {
			unitFile: unit, "/etc/systemd/system/docker.service.d/z.conf": "[Service]\nExecStart=\nExecStart=/opt/dockerd\n",
		},
	} {
		_, err := host(t, files).Plan()
		assert.ErrorContains(t, err, want)
	}
}

// In the place of flannel Docker starts with flannel's own file.
func TestFlannel(t *testing.T) {
	h := host(t, map[string]string{unitFile: unit})
	h.Flannel = true
	before := tree(t, h)
	changes, err := h.Plan()
	require.NoError(t, err)
	require.NoError(t, hostfile.Apply(h.Root, changes))
	after := tree(t, h)
	assert.Contains(t, after[dropIn], " -f /run/flannel/subnet.env ")
	assert.NotContains(t, after[dropIn], "/run/baize/subnet.env")
	assert.Contains(t, after["/etc/systemd/system/baize.service.d/docker.conf"], "\nEnvironment=BAIZE_FLANNEL=true\n")
	assert.NotContains(t, after["/etc/systemd/system/baize.service.d/docker.conf"], "DOCKER_BRIDGE")
	changes, err = h.Undo()
	require.NoError(t, err)
	require.NoError(t, hostfile.Apply(h.Root, changes))
	assert.Equal(t, before, tree(t, h))
}
