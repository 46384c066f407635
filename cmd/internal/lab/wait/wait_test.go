package wait

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPoll(t *testing.T) {
	calls := 0
	require.NoError(t, Poll(t.Context(), func() (bool, error) { calls++; return calls == 3, nil }))
	assert.Equal(t, 3, calls)

	broken := errors.New("broken")
	require.ErrorIs(t, Poll(t.Context(), func() (bool, error) { return false, broken }), broken)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, Poll(ctx, func() (bool, error) { return false, nil }), context.DeadlineExceeded)
	require.ErrorIs(t, Pause(ctx, time.Hour), context.DeadlineExceeded)
}
