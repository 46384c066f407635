//go:build system

package gather

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/doctor"
	"github.com/baize-net/baize/topology/fault"
)

// Row 53: a container fills the kernel's table of neighbours, and the doctor of its host
// names it. The table is that of this machine: it is filled to what is named, and no
// further.
func TestNeighbourTableFull(t *testing.T) {
	ns := fmt.Sprintf("bzt-%d-neighbours", os.Getpid())
	ip := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.Command("ip", args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "ip %v: %s", args, out)
	}
	ip("", "netns", "add", ns)
	t.Cleanup(func() { assert.NoError(t, exec.Command("ip", "netns", "del", ns).Run()) })
	ip("", "-n", ns, "link", "add", "d0", "type", "bridge")
	ip("", "-n", ns, "link", "set", "d0", "up")
	named := func() []string {
		f := doctor.Facts{Node: "host1", At: time.Now()}
		f.Underlay.Neighbours = neighbours()
		require.Len(t, f.Underlay.Neighbours, 2, "IPv4 and IPv6")
		var out []string
		for _, x := range doctor.Examine(f).Findings() {
			if x.Code == fault.NeighbourTableFull {
				out = append(out, x.Item)
			}
		}
		return out
	}
	require.Empty(t, named())
	for _, table := range neighbours() {
		address := map[string]string{"IPv4": "10.99.%d.%d", "IPv6": "fd99::%x:%x"}[table.Family]
		var add, del strings.Builder
		for i := range table.Thresholds[2]*9/10 - table.Entries + 10 {
			a := fmt.Sprintf(address, i/250, i%250+1)
			fmt.Fprintf(&add, "neigh add %s lladdr 02:00:00:00:00:01 dev d0 nud reachable\n", a)
			fmt.Fprintf(&del, "neigh del %s dev d0\n", a)
		}
		ip(add.String(), "-n", ns, "-batch", "-")
		require.Equal(t, []string{"table of " + table.Family + " neighbours"}, named())
		ip(del.String(), "-n", ns, "-batch", "-")
		require.Empty(t, named())
	}
}
