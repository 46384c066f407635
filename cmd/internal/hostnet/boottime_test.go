package hostnet

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The start of a process is between the moments before and after, of the clock that is
// not the process' own.
func TestProcessStart(t *testing.T) {
	const child = "BAIZE_TEST_PROCESS_START"
	if os.Getenv(child) != "" {
		start, err := ProcessStart()
		require.NoError(t, err)
		fmt.Println(start)
		os.Exit(0)
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run", "^TestProcessStart$")
	cmd.Env = append(os.Environ(), child+"=1")
	before := SinceBoot()
	out, err := cmd.Output()
	after := SinceBoot()
	require.NoError(t, err)
	start, err := strconv.ParseInt(string(out[:len(out)-1]), 10, 64)
	require.NoError(t, err, "%s", out)
	assert.GreaterOrEqual(t, start, before-int64(StartTick), "rounded down to a tick")
	assert.LessOrEqual(t, start, after)
	assert.Zero(t, start%int64(StartTick))
}
