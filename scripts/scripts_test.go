package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// run runs a script of this directory with nothing in PATH but the named
// commands of this machine and the fakes (name → shell text).
func run(
	t *testing.T,
	script string,
	tools []string,
	fakes map[string]string,
	env []string,
	args ...string,
) (out string, code int) {
	t.Helper()
	return runWith(t, "/bin/sh", script, tools, fakes, env, args...)
}

// runWith runs it with a certain shell.
func runWith(
	t *testing.T,
	shell, script string,
	tools []string,
	fakes map[string]string,
	env []string,
	args ...string,
) (out string, code int) {
	t.Helper()
	bin := t.TempDir()
	for _, name := range tools {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	for name, text := range fakes {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	}
	cmd := exec.CommandContext(t.Context(), shell, append([]string{script}, args...)...)
	cmd.Env = append([]string{"PATH=" + bin}, env...)
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

func TestCheckGo(t *testing.T) {
	tools := []string{"sed", "head", "awk", "dirname"}
	goMod := filepath.Join(t.TempDir(), "go.mod")
	require.NoError(t, os.WriteFile(goMod, []byte("module example.org/m\n\ngo 1.26.3\n\nrequire a.b/go v1.2.3\n"), 0o644))

	for _, tt := range []struct {
		name    string
		version string // what the fake go prints; empty: no go in PATH
		env     string
		want    string // part of the message; empty: accepted
	}{
		{name: "the same", version: "go version go1.26.3 linux/amd64"},
		{name: "newer patch", version: "go version go1.26.10 linux/arm64"},
		{name: "newer minor", version: "go version go1.27 linux/amd64"},
		{name: "newer pre-release", version: "go version go1.27rc1 linux/amd64"},
		{name: "newer major", version: "go version go2.0 linux/amd64"},
		{name: "from source", version: "go version devel go1.28-3a4b5c6 Mon Nov 2 2026 linux/amd64"},
		{name: "missing", want: "Go is not in PATH"},
		{name: "Debian 12", version: "go version go1.19.8 linux/amd64", want: "Go 1.19.8, too old"},
		{name: "Ubuntu 24.04", version: "go version go1.22.2 linux/amd64", want: "Go 1.22.2, too old"},
		{name: "older patch", version: "go version go1.26.2 linux/amd64", want: "Go 1.26.2, too old"},
		{name: "no patch", version: "go version go1.26 linux/amd64", want: "Go 1.26, too old"},
		{name: "broken", version: "go: cannot find GOROOT directory", want: "does not tell its version"},
		{name: "toolchain switched by hand", version: "go version go1.19.8 linux/amd64", env: "GOTOOLCHAIN=auto"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakes := map[string]string{}
			if tt.version != "" {
				// A real go with GOTOOLCHAIN=auto prints the version it switched to.
				fakes["go"] = `case "$GOTOOLCHAIN $1" in
"local version") echo '` + tt.version + `' ;;
"auto version") echo 'go version go1.26.3 linux/amd64' ;;
*) echo "unexpected: GOTOOLCHAIN=$GOTOOLCHAIN go $*"; exit 9 ;;
esac`
			}
			var env []string
			if tt.env != "" {
				env = append(env, tt.env)
			}
			out, code := run(t, "check-go.sh", tools, fakes, env, goMod)
			if tt.want == "" {
				assert.Equal(t, 0, code, out)
				assert.Empty(t, out)
				return
			}
			assert.Equal(t, 1, code)
			assert.Contains(t, out, tt.want)
			assert.Contains(t, out, "install Go 1.26.3 or later from https://go.dev/dl/")
			assert.Equal(t, 1, strings.Count(out, "\n"), "one line: %q", out)
		})
	}
}

func TestCheckGoAcceptsTheGoThatRunsThis(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "./check-go.sh").CombinedOutput()
	require.NoError(t, err, string(out))
}

