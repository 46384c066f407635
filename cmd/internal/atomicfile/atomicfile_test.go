package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	require.NoError(t, atomicfile.Write(file, []byte("one"), 0o644))
	long := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(file, long, long))

	require.NoError(t, atomicfile.Write(file, []byte("one"), 0o644))
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.WithinDuration(t, long, info.ModTime(), time.Second, "the same contents are not written again")
	assert.Equal(t, os.FileMode(0o644), info.Mode())

	require.NoError(t, atomicfile.Write(file, []byte("two"), 0o600))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "two", string(b))
	info, err = os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())

	require.Error(t, atomicfile.Write(filepath.Join(dir, "none", "f"), nil, 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	require.Error(t, atomicfile.Write(filepath.Join(dir, "d"), nil, 0o644))
	assert.Empty(t, atomicfile.Left(dir, 0))
	half, err := os.CreateTemp(dir, ".f-*") // as Write does
	require.NoError(t, err)
	require.NoError(t, half.Close())
	assert.Equal(t, []string{half.Name()}, atomicfile.Left(dir, 0))
	assert.Empty(t, atomicfile.Left(dir, time.Hour), "somebody may be writing it")
	require.NoError(t, os.Remove(half.Name()))
	assert.Empty(t, atomicfile.Left(filepath.Join(dir, "none"), 0))
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, names, 2, "nothing is left of what failed")
}
