package testkit

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Run runs a program on this machine and returns what it printed, standard
// output and error together. It has to succeed within Patience. It may be used
// in cleanups.
func Run(t testing.TB, argv ...string) string {
	t.Helper()
	return RunWithin(t, Patience, nil, argv...)
}

// RunWithin is Run with another limit, and with variables (NAME=VALUE) added to
// the environment.
func RunWithin(t testing.TB, limit time.Duration, env []string, argv ...string) string {
	t.Helper()
	out, err := Try(limit, env, argv...)
	require.NoError(t, err, "%s\n%s", strings.Join(argv, " "), out)
	return out
}

// Try runs a program that may fail.
func Try(limit time.Duration, env []string, argv ...string) (string, error) {
	// Not the test's context, which has ended when cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	// What a program leaves behind may keep its output open.
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return string(out), err
}

// IP runs ip(8) with words separated by spaces.
func IP(t testing.TB, args string) string {
	t.Helper()
	return Run(t, append([]string{"ip"}, strings.Fields(args)...)...)
}

// Output is what a program in the background has printed so far.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write is io.Writer's.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String returns all of it.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
