//go:build system && engines

package domaintest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// engineRuns is how many containers each engine starts while its agent is killed.
var engineRuns = flag.Int("engine-runs", 125, "containers that each engine starts while the agent is killed every second")

// engines are those that 'make test-engines' fetched, by host, beside the machine's own on
// host1.
func engines(t *testing.T) map[string]string {
	t.Helper()
	dirs := strings.Fields(os.Getenv("BAIZE_TEST_ENGINES"))
	require.NotEmpty(t, dirs, "BAIZE_TEST_ENGINES: the directories of engines: run 'make test-engines'")
	out := map[string]string{}
	for i, dir := range dirs {
		out[fmt.Sprintf("host%d", i+2)] = dir
	}
	return out
}

// three are the engines of the first three hosts.
func three(t *testing.T) map[string]string {
	t.Helper()
	e := engines(t)
	require.Contains(t, e, "host3")
	return map[string]string{"host2": e["host2"], "host3": e["host3"]}
}

// Each host has another version, or every test here would prove less than it
// says.
func TestMixedEngines(t *testing.T) {
	e := three(t)
	d := up(t, topology.VXLAN, lab.Config{Docker: true, Engines: e})
	var versions []string
	for _, host := range d.Hosts() {
		versions = append(versions, d.docker(host.Name(), "version", "-f", "{{.Server.Version}}"))
	}
	t.Log(versions)
	for i, v := range versions {
		assert.NotContains(t, append(append([]string{}, versions[:i]...), versions[i+1:]...), v)
	}
}

func TestMixedDockerPlugin(t *testing.T) { testDockerPlugin(t, three(t)) }

func TestMixedDocker0(t *testing.T) { testDocker0(t, three(t)) }

// Whatever version an engine has, a restart of the agent is invisible to it (findings U1,
// U2, U7): what starts on Docker's own bridge starts in a network of Baize as well.
func TestEngines(t *testing.T) {
	e := engines(t)
	d := up(t, topology.VXLAN, lab.Config{Docker: true, Engines: e, Hosts: len(e) + 1})
	for _, host := range d.Hosts() {
		plugin{d}.network(host.Name(), "shop", "--subnet", "10.7.0.0/16")
	}
	kinds := map[string]string{}
	for _, host := range d.Hosts() {
		kinds[host.Name()] = d.docker(host.Name(), "version", "-f", "{{.Server.Version}}")
	}
	// Most of their time hosts wait for agents that are started again.
	t.Run("agents are killed", func(t *testing.T) {
		for host, version := range kinds {
			t.Run(version, func(t *testing.T) {
				t.Parallel()
				t.Run("while containers start", func(t *testing.T) { plugin{d.in(t)}.engineUnderKills(host) })
				t.Run("while compose works", func(t *testing.T) { plugin{d.in(t)}.engineCompose(host) })
				t.Run("an agent that hangs", func(t *testing.T) { plugin{d.in(t)}.engineHangs(host) })
			})
		}
	})
	for i, host := range d.Hosts() {
		h, other := host.Name(), d.Hosts()[(i+1)%len(d.Hosts())].Name()
		for name, test := range map[string]func(p plugin){
			"an address that is taken": func(p plugin) { p.engineTheft(h, other) },
			"an alias on two hosts":    func(p plugin) { p.engineAlias(h, other) },
			"ports are named after containers": func(p plugin) {
				p.container(h, "named", "--network", "shop")
				require.Contains(p.T, p.Must(h, "ovs-vsctl", "show"), "Port bz-named")
				p.docker(h, "rm", "-f", "named")
				p.portNamedAtBoot(h)
			},
			"an engine is killed": func(p plugin) { p.addressAfterKill(h) },
		} {
			t.Run(kinds[h]+"/"+name, func(t *testing.T) { test(plugin{d.in(t)}) })
		}
	}
}

