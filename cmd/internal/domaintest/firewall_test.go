//go:build system

package domaintest

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// Docker sets the policy DROP of FORWARD, by whichever kind of iptables it was
// installed with, and a reload of a firewall takes away what is not its own.
// The hosts route all the same, and nothing is left at the end.
func TestForwardPolicy(t *testing.T) {
	t.Parallel()
	p := netip.MustParsePrefix
	d := up(t, topology.Route, lab.Config{
		Hosts: 2, NoProof: true, AgentArgs: []string{"--audit-interval", "1s"},
		Networks: []lab.NetworkSpec{
			{Name: "fast", Transport: topology.Route, Prefixes: []netip.Prefix{p("10.3.0.0/16"), p("fd00:10:3::/48")}},
			{Name: "blue", Transport: topology.Auto, Prefixes: []netip.Prefix{p("10.1.0.0/16"), p("fd00:10:1::/48")}},
		},
	})
	// In each network, both ways.
	exchange := func(d *domain) {
		d.T.Helper()
		for _, network := range []string{"fast", "blue"} {
			es := d.Endpoints(network)
			require.Len(d.T, es, 2)
			from, to := es[0], es[1]
			d.Reaches(from.Node+"/"+from.Name, to)
			d.Reaches(to.Node+"/"+to.Name, from)
		}
	}
	lost := func(d *domain) {
		d.T.Helper()
		for _, network := range []string{"fast", "blue"} {
			es := d.Endpoints(network)
			for _, ip := range es[1].IPs {
				_, err := d.Run(es[0].Node+"/"+es[0].Name, "ping", "-c", "1", "-W", "1", ip.String())
				require.Error(d.T, err, "%s: nothing is dropped, so nothing is proven", network)
			}
		}
	}
	kinds := map[string][]string{
		"nft":    {"iptables-nft", "ip6tables-nft"},
		"legacy": {"iptables-legacy", "ip6tables-legacy"},
	}
	each := func(d *domain, kind string, args ...string) {
		d.T.Helper()
		for _, tool := range kinds[kind] {
			for _, host := range []string{"host1", "host2"} {
				d.Must(host, append([]string{tool}, args...)...)
			}
		}
	}
	exchange(d)
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			d := d.in(t)
			each(d, kind, "-P", "FORWARD", "DROP")
			exchange(d)
			// As a reload of the firewall does, in one step: the agent may put its
			// rules back between two.
			for _, tool := range kinds[kind] {
				for _, host := range []string{"host1", "host2"} {
					d.Must(
						host,
						"sh",
						"-c",
						`printf '*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\nCOMMIT\n' | `+tool+"-restore",
					)
				}
			}
			exchange(d)
			// It is the agent that does it.
			for _, h := range []string{"host1", "host2"} {
				require.NoError(t, d.Host(h).StopService(t.Context(), lab.ServiceAgent))
			}
			exchange(d)
			each(d, kind, "-F")
			lost(d)
			for _, h := range []string{"host1", "host2"} {
				require.NoError(t, d.Host(h).StartService(t.Context(), lab.ServiceAgent))
			}
			exchange(d)
			each(d, kind, "-P", "FORWARD", "ACCEPT")
		})
	}
	t.Run("cleanup", func(t *testing.T) {
		d := d.in(t)
		require.NoError(t, d.Host("host1").StopService(t.Context(), lab.ServiceAgent))
		d.Must("host1", "baize", "agent", "cleanup")
		for _, tools := range kinds {
			for _, tool := range tools {
				require.NotContains(t, d.Must("host1", tool, "-S"), "BAIZE", tool)
			}
		}
	})
	if t.Failed() {
		d.Explain()
	}
}
