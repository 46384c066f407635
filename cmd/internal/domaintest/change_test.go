//go:build system

package domaintest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

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
}