func TestInstallDeps(t *testing.T) {
	lab := []string{
		"ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovs-ofctl", "ovs-appctl", "ip", "ss", "ping", "ethtool", "nft",
		"sysctl", "ps", "nsenter", "unshare", "mount", "modprobe", "tcpdump",
	}
	docker := []string{"dockerd", "docker", "containerd", "runc", "iptables", "docker-compose"}
	withDocker := func(missing ...string) map[string]string {
		out := map[string]string{}
		for _, c := range slices.Concat(lab, docker) {
			if !slices.Contains(missing, c) {
				out[c] = "exit 0"
			}
		}
		return out
	}
	installed := func(missing ...string) map[string]string {
		out := map[string]string{}
		for _, c := range lab {
			out[c] = "exit 0"
		}
		for _, c := range missing {
			delete(out, c)
		}
		return out
	}
	with := func(m map[string]string, name, text string) map[string]string { m[name] = text; return m }
	const root, user = "echo 0", "echo 1000"
	apparmor := filepath.Join(t.TempDir(), "enabled")
	require.NoError(t, os.WriteFile(apparmor, []byte("Y\n"), 0o600))
	apt := `echo "RUNLEVEL=$RUNLEVEL apt-get $*"`

	for _, tt := range []struct {
		name  string
		set   string
		fakes map[string]string
		id    string
		code  int
		want  []string
		lines int

		apparmor string // the kernel's file
	}{
		{name: "all there, no root needed", set: "lab", fakes: with(installed(), "apt-get", apt), id: user},
		{
			name: "missing", set: "lab", fakes: with(installed("ovs-vswitchd", "ovs-ofctl", "nft"), "apt-get", apt), id: root,
			want: []string{" update\n", "RUNLEVEL=1 apt-get", "install -y --no-install-recommends openvswitch-switch " +
				"nftables\n"}, lines: 3,
		},
		{
			name: "missing, update fails", set: "lab", id: root,
			fakes: with(installed("ip"), "apt-get", `case "$*" in *update) exit 100 ;; esac; `+apt),
			want:  []string{"trying with the lists that are here", "--no-install-recommends iproute2\n"}, lines: 3,
		},
		{
			name: "install fails", set: "lab", id: root, code: 100,
			fakes: with(installed("ip"), "apt-get", `case "$*" in *install*) exit 100 ;; esac`), lines: 1,
		},
		{
			name: "no root", set: "lab", fakes: with(installed("ping"), "apt-get", apt), id: user, code: 1,
			want: []string{"root is needed to install iputils-ping", "sudo make deps"}, lines: 1,
		},
		{
			name: "another distribution", set: "lab", fakes: installed("ping", "tcpdump"), id: root, code: 1,
			want: []string{"no apt-get here", "iputils-ping tcpdump"}, lines: 1,
		},
		{
			name: "tests need more", set: "test", fakes: with(withDocker(), "apt-get", apt), id: root,
			want: []string{"--no-install-recommends frr podman gcc shellcheck apt-utils dpkg-dev gnupg groff-base zsh fish debootstrap qemu-system-x86 xz-utils systemd " +
				"etcd-client etcd-server openssl prometheus vagrant\n"}, lines: 3,
		},
		{name: "FRR is there", set: "frr", fakes: with(with(installed(), "vtysh", "exit 0"), "apt-get", apt), id: user},
		{
			name: "FRR", set: "frr", id: root, lines: 4,
			fakes: with(installed(), "apt-get", apt+`; case "$*" in *install*) "$POLICY_RC_D"; echo "policy says $?" ;; esac`),
			want:  []string{"--no-install-recommends frr\n", "policy says 101\n"},
		},
		{name: "Docker is there", set: "docker", fakes: with(withDocker("docker-compose"), "apt-get", apt), id: user},
		{
			// No service may start on the machine, and nothing of that stays.
			name: "Docker", set: "docker", id: root, lines: 5,
			fakes: with(installed(), "apt-get", apt+`; case "$*" in *install*) "$POLICY_RC_D"; echo "policy says $?"; [ -x "$POLICY_RC_D" ] && echo executable ;; esac`),
			want:  []string{"--no-install-recommends docker.io containerd runc iptables\n", "policy says 101\nexecutable\n"},
		},
		{
			name: "Docker on a kernel with AppArmor", set: "docker", id: root, lines: 3, apparmor: apparmor,
			fakes: with(withDocker("docker-compose"), "apt-get", apt),
			want:  []string{"--no-install-recommends apparmor\n"},
		},
		{
			name: "Kubernetes", set: "kubernetes", fakes: with(withDocker(), "apt-get", apt), id: root, lines: 3,
			want: []string{"--no-install-recommends curl netcat-openbsd bind9-dnsutils\n"},
		},
		{
			name: "machines", set: "vagrant", fakes: with(installed(), "apt-get", apt), id: root,
			want: []string{"--no-install-recommends vagrant libvirt-daemon-system libvirt-clients dnsmasq-base " +
				"qemu-system-x86 qemu-utils debootstrap openssh-client\n"}, lines: 3,
		},
		{
			name: "unknown set", set: "all", fakes: installed(), id: root, code: 2,
			want: []string{"use lab, docker, frr, test, kubernetes, vagrant or console"}, lines: 1,
		},
		{
			name: "a browser", set: "console", fakes: map[string]string{"apt-get": apt}, id: root,
			want: []string{"--no-install-recommends chromium\n"}, lines: 3,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakes := with(tt.fakes, "id", tt.id)
			policy := filepath.Join(t.TempDir(), "policy-rc.d")
			out, code := run(
				t,
				"install-deps.sh",
				[]string{"chmod", "rm", "grep"},
				fakes,
				[]string{
					"SBIN=",
					"CA_CERTIFICATES=/",
					"LIBC_HEADER=/",
					"BUSYBOX_STATIC=/",
					"VAGRANT_LIBVIRT=/",
					"FONTS=/",
					"CNI_PLUGINS=/",
					"POLICY_RC_D=" + policy,
					"APPARMOR=" + tt.apparmor,
				},
				tt.set,
			)
			assert.Equal(t, tt.code, code, out)
			assert.NoFileExists(t, policy)
			for _, w := range tt.want {
				assert.Contains(t, out, w)
			}
			assert.Equal(t, tt.lines, strings.Count(out, "\n"), out)
		})
	}
}

