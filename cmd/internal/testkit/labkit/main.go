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
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/command"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// Main is TestMain of a package that makes labs; its result is the exit code.
// The test executable is a baize as well, which labs start in their hosts. Checks
// say what else is missing before any test runs.
func Main(m *testing.M, checks ...func() error) int {
	if isBaize(os.Args) {
		if agent := os.Getenv(agentVar); agent != "" && isAgent(os.Args[1:]) {
			// Where it fails there is no agent, and so no test that passes.
			fmt.Fprintln(os.Stderr, syscall.Exec(agent, os.Args, os.Environ()))
			return 127
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return command.Run(ctx, os.Args[1:], command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "labs need root: run these tests with sudo, or without -tags system")
		return 1
	}
	for _, check := range checks {
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := removeAbandoned(baseDirs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var err error
	if dir, err = os.MkdirTemp("", "baize-testkit-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	return m.Run()
}

// dir is for programs that all tests of a package share. It is removed after
// them.
var dir string

// Build builds the program of a package, as seen from a directory, for all tests.
// It does so as releases are built: of that kind Go's cache has every package
// after the first test that does it.
func Build(name, from, pkg string, env ...string) (file string, err error) {
	file = filepath.Join(dir, name)
	// The first time downloads and compiles.
	out, err := testkit.Try(10*time.Minute, append(env, "CGO_ENABLED=0"),
		"go", "build", "-C", from, "-trimpath", "-buildvcs=false", "-o", file, pkg)
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return file, nil
}

// agentVar names the program that is the agent of a lab's hosts, instead of the
// lab's own executable.
const agentVar = "BAIZE_TEST_AGENT"

// raceAll gives every agent the race detector, not only those of labs that ask for it.
var raceAll = os.Getenv("BAIZE_TEST_RACE") != ""

// raceAgent builds the agent with the race detector. It does so as the unit tests
// are built: of that kind Go's cache has every package after them.
var raceAgent = sync.OnceValues(func() (string, error) {
	file := filepath.Join(dir, "baize-race")
	out, err := testkit.Try(10*time.Minute, []string{"CGO_ENABLED=1"},
		"go", "build", "-race", "-trimpath", "-buildvcs=false", "-o", file, "github.com/baize-net/baize/cmd/baize")
	if err != nil {
		return "", fmt.Errorf("build the agent with the race detector: %w\n%s", err, out)
	}
	return file, nil
})

// Race gives the agents of a lab the race detector: what it finds in their logs
// fails the test. An agent then costs twice the processor time or more, so it is
// for the labs whose agents do most at a time.
func Race(t *testing.T, config lab.Config) lab.Config {
	t.Helper()
	exe, err := raceAgent()
	require.NoError(t, err)
	// Ending, a program with the race detector waits for a second by default.
	config.Env = append(config.Env, agentVar+"="+exe, "GORACE=atexit_sleep_ms=100")
	return config
}

// isBaize says that the executable is started as baize, and not as a test. In hosts it has
// that name.
func isBaize(args []string) bool {
	return len(args) > 1 && (!strings.HasPrefix(args[1], "-") || filepath.Base(args[0]) == "baize")
}

func isAgentVar(v string) bool { return strings.HasPrefix(v, agentVar+"=") }

// isAgent says that a command line starts an agent; 'agent cleanup' starts none.
func isAgent(args []string) bool {
	return args[0] == "agent" && (len(args) == 1 || strings.HasPrefix(args[1], "-"))
}
