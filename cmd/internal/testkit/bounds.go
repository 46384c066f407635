package testkit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Bounds are a control group that bounds processes as a unit of systemd's does
// (systemd.resource-control(5): MemoryMax=, TasksMax=).
type Bounds struct {
	// Its directories: one, or with cgroup v1 one for each controller.
	memory, pids string
	v2           bool
}

// cgroups is where control groups are.
const cgroups = "/sys/fs/cgroup"

// Bound makes a control group that goes with the test. Its processes have to be gone by
// then.
func Bound(t testing.TB, memory int64, tasks int) *Bounds {
	t.Helper()
	name := fmt.Sprintf("baize-test-%d", os.Getpid())
	_, err := os.Stat(filepath.Join(cgroups, "cgroup.controllers"))
	b := &Bounds{v2: err == nil}
	limits := map[string]string{"memory.limit_in_bytes": fmt.Sprint(memory)}
	if b.v2 {
		b.memory = filepath.Join(cgroups, name)
		b.pids = b.memory
		limits = map[string]string{"memory.max": fmt.Sprint(memory), "memory.swap.max": "0"}
		// What is on already stays on.
		require.NoError(t, os.WriteFile(filepath.Join(cgroups, "cgroup.subtree_control"), []byte("+memory +pids"), 0o644))
	} else {
		b.memory, b.pids = filepath.Join(cgroups, "memory", name), filepath.Join(cgroups, "pids", name)
	}
	for _, dir := range b.dirs() {
		require.NoError(t, os.Mkdir(dir, 0o755), "control groups with memory and pids, as root")
		t.Cleanup(func() {
			Await(t, "control group "+dir+" is empty", func() (bool, string) {
				err := os.Remove(dir)
				return err == nil || errors.Is(err, os.ErrNotExist), fmt.Sprint(err)
			})
		})
	}
	for file, value := range limits {
		err := os.WriteFile(filepath.Join(b.memory, file), []byte(value), 0o644)
		require.True(t, err == nil || errors.Is(err, os.ErrNotExist) && file == "memory.swap.max", "%s: %v", file, err)
	}
	require.NoError(t, os.WriteFile(filepath.Join(b.pids, "pids.max"), fmt.Append(nil, tasks), 0o644))
	return b
}

func (b *Bounds) dirs() []string {
	if b.v2 {
		return []string{b.memory}
	}
	return []string{b.memory, b.pids}
}

// Files are those that a process writes "0" into to be in the group.
func (b *Bounds) Files() (out []string) {
	for _, dir := range b.dirs() {
		out = append(out, filepath.Join(dir, "cgroup.procs"))
	}
	return out
}

// Memory is how many bytes the group has used at most, what the kernel keeps for it
// included.
func (b *Bounds) Memory(t testing.TB) int64 {
	t.Helper()
	file := "memory.max_usage_in_bytes"
	if b.v2 {
		file = "memory.peak"
	}
	n, err := number(filepath.Join(b.memory, file))
	require.NoError(t, err)
	return n
}

// Refused is how often one more process or thread was refused.
func (b *Bounds) Refused(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.pids, "pids.events"))
	require.NoError(t, err)
	fields := strings.Fields(string(text))
	require.GreaterOrEqual(t, len(fields), 2, string(text))
	n, err := strconv.ParseInt(fields[1], 10, 64)
	require.NoError(t, err)
	return n
}

// MostTasks looks until the function returned is called, which says how many processes and
// threads there were at most. Kernels before 6.11 do not count that.
func (b *Bounds) MostTasks() (end func() int64) {
	over, most := make(chan struct{}), make(chan int64)
	go func() {
		var n int64
		defer func() { most <- n }()
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			now, _ := number(filepath.Join(b.pids, "pids.current")) // it is never gone by now
			n = max(n, now)
			select {
			case <-over:
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 {
		close(over)
		return <-most
	}
}

func number(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}
