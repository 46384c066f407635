//go:build system

package domaintest

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// What the lab shows and docs/docker.md are true, line by line.
func TestDockerDocs(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Docker: true, Hosts: 2, AgentArgs: []string{"--host-names", "127.0.0.12"}})
	firstHostsWithDocker(d)
	hints(d)
	const dir = "/run/page"
	ran := 0
	for _, b := range testkit.Blocks(t, "../../../docs/docker.md") {
		if path.Ext(b.Name) == ".yaml" {
			for _, host := range []string{"host1", "host2"} {
				d.Must(host, "sh", "-c", fmt.Sprintf("mkdir -p %s && cat > %s/%s <<'E'\n%s\nE", dir, dir, b.Name, b.Text()))
			}
			continue
		}
		if b.Name != "console" && b.Name != "console-refused" {
			continue
		}
		refusal := ""
		for _, line := range b.Lines {
			host, command, isCommand := strings.Cut(line, "# ")
			if !isCommand {
				assert.Contains(t, refusal, line, "what the page shows")
				continue
			}
			ran++
			out, err := runAsShown(d, host, "cd "+dir+" 2>/dev/null; PATH=/usr/bin:$PATH; "+command)
			if b.Name == "console-refused" {
				require.Error(t, err, line)
				refusal = err.Error()
				continue
			}
			require.NoError(t, err, "%s\n%s", line, out)
		}
	}
	require.Greater(t, ran, 10)
}

// hints runs what a newcomer is told to try.
func hints(d *domain) {
	d.T.Helper()
	s, err := d.Status()
	require.NoError(d.T, err)
	for _, h := range d.Hints(s) {
		out, err := runAsShown(d, h.Target, "PATH=/usr/bin:$PATH; "+h.Command)
		require.NoError(d.T, err, "%s: %s\n%s", h.Target, h.Command, out)
	}
}

// U11: what 'lab up --flannel --docker' says to try failed: names of containers in
// flannel's network were not published, and that was reported as a missing network.
func TestDockerInFlannel(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{
		Docker: true, Hosts: 2, Foreign: lab.Foreign{Flannel: true}, Networks: []lab.NetworkSpec{},
	})
	hints(d)
	assert.Contains(t, d.Must("host1", "baize", "name", "list", "-q"), "web\n")
	d.docker("host2", "rm", "-f", "web")
	d.Await("the names are gone", func() (bool, string) {
		out := d.Must("host1", "baize", "name", "list", "-q")
		return out == "", out
	})
}

// firstHostsWithDocker runs what docs/first-hosts.md has for hosts with Docker, and
// README.md as well; packagetest runs the rest of that page. The engines here have
// one image, which becomes nginx as well: it stays up, and that is all that is asked of it.
func firstHostsWithDocker(d *domain) {
	d.T.Helper()
	const nginx = `docker create --name image busybox && docker commit --change 'CMD ["sleep", "1000"]' image nginx && docker rm image`
	d.Must("host1", "sh", "-c", "PATH=/usr/bin:$PATH; "+nginx)
	readme, err := os.ReadFile("../../../README.md")
	require.NoError(d.T, err)
	ran := 0
	for _, c := range testkit.TypedAsRoot(d.T, "../../../docs/first-hosts.md") {
		if strings.HasPrefix(c.Text, "docker ") {
			assert.Contains(d.T, string(readme), "\n"+c.Host+"# "+c.Text+"\n")
			out, err := runAsShown(d, c.Host, "PATH=/usr/bin:$PATH; "+c.Text)
			require.NoError(d.T, err, "%s\n%s", c.Text, out)
			ran++
		}
	}
	require.Equal(d.T, 4, ran)
	hostAsksForNames(d)
	namesPage(d)
	d.docker("host1", "rm", "-f", "web")
	for _, host := range []string{"host1", "host2"} {
		d.docker(host, "network", "rm", "blue")
	}
}

