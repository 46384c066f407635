//go:build system

package packagetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// run runs a command, for minutes at most, and returns what it printed.
func run(t *testing.T, env []string, argv ...string) string {
	t.Helper()
	return testkit.RunWithin(t, 10*time.Minute, env, argv...)
}

// build makes the packages of this machine's architecture.
func build(t *testing.T, version string, env ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	arch := strings.TrimSpace(run(t, nil, "dpkg", "--print-architecture"))
	run(
		t,
		append(env, "VERSION="+version, "ARCHES="+arch, "SOURCE_DATE_EPOCH=1700000000"),
		"../../../scripts/packages.sh",
		dir,
	)
	return dir
}

func only(t *testing.T, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(t, err)
	require.Len(t, found, 1, pattern)
	return found[0]
}

// clean is what a clean root has beside Debian's essential packages: what the
// package depends on, and rpm.
const clean = "openvswitch-switch,iproute2,nftables,kmod,procps,rpm"

// cacheRoot makes a clean root of this machine's release, once, and returns the
// archive of it in the user's cache.
func cacheRoot(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	release, err := os.ReadFile("/etc/os-release")
	require.NoError(t, err)
	suite := regexp.MustCompile(`(?m)^VERSION_CODENAME=(\w+)`).FindSubmatch(release)
	require.NotNil(t, suite, "/etc/os-release has no VERSION_CODENAME")
	of := sha256.Sum256([]byte(clean))
	archive := filepath.Join(cache, "baize", "root", fmt.Sprintf("%s-%x.tar", suite[1], of[:4]))
	if _, err := os.Stat(archive); err != nil {
		mirror, _, _ := strings.Cut(
			run(
				t,
				nil,
				"sh",
				"-c",
				`apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep -v security`,
			),
			"\n",
		)
		fresh := filepath.Join(t.TempDir(), "fresh")
		run(t, nil, "debootstrap", "--variant=minbase", "--include="+clean, string(suite[1]), fresh, mirror)
		require.NoError(t, os.MkdirAll(filepath.Dir(archive), 0o755))
		run(t, nil, "tar", "-C", fresh, "--one-file-system", "-cf", archive+".new", ".")
		require.NoError(t, os.Rename(archive+".new", archive))
	}
	return archive
}

// unpack makes a root of the archive.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	require.NoError(t, os.Mkdir(dir, 0o755))
	run(t, nil, "tar", "-C", dir, "-xf", archive)
	return dir
}

// The same commit gives the same bytes, wherever and whenever it is built; the
// package is installed, upgraded, removed and purged: see inside.sh.
// Its unit is started, killed and stopped by systemd: see inside-unit.sh.
func TestPackages(t *testing.T) {
	t.Parallel()
	key := secretKey(t)
	first, next, archive := build(t, "0.0.1"), build(t, "0.0.2", "SIGN_KEY="+key), cacheRoot(t)
	for name, test := range map[string]func(*testing.T){
		"reproducible": func(t *testing.T) { reproducible(t, first) },
		"image":        func(t *testing.T) { image(t, only(t, first, "baize_*_linux_???64")) },
		"deb":          func(t *testing.T) { life(t, archive, "deb", first, next) },
		"rpm":          func(t *testing.T) { life(t, archive, "rpm", first, next) },
		"unit":         func(t *testing.T) { unit(t, first, next) },
		"repository":   func(t *testing.T) { repository(t, archive, key, first, next) },
		"first hosts":  func(t *testing.T) { firstHosts(t, archive, first) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// image: the same program and packages give the same bytes; what is in it runs
// without anything else. See domaintest.TestContainer for what it does.
func image(t *testing.T, program string) {
	program, err := filepath.Abs(program)
	require.NoError(t, err)
	pack := func() string {
		dir := t.TempDir()
		run(
			t,
			[]string{"VERSION=0.0.1", "BINARY=" + program, "SOURCE_DATE_EPOCH=1700000000"},
			"../../../scripts/image.sh",
			dir,
		)
		return dir
	}
	first := pack()
	have := sums(t, first)
	require.Len(t, have, 1)
	assert.Equal(t, have, sums(t, pack()))

	dir := t.TempDir()
	run(t, nil, "tar", "-C", dir, "-xzf", only(t, first, "baize-image_0.0.1_*.tar.gz"))
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	require.NoError(t, err)
	assert.Contains(t, string(manifest), `"RepoTags":["baize:0.0.1","baize:latest"]`)
	root := filepath.Join(dir, "root")
	require.NoError(t, os.Mkdir(root, 0o755))
	run(t, nil, "tar", "-C", root, "-xf", filepath.Join(dir, "layer.tar"))
	for _, argv := range [][]string{
		{"baize", "version"}, {"/usr/lib/baize/baize-cni", "info"}, {"ovs-ofctl", "--version"}, {"ovs-appctl", "--version"}, {"iptables", "-V"}, {"ip6tables-restore", "-V"},
		{"iptables-legacy", "-V"}, {"ip6tables-nft-restore", "-V"},
	} {
		run(t, nil, append([]string{"env", "PATH=/usr/sbin:/usr/bin", "chroot", root}, argv...)...)
	}
	assert.NoFileExists(t, filepath.Join(root, "bin/sh"))
	versions, err := os.ReadFile(filepath.Join(root, "usr/share/doc/baize/image-packages"))
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^openvswitch-common \d`, string(versions))
}

// sums returns the checksums of a directory's files.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		require.NoError(t, err)
		out[f.Name()] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	return out
}

func reproducible(t *testing.T, first string) {
	have := sums(t, first)
	require.Len(t, have, 7, "a .deb, an .rpm, the program and the plugin with their SBOMs, SHA256SUMS")
	assert.Equal(t, have, sums(t, build(t, "0.0.1")))
	listed, err := os.ReadFile(filepath.Join(first, "SHA256SUMS"))
	require.NoError(t, err)
	for name, sum := range have {
		if name != "SHA256SUMS" {
			assert.Contains(t, string(listed), sum+"  "+name)
		}
	}
	sbom, err := os.ReadFile(only(t, first, "baize_*.cdx.json"))
	require.NoError(t, err)
	assert.Contains(t, string(sbom), "github.com/ovn-org/libovsdb")
	assert.Contains(t, string(sbom), `"bomFormat": "CycloneDX"`)
	rpm, err := os.ReadFile(only(t, first, "*.rpm"))
	require.NoError(t, err)
	assert.True(t, bytes.HasPrefix(rpm, []byte{0xed, 0xab, 0xee, 0xdb}), "an RPM's magic number")
}

func life(t *testing.T, archive, kind, old, next string) {
	dir := unpack(t, archive)
	for from, to := range map[string]string{
		only(t, old, "*."+kind): "old", only(t, next, "*."+kind): "new", "inside.sh": "inside.sh",
	} {
		run(t, nil, "install", "-m", "0755", from, filepath.Join(dir, "tmp", to))
	}
	assert.Contains(t, inside(t, dir, "/tmp/inside.sh", kind, "/tmp/old", "/tmp/new"), "ok: nothing is left")
}

// inside runs a command in a root, in namespaces of its own, and returns what it
// printed. Everything that is started ends with process 1 of the namespace.
func inside(t *testing.T, root string, argv ...string) string {
	t.Helper()
	out := run(t, nil, append([]string{
		"unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec",
		`mount -t proc proc "$0/proc"; mount -t sysfs sys "$0/sys"; mount --rbind /dev "$0/dev"; mount -t tmpfs run "$0/run"; mkdir -p "$0/run/netns"
exec chroot "$0" "$@"`, root,
	}, argv...)...)
	t.Log(out)
	return out
}
