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

// releaseTree is a repository with a changelog, and with programs that build
// packages and image in no time.
type releaseTree struct {
	t   *testing.T
	dir string
}

func newReleaseTree(t *testing.T) releaseTree {
	r := releaseTree{t, t.TempDir()}
	require.NoError(t, os.Mkdir(filepath.Join(r.dir, "scripts"), 0o755))
	for _, name := range []string{"release.sh", "sign.sh", "version.sh"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		r.write("scripts/"+name, string(text))
	}
	r.write("scripts/packages.sh", "mkdir -p $1; echo \"$VERSION ${SIGN_KEY:+signed}\" >$1/baize_$VERSION.deb\n")
	r.write("scripts/image.sh", "echo $VERSION >$1/baize-image_$VERSION.tar.gz\n")
	r.write(".gitignore", "dist\n")
	r.write("CHANGELOG.md", `# Changelog

## [Unreleased]

- Nothing yet.

## [0.2.0] - 2026-11-29

### Added

- Rounder balls.

## [0.1.0] - 2026-10-01

- The cloth.
`)
	r.git("init", "-q")
	r.commit("one")
	return r
}

func (r releaseTree) write(name, text string) {
	r.t.Helper()
	if strings.HasSuffix(name, ".sh") && !strings.HasPrefix(text, "#!") {
		text = "#!/bin/sh\n" + text
	}
	require.NoError(r.t, os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o755))
}

func (r releaseTree) run(env []string, argv ...string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), argv[0], argv[1:]...)
	cmd.Dir = r.dir
	cmd.Env = append(outsideGit(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r releaseTree) git(args ...string) {
	r.t.Helper()
	out, err := r.run(nil, append([]string{"git", "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
	require.NoError(r.t, err, out)
}

func (r releaseTree) commit(message string) {
	r.t.Helper()
	r.git("add", ".")
	r.git("commit", "-q", "--allow-empty", "-m", message)
}

func TestReleaseRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(releaseTree)
		env     []string
		want    []string
	}{
		"no key":         {nil, nil, []string{"SIGN_KEY=''", "gpg --quick-generate-key"}},
		"no such key":    {nil, []string{"SIGN_KEY=/nowhere/key.asc"}, []string{"/nowhere/key.asc", "no file that can be read"}},
		"no section":     {nil, []string{"VERSION=0.3.0"}, []string{"CHANGELOG.md has no section '## [0.3.0] - DATE'"}},
		"no version":     {func(r releaseTree) { r.write("CHANGELOG.md", "# Changelog\n") }, nil, []string{"has no version"}},
		"not committed":  {func(r releaseTree) { r.write("new", "") }, nil, []string{"not committed", "?? new"}},
		"another commit": {func(r releaseTree) { r.git("tag", "v0.2.0"); r.commit("two") }, nil, []string{"v0.2.0 is on another"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReleaseTree(t)
			if c.prepare != nil {
				c.prepare(r)
			}
			out, err := r.run(c.env, "scripts/release.sh")
			require.Error(t, err, out)
			for _, w := range c.want {
				assert.Contains(t, out, w)
			}
			assert.NoDirExists(t, filepath.Join(r.dir, "dist"))
		})
	}
}

func TestRelease(t *testing.T) {
	r := newReleaseTree(t)
	home := []string{"GNUPGHOME=" + t.TempDir()}
	t.Cleanup(func() { _, _ = r.run(home, "gpgconf", "--kill", "all") })
	must := func(env []string, argv ...string) string {
		t.Helper()
		out, err := r.run(env, argv...)
		require.NoError(t, err, out)
		return out
	}
	must(home, "gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "secret",
		"--quick-generate-key", "Baize <baize@example.org>", "ed25519", "sign", "never")
	key := filepath.Join(t.TempDir(), "key.asc")
	must(home, "gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "secret",
		"--armor", "--output", key, "--export-secret-keys")

	out := must([]string{"SIGN_KEY=" + key, "SIGN_PASSPHRASE=secret"}, "scripts/release.sh")
	assert.Contains(t, out, "git tag -s -m 'Baize 0.2.0' v0.2.0")
	notes, err := os.ReadFile(filepath.Join(r.dir, "dist/baize_0.2.0_notes.md"))
	require.NoError(t, err)
	assert.Equal(t, "### Added\n\n- Rounder balls.\n\n", string(notes))
	deb, err := os.ReadFile(filepath.Join(r.dir, "dist/baize_0.2.0.deb"))
	require.NoError(t, err)
	assert.Equal(t, "0.2.0 signed\n", string(deb))

	// What a user does, who has the public key alone.
	verify := []string{"GNUPGHOME=" + t.TempDir()}
	t.Cleanup(func() { _, _ = r.run(verify, "gpgconf", "--kill", "all") })
	must(verify, "gpg", "--batch", "--quiet", "--import", "dist/baize.asc")
	must(verify, "gpg", "--batch", "--verify", "dist/SHA256SUMS.asc", "dist/SHA256SUMS")
	listed := must(nil, "sh", "-c", "cd dist && sha256sum -c SHA256SUMS")
	for _, name := range []string{"baize_0.2.0.deb", "baize-image_0.2.0.tar.gz", "baize_0.2.0_notes.md", "baize.asc"} {
		assert.Contains(t, listed, name+": OK")
	}

	r.git("tag", "v0.2.0")
	out = must([]string{"UNSIGNED=1"}, "scripts/release.sh", "dist/unsigned")
	assert.NotContains(t, out, "Not tagged")
	assert.NoFileExists(t, filepath.Join(r.dir, "dist/unsigned/SHA256SUMS.asc"))
}
