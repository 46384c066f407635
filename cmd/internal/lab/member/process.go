// Package member looks at the members of a lab from outside: each is the process
// 'baize lab host-init', pid 1 of namespaces of its own, and is called host1,
// host2, …, fabric or router.
//
// Members are found in /proc by their command line, and looked at through
// /proc/PID/root. The package starts and kills them, runs commands inside, and
// waits for their services; which services those are it does not know.
package member

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab/wait"
)

// initArgs is the command line of a member's pid 1, after the executable. It
// is also how members are found.
func initArgs(lab, member, dir string) []string {
	return []string{"lab", "host-init", "--lab", lab, "--member", member, "--dir", dir}
}

// Member is a running pid 1 of a host or of the fabric.
type Member struct {
	PID  int // as seen from here
	Lab  string
	Name string // "host1" or "fabric"
	Dir  string
}

// parseCmdline reads the contents of /proc/PID/cmdline.
func parseCmdline(b []byte) (Member, bool) {
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	if len(args) != 9 {
		return Member{}, false
	}
	m := Member{Lab: args[4], Name: args[6], Dir: args[8]}
	return m, slices.Equal(args[1:], initArgs(m.Lab, m.Name, m.Dir))
}

// Find returns what runs of a lab, or of all labs for "".
func Find(lab string) ([]Member, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []Member
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if m, ok := memberAt(pid); ok && (lab == "" || m.Lab == lab) {
			out = append(out, m)
		}
	}
	return out, nil
}

// memberAt reads what a process is; false where it is no member or dead.
func memberAt(pid int) (Member, bool) {
	b, err := os.ReadFile(procPath(pid, "cmdline"))
	if err != nil {
		return Member{}, false
	}
	m, ok := parseCmdline(b)
	m.PID = pid
	// A fork of a pid 1 that has not yet become what it is to be has its
	// command line as well, but is not the first of its namespace.
	return m, ok && innerPID(pid) == 1
}

func procPath(pid int, elem ...string) string {
	return filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, elem...)...)
}

// Inside returns the path of a file of a member, as seen from here.
func (m Member) Inside(path string) string { return procPath(m.PID, "root", path) }

// Netns is the path of its network namespace.
func (m Member) Netns() string { return procPath(m.PID, "ns", "net") }

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

// Kill ends members with all that runs in them, and waits for their end.
func Kill(ctx context.Context, ms []Member) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	for _, m := range ms {
		if now, ok := memberAt(m.PID); ok && now == m {
			if err := unix.Kill(m.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %s (process %d): %w", m.Name, m.PID, err)
			}
		}
	}
	for _, m := range ms {
		if err := wait.Poll(ctx, func() (bool, error) { return ended(m.PID), nil }); err != nil {
			return fmt.Errorf("%s of lab %s (process %d) does not end: %w", m.Name, m.Lab, m.PID, err)
		}
	}
	return nil
}

// processes returns the processes whose parent is a member's pid 1: pid as seen
// from here by the number inside.
func (m Member) processes() (map[int]int, error) {
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
		if _, ppid, err := stat(pid); err == nil && ppid == m.PID {
			out[innerPID(pid)] = pid
		}
	}
	return out, nil
}
