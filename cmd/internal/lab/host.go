package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// Host is a host of a lab. Its methods find it anew each time: it may have been
// rebuilt meanwhile.
type Host struct {
	lab  *Lab
	name string
}

// Endpoint is a network namespace of a host that is attached to a network.
type Endpoint struct {
	host *Host
	name string
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Endpoint returns an endpoint by name.
func (h *Host) Endpoint(name string) *Endpoint { return &Endpoint{h, name} }

// Name returns "HOST/ENDPOINT".
func (e *Endpoint) Name() string { return e.host.name + "/" + e.name }

// Dir returns the directory with the host's logs (log/) and databases, the
// same outside and inside.
func (h *Host) Dir() string { return filepath.Join(h.lab.cfg.dir(), h.name) }

// PID returns the host's pid 1 as seen from outside: /proc/PID/root is its file
// system, /proc/PID/ns its namespaces.
func (h *Host) PID() (int, error) {
	m, err := h.lab.member(h.name)
	return m.pid, err
}

// Exec runs a command in the host and returns its output, standard output and
// error together. The error is a wrapped *exec.ExitError where it failed.
func (h *Host) Exec(ctx context.Context, argv ...string) (string, error) {
	return h.lab.exec(ctx, h.name, argv)
}

// Exec runs a command in the endpoint, as Host.Exec does.
func (e *Endpoint) Exec(ctx context.Context, argv ...string) (string, error) {
	return e.host.lab.exec(ctx, e.Name(), argv)
}

// NetnsPath returns the path of the endpoint's network namespace as seen from
// outside.
func (e *Endpoint) NetnsPath() (string, error) {
	m, err := e.host.lab.member(e.host.name)
	return m.inside(filepath.Join(netnsDir, e.name)), err
}

func (l *Lab) exec(ctx context.Context, target string, argv []string) (string, error) {
	argv, env, err := l.ExecCommand(target, argv)
	if err != nil {
		return "", err
	}
	return run(ctx, argv, env)
}

// ExecCommand returns what runs a command in "HOST", "HOST/ENDPOINT" or
// "fabric": an argument vector that begins with the path of nsenter(1), and the
// environment for it. To be used with syscall.Exec, it gives the command this
// process's terminal, signals and exit code.
func (l *Lab) ExecCommand(target string, argv []string) (command, env []string, err error) {
	if len(argv) == 0 {
		return nil, nil, &topology.Error{Kind: topology.ErrInvalid, Item: target, What: "no command to run there", Remedy: "give one: baize lab exec " + target + " -- COMMAND"}
	}
	name, endpoint, inEndpoint := strings.Cut(target, "/")
	m, err := l.member(name)
	if err != nil {
		return nil, nil, err
	}
	if inEndpoint {
		if err := checkEndpoint(m, endpoint); err != nil {
			return nil, nil, err
		}
		argv = append([]string{"ip", "netns", "exec", endpoint}, argv...)
	}
	path, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, nil, err
	}
	command = enter(m, argv)
	command[0] = path
	return command, execEnv(os.Environ(), l.state.memberEnv(name), l.state.Env), nil
}

func checkEndpoint(m member, endpoint string) error {
	entries, err := os.ReadDir(m.inside(netnsDir))
	if err != nil {
		return fmt.Errorf("endpoints of %s: %w", m.name, err)
	}
	have := []string{}
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if slices.Contains(have, endpoint) {
		return nil
	}
	remedy := "it has " + strings.Join(have, ", ")
	if len(have) == 0 {
		remedy = "it has none: 'baize lab up' attaches them"
	}
	return &topology.Error{Kind: topology.ErrNotFound, Item: "endpoint " + m.name + "/" + endpoint, What: m.name + " has no such endpoint", Remedy: remedy}
}

// enter is the command line that runs another in a member's namespaces.
func enter(m member, argv []string) []string {
	return append([]string{"nsenter", "-t", fmt.Sprint(m.pid), "-m", "-u", "-i", "-n", "-p", "--"}, argv...)
}

// run runs a command with a deadline. Its process group is killed with it:
// nsenter's child is not killed by killing nsenter.
func run(ctx context.Context, argv, env []string) (string, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 10*time.Minute)
		defer cancel()
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, &out, &out
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		shown := argv
		if i := slices.Index(argv, "--"); i >= 0 {
			shown = argv[i+1:]
		}
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(shown, " "), err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), nil
}

// Start starts a command in the host that runs on, with its output to w. It is
// killed when ctx ends, or by the function returned, which also waits.
func (h *Host) Start(ctx context.Context, w io.Writer, argv ...string) (stop func(), err error) {
	return h.lab.start(ctx, w, h.name, argv)
}

// Start starts a command in the endpoint, as Host.Start does.
func (e *Endpoint) Start(ctx context.Context, w io.Writer, argv ...string) (stop func(), err error) {
	return e.host.lab.start(ctx, w, e.Name(), argv)
}

func (l *Lab) start(ctx context.Context, w io.Writer, target string, argv []string) (func(), error) {
	argv, env, err := l.ExecCommand(target, argv)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, w, w
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	return func() {
		cancel()
		_ = cmd.Wait() // killed
	}, nil
}

// AddEndpoint makes a network namespace in the host and attaches it to a
// network, as 'ip netns add' and 'baize endpoint add' do.
func (h *Host) AddEndpoint(ctx context.Context, network, name string) (*Endpoint, error) {
	m, err := h.lab.member(h.name)
	if err != nil {
		return nil, err
	}
	return h.Endpoint(name), h.addEndpoint(ctx, m, network, name)
}

