package sim_test

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

var (
	seed      = flag.Uint64("seed", 0, "replay one seed; 0: the first ones")
	worlds    = flag.Int("worlds", 4, "how many seeds are tried; with -short half of them")
	agents    = flag.Int("agents", 5, "how many agents live in a world")
	histories = flag.Int("histories", 5, "how many histories they live through")
)

// A world is small, and makes much garbage.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// Whatever happened to etcd, to agents, switches and the network: once it is
// over, every subnet and address has one owner, every endpoint reaches every
// other and nobody else gets its packets, and then nothing is written any more.
func TestRandomHistories(t *testing.T) {
	seeds := []uint64{*seed}
	if *seed == 0 {
		seeds = nil
		for i := range testkit.Fewer(*worlds, 2) {
			seeds = append(seeds, uint64(i)+1)
		}
	}
	began, workedBefore := time.Now(), processorTime(t)
	for _, s := range seeds {
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := sim.New(t, s, *agents)
				w.LeaseGrace = 20 * time.Second
				require.NoError(t, w.CreateNetwork("blue"))
				w.StartAll()
				for i := range *histories {
					w.History(i)
					w.Heal()
					w.Settle()
					require.Empty(t, w.CheckSilence(time.Minute), "seed %d, history %d", s, i)
				}
				require.Empty(t, w.CheckSilence(time.Hour), "seed %d", s)
			})
		})
	}
	took, worked := time.Since(began), processorTime(t)-workedBefore
	n := float64(len(seeds) * *histories)
	t.Logf("%d agents, %.0f histories in %s: %.0f a minute, %.0f a minute of processor time",
		*agents, n, took.Round(time.Millisecond), n/took.Minutes(), n/worked.Minutes())
}

// processorTime is what this process has used: on a machine that does something
// else as well it says more than the clock.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
