//go:build system

package domaintest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// moveLoss is how many of the pings, sent every 10 ms, a move may cost each sender: 100 ms.
const moveLoss = 10

// An endpoint moves from host to host and home again under traffic from all of them: from
// one that has nothing to do with it, from the one that it leaves, and from the one that it
// goes to.
func TestEndpointMove(t *testing.T) {
	t.Parallel()
	for _, transport := range []topology.Transport{topology.VXLAN, topology.Route} {
		t.Run(string(transport), func(t *testing.T) {
			d := up(t, transport, lab.Config{Networks: []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{
				netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48"),
			}}}})
			for _, host := range []string{"host2", "host3"} {
				d.Must(host, "ip", "netns", "add", "web")
			}
			var web api.Endpoint
			out := d.Must("host2", "baize", "endpoint", "add", "web", "--network", "blue", "--netns", "web", "-o", "json")
			require.NoError(t, json.Unmarshal([]byte(out), &web))
			for i, way := range [][2]string{{"host2", "host3"}, {"host3", "host2"}} {
				d.moves(web, way[0], way[1], fmt.Sprintf("move %d", i+1))
			}
			_, err := d.Run("host3", "baize", "endpoint", "move", "web", "host1", "--netns", "web")
			require.ErrorContains(t, err, "there is none of that name")
		})
	}
}

// moves moves web from a host to another, and requires that hardly a packet is lost.
func (d *domain) moves(web api.Endpoint, from, to, what string) {
	d.T.Helper()
	other := d.Endpoint("host3/c1")
	stream := d.Stream(d.Endpoint("host1/c1"), other, other.IPs[0])
	var pings []labkit.Pings
	for _, sender := range []string{"host1/c1", "host2/c1", "host3/c1"} {
		for _, ip := range web.IPs {
			pings = append(pings, d.Ping(d.Netns(sender), ip, 10*time.Millisecond))
		}
	}
	stream(func() {
		out := d.Must(to, "baize", "endpoint", "move", "web", from, "--netns", "web")
		assert.Contains(d.T, out, fmt.Sprintf("endpoint web of network blue moved from %s to %s", from, to))
		assert.Contains(d.T, out, web.MAC)
		d.Await("the old one is gone", func() (bool, string) {
			_, err := d.Run(from, "ip", "netns", "exec", "web", "ip", "link", "show", "eth0")
			return err != nil, "eth0 is there"
		})
		labkit.GoOn(100, pings...)
	})
	for _, p := range pings {
		lost := len(p.Ends().Missing)
		d.T.Logf("%s, %s to %s: %s: %d ms lost", what, from, to, p.Name, 10*lost)
		assert.LessOrEqual(d.T, lost, moveLoss, p.Name)
	}
	list := d.Must(from, "baize", "endpoint", "list", "-q")
	assert.NotContains(d.T, strings.Fields(list), "web")
	status := d.Must("host1", "baize", "pin", "list", "--network", "blue")
	for _, ip := range web.IPs {
		assert.Contains(d.T, status, ip.String())
	}
}
