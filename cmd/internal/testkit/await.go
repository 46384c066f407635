package testkit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Patience is how long anything may take on a busy machine. Tests wait for
// conditions: one that holds at once costs nothing.
const Patience = 60 * time.Second

const tick = 20 * time.Millisecond

// Await waits until condition holds. Where it does not within Patience, the test
// ends with what the condition saw last.
func Await(t testing.TB, what string, condition func() (ok bool, saw string)) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	for {
		ok, saw := condition()
		if ok {
			return
		}
		require.True(t, time.Now().Before(deadline), "not after %v: %s; last seen: %s", Patience, what, saw)
		<-ticks.C
	}
}
