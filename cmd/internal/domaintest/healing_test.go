//go:build system

package domaintest

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// healed is within which time what was changed by hand is as it was: it is watched, and not
// only looked at every so often.
const healed = time.Second

// damages are what people and programs do to what the agent made.
var damages = []struct{ name, command string }{
	{"all flows deleted", "ovs-ofctl del-flows br-baize"},
	{"a flow deleted", "ovs-ofctl -O OpenFlow14 --strict del-flows br-baize table=40,priority=0"},
	{"flows altered", "ovs-ofctl -O OpenFlow14 mod-flows br-baize table=20,actions=drop"},
	{"a tunnel's port deleted", "ovs-vsctl del-port vx-host2"},
	{"a tunnel's port altered", "ovs-vsctl set interface vx-host2 options:remote_ip=192.168.77.99"},
	{"an endpoint's port deleted", "ovs-vsctl del-port $(ovs-vsctl --bare --columns=name find port external_ids:baize-endpoint=c1 | head -n 1)"},
	{"the host's own port down", "ip link set bn-fast down"},
	{"the bridge's fail mode changed", "ovs-vsctl set-fail-mode br-baize standalone"},
	{"the bridge deleted", "ovs-vsctl del-br br-baize"},
	{"the database reset", "ovs-vsctl emer-reset"},
	{"routes deleted", "ip route flush proto 173"},
	{"a route altered", "ip route replace $(ip route show proto 173 | grep -m1 192.168.77.12 | sed 's/192.168.77.12/192.168.77.13/') proto 173"},
	{"a route deleted, IPv6", "ip -6 route flush proto 173"},
	{"addresses deleted", "ip address flush dev bn-fast"},
	{"permanent neighbours deleted", "ip neigh flush dev bn-blue nud permanent; ip neigh flush dev bn-fast nud permanent"},
	{"forwarding switched off", "sysctl -qw net.ipv4.ip_forward=0"},
	{"a port's sysctl altered", "sysctl -qw net.ipv4.conf.bn-fast.arp_ignore=0 net.ipv4.conf.bn-fast.send_redirects=1"},
	// The lab has a table of its own, and Docker its policy anew.
	{"the firewall flushed", "nft list table netdev baize-lab >/run/keep; nft flush ruleset; nft -f /run/keep; iptables-nft -P FORWARD DROP"},
	{"the firewall reloaded", `printf '*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\nCOMMIT\n' | iptables-nft-restore`},
}

// What is deleted or altered by hand is back within a second, with the settings that an
// agent has by default; whoever has nothing to do with it loses no packet.
func TestBackWithinASecond(t *testing.T) {
	t.Parallel()
	p := netip.MustParsePrefix
	d := up(t, topology.VXLAN, lab.Config{NoProof: true, Networks: []lab.NetworkSpec{
		{Name: "blue", Transport: topology.Auto, Prefixes: []netip.Prefix{p("10.1.0.0/16"), p("fd00:10:1::/48")}},
		{Name: "fast", Transport: topology.Route, Prefixes: []netip.Prefix{p("10.3.0.0/16"), p("fd00:10:3::/48")}},
	}})
	for _, network := range []string{"blue", "fast"} {
		es := d.Endpoints(network)
		for _, from := range es {
			for _, to := range es {
				if from.Node != to.Node {
					d.Reaches(from.String(), to)
				}
			}
		}
	}
	// Docker has been here: without the agent's rules nothing is forwarded.
	d.Must("host1", "iptables-nft", "-P", "FORWARD", "DROP")
	want := ""
	d.Await("all is at rest", func() (bool, string) {
		before := want
		want = d.made("host1")
		return want == before && strings.Contains(want, "-j BAIZE-FORWARD"), want
	})
	others := d.PingEndpoint("host2/c1", "host3/c1", 10*time.Millisecond)
	othersFast := d.PingEndpoint("host3/fast-c1", "host2/fast-c1", 10*time.Millisecond)
	for _, x := range damages {
		t.Run(x.name, func(t *testing.T) { d.in(t).damaged(x.command, want) })
	}
	for _, p := range []labkit.Pings{others, othersFast} {
		assert.Empty(t, p.Ends().Missing, p.Name)
	}
	if t.Failed() {
		d.Explain()
	}
}

// damaged runs a command on host1 and requires that all is as it was soon: on a machine that
// is busy with other things at the third try.
func (d *domain) damaged(command, want string) {
	d.T.Helper()
	var took time.Duration
	for range 3 {
		d.Must("host1", "sh", "-ec", command)
		began := time.Now()
		have := d.made("host1")
		for have != want && time.Since(began) < 5*time.Second {
			have = d.made("host1")
		}
		took = time.Since(began)
		require.Equal(d.T, want, have)
		if took <= healed {
			break
		}
		d.T.Logf("after %v", took)
	}
	assert.LessOrEqual(d.T, took, healed)
	d.T.Logf("as it was %v later", took.Round(time.Millisecond))
	d.Reaches("host1/c1", d.Endpoint("host2/c1"))
	d.Reaches("host2/fast-c1", d.Endpoint("host1/fast-c1"))
}

// numbers are what may be another after something was made anew.
var numbers = regexp.MustCompile(`cookie=\S+ |0x[0-9a-f]+->reg2|meter:\d+|packets \d+ bytes \d+|\[\d+:\d+\]`)

// made is what the agent makes on a host: in the switch, in the kernel, in the firewall.
func (d *domain) made(host string) string {
	d.T.Helper()
	out, _ := d.Run(host, "sh", "-c", `
ovs-vsctl --timeout=5 get-fail-mode br-baize
ovs-vsctl --timeout=5 --columns=name,options,error find interface 'external_ids:baize-role!=""' name!=none
ovs-vsctl --timeout=5 list-ports br-baize
ovs-ofctl -O OpenFlow14 --names --no-stats dump-flows br-baize
ip -o link show | grep -o ' bn-[^ ]* <[^>]*>'
ip route show proto 173
ip -6 route show proto 173
for dev in bn-blue bn-fast; do
	ip -o address show dev $dev | grep -o 'inet.*scope [a-z]*'
	ip neigh show dev $dev nud permanent
	(cd /proc/sys/net/ipv4/conf/$dev && grep . arp_ignore rp_filter send_redirects accept_redirects)
done
sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding
nft list table inet baize
nft list table netdev baize
iptables-nft -S FORWARD
iptables-nft -S BAIZE-FORWARD
true
`)
	lines := strings.Split(numbers.ReplaceAllString(out, ""), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
