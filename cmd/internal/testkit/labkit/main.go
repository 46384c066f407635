// Package labkit makes labs for tests, and has what tests do in them: commands
// on hosts and in endpoints, pings that are counted, bulk TCP with checksums,
// frames on wires. Labs of different tests do not meet: each has a name, a
// directory and network namespaces of its own, so tests that have nothing else in
// common run side by side (t.Parallel).
package labkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/baize-net/baize/cmd/internal/command"
)

// Main is TestMain of a package that makes labs; its result is the exit code.
// The test executable is a baize as well, which labs start in their hosts.
func Main(m *testing.M) int {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return command.Run(ctx, os.Args[1:], command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "labs need root: run these tests with sudo, or without -tags system")
		return 1
	}
	code := m.Run()
	removeBinary()
	return code
}

// binary is the executable for labs: the test's own, unless that has the race
// detector. Then it is testkit/baize, and of a lab's processes the agents alone
// are the test's executable.
var binary = sync.OnceValues(func() (file string, err error) {
	if !race {
		return os.Executable()
	}
	dir, err := os.MkdirTemp("", "baize-testkit-")
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "baize")
	built.Store(&dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", file,
		"github.com/baize-net/baize/cmd/internal/testkit/baize")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the labs' baize: %w\n%s", err, out)
	}
	return file, nil
})

// built is the directory that holds it, where it was built.
var built atomic.Pointer[string]

func removeBinary() {
	if dir := built.Load(); dir != nil {
		_ = os.RemoveAll(*dir)
	}
}
