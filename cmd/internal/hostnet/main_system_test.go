//go:build system

package hostnet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit"
)

// powerlessVar says that the process has no capabilities, and names the
// namespace it is to try with.
const powerlessVar = "BAIZE_TEST_HOSTNET_POWERLESS"

func TestMain(m *testing.M) {
	if os.Getenv(powerlessVar) != "" {
		os.Exit(m.Run())
	}
	os.Exit(testkit.InNamespaces(m, nil))
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