// endpointsDir has a file for each endpoint that the lab attached; it holds the
// name of its network.
const endpointsDir = insideDir + "/endpoints"

// attached returns the network that the lab attached an endpoint to, or "".
func (h *Host) attached(m member, endpoint string) string {
	b, err := os.ReadFile(m.inside(filepath.Join(endpointsDir, endpoint)))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h *Host) addEndpoint(ctx context.Context, m member, network, name string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if _, err := os.Lstat(m.inside(filepath.Join(netnsDir, name))); errors.Is(err, fs.ErrNotExist) {
		if _, err := h.Exec(ctx, "ip", "netns", "add", name); err != nil {
			return err
		}
		// What ip does not do: containers have it up.
		if _, err := h.Exec(ctx, "ip", "-n", name, "link", "set", "lo", "up"); err != nil {
			return err
		}
	}
	if err := h.baizeEndpointAdd(ctx, network, name); err != nil {
		return h.lab.withLog(m, ServiceAgent, err)
	}
	return h.recordEndpoint(m, network, name)
}

func (h *Host) recordEndpoint(m member, network, name string) error {
	dir := m.inside(endpointsDir)
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(network+"\n"), 0o644))
}

// baizeEndpointAdd asks the agent. An Up that was killed may have left the
// endpoint, or its own request may still be under way.
func (h *Host) baizeEndpointAdd(ctx context.Context, network, name string) error {
	baize := func(args []string) error {
		_, err := h.Exec(ctx, append([]string{"baize"}, args...)...)
		return err
	}
	first := baize(endpointAddArgs(network, name))
	if first == nil {
		return nil
	}
	for range 3 {
		if err := baize(endpointRemoveArgs(network, name)); err != nil {
			return first
		}
		if baize(endpointAddArgs(network, name)) == nil {
			return nil
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			break
		}
	}
	return first
}

// StopService stops a service (ServiceAgent, …) until StartService, and waits
// for its end.
func (h *Host) StopService(ctx context.Context, service string) error {
	return h.setService(ctx, service, StateStopped, func(marker string) error { return os.WriteFile(marker, nil, 0o644) })
}

// StartService starts a service that was stopped, and waits until it is ready.
func (h *Host) StartService(ctx context.Context, service string) error {
	return h.setService(ctx, service, StateReady, func(marker string) error {
		if err := os.Remove(marker); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (h *Host) setService(ctx context.Context, service, state string, change func(marker string) error) error {
	m, err := h.lab.member(h.name)
	if err != nil {
		return err
	}
	if serviceState(m, service) == "" {
		return &topology.Error{Kind: topology.ErrNotFound, Item: "service " + service, What: h.name + " has no such service"}
	}
	if err := change(m.inside(stoppedFile(service))); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, ovsTimeout)
	defer cancel()
	err = poll(limited, func() (bool, error) { return serviceState(m, service) == state, nil })
	if err != nil {
		return h.lab.withLog(m, service, fmt.Errorf("%s: %s does not become %s: %w", h.name, service, state, err))
	}
	return nil
}

// AwaitService waits until a service is ready, such as after Kill.
func (h *Host) AwaitService(ctx context.Context, service string) error {
	m, err := h.lab.member(h.name)
	if err != nil {
		return err
	}
	return h.lab.awaitService(ctx, m, service, ovsTimeout)
}

// Kill sends a signal to a service's process; the host starts it again when it
// ends. With SIGKILL or SIGTERM it waits for the end.
func (h *Host) Kill(ctx context.Context, service string, sig unix.Signal) error {
	m, err := h.lab.member(h.name)
	if err != nil {
		return err
	}
	all, err := readServices(m.inside(servicesFile))
	if err != nil {
		return err
	}
	kids, err := m.children()
	if err != nil {
		return err
	}
	for _, s := range all {
		pid := kids[s.PID]
		if s.Name != service || s.PID == 0 || pid == 0 {
			continue
		}
		if err := unix.Kill(pid, sig); err != nil {
			return fmt.Errorf("%s: kill %s: %w", h.name, service, err)
		}
		if sig != unix.SIGKILL && sig != unix.SIGTERM {
			return nil
		}
		limited, cancel := context.WithTimeout(ctx, killTimeout)
		defer cancel()
		return poll(limited, func() (bool, error) {
			now, err := readServices(m.inside(servicesFile))
			i := slices.IndexFunc(now, func(n ServiceStatus) bool { return n.Name == service })
			return err == nil && i >= 0 && (now[i].PID != s.PID || now[i].Starts != s.Starts), nil
		})
	}
	return &topology.Error{Kind: topology.ErrNotFound, Item: "service " + service, What: "it does not run on " + h.name}
}

// Crash kills the host as a power failure does. Up makes it anew.
func (h *Host) Crash(ctx context.Context) error {
	m, err := h.lab.member(h.name)
	if err != nil {
		return err
	}
	return h.lab.killHost(ctx, m)
}

// Unplug takes the host's link to the underlay down at the fabric's end.
func (h *Host) Unplug() error { return h.setPort(false) }

// Plug undoes Unplug.
func (h *Host) Plug() error { return h.setPort(true) }

func (h *Host) setPort(up bool) error {
	fabric, err := h.lab.member(fabricName)
	if err != nil {
		return err
	}
	return setPort(fabric, h.name, up)
}
