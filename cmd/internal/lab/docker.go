package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/agent/names"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/scripts"
	"github.com/baize-net/baize/topology"
)

// Services of a host with Config.Docker.
const (
	ServiceContainerd = "containerd"
	ServiceDockerd    = "dockerd"
)

// DockerImage is the one image that the engines of a lab have: busybox with
// all its applets, made on this machine. No registry is asked for anything.
const DockerImage = "busybox:latest"

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
func dockerServices(c initConfig, run runner) []*service {
	config := path.Join(c.Dir, "containerd.toml")
	// Control groups are the machine's: under a name of ours, so that they can
	// be told and removed.
	dockerd := []string{"dockerd", "--host", "unix://" + dockerSocket, "--containerd", containerdSocket,
		"--dns", names.Address.String(), "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "/" + cgroupName(c.Lab, c.Member)}
	env := c.Env
	if c.Engine != "" {
		dockerd[0] = path.Join(c.Engine, dockerd[0])
		env = append(slices.Clone(env), "PATH="+c.Engine+":"+systemPath) // docker-proxy
	}
	options := func(context.Context) error { return nil }
	if c.DockerBridge || c.Flannel {
		// What the unit's drop-in does on a real host.
		dockerd = append([]string{"sh", "-c", `. "$0" && exec "$@" $DOCKER_OPTS`, dockerEnv}, dockerd...)
		file := subnetenv.BaizeFile
		if c.Flannel {
			file = subnetenv.FlannelFile
		}
		options = func(ctx context.Context) error { return writeDockerEnv(ctx, run, file) }
	}
	return []*service{
		{
			name: ServiceContainerd,
			argv: []string{"containerd", "--config", config, "--address", containerdSocket, "--root", "/var/lib/containerd", "--state", "/run/containerd"},
			env:  c.Env,
			prepare: func(context.Context) error {
				return os.WriteFile(config, []byte(containerdConfig), 0o644)
			},
			ready: func(ctx context.Context) error { return awaitSocket(ctx, containerdSocket) },
		},
		{
			name: ServiceDockerd,
			argv: dockerd,
			env:  env,
			// The order of the units on a real host: the agent's socket is there
			// when the engine looks for plugins.
			needs: []string{ServiceContainerd, c.networker()},
			prepare: func(ctx context.Context) error {
				removeAll("/run/docker.pid")
				return options(ctx)
			},
			ready: func(ctx context.Context) error {
				if err := awaitSocket(ctx, dockerSocket); err != nil {
					return err
				}
				return ensureImage(ctx, dockerClient(), run)
			},
			grace: dockerGrace, patience: dockerReady,
		},
	}
}

// networker is the service that gives the host its subnet.
func (c initConfig) networker() string {
	if c.Flanneld != "" {
		return ServiceFlannel
	}
	return ServiceAgent
}

// dockerEnv is what mk-docker-opts.sh writes for the engine.
const dockerEnv = "/run/baize/docker.env"

// writeDockerEnv fails, and with it the engine's start, where the agent has not
// written what it must be started with.
func writeDockerEnv(ctx context.Context, run runner, file string) error {
	script := path.Join(insideDir, "mk-docker-opts.sh")
	if err := os.WriteFile(script, scripts.MkDockerOpts, 0o755); err != nil {
		return err
	}
	_, err := run(ctx, script, "-c", "-f", file, "-d", dockerEnv)
	return err
}

func awaitSocket(ctx context.Context, socket string) error {
	err := poll(ctx, func() (bool, error) {
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

// ensureImage waits for the engine and gives it the image where it lacks it.
func ensureImage(ctx context.Context, engine *http.Client, run runner) error {
	status, body, err := ask(ctx, engine, http.MethodGet, "/images/"+DockerImage+"/json", nil)
	if err != nil {
		return err
	}
	if status == http.StatusOK {
		return nil
	}
	if status != http.StatusNotFound {
		return fmt.Errorf("docker: is image %s there? status %d: %s", DockerImage, status, body)
	}
	busybox, err := staticBusybox()
	if err != nil {
		return err
	}
	applets, err := run(ctx, busybox, "--list")
	if err != nil {
		return err
	}
	var image bytes.Buffer
	if err := writeImage(&image, busybox, strings.Fields(applets)); err != nil {
		return fmt.Errorf("image %s: %w", DockerImage, err)
	}
	repo, tag, _ := strings.Cut(DockerImage, ":")
	q := url.Values{"fromSrc": {"-"}, "repo": {repo}, "tag": {tag}, "changes": {`CMD ["/bin/sh"]`}}
	status, body, err = ask(ctx, engine, http.MethodPost, "/images/create?"+q.Encode(), &image)
	if err != nil {
		return err
	}
	// Status 200 says no more than that it began: see the progress it prints.
	for d := json.NewDecoder(bytes.NewReader(body)); status == http.StatusOK; {
		var line struct{ Error string }
		if err := d.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil || line.Error != "" {
			break
		}
	}
	return fmt.Errorf("docker import %s: status %d: %s", DockerImage, status, body)
}

func ask(ctx context.Context, engine *http.Client, method, path string, in io.Reader) (status int, body []byte, err error) {
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

var errNoBusybox = &topology.Error{
	Kind: topology.ErrNotFound, Item: "busybox", What: "no statically linked one is installed, and the lab's image is made of it",
	Remedy: "apt-get install --no-install-recommends busybox-static",
}

// staticBusybox finds the executable that runs without any library.
func staticBusybox() (string, error) {
	for dir := range strings.SplitSeq(systemPath, ":") {
		file := path.Join(dir, "busybox")
		f, err := elf.Open(file)
		if err != nil {
			continue
		}
		static := true
		for _, p := range f.Progs {
			static = static && p.Type != elf.PT_INTERP
		}
		_ = f.Close()
		if static {
			return file, nil
		}
	}
	return "", errNoBusybox
}

// writeImage writes a container's file system: busybox, a link for each of
// its applets, and the few files that programs expect.
func writeImage(w io.Writer, busybox string, applets []string) error {
	b, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err == nil {
			err = t.WriteHeader(&h)
		}
		if err == nil {
			_, err = t.Write(content)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "sys", "usr", "var"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, b)
	for _, a := range applets {
		if a != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nnogroup:x:65534:\n"))
	return errors.Join(err, t.Close())
}

// dockerTools are what Config.Docker needs beside tools.
var dockerTools = []tool{
	{"dockerd", "docker.io"}, {"docker", "docker.io"}, {"containerd", "containerd"}, {"runc", "runc"},
	{"iptables", "iptables"}, {"busybox", "busybox-static"},
}

func checkDockerTools() error {
	if err := checkTools(dockerTools); err != nil {
		return err
	}
	_, err := staticBusybox()
	return err
}
