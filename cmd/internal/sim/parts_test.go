package sim_test

import (
	"bytes"
	"fmt"
	"regexp"
	"runtime/pprof"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/sim"
)

// goroutines counts those of each part, by the label that its goroutines have.
func goroutines(t *testing.T) map[string]int {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&b, 1))
	out := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^(\d+) @.*\n# labels: \{"part":"([^"]+)"\}`).FindAllStringSubmatch(b.String(), -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		out[m[2]] += n
	}
	return out
}

// TestParts prints the parts of an agent with their goroutines, as docs/architecture.md
// has them.
func TestParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sim.New(t, 1, 1)
		n := w.AddNode("host1")
		n.Start()
		w.Pass(time.Minute)
		synctest.Wait()
		var names []string
		running := goroutines(t)
		for _, p := range n.Agent().Parts() {
			names = append(names, p.Name())
			t.Log(fmt.Sprintf("%-12s %d goroutines", p.Name(), running[p.Name()]))
			require.Positive(t, running[p.Name()], "%s runs", p.Name())
			require.LessOrEqual(t, running[p.Name()], 12, "%s: a part has a few goroutines, whatever it knows of", p.Name())
		}
		require.Equal(t, []string{"topology", "membership", "attach", "switch", "kernel", "names"}, names)
	})
}
