package plugin_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/plugin"
	"github.com/baize-net/baize/topology"
)

// What removes an attachment after this process was started wins, and what is about
// others does not matter.
func TestTurnsRefuse(t *testing.T) {
	turns := plugin.Turns{Dir: filepath.Join(t.TempDir(), "turns")}
	ran := 0
	run := func() error { ran++; return nil }
	require.NoError(t, turns.Add("a", run))
	require.NoError(t, turns.Add("a", run), "nothing has ended")
	require.NoError(t, turns.Remove("a", run))
	require.NoError(t, turns.Remove("a", run))
	assert.Equal(t, 4, ran)
	require.ErrorIs(t, turns.Add("a", run), topology.ErrConflict)
	assert.Equal(t, 4, ran)
	require.NoError(t, turns.Add("b", run))
	require.ErrorIs(t, turns.Add("b", func() error { return os.ErrClosed }), os.ErrClosed)
}

// Requests for one attachment are alone, be files swept away meanwhile.
func TestTurnsAlone(t *testing.T) {
	turns := plugin.Turns{Dir: t.TempDir()}
	old := time.Now().Add(-time.Hour)
	var g sync.WaitGroup
	var mu sync.Mutex
	for range 40 {
		g.Go(func() {
			assert.NoError(t, turns.Remove("a", func() error {
				assert.True(t, mu.TryLock(), "two at a time")
				defer mu.Unlock()
				return os.Chtimes(filepath.Join(turns.Dir, "a"), old, old)
			}))
		})
		g.Go(func() { assert.NoError(t, turns.Remove("b", func() error { return nil })) })
	}
	g.Wait()
	require.NoError(t, turns.Remove("a", func() error { return os.Chtimes(filepath.Join(turns.Dir, "a"), old, old) }))
	require.NoError(t, turns.Remove("b", func() error { return nil }))
	left, err := os.ReadDir(turns.Dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "what ended long ago is swept away")
	assert.Equal(t, "b", left[0].Name())
}
