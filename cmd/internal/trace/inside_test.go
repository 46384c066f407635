package trace_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/trace"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
)

// ownChain is the one rule of an endpoint's own firewall.
func ownChain(hook, policy string) []byte {
	return []byte(`{"nftables": [{"table": {"family": "ip", "name": "own"}}, {"chain": {"family": "ip", "table": "own",` +
		`"name": "c", "handle": 1, "type": "filter", "hook": "` + hook + `", "prio": 0, "policy": "` + policy + `"}}]}`)
}

// What an endpoint's own kernel does is a part of the way.
func TestInside(t *testing.T) {
	way := func(dev string, err error) func(netip.Addr) kernel.Way {
		return func(netip.Addr) kernel.Way { return kernel.Way{Dev: dev, Err: err} }
	}
	good := kernel.Inside{Ifname: "eth0", Way: way("eth0", nil)}
	for name, c := range map[string]struct {
		on    string // the host whose endpoint it is
		inner kernel.Inside
		err   error
		want  string // empty: delivered
	}{
		"all is well":           {on: "host1", inner: good},
		"nobody can look":       {on: "host1", err: errors.New("no such file or directory")},
		"its interface is gone": {on: "host1", inner: kernel.Inside{Way: way("", errors.New("no way"))}},
		"no route": {
			"host1", kernel.Inside{Ifname: "eth0", Way: way("", errors.New("no way to 10.1.2.2"))}, nil,
			"the packet is dropped on host1, in endpoint: endpoint c1 itself sends nothing there: no way to 10.1.2.2",
		},
		"another interface": {
			"host1", kernel.Inside{Ifname: "eth0", Way: way("tun0", nil)}, nil,
			"the packet is dropped on host1, in endpoint: endpoint c1 itself sends it by tun0, and not by eth0",
		},
		"lets nothing out": {
			"host1", kernel.Inside{Ifname: "eth0", Way: way("eth0", nil), Ruleset: ownChain("output", "drop")}, nil,
			"the packet is dropped on host1, in endpoint: the firewall of endpoint c1 itself drops it: " +
				"chain c of table ip own, by its policy",
		},
		"lets nothing in": {
			"host2", kernel.Inside{Ifname: "eth0", Way: way("eth0", nil), Ruleset: ownChain("input", "drop")}, nil,
			"the packet is dropped on host2, in endpoint: the firewall of endpoint c1 itself drops it: " +
				"chain c of table ip own, by its policy",
		},
		"forwards nothing": {on: "host2", inner: kernel.Inside{Ifname: "eth0", Ruleset: ownChain("forward", "drop")}},
		"sends nothing":    {on: "host2", inner: kernel.Inside{Ifname: "eth0", Ruleset: ownChain("output", "drop")}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, topology.VXLAN)
			f := w.facts[c.on]
			f.Endpoints[0].Netns = "/run/netns/c1"
			f.Observed.Inside = func(e ovs.Endpoint) (kernel.Inside, error) {
				require.Equal(t, "c1", e.Name)
				return c.inner, c.err
			}
			out := w.walk(t, trace.Request{})
			if c.want == "" {
				require.Equal(t, trace.Delivered, out.Verdict.Outcome, out.Verdict.Text)
				return
			}
			require.Equal(t, c.want, out.Verdict.Text)
			require.Contains(t, out.Verdict.Remedy, "nsenter --net=/run/netns/c1 ")
		})
	}
}
