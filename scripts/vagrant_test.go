package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// vagrant runs Vagrant in this repository with a home of its own.
func vagrant(t *testing.T, env []string, args ...string) (out string, err error) {
	t.Helper()
	path, err := exec.LookPath("vagrant")
	require.NoError(t, err, "run scripts/install-deps.sh test, or apt-get install vagrant vagrant-libvirt")
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), append([]string{
		"VAGRANT_HOME=" + t.TempDir(), "VAGRANT_DOTFILE_PATH=" + t.TempDir(), "VAGRANT_CHECKPOINT_DISABLE=1", "VAGRANT_DEFAULT_PROVIDER=libvirt",
	}, env...)...)
	b, err := cmd.CombinedOutput()
	return string(b), err
}

func TestVagrantfile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env      []string
		machines int
	}{
		"defaults": {nil, 3},
		"settings": {[]string{"BAIZE_NODES=5", "BAIZE_DRIVER=qemu", "BAIZE_BOX=generic/ubuntu2204", "BAIZE_MACHINES=x-"}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := vagrant(t, c.env, "validate")
			require.NoError(t, err, out)
			out, err = vagrant(t, c.env, "status", "--machine-readable")
			require.NoError(t, err, out)
			assert.Equal(t, c.machines, strings.Count(out, ",state,not_created"), out)
		})
	}
}

func TestVagrantfileRefuses(t *testing.T) {
	t.Parallel()
	for env, want := range map[string]string{
		"BAIZE_NODES=three":  "BAIZE_NODES=three: use a number from 1 to 99",
		"BAIZE_NODES=0":      "BAIZE_NODES=0: use a number from 1 to 99",
		"BAIZE_MEMORY=64":    "BAIZE_MEMORY=64: use a number from 512 to 65536",
		"BAIZE_DRIVER=kvvm":  "BAIZE_DRIVER=kvvm: use kvm or qemu",
		"BAIZE_NET=10.0.0.0": "BAIZE_NET=10.0.0.0: use the first three numbers of an IPv4 address, such as 192.168.56",
	} {
		// It refuses before it asks Vagrant for anything: Ruby alone does.
		cmd := exec.CommandContext(t.Context(), "ruby", "../Vagrantfile")
		cmd.Env = append(os.Environ(), env)
		out, err := cmd.CombinedOutput()
		assert.Error(t, err, env)
		assert.Equal(t, "Vagrantfile: "+want+"\n", string(out))
	}
	out, err := vagrant(t, []string{"BAIZE_NODES=three"}, "validate")
	assert.Error(t, err)
	assert.Contains(t, out, "Vagrantfile: BAIZE_NODES=three: use a number from 1 to 99")
}

// The documents name every variable of the Vagrantfile, with its default.
func TestVagrantVariables(t *testing.T) {
	file, err := os.ReadFile("../Vagrantfile")
	require.NoError(t, err)
	page, err := os.ReadFile("../docs/vagrant.md")
	require.NoError(t, err)
	used := regexp.MustCompile(`BAIZE_[A-Z]+`).FindAllString(string(file), -1)
	require.NotEmpty(t, used)
	for _, name := range used {
		assert.Contains(t, string(page), "`"+name+"`")
	}
}

func TestVagrantPackage(t *testing.T) {
	script, err := filepath.Abs("vagrant/package.sh")
	require.NoError(t, err)
	dir := t.TempDir()
	deb := filepath.Join(dir, "some.deb")
	require.NoError(t, os.WriteFile(deb, []byte("a package"), 0o600))
	run := func(env string) (string, error) {
		cmd := exec.CommandContext(t.Context(), script, filepath.Join(dir, "out"))
		cmd.Env = append(os.Environ(), env)
		b, err := cmd.CombinedOutput()
		return string(b), err
	}
	out, err := run("BAIZE_PACKAGE=" + deb)
	require.NoError(t, err, out)
	b, err := os.ReadFile(filepath.Join(dir, "out", "baize.deb"))
	require.NoError(t, err)
	assert.Equal(t, "a package", string(b))

	out, err = run("BAIZE_PACKAGE=" + filepath.Join(dir, "missing.deb"))
	require.Error(t, err)
	assert.Contains(t, out, "there is no such file")
}
