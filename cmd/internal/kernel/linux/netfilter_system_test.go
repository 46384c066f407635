//go:build system

package linux

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/cmd/internal/testkit"
)

// What may have to see forwarded packets is found, of either kind of iptables, of
// nftables and of IPsec; Baize's own tables are not.
func TestNetfilter(t *testing.T) {
	host(t)
	concerns := func() string {
		t.Helper()
		n, err := Host{}.Netfilter(t.Context())
		require.NoError(t, err)
		return n.Concerns([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, []string{"bn-blue", "underlay0"})
	}
	testkit.IP(t, "link add underlay0 type veth")
	t.Cleanup(func() { testkit.IP(t, "link del underlay0") })
	require.Empty(t, concerns())
	settle(t, kernel.State{Firewall: kernel.Firewall{
		NAT: []kernel.NATRule{{Dst: netip.MustParsePrefix("10.1.0.0/16")}},
	}})
	assert.Empty(t, concerns(), "Baize's own")
	for _, x := range []struct{ name, do, undo, why string }{
		{"nftables", "nft 'table inet mine { chain f { type filter hook forward priority 0; counter; }; }'",
			"nft delete table inet mine", "table inet mine, chain f of nftables has rules or a policy"},
		{"an empty chain", "nft 'table inet mine { chain f { type filter hook forward priority 0; }; }'",
			"nft delete table inet mine", ""},
		{"ingress", "nft 'table netdev mine { chain i { type filter hook ingress device underlay0 priority 0; }; }'",
			"nft delete table netdev mine", "table netdev mine, chain i of nftables sees what underlay0 brings"},
		{"ingress of another device", "nft 'table netdev mine { chain i { type filter hook ingress device lo priority 0; }; }'",
			"nft delete table netdev mine", ""},
		{"iptables-nft", "iptables-nft -A FORWARD -p udp -j DROP", "iptables-nft -D FORWARD -p udp -j DROP",
			" -t filter: -A FORWARD -p udp -j DROP"},
		{"iptables-legacy", "iptables-legacy -t mangle -A FORWARD -p udp -j MARK --set-mark 1",
			"iptables-legacy -t mangle -F", " -t mangle: -A FORWARD -p udp -j MARK --set-xmark 0x1/0xffffffff"},
		{"IPv6 alone", "ip6tables-nft -A FORWARD -p udp -j DROP", "ip6tables-nft -F FORWARD", ""},
		{"IPsec", "ip xfrm policy add src 10.1.0.0/16 dst 10.1.0.0/16 dir fwd tmpl proto esp mode tunnel",
			"ip xfrm policy flush", "IPsec of this host has policies (ip xfrm policy): 1"},
	} {
		t.Run(x.name, func(t *testing.T) {
			testkit.Run(t, "sh", "-ec", x.do)
			got := concerns()
			testkit.Run(t, "sh", "-ec", x.undo)
			if x.why == "" {
				assert.Empty(t, got)
			} else {
				assert.Contains(t, got, x.why)
			}
			assert.Empty(t, concerns())
		})
	}
}
