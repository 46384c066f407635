package member

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
	"github.com/baize-net/baize/topology"
)

// initTimeout is that of a new member's pid 1; a tenth of a second is usual.
const initTimeout = 30 * time.Second

// AwaitInit waits until a member's pid 1 has made its file system and looks
// after its services.
func (m Member) AwaitInit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	err := wait.Poll(ctx, func() (bool, error) {
		if ended(m.PID) {
			return false, errors.New("it ended at once")
		}
		_, err := os.Stat(m.Inside(supervisor.StatusFile))
		return err == nil, nil
	})
	return m.WithLog(initLog, err)
}

// AwaitService waits until a service is ready.
func (m Member) AwaitService(ctx context.Context, service string, timeout time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := wait.Poll(limited, func() (bool, error) {
		if ended(m.PID) {
			return false, fmt.Errorf("%s ended", m.Name)
		}
		return m.Ready(service), nil
	})
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%s is not ready after %v", service, timeout)
	}
	return m.WithLog(service, err)
}

// Services returns what its pid 1 last wrote about them.
func (m Member) Services() ([]supervisor.Status, error) {
	return supervisor.ReadStatus(m.Inside(supervisor.StatusFile))
}

// service returns the status of one; ok is false where there is none.
func (m Member) service(name string) (status supervisor.Status, ok bool) {
	all, err := m.Services()
	i := slices.IndexFunc(all, func(s supervisor.Status) bool { return s.Name == name })
	if err != nil || i < 0 {
		return supervisor.Status{}, false
	}
	return all[i], true
}

func (m Member) inState(service, state string) bool {
	s, ok := m.service(service)
	return ok && s.State == state
}

// Ready reports whether a service can be used.
func (m Member) Ready(service string) bool { return m.inState(service, supervisor.StateReady) }

// Stopped reports whether a service was stopped by StopService.
func (m Member) Stopped(service string) bool { return m.inState(service, supervisor.StateStopped) }

// StopService stops a service until StartService, and waits for its end.
func (m Member) StopService(ctx context.Context, service string, timeout time.Duration) error {
	return m.setService(
		ctx, service, supervisor.StateStopped, timeout, func(marker string) error { return os.WriteFile(marker, nil, 0o644) },
	)
}

// StartService starts a service that was stopped, and waits until it is ready.
func (m Member) StartService(ctx context.Context, service string, timeout time.Duration) error {
	return m.setService(ctx, service, supervisor.StateReady, timeout, func(marker string) error {
		if err := os.Remove(marker); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (m Member) setService(
	ctx context.Context, service, state string, timeout time.Duration, change func(marker string) error,
) error {
	if _, ok := m.service(service); !ok {
		return &topology.Error{Kind: topology.ErrNotFound, Item: "service " + service, What: m.Name + " has no such service"}
	}
	if err := change(m.Inside(supervisor.StoppedFile(service))); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := wait.Poll(limited, func() (bool, error) { return m.inState(service, state), nil })
	if err != nil {
		return m.WithLog(service, fmt.Errorf("%s: %s does not become %s: %w", m.Name, service, state, err))
	}
	return nil
}

// KillService sends a signal to a service's process; pid 1 starts it again when
// it ends. With SIGKILL or SIGTERM it waits for the end.
func (m Member) KillService(ctx context.Context, service string, sig unix.Signal) error {
	if _, err := m.Services(); err != nil {
		return err
	}
	kids, err := m.processes()
	if err != nil {
		return err
	}
	before, ok := m.service(service)
	pid := kids[before.PID]
	if !ok || before.PID == 0 || pid == 0 {
		return &topology.Error{Kind: topology.ErrNotFound, Item: "service " + service, What: "it does not run on " + m.Name}
	}
	if err := unix.Kill(pid, sig); err != nil {
		return fmt.Errorf("%s: kill %s: %w", m.Name, service, err)
	}
	if sig != unix.SIGKILL && sig != unix.SIGTERM {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return wait.Poll(limited, func() (bool, error) {
		now, ok := m.service(service)
		return ok && (now.PID != before.PID || now.Starts != before.Starts), nil
	})
}
