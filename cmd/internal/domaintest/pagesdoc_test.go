//go:build system

package domaintest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// notHere are commands of the pages that TestPages does not run, by how they begin.
var notHere = map[string]string{
	"make":                       "it is what makes the lab, and removes it",
	"apt-get":                    "docs/first-hosts.md has it, which packagetest runs",
	"echo":                       "docs/first-hosts.md has it, which packagetest runs",
	"systemctl":                  "docs/first-hosts.md has it, which packagetest runs",
	"git":                        "it is how one gets here",
	"baize network create":       "the lab has the network",
	"baize topology --watch":     "until Ctrl-C; package command types it",
	"baize ping --mesh":          "probes may not have told of all yet, which is an exit code; see TestMesh",
	"baize ping web":             "names are an engine's; see TestMesh",
	"baize capture web host2/db": "there is no db; docs/capture.md has the same, which runs",
	"ovs-appctl ofproto/trace":   "PORT and LINE stand for others",
	"baize explain LINE":         "PORT and LINE stand for others",
}

// TestPages: what README.md has a newcomer try in a lab, and short commands of other
// pages, run as they are printed.
func TestPages(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Networks: []lab.NetworkSpec{}})
	d.Must("host1", "ip", "netns", "add", "web")
	ran := 0
	for _, page := range []string{
		"README.md", "docs/backup.md", "docs/capture.md", "docs/flows.md", "docs/mesh.md", "docs/pipeline.md", "docs/troubleshooting.md",
	} {
		for _, line := range testkit.Commands(t, "../../../"+page) {
			host, command := "host1", line
			if rest, inLab := strings.CutPrefix(line, "bin/baize lab exec "); inLab {
				host, command, _ = strings.Cut(rest, " -- ")
			}
			if skipped(command) {
				continue
			}
			if strings.HasPrefix(command, "baize capture ") {
				command = untilCtrlC(command)
			}
			out, err := d.Run(host, "bash", "-o", "pipefail", "-c", command)
			assert.NoError(t, err, "%s: %s\n%s", page, line, out)
			ran++
		}
	}
	require.Greater(t, ran, 22)
	settingsPage(d)
	consolePage(d)
}

// untilCtrlC is a capture as it is ended by a person who has seen enough. Nothing has a
// display here: what reads the capture does so in its own words.
func untilCtrlC(command string) string {
	capture, reader, piped := strings.Cut(command, " | ")
	command = "timeout --preserve-status -s INT 2 " + capture
	if piped {
		command += " | " + strings.Replace(reader, "wireshark -k -i -", "tcpdump -n -r -", 1)
	}
	return command
}

// pageDir is where somebody on host1 sits who types what a page has, and has the files that
// it names. Of its home and of /etc the machine sees nothing.
const pageDir = "/run/page"

// prepareToType makes pageDir, once.
func prepareToType(d *domain) {
	d.T.Helper()
	d.Must("host1", "sh", "-ec", "mkdir -p "+pageDir+"/upper "+pageDir+"/work "+pageDir+"/.config/baize; cd "+pageDir+`
mount -t tmpfs etc upper; mkdir upper/upper upper/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=upper/upper,workdir=upper/work /etc; mkdir -p /etc/baize
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=host1 -keyout host1.key -out host1.crt 2>/dev/null
cp host1.crt ca.crt; echo secret >password.txt`)
}

// typed is a command as somebody in pageDir types it, whom no variable tells of etcd.
func typed(command string) []string {
	return []string{"sh", "-c", "cd " + pageDir + "; export HOME=" + pageDir + "; unset BAIZE_ETCD_ENDPOINTS; " + command}
}

// settingsPage types what docs/settings.md has of contexts, on the file that it shows.
func settingsPage(d *domain) {
	d.T.Helper()
	const page = "../../../docs/settings.md"
	prepareToType(d)
	for _, b := range testkit.Blocks(d.T, page) {
		if b.Name == "config.yaml" {
			d.Must("host1", "sh", "-c", "umask 077; cat >"+pageDir+"/.config/baize/config.yaml <<'E'\n"+b.Text()+"\nE")
		}
	}
	require.Contains(d.T, d.Must("host1", typed("baize context list")...), "prod")
	ran := 0
	for _, line := range testkit.Commands(d.T, page) {
		if line == "baize network list" {
			continue // the context is that of a cluster elsewhere
		}
		out, err := d.Run("host1", typed(line)...)
		assert.NoError(d.T, err, "%s: %s\n%s", page, line, out)
		ran++
	}
	require.Equal(d.T, 4, ran)
	out := d.Must("host1", typed("baize config")...)
	for _, want := range []string{
		`etcd-endpoints +https://192.0.2.1:2379,https://192.0.2.2:2379 +context prod`, `etcd-username +ops +context prod`,
		`etcd-password +\(set\) +context prod`, `etcd-cafile +` + pageDir + `/ca.crt +context prod`,
	} {
		assert.Regexp(d.T, "(?m)^"+want, out)
	}
	assert.NotContains(d.T, out, "secret")
	d.Must("host1", "rm", "-r", pageDir+"/.config")
}

// consolePage serves the console in every way that docs/console.md has.
func consolePage(d *domain) {
	d.T.Helper()
	const page = "../../../docs/console.md"
	lines := testkit.Commands(d.T, page)
	for _, b := range testkit.Blocks(d.T, page) {
		if b.Name == "console" {
			command, found := strings.CutPrefix(b.Lines[0], "host1# ")
			require.True(d.T, found)
			lines = append(lines, command)
		}
	}
	served := 0
	for _, line := range lines {
		if !strings.HasPrefix(line, "baize console") {
			out, err := d.Run("host1", typed(line)...)
			assert.NoError(d.T, err, "%s: %s\n%s", page, line, out)
			continue
		}
		stop, out := d.Start("host1", typed("exec "+line)...)
		want := "console: http://127.0.0.1:7474/"
		if strings.Contains(line, "--listen") {
			want = "console: https://"
		}
		d.Await(line, func() (bool, string) { return strings.Contains(out.String(), want), out.String() })
		stop()
		served++
	}
	require.Equal(d.T, 3, served)
}

func skipped(command string) bool {
	for begin := range notHere {
		if command == begin || strings.HasPrefix(command, begin+" ") {
			return true
		}
	}
	return false
}
