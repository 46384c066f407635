//go:build system

package domaintest

import (
	"fmt"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
)

// fastPath is what a host says of network blue.
func (d *domain) fastPath(host string) api.FastPath {
	d.T.Helper()
	for _, f := range d.AgentStatus(host).FastPath {
		if f.Network == "blue" {
			return f
		}
	}
	return api.FastPath{}
}

// fastReceived counts what host2's endpoints got by the fast path from a node.
func (d *domain) fastReceived(node string) (n uint64) {
	for _, c := range d.fastPath("host2").Counters {
		if c.Node == node && c.Direction == "received" {
			n += c.Packets
		}
	}
	return n
}

// The userspace datapath leaves the direction to the endpoint to the fast path: it
// is counted by node, goes on while the agent is away, and makes way for a rule that
// has to see packets.
func testFastPath(d *domain) {
	used := func(want bool) {
		d.Await(fmt.Sprintf("the fast path is used: %v", want), func() (bool, string) {
			f := d.fastPath("host2")
			return f.Network != "" && f.Used == want, f.Why
		})
	}
	used(true)
	require.Contains(d.T, d.fastPath("host2").Why, "only what endpoints receive")
	from, to := d.Endpoint("host1/c1"), d.Endpoint("host2/c1")
	for _, ip := range to.IPs {
		before := d.fastReceived("host1")
		d.Stream(from, to, ip)(func() {
			require.NoError(d.T, d.Host("host2").Kill(d.T.Context(), lab.ServiceAgent, unix.SIGKILL))
			require.NoError(d.T, d.Host("host2").AwaitService(d.T.Context(), lab.ServiceAgent))
			used(true)
		})
		require.Greater(d.T, d.fastReceived("host1"), before+100, ip)
	}
	d.Must("host2", "nft", "table inet mine { chain f { type filter hook forward priority 0; counter; }; }")
	used(false)
	require.Contains(d.T, d.fastPath("host2").Why, "table inet mine, chain f")
	d.Reaches("host1/c1", to)
	require.NotContains(d.T, d.Must("host2", "nft", "list", "table", "inet", "mine"), "counter packets 0 ")
	d.Must("host2", "nft", "delete", "table", "inet", "mine")
	used(true)
	d.Reaches("host1/c1", to)
	require.NotZero(d.T, d.fastReceived("host1"))
}
