//go:build system

package domaintest

import (
	"regexp"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// The live picture has what real switches count, and what probes tell.
func testMeshLive(m mesh) {
	to := m.Endpoint("host2/c1")
	pings := m.Ping(m.Netns("host1/c1"), to.IPs[0], 5*time.Millisecond)
	stop, out := m.Start("host3", "baize", "topology", "--watch")
	// 200 echoes a second at most, of 98 bytes: with the probes 175 kbit/s in each direction.
	const busy = `[0-9.]+ kbit/s (?:[1-9]\d|1\d\d|2[01]\d) p/s`
	link := regexp.MustCompile(`(?m)^host1 ↔ host2 +vxlan +ok +` + busy + ` +` + busy + ` +0% 0% +[0-9.]+ms$`)
	host := regexp.MustCompile(`(?m)^host1 +ready +\d+ +4 +` + busy)
	m.Await("the picture has it", func() (bool, string) {
		all := strings.Split(out.String(), "3 hosts, 2 networks, 6 links: ")
		last := all[len(all)-1]
		return link.MatchString(last) && host.MatchString(last), last
	})
	stop()
	require.Empty(m.T, pings.Ends().Missing)
}
