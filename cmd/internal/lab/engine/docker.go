package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/scripts"
)

// Services of a host with a container engine.
const (
	ServiceContainerd = "containerd"
	ServiceDockerd    = "dockerd"
)

const (
	dockerSocket     = "/run/docker.sock"
	containerdSocket = "/run/containerd/containerd.sock"
	// dockerGrace is longer than the engine's own patience (15 s) with
	// containers that do not stop.
	dockerGrace = 20 * time.Second
	// dockerReady: an engine that finds the socket of a plugin that does not
	// answer waits 15 s for it.
	dockerReady = 60 * time.Second
)

// containerdConfig leaves out what an engine does not use, and what would be
// written outside of the host's private directories.
const containerdConfig = `version = 2
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
`

// dockerServices are containerd and the engine, as distributions start them:
// two services, so that containers outlive a restart of either.
func dockerServices(c Config, run Runner) []*supervisor.Service {
	return []*supervisor.Service{containerdService(c), dockerdService(c, run)}
}

func containerdService(c Config) *supervisor.Service {
	config := path.Join(c.Dir, "containerd.toml")
	return &supervisor.Service{
		Name: ServiceContainerd,
		Argv: []string{
			"containerd", "--config", config, "--address", containerdSocket,
			"--root", "/var/lib/containerd", "--state", "/run/containerd",
		},
		Env: c.Env,
		Prepare: func(context.Context) error {
			return os.WriteFile(config, []byte(containerdConfig), 0o644)
		},
		Ready: func(ctx context.Context) error { return awaitSocket(ctx, containerdSocket) },
	}
}

func dockerdService(c Config, run Runner) *supervisor.Service {
	argv, env := dockerdCommand(c)
	options := subnetFile(c)
	if options != "" {
		// What the unit's drop-in does on a real host.
		argv = append([]string{"sh", "-c", `. "$0" && exec "$@" $DOCKER_OPTS`, dockerEnv}, argv...)
	}
	return &supervisor.Service{
		Name: ServiceDockerd, Argv: argv, Env: env,
		// The order of the units on a real host: the agent's socket is there
		// when the engine looks for plugins.
		Needs: []string{ServiceContainerd, Networker(c)},
		Prepare: func(ctx context.Context) error {
			removeAll("/run/docker.pid")
			if options == "" {
				return nil
			}
			return writeDockerEnv(ctx, run, options)
		},
		Ready: func(ctx context.Context) error {
			if err := awaitSocket(ctx, dockerSocket); err != nil {
				return err
			}
			return ensureImage(ctx, dockerClient(), run)
		},
		Grace: dockerGrace, Patience: dockerReady,
	}
}

// dockerdCommand is the engine's command line and environment.
func dockerdCommand(c Config) (argv, env []string) {
	// Control groups are the machine's: under a name of ours, so that they can
	// be found and removed.
	argv = []string{
		"dockerd", "--host", "unix://" + dockerSocket, "--containerd", containerdSocket,
		"--dns", names.Address.String(), "--exec-opt", "native.cgroupdriver=cgroupfs",
		"--cgroup-parent", "/" + member.MachineName(c.Lab, c.Member),
	}
	if c.Engine == "" {
		return argv, c.Env
	}
	argv[0] = path.Join(c.Engine, argv[0])
	return argv, append(slices.Clone(c.Env), "PATH="+c.Engine+":"+member.SystemPath) // docker-proxy
}

// subnetFile is the file with the subnet that docker0 gets; "" where docker0 is
// the engine's own business.
func subnetFile(c Config) string {
	if file := c.foreignSubnetFile(); file != "" || !c.DockerBridge {
		return file
	}
	return subnetenv.BaizeFile
}

// dockerEnv is what mk-docker-opts.sh writes for the engine.
const dockerEnv = "/run/baize/docker.env"

// writeDockerEnv fails, and with it the engine's start, where the agent has not
// written what it must be started with.
func writeDockerEnv(ctx context.Context, run Runner, file string) error {
	script := path.Join(supervisor.Dir, "mk-docker-opts.sh")
	if err := os.WriteFile(script, scripts.MkDockerOpts, 0o755); err != nil {
		return err
	}
	_, err := run(ctx, script, "-c", "-f", file, "-d", dockerEnv)
	return err
}

func awaitSocket(ctx context.Context, socket string) error {
	err := wait.Poll(ctx, func() (bool, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return false, nil
		}
		return true, c.Close()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", socket, err)
	}
	return nil
}

// dockerClient speaks to the engine of this host.
func dockerClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", dockerSocket)
		},
	}}
}

// ask sends a request to an engine.
func ask(
	ctx context.Context, engine *http.Client, method, path string, in io.Reader,
) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, in)
	if err != nil {
		return 0, nil, err
	}
	resp, err := engine.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("docker: %w", err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, bytes.TrimSpace(body), err
}
