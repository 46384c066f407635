//go:build system

package domaintest

import (
	"context"
	"fmt"
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

// Restarts of the agent, by SIGKILL and SIGTERM in turns, are none of Docker's
// business: what starts meanwhile starts, what is to be restarted always is.
func testDockerAgentRestarts(p plugin) {
	const always, runs = 3, 6
	for i := range always {
		p.docker("host2", "run", "-d", "--restart", "always", "--network", "shop", "--name", fmt.Sprintf("always%d", i),
			lab.DockerImage, "sh", "-c", "sleep 3; exit 1")
	}
	stop := make(chan struct{})
	killed := make(chan int)
	go func() {
		n := 0
		defer func() { killed <- n }()
		for {
			// Two seconds of life each time, on a machine however busy.
			_ = p.Host("host2").AwaitService(p.T.Context(), lab.ServiceAgent)
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Second):
			}
			sig := []unix.Signal{unix.SIGKILL, unix.SIGTERM}[n%2]
			if p.Host("host2").Kill(p.T.Context(), lab.ServiceAgent, sig) == nil {
				n++
			}
		}
	}()
	failed := 0
	for i := range runs {
		args := []string{"docker", "run", "--rm", "--network", "shop"}
		if i%3 == 0 {
			args = append(args, "--ip", "10.7.0.77")
		}
		if out, err := p.Run("host2", append(args, lab.DockerImage, "true")...); err != nil {
			failed++
			p.T.Logf("run %d: %s", i, out)
		}
	}
	close(stop)
	assert.GreaterOrEqual(p.T, <-killed, 2, "the agent was killed while containers started")
	assert.Zero(p.T, failed, "of %d containers did not start", runs)
	require.NoError(p.T, p.Host("host2").AwaitService(p.T.Context(), lab.ServiceAgent))
	for i := range always {
		name := fmt.Sprintf("always%d", i)
		count := func() string { return p.docker("host2", "inspect", "-f", "{{.RestartCount}}", name) }
		before := count()
		p.Await(name+" is started again and again", func() (bool, string) { now := count(); return now != before, now })
		p.docker("host2", "rm", "-f", name)
	}
	p.nothingLeft("host2")
}

// An agent that hangs keeps Docker no longer than one that is away.
func testDockerAgentHangs(p plugin) {
	p.container("host2", "ends", "--network", "shop")
	require.NoError(p.T, p.Host("host2").Kill(p.T.Context(), lab.ServiceAgent, unix.SIGSTOP))
	p.docker("host2", "rm", "-f", "ends")
	p.refused("host2", []string{"systemctl restart baize"}, "run", "--rm", "--network", "shop", lab.DockerImage, "true")
	require.NoError(p.T, p.Host("host2").Kill(p.T.Context(), lab.ServiceAgent, unix.SIGCONT))
	p.docker("host2", "run", "--rm", "--network", "shop", lab.DockerImage, "true")
	p.nothingLeft("host2")
}

func testDockerEngine(p plugin) {
	p.container("host1", "peer", "--network", "shop")
	p.container("host2", "server", "--network", "shop")
	restart := func() time.Duration {
		start := time.Now()
		require.NoError(p.T, p.Host("host2").StopService(p.T.Context(), lab.ServiceDockerd))
		require.NoError(p.T, p.Host("host2").StartService(p.T.Context(), lab.ServiceDockerd))
		return time.Since(start)
	}
	restart()
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
