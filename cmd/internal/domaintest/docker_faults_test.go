//go:build system

package domaintest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology/etcdstore"
)

func testDockerWithoutEtcd(p plugin) {
	p.container("host1", "peer", "--network", "shop")
	life := func() time.Duration {
		start := time.Now()
		p.container("host2", "short", "--network", "shop")
		p.reach("host1", "peer", p.addr("host2", "short", "shop"))
		p.docker("host2", "stop", "-t", "0", "short")
		p.docker("host2", "start", "short")
		p.reach("host1", "peer", p.addr("host2", "short", "shop"))
		p.docker("host2", "rm", "-f", "short")
		p.nothingLeft("host2")
		return time.Since(start)
	}
	with := life()
	require.NoError(p.T, p.Host("fabric").StopService(p.T.Context(), lab.ServiceEtcd))
	p.T.Cleanup(func() { _ = p.Host("fabric").StartService(context.Background(), lab.ServiceEtcd) })
	without := life()
	p.T.Logf("the life of a container: %v with etcd, %v without", with, without)
	// One request that waited for etcd would take longer than this.
	assert.Less(p.T, without, 3*with+etcdstore.DefaultTimeout)
	require.NoError(p.T, p.Host("fabric").StartService(p.T.Context(), lab.ServiceEtcd))
}

func testDockerWithoutAgent(p plugin) {
	p.container("host1", "peer", "--network", "shop")
	p.container("host2", "stays", "--network", "shop")
	for _, name := range []string{"goes", "too"} {
		p.container("host2", name, "--network", "shop")
	}
	stream := p.pingingFrom("host1", "peer", p.addr("host2", "stays", "shop"))
	require.NoError(p.T, p.Host("host2").Kill(p.T.Context(), lab.ServiceAgent, unix.SIGKILL))
	require.NoError(p.T, p.Host("host2").AwaitService(p.T.Context(), lab.ServiceAgent))
	start := time.Now()
	p.container("host2", "after", "--network", "shop")
	run := time.Since(start)
	p.reach("host1", "peer", p.addr("host2", "after", "shop"))

	require.NoError(p.T, p.Host("host2").StopService(p.T.Context(), lab.ServiceAgent))
	start = time.Now()
	p.docker("host2", "rm", "-f", "goes")
	p.docker("host2", "stop", "-t", "0", "too")
	assert.Less(p.T, time.Since(start), 3*run+pluginWait, "containers end without an agent")
	p.refused("host2", []string{"systemctl start baize"}, "run", "--rm", "--network", "shop", lab.DockerImage, "true")
	require.NoError(p.T, p.Host("host2").StartService(p.T.Context(), lab.ServiceAgent))
	p.nothingLeft("host2")
	p.docker("host2", "start", "too")
	p.reach("host1", "peer", p.addr("host2", "too", "shop"))
	stream.Goes(100)
	assert.Less(p.T, stream.Ends().Row(), 5, "packets lost in a row, 20 ms apart")
}

// U1: restarts of the agent, by SIGKILL and SIGTERM in turns, are none of Docker's
// business: what starts meanwhile starts, what is to be restarted always is.
func testDockerAgentRestarts(p plugin) {
	check := p.always("host2", "shop", 3, 3*time.Second)
	killed := p.killing("host2", 2*time.Second, unix.SIGKILL, unix.SIGTERM)
	failed := p.runs("host2", 4, "--network", "shop") + p.runs("host2", 2, "--network", "shop", "--ip", "10.7.0.77")
	assert.GreaterOrEqual(p.T, killed(), 2, "the agent was killed while containers started")
	assert.Zero(p.T, failed, "containers that did not start")
	require.NoError(p.T, p.Host("host2").AwaitService(p.T.Context(), lab.ServiceAgent))
	check()
	p.nothingLeft("host2")
}

// killing kills a host's agent again and again, each time after it has lived for a
// while, until the function returned is called, which says how often.
func (p plugin) killing(host string, life time.Duration, signals ...unix.Signal) (stop func() int) {
	over, killed := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { killed <- n }()
		for {
			// Its life begins when it is ready, on a machine however busy.
			_ = p.Host(host).AwaitService(p.T.Context(), lab.ServiceAgent)
			select {
			case <-over:
				return
			case <-time.After(life):
			}
			if p.Host(host).Kill(p.T.Context(), lab.ServiceAgent, signals[n%len(signals)]) == nil {
				n++
			}
		}
	}()
	return func() int {
		close(over)
		return <-killed
	}
}

// runs starts containers one after the other that end at once, and counts those that
// failed.
func (p plugin) runs(host string, n int, args ...string) (failed int) {
	argv := append(append([]string{dockerCLI, "run", "--rm"}, args...), lab.DockerImage, "true")
	for i := range n {
		if out, err := p.Run(host, argv...); err != nil {
			failed++
			p.T.Logf("%s: run %d: %s: %v", host, i, out, err)
		}
	}
	return failed
}

// always starts containers that end after a while and are to be restarted. The function
// returned requires that they still are, and removes them. An engine waits for up to a
// minute before it restarts one that has not lived for ten seconds.
func (p plugin) always(host, network string, n int, life time.Duration) (check func()) {
	name := func(i int) string { return fmt.Sprintf("always-%s-%d", network, i) }
	for i := range n {
		p.docker(host, "run", "-d", "--restart", "always", "--network", network, "--name", name(i),
			lab.DockerImage, "sh", "-c", fmt.Sprintf("sleep %.0f; exit 1", life.Seconds()))
	}
	return func() {
		for i := range n {
			count := func() string { return p.docker(host, "inspect", "-f", "{{.RestartCount}}", name(i)) }
			before := count()
			p.Await(name(i)+" is started again and again", func() (bool, string) { now := count(); return now != before, now })
			p.docker(host, "rm", "-f", name(i))
		}
	}
}

