package etcdstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdserver/etcdtest"
	"github.com/baize-net/baize/topology/fault"
)

func TestMembers(t *testing.T) {
	t.Parallel()
	endpoint := etcdtest.Start(t)
	got := openAt(t, endpoint).Members(t.Context())
	require.Len(t, got, 1)
	require.NoError(t, got[0].Err)
	require.True(t, got[0].Leader)
	require.Positive(t, got[0].Size)
	require.NotEmpty(t, got[0].Version)
}

// MayWrite says what a write would, and writes nothing.
func TestMayWrite(t *testing.T) {
	t.Parallel()
	endpoint := etcdtest.Start(t)
	s, c := openAt(t, endpoint), raw(t, endpoint)
	before, err := c.Get(t.Context(), "x")
	require.NoError(t, err)
	require.NoError(t, s.MayWrite(t.Context()))
	after, err := c.Get(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, before.Header.Revision, after.Header.Revision)

	etcdtest.RaiseNoSpace(t, endpoint)
	err = s.MayWrite(t.Context())
	var e *topology.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, fault.StoreFull, e.Code)
}
