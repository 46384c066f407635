//go:build system

package testkit

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is bounded is counted, and gets no more than it may.
func TestBounds(t *testing.T) {
	b := Bound(t, 64<<20, 8)
	inside := func(script string) (string, error) {
		return Try(Patience, nil, "sh", "-c", "for f in "+strings.Join(b.Files(), " ")+"; do echo 0 >$f; done; "+script)
	}
	most := b.MostTasks()
	_, err := inside("dd if=/dev/zero of=/dev/null bs=16M count=1 && sleep 0.2")
	require.NoError(t, err)
	require.Greater(t, b.Memory(t), int64(16<<20))
	require.Less(t, b.Memory(t), int64(32<<20))
	require.Zero(t, b.Refused(t))

	_, err = inside("dd if=/dev/zero of=/dev/null bs=256M count=1")
	require.ErrorContains(t, err, "exit status 137", "the shell says so of SIGKILL")
	_, err = inside("for i in 1 2 3 4 5 6 7; do sleep 1 & done; wait")
	require.NoError(t, err)
	require.EqualValues(t, 8, most(), "the shell is one of them")
	_, err = inside("for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2 & done; wait")
	require.Error(t, err)
	require.Positive(t, b.Refused(t))
}
