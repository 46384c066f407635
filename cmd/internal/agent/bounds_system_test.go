//go:build system

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/ovs/ovstest"
)

// unitBounds are those of the agent's unit.
func unitBounds(t *testing.T) (memory int64, tasks int) {
	t.Helper()
	unit, err := os.ReadFile("../../../scripts/systemd/baize.service")
	require.NoError(t, err)
	m := regexp.MustCompile(`\nMemoryMax=(\d+)G\nTasksMax=(\d+)\n`).FindSubmatch(unit)
	require.NotNil(t, m)
	gib, err := strconv.ParseInt(string(m[1]), 10, 64)
	require.NoError(t, err)
	tasks, err = strconv.Atoi(string(m[2]))
	require.NoError(t, err)
	return gib << 30, tasks
}

// An agent that a thousand nodes join at once, and then 500 endpoints, 50 at a time, works
// under the bounds of its unit, and stays far below.
func TestUnitBounds(t *testing.T) {
	const atOnce = 50
	local := testkit.Some(500, 5)
	memory, tasks := unitBounds(t)
	c := newCluster(t)
	c.bounds = testkit.Bound(t, memory, tasks)
	most := c.bounds.MostTasks()
	h := c.start(t, 1, ovstest.Start(t), 0)
	c.converged(t, h)
	c.grow(t, scale)
	c.converged(t, h)
	started := c.bounds.Memory(t)

	name := func(i int) string { return fmt.Sprintf("bzt-%d-b%d", os.Getpid(), i) }
	batch(t, "netns add", name, local)
	t.Cleanup(func() { batch(t, "netns delete", name, local) })
	began := time.Now()
	var all errgroup.Group
	all.SetLimit(atOnce)
	for i := range local {
		all.Go(func() error {
			_, err := h.api.AddEndpoint(t.Context(), api.EndpointRequest{Name: fmt.Sprint("c", i), Network: blue, Netns: name(i)})
			return err
		})
	}
	require.NoError(t, all.Wait())
	took := time.Since(began)
	s, err := h.api.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, s.Endpoints, local)
	require.Empty(t, s.Problems)
	peak, threads := c.bounds.Memory(t), most()
	t.Logf("among %d nodes %d MiB; %d endpoints in %v: %d MiB, %d processes and threads",
		scale, started>>20, local, took.Round(time.Millisecond), peak>>20, threads)
	assert.Less(t, peak, memory/4)
	assert.Less(t, threads, int64(tasks/4))
	assert.Zero(t, c.bounds.Refused(t))
}

// batch runs one command of ip(8) for each of n names.
func batch(t *testing.T, command string, name func(i int) string, n int) {
	t.Helper()
	var text strings.Builder
	for i := range n {
		fmt.Fprintln(&text, command, name(i))
	}
	file := filepath.Join(t.TempDir(), "batch")
	require.NoError(t, os.WriteFile(file, []byte(text.String()), 0o600))
	testkit.IP(t, "-batch "+file)
}
