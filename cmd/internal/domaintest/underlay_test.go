//go:build system

package domaintest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// followed is how many pings, sent every 10 ms, the change of a host's address in the
// underlay may cost: a second.
const followed = 100

// A host's address in the underlay changes under traffic, as by DHCP: it and its peers
// follow within a second, and nobody else loses a packet. The connection to etcd had that
// address, too.
func TestUnderlayAddressChanges(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{NoProof: true, Networks: []lab.NetworkSpec{
		{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
	}})
	others := d.PingEndpoint("host2/c1", "host3/c1", 10*time.Millisecond)
	// The lab gives the host its first address back whenever that goes.
	const first, second = "192.168.77.11", "192.168.77.111"
	has := func(addr string) {
		d.Await("everybody knows host1 at "+addr, func() (bool, string) {
			out := d.Must("host2", "baize", "node", "list")
			return strings.Contains(out, " "+addr+","), out
		})
	}
	d.Must("host1", "sh", "-c", "sysctl -qw net.ipv4.conf.br-phy.promote_secondaries=1; "+
		"ip addr add "+second+"/24 dev br-phy; ip addr del "+first+"/24 dev br-phy")
	has(second)
	// Etcd's connection is from there as well.
	require.NoError(t, d.Host("host1").Kill(t.Context(), lab.ServiceAgent, unix.SIGKILL))
	require.NoError(t, d.Host("host1").AwaitService(t.Context(), lab.ServiceAgent))
	pings := []labkit.Pings{
		d.PingEndpoint("host1/c1", "host2/c1", 10*time.Millisecond), d.PingEndpoint("host3/c1", "host1/c1", 10*time.Millisecond),
	}
	require.Contains(t, d.Must("host1", "ss", "-Htn", "state", "established", "dport", "2379"), second)
	// Nobody carries the old address any more.
	rules := "table bridge old {\n"
	for _, hook := range []string{"prerouting", "postrouting"} {
		rules += fmt.Sprintf("chain %s { type filter hook %[1]s priority 0; ip saddr %[2]s drop; ip daddr %[2]s drop; }\n", hook, second)
	}
	d.Must("fabric", "sh", "-c", "echo '"+rules+"}' | nft -f -")
	d.Must("host1", "ip", "addr", "del", second+"/24", "dev", "br-phy")
	labkit.GoOn(100, pings...)
	for _, p := range pings {
		assert.LessOrEqual(t, len(p.Ends().Missing), followed, p.Name)
	}
	has(first)
	assert.Empty(t, others.Ends().Missing)
}
