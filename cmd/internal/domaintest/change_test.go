//go:build system

package domaintest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// A network under load goes from tunnels to routes and back to tunnels: what
// Open vSwitch has cached of packets for a tunnel that was not there does not
// outlast it.
func TestTransportChange(t *testing.T) {
	t.Parallel()
	d := up(
		t,
		topology.VXLAN,
		lab.Config{
			Hosts:    2,
			Networks: []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}},
		},
	)
	d.Serve("host2/c1")
	to := d.Endpoint("host2/c1").IPs[0].String()
	for _, transport := range []topology.Transport{topology.Route, topology.Auto, topology.VXLAN} {
		d.Must("host1", "baize", "network", "update", "blue", "--transport", string(transport), "--mtu", "1450")
		way := "tunnel vxlan"
		if transport.Routed() {
			way = "route via"
		}
		for _, host := range []string{"host1", "host2"} {
			d.Await(fmt.Sprintf("%s takes %s", host, way), func() (bool, string) {
				out := d.Must(host, "baize", "route", "list", "--network", "blue")
				return strings.Contains(out, way) && d.transport("blue") == transport, out
			})
		}
		d.Await("bulk TCP over "+string(transport), func() (bool, string) {
			out, err := d.Run("host1/c1", "timeout", "3", "baize", "probe", "send", "--to", to, "--bytes", "1M")
			return err == nil, fmt.Sprint(out, err)
		})
		if transport != topology.VXLAN {
			d.Must("host1/c1", "baize", "probe", "send", "--to", to, "--bytes", "48M")
		}
	}
	familyIsAdded(d)
}

// familyIsAdded: a network that is in use gets IPv6, and nothing is lost meanwhile. A
// larger prefix it does not get, and who asks for it is told why, and what to do.
func familyIsAdded(d *domain) {
	d.T.Helper()
	assert.Zero(d.T, d.Lost("host1/c1", "host2/c1", func() {
		d.Must("host1", "baize", "network", "update", "blue", "--subnet", "fd00:10:1::/48")
		d.Await("subnets of both families on both hosts", func() (bool, string) {
			out := d.Must("host1", "baize", "subnet", "list", "-q", "--network", "blue")
			return len(strings.Fields(out)) == 4, out
		})
	}))
	for _, host := range d.Hosts() {
		_, err := host.AddEndpoint(d.T.Context(), "blue", "both")
		require.NoError(d.T, err)
	}
	to := d.Endpoint("host2/both")
	require.Len(d.T, to.IPs, 2)
	d.Reaches("host1/both", to)
	d.Reaches("host1/both", d.Endpoint("host2/c1"))
	_, err := d.Run("host1", "baize", "network", "update", "blue", "--subnet", "10.0.0.0/8")
	require.ErrorContains(d.T, err, "the prefix cannot change")
	assert.ErrorContains(d.T, err, "leased by host1")
	assert.ErrorContains(d.T, err, "create another network")
}
