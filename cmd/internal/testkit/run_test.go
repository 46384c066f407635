package testkit

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The limit holds also where a child of the program has its output.
func TestTryEndsWhenItsTimeIsUp(t *testing.T) {
	begin := time.Now()
	out, err := Try(time.Second, nil, "sh", "-c", "sleep 120 & echo $!; wait")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(begin), Patience)
	child, err := strconv.Atoi(strings.TrimSpace(out))
	require.NoError(t, err)
	require.NoError(t, unix.Kill(child, unix.SIGKILL))
}
