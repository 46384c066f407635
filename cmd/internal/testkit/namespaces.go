package testkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideVar says that the process is in namespaces of its own already.
const insideVar = "BAIZE_TEST_INSIDE"

// InNamespaces is TestMain of a package whose tests change their host; its result
// is the exit code. They run in a network and a mount namespace of their own, with
// loopback up and nothing in /run: a host that nobody else can see, and of which
// nothing is left however they end. prepare, unless nil, makes what else they need
// there.
func InNamespaces(m *testing.M, prepare func() error) int {
	who := filepath.Base(os.Args[0])
	fail := func(err error) int {
		fmt.Fprintf(os.Stderr, "%s: %v\n", who, err)
		return 1
	}
	if os.Getenv(insideVar) != "" {
		if err := prepareHost(); err != nil {
			return fail(err)
		}
		if prepare != nil {
			if err := prepare(); err != nil {
				return fail(err)
			}
		}
		return m.Run()
	}
	if os.Geteuid() != 0 {
		return fail(fmt.Errorf("these tests need root: run them with sudo, or without -tags system"))
	}
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	// The parent's death is that of the thread that forked.
	runtime.LockOSThread()
	if err := cmd.Run(); err != nil {
		return fail(err)
	}
	return 0
}

// prepareHost keeps what is mounted here from the machine. /run has names of
// network namespaces and iptables' lock.
func prepareHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return err
	}
	up := exec.CommandContext(context.Background(), "ip", "link", "set", "lo", "up")
	if out, err := up.CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}
