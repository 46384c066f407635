package member

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTail(t *testing.T) {
	f := filepath.Join(t.TempDir(), "log")
	assert.Empty(t, Tail(f, 3))
	require.NoError(t, os.WriteFile(f, []byte(strings.Repeat("x", 9000)+"\none\ntwo\nthree\n"), 0o600))
	assert.Equal(t, "two\nthree", Tail(f, 2))
}
