//go:build system

package hostnet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// insideVar says that the process is already in namespaces of its own.
const insideVar = "BAIZE_TEST_HOSTNET_INSIDE"

// powerlessVar says that the process has no capabilities, and names the
// namespace it is to try with.
const powerlessVar = "BAIZE_TEST_HOSTNET_POWERLESS"

// TestMain runs the tests in a network and a mount namespace of their own:
// they are a host that nothing else can see, and nothing of it is left however
// they end.
func TestMain(m *testing.M) {
	if os.Getenv(powerlessVar) != "" {
		os.Exit(m.Run())
	}
	if os.Getenv(insideVar) != "" {
		if err := prepareHost(); err != nil {
			fmt.Fprintln(os.Stderr, "hostnet tests:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "hostnet tests: these need root: run them with sudo, or without -tags system")
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	// The parent's death is that of the thread that forked.
	runtime.LockOSThread()
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "hostnet tests:", err)
		os.Exit(1)
	}
}

func prepareHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run/netns", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mounting /run/netns: %w", err)
	}
	return ip("link set lo up")
}

// ip runs ip(8) on the test's host.
func ip(args string) error {
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

func mustIP(t *testing.T, args string) {
	t.Helper()
	require.NoError(t, ip(args))
}

// output runs a command inside a namespace, or on the host for "".
func output(t *testing.T, ns, command string) string {
	t.Helper()
	args := strings.Fields(command)
	if ns != "" {
		args = append([]string{"nsenter", "--net=" + filepath.Join("/run/netns", ns)}, args...)
	}
	// Not the test's context: cleanups come here too.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	require.NoErrorf(t, err, "%s: %s", command, out)
	return string(out)
}

// newNetns makes a named namespace for the length of a test.
func newNetns(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf(
		"bzt-%d-%s",
		os.Getpid(),
		strings.ToLower(strings.NewReplacer("/", "-", "#", "").Replace(t.Name())),
	)
	mustIP(t, "netns add "+name)
	t.Cleanup(func() { _ = ip("netns delete " + name) })
	return name
}