// U7: an agent that hangs keeps Docker no longer than one that is away.
func testDockerAgentHangs(p plugin) { p.hang("host2") }

func (p plugin) hang(host string) {
	p.container(host, "ends", "--network", "shop")
	require.NoError(p.T, p.Host(host).Kill(p.T.Context(), lab.ServiceAgent, unix.SIGSTOP))
	p.docker(host, "rm", "-f", "ends")
	p.refused(host, []string{"systemctl restart baize"}, "run", "--rm", "--network", "shop", lab.DockerImage, "true")
	require.NoError(p.T, p.Host(host).Kill(p.T.Context(), lab.ServiceAgent, unix.SIGCONT))
	p.docker(host, "run", "--rm", "--network", "shop", lab.DockerImage, "true")
	p.nothingLeft(host)
}

func (p plugin) restartEngine(host string) {
	require.NoError(p.T, p.Host(host).StopService(p.T.Context(), lab.ServiceDockerd))
	require.NoError(p.T, p.Host(host).StartService(p.T.Context(), lab.ServiceDockerd))
}

// portNamedAtBoot restarts the engine: what it starts before it answers anybody has a port
// that is named after the container (U13).
func (p plugin) portNamedAtBoot(host string) {
	p.container(host, "booted", "--network", "shop", "--restart", "always")
	p.restartEngine(host)
	p.Await("the container to be back", func() (bool, string) {
		out := p.Must(host, "ovs-vsctl", "show")
		return strings.Contains(out, "Port bz-booted"), out
	})
	p.docker(host, "rm", "-f", "booted")
}

// addressAfterKill kills the engine beside an agent that has just started. The next engine
// ends the container, cleans up after it, and starts it again with its address, which must
// be free by then: a container that is not started at this moment stays dead (U1).
func (p plugin) addressAfterKill(host string) {
	p.container(host, "fixed", "--network", "shop", "--restart", "always", "--ip", "10.7.252.9")
	before := p.docker(host, "inspect", "-f", "{{.State.Pid}}", "fixed")
	require.NoError(p.T, p.Host(host).StopService(p.T.Context(), lab.ServiceAgent))
	require.NoError(p.T, p.Host(host).StartService(p.T.Context(), lab.ServiceAgent))
	require.NoError(p.T, p.Host(host).Kill(p.T.Context(), lab.ServiceDockerd, unix.SIGKILL))
	require.NoError(p.T, p.Host(host).AwaitService(p.T.Context(), lab.ServiceDockerd))
	p.Await("the container to run again", func() (bool, string) {
		now := p.docker(host, "inspect", "-f", "{{.State.Running}} {{.State.Pid}} {{.State.Error}}", "fixed")
		return strings.HasPrefix(now, "true ") && !strings.HasPrefix(now, "true "+before+" "), now
	})
	p.docker(host, "rm", "-f", "fixed")
	p.nothingLeft(host)
}

func testDockerEngine(p plugin) {
	p.container("host1", "peer", "--network", "shop")
	p.container("host2", "server", "--network", "shop")
	restart := func() { p.restartEngine("host2") }
	p.portNamedAtBoot("host2")
	p.addressAfterKill("host2")
	p.docker("host2", "start", "server")
	p.reach("host1", "peer", p.addr("host2", "server", "shop"))
	p.nothingLeft("host2")

	p.Must(
		"host2",
		"sh",
		"-c",
		`echo '{"live-restore": true}' > /etc/docker/daemon.json && kill -HUP "$(cat /run/docker.pid)"`,
	)
	p.Await("live-restore", func() (bool, string) {
		out := p.docker("host2", "info", "-f", "{{.LiveRestoreEnabled}}")
		return out == "true", out
	})
	to := p.addr("host2", "server", "shop")
	stream := p.pingingFrom("host1", "peer", to)
	restart()
	require.NoError(p.T, p.Host("host2").Kill(p.T.Context(), lab.ServiceDockerd, unix.SIGKILL))
	require.NoError(p.T, p.Host("host2").AwaitService(p.T.Context(), lab.ServiceDockerd))
	stream.Goes(100)
	assert.Less(p.T, stream.Ends().Row(), 5, "packets lost in a row, 20 ms apart")
	assert.Equal(p.T, to, p.addr("host2", "server", "shop"))
	p.container("host2", "new", "--network", "shop")
	p.reach("host1", "peer", p.addr("host2", "new", "shop"))
	p.docker("host2", "rm", "-f", "new", "server")
	p.nothingLeft("host2")

	// A container that ends while nobody is there to be told.
	p.container("host2", "last", "--network", "shop")
	pid := p.docker("host2", "inspect", "-f", "{{.State.Pid}}", "last")
	require.NoError(p.T, p.Host("host2").StopService(p.T.Context(), lab.ServiceDockerd))
	p.Must("host2", "kill", "-9", pid)
	require.NoError(p.T, p.Host("host2").StartService(p.T.Context(), lab.ServiceDockerd))
	p.docker("host2", "rm", "-f", "last")
	p.nothingLeft("host2")
}
