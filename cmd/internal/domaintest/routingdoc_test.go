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
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/topology"
)

// docs/routing.md is true: every command of it runs, those that start an agent
// or a lab excepted, which TestFabric starts with the same flags; listings have
// the columns that it shows, and FRR takes the configurations.
func TestRoutingDocs(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{
		Hosts: 2, Segments: 2, FRR: true,
		Networks: []lab.NetworkSpec{{Name: "other", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}},
	})
	d.Must("host1", "sh", "-c", "mkdir -p /etc/baize && echo secret > /etc/baize/bgp-password")
	for _, host := range []string{"host1", "router"} {
		require.NoError(t, d.Host(host).AwaitService(t.Context(), lab.ServiceBGPD))
	}
	ran, started, listed, configured := 0, 0, 0, 0
	for _, b := range testkit.Blocks(t, "../../../docs/routing.md") {
		text := b.Text()
		switch {
		case b.Name == "sh":
			for _, line := range b.Lines {
				if strings.HasPrefix(line, "baize agent") {
					// A flag that is not there is refused before that one runs is seen.
					out, err := d.Run("host1", "sh", "-c", line)
					require.ErrorContains(t, err, "an agent is running", "%s: %s", line, out)
					started++
					continue
				}
				d.Must("host1", "sh", "-c", "cd /run && "+line)
				ran++
				if strings.HasPrefix(line, "baize network create fast ") {
					for _, host := range d.Hosts() { // a node has routes where something needs the network
						_, err := host.AddEndpoint(t.Context(), "fast", "fast1")
						require.NoError(t, err)
					}
				}
			}
		case strings.HasPrefix(text, "$ "):
			command := strings.TrimPrefix(b.Lines[0], "$ ")
			d.Await(command+" to show something", func() (bool, string) {
				out := d.Must("host1", "sh", "-c", command)
				if columns := strings.Fields(b.Lines[1]); columns[0] == "NETWORK" {
					return strings.HasPrefix(out, "NETWORK") &&
						fmt.Sprint(strings.Fields(strings.SplitN(out, "\n", 2)[0])) == fmt.Sprint(columns) &&
						strings.Contains(out, "10.3."), out
				}
				local := "dev bn-fast scope link src 10.3."
				if strings.HasPrefix(command, "baize plan") {
					local = "dev bn-fast src 10.3."
				}
				return strings.Contains(out, "unreachable 10.3.0.0/16") && strings.Contains(out, local), out
			})
			listed++
		case strings.HasPrefix(text, "router bgp"):
			d.Must("router", "sh", "-c", fmt.Sprintf("cat > /run/page.conf <<'E'\n%s\nE\nvtysh -C -f /run/page.conf", text))
			configured++
		}
	}
	assert.Equal(
		t,
		[]int{5, 1, 3, 1},
		[]int{ran, started, listed, configured},
		"commands run, agents, listings, routers' configurations",
	)
	assert.Contains(
		t,
		d.Must("host1", "vtysh", "-c", "show running-config"),
		"neighbor 192.0.2.1 remote-as 65000",
		"what 'vtysh -f baize.conf' set",
	)
}
