//go:build system

package domaintest

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// notHere are commands of the pages that TestPages does not run, by how they begin.
var notHere = map[string]string{
	"make":                     "it is what makes the lab, and removes it",
	"apt-get":                  "docs/first-hosts.md has it, which packagetest runs",
	"echo":                     "docs/first-hosts.md has it, which packagetest runs",
	"systemctl":                "docs/first-hosts.md has it, which packagetest runs",
	"git":                      "it is how one gets here",
	"baize network create":     "the lab has the network",
	"baize topology --watch":   "until Ctrl-C; package command types it",
	"baize ping --mesh":        "probes may not have told of all yet, which is an exit code; see TestMesh",
	"baize ping web":           "names are an engine's; see TestMesh",
	"baize capture":            "until Ctrl-C; see TestCapture",
	"ovs-appctl ofproto/trace": "PORT and LINE stand for others",
	"baize explain LINE":       "PORT and LINE stand for others",
}

// TestPages: what README.md has a newcomer try in a lab, and short commands of other
// pages, run as they are printed.
func TestPages(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Networks: []lab.NetworkSpec{}})
	d.Must("host1", "ip", "netns", "add", "web")
	ran := 0
	for _, page := range []string{"README.md", "docs/mesh.md", "docs/pipeline.md", "docs/troubleshooting.md"} {
		for _, line := range commandLines(t, "../../../"+page) {
			host, command := "host1", line
			if rest, inLab := strings.CutPrefix(line, "bin/baize lab exec "); inLab {
				host, command, _ = strings.Cut(rest, " -- ")
			}
			if skipped(command) {
				continue
			}
			out, err := d.Run(host, "sh", "-c", command)
			assert.NoError(t, err, "%s: %s\n%s", page, line, out)
			ran++
		}
	}
	require.Greater(t, ran, 12)
}

func skipped(command string) bool {
	for begin := range notHere {
		if command == begin || strings.HasPrefix(command, begin+" ") {
			return true
		}
	}
	return false
}

// commandLines are the lines of a page's shell blocks: indented, or fenced as "sh".
func commandLines(t *testing.T, page string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	fenced := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if fence, ok := strings.CutPrefix(line, "```"); ok {
			fenced = fence == "sh"
			continue
		}
		command, indented := strings.CutPrefix(line, "    ")
		first, _, _ := strings.Cut(command, " ")
		if (fenced || indented) && first != "" && strings.Trim(first, "abcdefghijklmnopqrstuvwxyz-/") == "" {
			out = append(out, command)
		}
	}
	return out
}
