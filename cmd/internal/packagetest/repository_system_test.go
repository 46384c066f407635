//go:build system

package packagetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// The repository's URL in the document, and inside the root.
const (
	documented = "https://packages.example.org/baize"
	served     = "http://127.0.0.1:8080/now"
)

// secretKey makes an OpenPGP key and returns the file that has it.
func secretKey(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	home := []string{"GNUPGHOME=" + dir}
	t.Cleanup(func() { _, _ = testkit.Try(testkit.Patience, home, "gpgconf", "--kill", "all") })
	run(t, home, "gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "Baize <baize@example.org>",
		"rsa3072", "sign", "never")
	key := run(t, home, "gpg", "--batch", "--armor", "--export-secret-keys")
	file := filepath.Join(dir, "key.asc")
	require.NoError(t, os.WriteFile(file, []byte(key), 0o600))
	return file
}

// repository: a second machine installs Baize with the three commands of
// docs/install.md, upgrades, goes back, and refuses what was not signed. The
// packages of the second version are signed themselves.
func repository(t *testing.T, archive, key string, old, next string) {
	root := unpack(t, archive)
	dist := t.TempDir()
	env := []string{"SIGN_KEY=" + key, "APT_URL=" + served + "/"}
	publish := func(from, to string) {
		run(t, nil, "cp", only(t, from, "*.deb"), dist)
		run(t, env, "../../../scripts/apt-repo.sh", dist)
		require.NoError(t, os.MkdirAll(filepath.Join(root, "srv"), 0o755))
		run(t, nil, "cp", "-a", filepath.Join(dist, "apt"), filepath.Join(root, "srv", to))
	}
	publish(old, "first")
	publish(next, "second")
	run(t, nil, "cp", "-a", filepath.Join(root, "srv/second"), filepath.Join(root, "srv/forged"))
	index, err := filepath.Glob(filepath.Join(root, "srv/forged/dists/stable/main/binary-*/Packages*"))
	require.NoError(t, err)
	require.NotEmpty(t, index)
	for _, file := range index {
		run(t, nil, "sh", "-c", `echo >>"$0"`, file)
	}

	page, err := os.ReadFile("../../../docs/install.md")
	require.NoError(t, err)
	var commands []string
	for line := range strings.Lines(string(page)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "sudo wget") || len(commands) > 0 && len(commands) < 3 {
			commands = append(commands, strings.ReplaceAll(line, documented, served))
		}
	}
	require.Len(t, commands, 3, "the commands of docs/install.md")
	assert.Contains(t, commands[2], "apt-get install baize")
	require.NoError(t, os.WriteFile(filepath.Join(root, "tmp/commands"), []byte(strings.Join(commands, "\n")+"\n"), 0o600))

	public := run(t, env, "../../../scripts/sign.sh", "public")
	require.NoError(t, os.WriteFile(filepath.Join(root, "tmp/baize.asc"), []byte(public), 0o600))
	busybox := strings.TrimSpace(run(t, nil, "sh", "-c", "command -v busybox"))
	for from, to := range map[string]string{
		busybox: "busybox", "inside-repository.sh": "inside.sh", only(t, next, "*.rpm"): "baize.rpm",
	} {
		run(t, nil, "install", "-m", "0755", from, filepath.Join(root, "tmp", to))
	}
	out := inside(t, root, "/tmp/inside.sh")
	assert.Contains(t, out, "ok: what was changed after it was signed is refused")
	assert.Contains(t, out, "ok: the .rpm is signed")
}