// engineUnderKills is U1.
func (p plugin) engineUnderKills(host string) {
	const always, life = 8, 11 * time.Second
	bridge, shop := p.always(host, "bridge", always, life), p.always(host, "shop", always, life)
	killed := p.killing(host, time.Second, unix.SIGKILL)
	start := time.Now()
	failed := p.runs(host, *engineRuns, "--network", "shop")
	took := time.Since(start)
	start = time.Now()
	failedBridge := p.runs(host, *engineRuns, "--network", "bridge")
	kills := killed()
	p.T.Logf("%d of %d failed in a network of Baize (%v), %d on Docker's bridge (%v); %d kills; %d containers are restarted "+
		"in each", failed, *engineRuns, took.Round(time.Second), failedBridge, time.Since(start).Round(time.Second), kills, always)
	assert.LessOrEqual(p.T, failed, failedBridge)
	assert.GreaterOrEqual(p.T, kills, *engineRuns/10)
	require.NoError(p.T, p.Host(host).AwaitService(p.T.Context(), lab.ServiceAgent))
	bridge()
	shop()
	p.nothingLeft(host)
}

// engineCompose brings three services up and down while the agent is killed.
func (p plugin) engineCompose(host string) {
	file := filepath.Join(p.T.TempDir(), "compose.yaml")
	service := "{image: " + lab.DockerImage + ", init: true, command: sleep 100000, restart: always, networks: [shop]}"
	require.NoError(p.T, os.WriteFile(file, []byte("version: \"2.4\"\nservices:\n  one: "+service+"\n  two: "+service+
		"\n  three: "+service+"\nnetworks:\n  shop: {external: true}\n"), 0o600))
	compose := func(args ...string) error {
		_, err := p.Run(host, append([]string{"docker-compose", "-p", "many", "-f", file}, args...)...)
		return err
	}
	killed := p.killing(host, time.Second, unix.SIGKILL)
	rounds := max(2, *engineRuns/25)
	for i := range rounds {
		assert.NoError(p.T, compose("up", "-d"), "round %d", i)
		assert.NoError(p.T, compose("down", "-t", "0"), "round %d", i)
	}
	p.T.Logf("%d times three services up and down; %d kills", rounds, killed())
	require.NoError(p.T, p.Host(host).AwaitService(p.T.Context(), lab.ServiceAgent))
	p.nothingLeft(host)
}

// engineHangs is U7: a short pause is waited for, a long one is refused, and the engine's
// own networks do not notice.
func (p plugin) engineHangs(host string) {
	require.NoError(p.T, p.Host(host).Kill(p.T.Context(), lab.ServiceAgent, unix.SIGSTOP))
	resume := time.AfterFunc(5*time.Second, func() {
		_ = p.Host(host).Kill(p.T.Context(), lab.ServiceAgent, unix.SIGCONT)
	})
	defer resume.Stop()
	p.docker(host, "run", "--rm", "--network", "bridge", lab.DockerImage, "true")
	p.docker(host, "run", "--rm", "--network", "shop", lab.DockerImage, "true")
	require.NoError(p.T, p.Host(host).AwaitService(p.T.Context(), lab.ServiceAgent))
	start := time.Now()
	p.hang(host)
	p.T.Logf("an agent that hangs is given up within %v, with what it does later", time.Since(start).Round(time.Second))
}

// engineAlias is U12.
func (p plugin) engineAlias(host, other string) {
	args := []string{"--network", "shop", "--network-alias", "pool"}
	p.container(host, "near", args...)
	p.container(other, "far", args...)
	p.container(host, "asks", "--network", "shop", "--dns-search", topology.NamesDomain, "--dns-option", "ndots:1")
	addrs := []string{p.addr(host, "near", "shop").String(), p.addr(other, "far", "shop").String()}
	p.Await("both to be known", func() (bool, string) {
		out, _ := p.Run(host, dockerCLI, "exec", "asks", "nslookup", "all.pool."+topology.NamesDomain)
		return strings.Contains(out, addrs[0]) && strings.Contains(out, addrs[1]), out
	})
	p.balanced(host, "asks", "pool", addrs)
	p.docker(host, "rm", "-f", "near", "asks")
	p.docker(other, "rm", "-f", "far")
}

// engineTheft is U2.
func (p plugin) engineTheft(host, owner string) {
	p.container(owner, "owner", "--network", "shop")
	p.AwaitRun("the container's name", host, "baize", "name", "resolve", "owner")
	p.refused(host, []string{p.addr(owner, "owner", "shop").String(), "node " + owner, "container owner"},
		"run", "--rm", "--network", "shop", "--ip", p.addr(owner, "owner", "shop").String(), lab.DockerImage, "true")
	p.docker(owner, "rm", "-f", "owner")
}