// namesPage types what docs/names.md has people ask, of web, and reads the settings that it
// has for engines.
func namesPage(d *domain) {
	d.T.Helper()
	const page = "../../../docs/names.md"
	address := d.docker("host1", "inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "web")
	ran := 0
	for _, line := range testkit.Commands(d.T, page) {
		if first, _, _ := strings.Cut(line, " "); first != "baize" && first != "docker" {
			continue // a picture; the file of an engine's settings, which the lab's have as arguments
		}
		line = strings.NewReplacer("NAME", "web", "CONTAINER", "web", "10.1.5.2", address).Replace(line)
		out, err := runAsShown(d, "host1", "PATH=/usr/bin:$PATH; "+line)
		require.NoError(d.T, err, "%s\n%s", line, out)
		if strings.HasPrefix(line, "baize name") {
			assert.Contains(d.T, out, "web", line)
		}
		ran++
	}
	require.Equal(d.T, 6, ran)
	b, err := os.ReadFile(page)
	require.NoError(d.T, err)
	settings := regexp.MustCompile(`(?m)^    (\{.*\})$`).FindAllSubmatch(b, -1)
	require.Len(d.T, settings, 2)
	known := d.Must("host1", "dockerd", "--help")
	for _, s := range settings {
		var keys map[string][]string
		require.NoError(d.T, json.Unmarshal(s[1], &keys), "%s", s[1])
		for key := range keys {
			assert.Contains(d.T, known, "--"+strings.TrimSuffix(key, "s"), "a setting of engines is a flag of theirs")
		}
	}
}

// hostAsksForNames: a process of a host finds a container of another one by the C
// library's resolver, as docs/names.md has it for hosts without systemd-resolved.
func hostAsksForNames(d *domain) {
	d.T.Helper()
	address := d.docker("host1", "inspect", "-f", "{{.NetworkSettings.Networks.blue.IPAddress}}", "web")
	d.Must("host2", "sh", "-c", "echo nameserver 127.0.0.12 >/run/resolv.conf")
	for _, name := range []string{"web.blue", "web"} {
		d.Await("host2 finds "+name, func() (bool, string) {
			out, err := d.Run("host2", "unshare", "--mount", "sh", "-ec",
				"mount --bind /run/resolv.conf /etc/resolv.conf; getent ahostsv4 "+name)
			return strings.HasPrefix(out, address+" "), fmt.Sprint(out, err)
		})
	}
}

// runAsShown runs a command of the page. Whoever types them is slower than a name
// takes to the other host, which this test need not be on a busy machine.
func runAsShown(d *domain, host, command string) (out string, err error) {
	for end := time.Now().Add(20 * time.Second); ; {
		out, err = d.Run(host, "sh", "-c", command)
		if err == nil || !strings.Contains(err.Error()+out, "bad address") {
			return out, err
		}
		if time.Now().After(end) {
			tellNames(d)
			return out, err
		}
	}
}

// tellNames says, of a name that is not found, how far it came: from the engine of its
// host to the agent there, from that to etcd, and from there to the others.
func tellNames(d *domain) {
	for _, host := range []string{"host1", "host2"} {
		for _, command := range []string{
			"docker network ls", "docker ps", "docker network inspect blue", "baize endpoint list -o json",
			"baize name list -o json", "baize doctor",
		} {
			out, err := d.Run(host, "sh", "-c", "PATH=/usr/bin:$PATH; "+command)
			d.T.Logf("%s: %s: %v\n%s", host, command, err, out)
		}
		d.T.Logf("%s: goroutines of the agent: %s", host, agentStacks(d, host))
	}
}

// agentStacks ends the agent of a host in the way in which it says what it was doing.
func agentStacks(d *domain, host string) string {
	h := d.Host(host)
	if err := h.Kill(d.T.Context(), lab.ServiceAgent, unix.SIGQUIT); err != nil {
		return err.Error()
	}
	stacks := ""
	d.Await("the agent of "+host+" has told its goroutines", func() (bool, string) {
		log, err := os.ReadFile(filepath.Join(h.Dir(), "log", "agent.log"))
		_, stacks, _ = strings.Cut(string(log), "SIGQUIT")
		return strings.Contains(stacks, "rip "), fmt.Sprint(err)
	})
	var ours []string
	for line := range strings.Lines(stacks) {
		if strings.HasPrefix(line, "goroutine ") || strings.Contains(line, "agent/names.") ||
			strings.Contains(line, "agent/docker.") {
			ours = append(ours, line)
		}
	}
	return strings.Join(ours, "")
}
