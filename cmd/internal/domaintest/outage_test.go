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

// outageTTL is how long after its death others see an agent as alive.
const outageTTL = 5 * time.Second

func TestOutages(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{
		NoProof: true, AgentArgs: []string{"--liveness-ttl", outageTTL.String()}, Networks: []lab.NetworkSpec{
			{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
		},
	})
	t.Run("ovs-vswitchd is back as soon as without Baize", func(t *testing.T) { testBareRestart(d.in(t)) })
	t.Run("Open vSwitch's database is damaged", func(t *testing.T) { testDamagedDatabase(d.in(t)) })
	t.Run("a host dies and comes back", func(t *testing.T) { testHostDies(d.in(t)) })
	if t.Failed() {
		d.Explain()
	}
}

// bareGap is how much longer packets of endpoints may be lost than those of a bridge of
// nobody's, on the same switch.
const bareGap = 50 * time.Millisecond

// ovs-vswitchd is killed, which its supervisor starts again: a bridge without any flow of
// anybody's forwards as soon as there is a process again, and Baize's hardly later.
func testBareRestart(d *domain) {
	d.Must("host1", "sh", "-ec", `
ovs-vsctl add-br plain -- set bridge plain datapath_type=netdev
for n in 1 2; do
	ip netns add plain$n
	ip link add plain$n type veth peer name eth0 netns plain$n
	ip link set plain$n up
	ip -n plain$n addr add 10.99.0.$n/24 dev eth0
	ip -n plain$n link set eth0 up
	ip netns exec plain$n ethtool -K eth0 tx off
	ovs-vsctl add-port plain plain$n
done`)
	d.Must("host1", "ip", "netns", "add", "c2")
	d.Must("host1", "baize", "endpoint", "add", "c2", "--network", "blue", "--netns", "c2")
	var later time.Duration
	for range 5 { // the machine may be busy with other things
		bare := d.Ping(d.Netns("host1/plain1"), netip.MustParseAddr("10.99.0.2"), 10*time.Millisecond)
		local, remote := d.Ping(d.Netns("host1/c2"), d.Endpoint("host1/c1").IPs[0], 10*time.Millisecond),
			d.PingEndpoint("host1/c1", "host2/c1", 10*time.Millisecond)
		require.NoError(d.T, d.Host("host1").Kill(d.T.Context(), lab.ServiceVswitchd, unix.SIGKILL))
		require.NoError(d.T, d.Host("host1").AwaitService(d.T.Context(), lab.ServiceVswitchd))
		labkit.GoOn(100, bare, local, remote)
		without, with := bare.Ends().Row(), max(local.Ends().Row(), remote.Ends().Row())
		require.Positive(d.T, without)
		later = time.Duration(with-without) * 10 * time.Millisecond
		d.T.Logf("%d ms without Baize, %d ms with it", 10*without, 10*with)
		if later <= bareGap {
			break
		}
	}
	assert.LessOrEqual(d.T, later, bareGap)
}

// switchBack is how long after Open vSwitch's return its endpoints are back.
const switchBack = 2 * time.Second

// The file of the database cannot be read any more, so that ovsdb-server does not start: this
// is named, and once somebody has taken the file away all is made anew.
func testDamagedDatabase(d *domain) {
	want := d.made("host2")
	others := d.PingEndpoint("host1/c1", "host3/c1", 10*time.Millisecond)
	d.Must("host2", "sh", "-ec", "head -c 4096 /dev/urandom >/etc/openvswitch/conf.db")
	require.NoError(d.T, d.Host("host2").Kill(d.T.Context(), lab.ServiceOVSDB, unix.SIGKILL))
	d.Await("the host says what is wrong", func() (bool, string) {
		out, _ := d.Run("host2", "baize", "status")
		return strings.Contains(out, "ovsdb-server cannot read /etc/openvswitch/conf.db"), out
	})
	d.Must("host2", "rm", "/etc/openvswitch/conf.db")
	require.NoError(d.T, d.Host("host2").AwaitService(d.T.Context(), lab.ServiceOVSDB))
	began := time.Now()
	d.Await("all is as it was", func() (bool, string) {
		have := d.made("host2")
		return have == want, have
	})
	took := time.Since(began)
	d.T.Logf("as it was %v later", took.Round(time.Millisecond))
	assert.LessOrEqual(d.T, took, switchBack)
	d.Reaches("host1/c1", d.Endpoint("host2/c1"))
	d.Reaches("host2/c1", d.Endpoint("host3/c1"))
	assert.Empty(d.T, others.Ends().Missing, others.Name)
}

// A host's power fails: it is shown within the liveness time, nobody else notices, and it
// comes back with its subnets.
func testHostDies(d *domain) {
	subnets := d.subnets("host3")
	pings := d.PingEndpoint("host1/c1", "host2/c1", 10*time.Millisecond)
	is := func(state string) func() (bool, string) {
		return func() (bool, string) {
			out := d.Must("host1", "baize", "node", "list", "--no-headers", "--filter", "name=host3")
			return strings.Contains(out, " "+state+" "), out
		}
	}
	d.Await("all are there", is("ready"))
	require.NoError(d.T, d.Host("host3").Unplug())
	began := time.Now()
	d.Await("it is seen to be down", is("down"))
	assert.Less(d.T, time.Since(began), outageTTL+3*time.Second)
	labkit.GoOn(50, pings)
	require.NoError(d.T, d.Host("host3").Plug())
	d.Await("it is back", is("ready"))
	assert.Equal(d.T, subnets, d.subnets("host3"))
	d.Reaches("host1/c1", d.Endpoint("host3/c1"))
	assert.Empty(d.T, pings.Ends().Missing, pings.Name)
}

// subnets are those of a node, as etcd has them.
func (d *domain) subnets(node string) string {
	d.T.Helper()
	out := d.Must("host1", "baize", "subnet", "list", "--no-headers", "--filter", "node="+node)
	require.NotEmpty(d.T, out)
	return fmt.Sprint(strings.Fields(out))
}
