//go:build system

package domaintest

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// testDockerRefusedNetwork is U5: a network that an engine is refused leaves nothing, and a
// gateway of its own, which was refused once, is what a new network has.
func testDockerRefusedNetwork(p plugin) {
	records := func() string {
		return p.Must("host1", "baize", "network", "list") + p.Must("host1", "baize", "subnet", "list")
	}
	vni := p.Must("host1", "baize", "network", "list", "--filter", "name=shop", "-o", "jsonpath={[0].vni}")
	before := records()
	for _, refused := range []struct {
		words []string
		args  []string
	}{
		{[]string{"VNI", vni}, []string{"--subnet", "10.47.0.0/16", "-o", "baize.vni=" + vni}},
		{[]string{"10.47.0.0/30"}, []string{"--subnet", "10.47.0.0/30"}},
		{[]string{"baize.gateway"}, []string{"--subnet", "10.47.0.0/16", "-o", "baize.gateway=mine"}},
		{[]string{"baize.allow"}, []string{"--subnet", "10.47.0.0/16", "-o", "baize.allow=10.48.0.1/16"}},
		{nil, []string{"--subnet", "10.47.0.0/16", "--gateway", "10.48.0.1", "-o", "baize.gateway=network"}},
		{nil, []string{"--subnet", "10.47.0.0/16", "--ip-range", "10.48.0.0/24"}},
	} {
		p.refused("host2", refused.words, slices.Concat([]string{
			"network", "create", "-d", "baize", "--ipam-driver", "baize", "--ipam-opt", "baize.network=gw3",
			"-o", "baize.network=gw3",
		}, refused.args, []string{"gw3"})...)
		p.Await("nothing to be left in etcd", func() (bool, string) {
			now := records()
			return now == before, now
		})
	}

	p.network("host2", "gw3", "--subnet", "10.47.0.0/16", "--gateway", "10.47.0.1", "-o", "baize.gateway=network")
	p.T.Cleanup(func() { _, _ = p.Host("host2").Exec(context.Background(), dockerCLI, "network", "rm", "gw3") })
	assert.Contains(p.T, p.Must("host1", "baize", "network", "show", "gw3"), "10.47.0.1")
	p.container("host2", "routed", "--network", "gw3")
	assert.Contains(p.T, p.within("host2", "routed", "ip", "route"), "default via 10.47.0.1")
	p.docker("host2", "rm", "-f", "routed")
	p.docker("host2", "network", "rm", "gw3")
	p.Await("nothing to be left in etcd", func() (bool, string) {
		now := records()
		return now == before, now
	})
}

// testDockerSecondHost is U6: on hosts that join the network, too, containers have the
// addresses that people choose, once created as the pages have it: with the subnet. Without
// it the engine itself refuses them, and says why.
func testDockerSecondHost(p plugin) {
	for _, host := range []string{"host1", "host2"} {
		p.network(host, "joined", "--subnet", "10.48.0.0/16")
	}
	p.network("host3", "joined")
	p.T.Cleanup(func() {
		for _, host := range []string{"host1", "host2", "host3"} {
			_, _ = p.Host(host).Exec(context.Background(), dockerCLI, "network", "rm", "joined")
		}
	})
	p.container("host1", "first", "--network", "joined")
	beside := last(p.addr("host1", "first", "joined")) // of host1's lease
	for name, a := range map[string]netip.Addr{"anywhere": netip.MustParseAddr("10.48.250.9"), "beside": beside} {
		p.container("host2", name, "--network", "joined", "--ip", a.String())
		assert.Equal(p.T, a, p.addr("host2", name, "joined"))
		assert.Contains(p.T, p.within("host2", name, "ip", "link", "show", "eth0"), topology.MACOf(a).String())
		p.reach("host1", "first", a)
	}
	p.refused("host3", []string{"user configured subnet"}, "run", "--rm", "--network", "joined", "--ip", "10.48.250.10",
		lab.DockerImage, "true")
	p.container("host3", "given", "--network", "joined")
	p.reach("host3", "given", beside)
	for host, names := range map[string]string{"host1": "first", "host2": "anywhere beside", "host3": "given"} {
		p.docker(host, append([]string{"rm", "-f"}, strings.Fields(names)...)...)
		p.docker(host, "network", "rm", "joined")
	}
	p.Await("the network goes with its last host", func() (bool, string) {
		out := p.Must("host1", "baize", "network", "list", "-q")
		return !slices.Contains(strings.Fields(out), "joined"), out
	})
	require.NotContains(p.T, p.Must("host1", "baize", "pin", "list"), "10.48.250.9")
}
