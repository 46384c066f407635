package testkit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Patience is how long anything may take on a busy machine. Tests wait for
// conditions: one that holds at once costs nothing.
const Patience = 60 * time.Second

// tick is the least pause between two looks.
const tick = 20 * time.Millisecond

// Await waits until condition holds. Where it does not within Patience, the test
// ends with what the condition saw last. The pauses are as long as a look takes:
// waiting by commands must not keep the processor from what is waited for.
func Await(t testing.TB, what string, condition func() (ok bool, saw string)) {
	t.Helper()
	AwaitWithin(t, Patience, what, condition)
}

// AwaitWithin is Await for what the product itself gives longer than Patience.
func AwaitWithin(t testing.TB, limit time.Duration, what string, condition func() (ok bool, saw string)) {
	t.Helper()
	for begin := time.Now(); ; {
		looked := time.Now()
		ok, saw := condition()
		if ok {
			return
		}
		if time.Since(begin) > limit {
			require.FailNow(t, "not after "+limit.String()+": "+what, "last seen: %s", saw)
		}
		time.Sleep(max(tick, time.Since(looked)))
	}
}
