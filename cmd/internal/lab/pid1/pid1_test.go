package pid1

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
)

func TestHostInitIsForUpOnly(t *testing.T) {
	err := Main([]string{"--lab", "x", "--member", "host1", "--dir", t.TempDir()}, os.Stderr)
	require.ErrorIs(t, err, topology.ErrInvalid)
}
