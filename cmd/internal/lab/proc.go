package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/topology"
)

// initArgs is the command line of a member's pid 1, after the executable. It
// is also how members are found.
func initArgs(lab, member, dir string) []string {
	return []string{"lab", "host-init", "--lab", lab, "--member", member, "--dir", dir}
}

// member is a running pid 1 of a host or of the fabric.
type member struct {
	pid  int
	lab  string
	name string // "host1" or "fabric"
	dir  string
}

// parseCmdline reads the contents of /proc/PID/cmdline.
func parseCmdline(b []byte) (member, bool) {
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	if len(args) != 9 {
		return member{}, false
	}
	m := member{lab: args[4], name: args[6], dir: args[8]}
	return m, slices.Equal(args[1:], initArgs(m.lab, m.name, m.dir))
}

// members returns what runs of a lab, or of all labs for "".
func members(lab string) ([]member, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []member
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if m, ok := memberAt(pid); ok && (lab == "" || m.lab == lab) {
			out = append(out, m)
		}
	}
	return out, nil
}

// memberAt reads what a process is; false where it is no member or dead.
func memberAt(pid int) (member, bool) {
	b, err := os.ReadFile(procPath(pid, "cmdline"))
	if err != nil {
		return member{}, false
	}
	m, ok := parseCmdline(b)
	m.pid = pid
	// A fork of a pid 1 that has not yet become what it is to be has its
	// command line as well, but is not the first of its namespace.
	return m, ok && innerPID(pid) == 1
}

func procPath(pid int, elem ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, elem...)...)
}

// inside returns the path of a file of a member, as seen from here.
func (m member) inside(path string) string { return procPath(m.pid, "root", path) }

// innerPID is a process's number in its own pid namespace; 0 where it is gone.
func innerPID(pid int) int {
	b, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(b, []byte("\nNSpid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(fields[len(fields)-1])
	return n
}

// stat returns a process's state letter and parent; see proc(5).
func stat(pid int) (letter byte, ppid int, err error) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return 0, 0, err
	}
	// The name in parentheses may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	ppid, err = strconv.Atoi(fields[1])
	return fields[0][0], ppid, err
}

// ended reports whether a process is gone. Our own children are reaped.
func ended(pid int) bool {
	_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	letter, _, err := stat(pid)
	if err != nil || letter == 'X' {
		return true
	}
	if letter != 'Z' {
		return false
	}
	// Its first thread may be gone while another still takes the processes of
	// the namespace along.
	threads, err := os.ReadDir(procPath(pid, "task"))
	return err != nil || len(threads) <= 1
}

const killTimeout = 20 * time.Second

// kill ends members with all that runs in them, and waits for their end.
func kill(ctx context.Context, ms []member) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	for _, m := range ms {
		if now, ok := memberAt(m.pid); ok && now == m {
			if err := unix.Kill(m.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %s (process %d): %w", m.name, m.pid, err)
			}
		}
	}
	for _, m := range ms {
		if err := poll(ctx, func() (bool, error) { return ended(m.pid), nil }); err != nil {
			return fmt.Errorf("%s of lab %s (process %d) does not end: %w", m.name, m.lab, m.pid, err)
		}
	}
	return nil
}

// children returns the processes whose parent is a member's pid 1: pid as seen
// from here by the number inside.
func (m member) children() (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	out := map[int]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, ppid, err := stat(pid); err == nil && ppid == m.pid {
			out[innerPID(pid)] = pid
		}
	}
	return out, nil
}

// spawn starts a member's pid 1 in new namespaces, detached from this process.
func spawn(c initConfig) (member, error) {
	fail := func(err error) (member, error) { return member{}, fmt.Errorf("start %s: %w", c.Member, err) }
	if err := os.MkdirAll(c.logDir(), 0o755); err != nil {
		return fail(err)
	}
	if err := writeJSON(filepath.Join(c.Dir, initFile), c); err != nil {
		return fail(err)
	}
	log, err := os.OpenFile(c.log("init"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fail(err)
	}
	defer null.Close()
	argv := append([]string{c.Binary}, initArgs(c.Lab, c.Member, c.Dir)...)
	pid, err := syscall.ForkExec(c.Binary, argv, &syscall.ProcAttr{
		Dir: "/", Env: c.Env, Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		},
	})
	switch {
	case errors.Is(err, unix.EPERM):
		return member{}, errNotRoot
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return member{}, &topology.Error{Kind: topology.ErrNotFound, Item: c.Binary, What: "cannot be run: " + err.Error(), Remedy: "build it with 'make build'"}
	case err != nil:
		return fail(err)
	}
	return member{pid: pid, lab: c.Lab, name: c.Member, dir: c.Dir}, nil
}

var errNotRoot = &topology.Error{Kind: topology.ErrUnavailable, Item: "lab", What: "making namespaces is not permitted", Remedy: "run it as root: sudo baize lab …"}