// outsideGit is the environment without what git sets for its hooks: a test
// run from one must not work on the repository it guards.
func outsideGit() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
}

func TestVersion(t *testing.T) {
	script, err := os.ReadFile("version.sh")
	require.NoError(t, err)
	tree := func(t *testing.T, text string) string {
		dir := filepath.Join(t.TempDir(), "baize")
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "scripts"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "scripts", "version.sh"), []byte(text), 0o755))
		return dir
	}
	version := func(t *testing.T, dir string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "scripts", "version.sh"), args...)
		cmd.Env = outsideGit()
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.TrimSpace(string(out))
	}
	git := func(t *testing.T, dir string, args ...string) {
		args = append(
			[]string{
				"-C",
				dir,
				"-c",
				"user.name=t",
				"-c",
				"user.email=t@example.org",
				"-c",
				"init.defaultBranch=main",
				"-c",
				"commit.gpgsign=false",
			},
			args...)
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Env = append(outsideGit(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	}

	t.Run("bare files", func(t *testing.T) {
		dir := tree(t, string(script))
		assert.Equal(t, "devel", version(t, dir))
		assert.Equal(t, "unknown", version(t, dir, "commit"))
	})
	t.Run("no commit yet", func(t *testing.T) {
		dir := tree(t, string(script))
		git(t, dir, "init", "-q")
		assert.Equal(t, "devel", version(t, dir))
	})
	t.Run("clone and archives", func(t *testing.T) {
		dir := tree(t, string(script))
		attributes, err := os.ReadFile("../.gitattributes")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, ".gitattributes"), attributes, 0o644))
		git(t, dir, "init", "-q")
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-q", "-m", "one")

		archive := func(args ...string) string {
			out := filepath.Join(t.TempDir(), "baize")
			require.NoError(t, os.MkdirAll(out, 0o755))
			git(t, dir, "archive", "-o", out+".tar", "HEAD")
			b, err := exec.CommandContext(t.Context(), "tar", "-C", out, "-xf", out+".tar").CombinedOutput()
			require.NoError(t, err, string(b))
			return version(t, out, args...)
		}
		assert.Regexp(t, `^[0-9a-f]{7,}$`, version(t, dir))
		assert.Regexp(t, `^[0-9a-f]{7}$`, archive())
		assert.Regexp(t, `^[0-9a-f]{40}$`, version(t, dir, "commit"))
		assert.Equal(t, version(t, dir, "commit"), archive("commit"))

		git(t, dir, "tag", "-m", "x", "v0.3.0")
		assert.Equal(t, "v0.3.0", version(t, dir))
		assert.Equal(t, "v0.3.0", archive())

		require.NoError(t, os.WriteFile(filepath.Join(dir, ".gitattributes"), append(attributes, '\n'), 0o644))
		assert.Equal(t, "v0.3.0-dirty", version(t, dir))
	})
	t.Run("packages sort as people do (U15)", func(t *testing.T) {
		dir := tree(t, string(script))
		git(t, dir, "init", "-q")
		commit := func(when string) {
			cmd := exec.CommandContext(t.Context(), "git", "-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org",
				"commit", "-q", "--allow-empty", "-m", when)
			cmd.Env = append(outsideGit(), "GIT_COMMITTER_DATE="+when, "GIT_CONFIG_GLOBAL=/dev/null")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
		}
		commit("2026-01-02T03:04:05Z")
		sorted := []string{version(t, dir, "package")}
		require.Regexp(t, `^0\.0\.0~git20260102030405\.[0-9a-f]{7,}$`, sorted[0])
		commit("2026-01-02T03:05:00Z")
		sorted = append(sorted, version(t, dir, "package"))
		for _, v := range []string{"v0.1.0-rc1", "v0.1.0", "v0.1.0-3-gabc1234", "v0.1.0-12-g0bc1234-dirty", "v0.2.0", "0.10.0"} {
			sorted = append(sorted, version(t, dir, "package", v))
		}
		for i, v := range sorted[1:] {
			out, err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", sorted[i], "lt", v).CombinedOutput()
			assert.NoError(t, err, "%s before %s: %s", sorted[i], v, out)
		}
	})
}
