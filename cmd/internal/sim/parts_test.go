package sim_test

import (
	"bytes"
	"regexp"
	"runtime/pprof"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/sim"
	"github.com/baize-net/baize/topology/fault"
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

// TestParts prints the parts of an agent that has none of the optional ones, with
// their goroutines.
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
			t.Logf("%-12s %d goroutines", p.Name(), running[p.Name()])
			require.Positive(t, running[p.Name()], "%s runs", p.Name())
			require.LessOrEqual(t, running[p.Name()], 12, "%s: a part has a few goroutines, whatever it knows of", p.Name())
		}
		require.Equal(t, []string{"topology", "membership", "attach", "switch", "kernel", "names", "captures", "answers", "events"}, names)
	})
}

// failed is what the node says of parts that failed.
func failed(n *sim.Node) []string {
	var out []string
	for _, f := range n.Faults() {
		if f.Code == fault.PartFailed {
			out = append(out, f.Item+" "+f.What)
		}
	}
	return out
}

// TestPartPanics: a bug in one part costs that part alone, in whichever of its
// goroutines it is. It is reported for as long as it lasts, and once it is gone
// the part works as before.
func TestPartPanics(t *testing.T) {
	for door, parts := range map[sim.Door][]string{
		sim.SwitchDoor:     {"switch"},
		sim.KernelDoor:     {"kernel"},
		sim.MembershipDoor: {"membership"},
		sim.AttachDoor:     {"attach"},
		sim.LinksDoor:      {"membership", "attach"},
	} {
		t.Run(string(door), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world(t, 3)
				n := w.Nodes[0]
				w.Pass(time.Minute)
				before := goroutines(t)
				n.SetBug(door, true)
				n.TouchLinks()
				w.Pass(2 * time.Minute)
				var items []string
				for _, p := range parts {
					items = append(items, "part "+p+" of the agent failed, and is started again: panic: a bug in "+string(door))
				}
				for range 60 {
					w.Pass(time.Second)
					require.NoError(t, n.Ended())
					require.Equal(t, items, failed(n), "as long as it lasts")
				}
				require.Empty(t, w.CheckForwarding(), "what forwards goes on")

				n.SetBug(door, false)
				w.Pass(time.Minute)
				require.Empty(t, failed(n))
				require.NoError(t, n.Add("blue", "later"))
				w.Settle()
				w.Pass(time.Minute)
				require.Equal(t, before, goroutines(t), "nothing is left of what failed")
			})
		})
	}
}
