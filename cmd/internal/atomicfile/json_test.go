package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/atomicfile"
)

func TestWriteJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f.json")
	require.NoError(t, atomicfile.WriteJSON(file, map[string]int{"a": 1}, 0o600))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, "{\n  \"a\": 1\n}\n", string(b))
	require.Error(t, atomicfile.WriteJSON(file, func() {}, 0o600))
	now, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, b, now, "what cannot be written leaves the file alone")
}
