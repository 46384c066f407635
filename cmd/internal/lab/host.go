package lab

import (
	"context"
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/fabric"
	"github.com/baize-net/baize/cmd/internal/lab/member"
)

// Host is a host of a lab. Its methods find it anew each time: it may have been
// rebuilt meanwhile.
type Host struct {
	lab  *Lab
	name string
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Endpoint returns an endpoint by name.
func (h *Host) Endpoint(name string) *Endpoint { return &Endpoint{h, name} }

// Dir returns the directory with the host's logs (log/) and databases, the
// same outside and inside.
func (h *Host) Dir() string { return filepath.Join(h.lab.cfg.dir(), h.name) }

// PID returns the host's pid 1 as seen from outside: /proc/PID/root is its file
// system, /proc/PID/ns its namespaces.
func (h *Host) PID() (int, error) {
	m, err := h.lab.member(h.name)
	return m.PID, err
}

// Exec runs a command in the host and returns its output, standard output and
// error together. The error is a wrapped *exec.ExitError where it failed.
func (h *Host) Exec(ctx context.Context, argv ...string) (string, error) {
	return h.lab.exec(ctx, h.name, argv)
}

// Start starts a command in the host that runs on, with its output to w. It is
// killed when ctx ends, or by the function returned, which also waits.
func (h *Host) Start(ctx context.Context, w io.Writer, argv ...string) (stop func(), err error) {
	return h.lab.start(ctx, w, h.name, argv)
}

// StopService stops a service (ServiceAgent, …) until StartService, and waits
// for its end.
func (h *Host) StopService(ctx context.Context, service string) error {
	m, err := h.lab.member(h.name)
	if err != nil {
		return err
	}
	return m.StopService(ctx, service, ovsTimeout)
}

// StartService starts a service that was stopped, and waits until it is ready.
func (h *Host) StartService(ctx context.Context, service string) error {
	m, err := h.lab.member(h.name)
	if err != nil {
		return err
	}
	return m.StartService(ctx, service, ovsTimeout)
}

// AwaitService waits until a service is ready, such as after Kill.
func (h *Host) AwaitService(ctx context.Context, service string) error {
	m, err := h.lab.member(h.name)
	if err != nil {
		return err
	}
	return m.AwaitService(ctx, service, ovsTimeout)
}

// Kill sends a signal to a service's process; the host starts it again when it
// ends. With SIGKILL or SIGTERM it waits for the end.
func (h *Host) Kill(ctx context.Context, service string, sig unix.Signal) error {
	m, err := h.lab.member(h.name)
	if err != nil {
		return err
	}
	return m.KillService(ctx, service, sig)
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
	fab, err := h.lab.member(member.Fabric)
	if err != nil {
		return err
	}
	return fabric.SetPort(fab, h.name, up)
}
