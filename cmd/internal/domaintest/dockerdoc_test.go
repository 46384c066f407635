//go:build system

package domaintest

import (
	"fmt"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// block is a fenced block of a page: its name and its lines.
type block struct {
	name  string
	lines []string
}

func blocks(t *testing.T, page string) []block {
	t.Helper()
	b, err := os.ReadFile(page)
	require.NoError(t, err)
	var out []block
	open := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if name, fence := strings.CutPrefix(line, "```"); fence {
			if open = !open; open {
				out = append(out, block{name: name})
			}
		} else if open {
			out[len(out)-1].lines = append(out[len(out)-1].lines, line)
		}
	}
	return out
}

// What the lab shows and docs/docker.md are true, line by line.
func TestDockerDocs(t *testing.T) {
	d := up(t, topology.VXLAN, lab.Config{Docker: true, Hosts: 2})
	// What a newcomer is told to try.
	s, err := d.Status()
	require.NoError(t, err)
	for _, h := range d.Hints(s) {
		d.must(h.Target, "sh", "-c", "PATH=/usr/bin:$PATH; "+h.Command)
	}
	const dir = "/run/page"
	ran := 0
	for _, b := range blocks(t, "../../../docs/docker.md") {
		if path.Ext(b.name) == ".yaml" {
			for _, host := range []string{"host1", "host2"} {
				d.must(host, "sh", "-c", fmt.Sprintf("mkdir -p %s && cat > %s/%s <<'E'\n%s\nE", dir, dir, b.name, strings.Join(b.lines, "\n")))
			}
			continue
		}
		if b.name != "console" && b.name != "console-refused" {
			continue
		}
		refusal := ""
		for _, line := range b.lines {
			host, command, isCommand := strings.Cut(line, "# ")
			if !isCommand {
				assert.Contains(t, refusal, line, "what the page shows")
				continue
			}
			ran++
			out, err := d.run(host, "sh", "-c", "cd "+dir+" 2>/dev/null; PATH=/usr/bin:$PATH; "+command)
			if b.name == "console-refused" {
				require.Error(t, err, line)
				refusal = err.Error()
				continue
			}
			require.NoError(t, err, "%s\n%s", line, out)
		}
	}
	require.Greater(t, ran, 10)
}
