package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Children are the processes that a pid 1 started. As pid 1 it has to reap
// orphans too, and waiting for any child would take the exit status away from
// os/exec: here everything is started and reaped in one place.
type Children struct {
	mu    sync.Mutex
	known map[int]chan unix.WaitStatus
}

// NewChildren returns none yet. A process has one of them.
func NewChildren() *Children { return &Children{known: map[int]chan unix.WaitStatus{}} }

// start starts a process in a session of its own with out as its output. The
// channel gets its status once.
func (c *Children) start(argv, env []string, out *os.File) (int, <-chan unix.WaitStatus, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	// The lock keeps Reap from a child that is not yet known.
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: []uintptr{null.Fd(), out.Fd(), out.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("%s: %w", path, err)
	}
	done := make(chan unix.WaitStatus, 1)
	c.known[pid] = done
	return pid, done, nil
}

// Reap takes all children that have ended. It is to be called on SIGCHLD.
func (c *Children) Reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if done, ok := c.known[pid]; ok {
			done <- status
			delete(c.known, pid)
		}
	}
}

// Run runs a command to its end and returns what it printed.
func (c *Children) Run(ctx context.Context, env []string, argv ...string) (string, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return "", err
	}
	out := os.NewFile(uintptr(fd), "output")
	defer out.Close()
	pid, done, err := c.start(argv, env, out)
	if err != nil {
		return "", err
	}
	var status unix.WaitStatus
	select {
	case status = <-done:
	case <-ctx.Done():
		_ = unix.Kill(-pid, unix.SIGKILL)
		<-done
		return "", fmt.Errorf("%s: %w", strings.Join(argv, " "), ctx.Err())
	}
	b, err := io.ReadAll(io.NewSectionReader(out, 0, 1<<20))
	text := strings.TrimSpace(string(b))
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: %s: %s", strings.Join(argv, " "), describe(status), text)
	}
	return text, err
}

// stop asks a process to end and kills it after grace.
func stop(pid int, done <-chan unix.WaitStatus, grace time.Duration) unix.WaitStatus {
	_ = unix.Kill(pid, unix.SIGTERM)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case s := <-done:
		return s
	case <-t.C:
		_ = unix.Kill(-pid, unix.SIGKILL)
		return <-done
	}
}

// describe says how a process ended.
func describe(s unix.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + unix.SignalName(s.Signal())
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}
