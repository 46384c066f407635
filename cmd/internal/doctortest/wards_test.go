//go:build system

package doctortest

import (
	"net/netip"
	"testing"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// pairs are faults of the catalogue that are there at the same time: neither hides the
// other. The first is quick.
var pairs = [][2]string{
	{"blackhole route to a peer", "end on the host down"},
	{"container's MAC changed", "drop flow above Baize's"},
	{"malformed record", "tunnel port taken by a VXLAN device"},
	{"UDP 4789 dropped by nft, egress", "container's MTU 9000"},
	{"agent stopped", "container's prefix length changed"},
	{"device left over", "too many handler threads"},
	{"etcd stopped", "container does not answer ARP"},
	{"flow deleted, agent stopped", "port of another program"},
	{"ovs-vswitchd gets no processor time", "container's MTU 9000"},
	{"a node that is gone", "checksum offload switched on"},
}

// drop is a script that drops what a host sends into the fabric.
func drop(host, match string) string {
	return "nft add table netdev trouble && nft 'add chain netdev trouble in { type filter hook ingress device " + host +
		" priority 0; }' && nft 'add rule netdev trouble in " + match + " drop'"
}

const heal = "nft delete table netdev trouble"

// probed are faults of the fabric, which no host sees but by the probes of its agent: what
// to do is in words, since it is to be done elsewhere.
var probed = ward{
	config: lab.Config{Env: []string{"BAIZE_PROBE_INTERVAL=2s"}},
	faults: []injected{
		{
			name: "the fabric drops what host1 sends", on: "fabric", inject: drop("host1", "ip daddr 192.168.77.12 udp dport 4789"),
			undo: heal, person: heal, code: fault.PeerDeaf, item: "host2",
		},
		{
			name: "the fabric drops what host1 is sent", on: "fabric", inject: drop("host2", "ip daddr 192.168.77.11 udp dport 4789"),
			undo: heal, person: heal, code: fault.PeerSilent, item: "host2",
		},
		{
			name: "the fabric drops what host2 sends", on: "fabric", at: "host2",
			inject: drop("host2", "ip daddr 192.168.77.11 udp dport 4789"),
			undo:   heal, person: heal, code: fault.PeerDeaf, item: "host1", also: []fault.Code{fault.PeerSilent},
		},
		{
			name: "the fabric carries 1400 bytes", on: "fabric", inject: drop("host1", "ip daddr 192.168.77.12 ip length > 1400"),
			undo: heal, person: heal, code: fault.PathMTU, item: "host2",
		},
		{
			name: "the fabric loses a quarter", on: "fabric",
			inject: drop("host1", "ip daddr 192.168.77.12 udp dport 4789 numgen random mod 100 < 25"),
			undo:   heal, person: heal, code: fault.PeerLossy, item: "host2",
		},
	},
}

// TestCatalogueOfTheFabric is the part of the catalogue that probes find.
func TestCatalogueOfTheFabric(t *testing.T) { probed.visit(t) }

// routed are faults of hosts whose kernels forward a network's packets.
var routed = ward{
	config: lab.Config{Networks: []lab.NetworkSpec{
		{Name: "red", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}, Transport: topology.Route},
	}},
	faults: []injected{
		{
			name: "policy of another program's forward chain", inject: "nft add table inet theirs && " +
				"nft 'add chain inet theirs through { type filter hook forward priority 10; policy drop; }'",
			undo: "nft delete table inet theirs", code: fault.FirewallDrops, item: "firewall, inet theirs through", also: unreachable,
		},
		{
			name: "drop in the raw table, as Docker's", inject: "nft add table ip theirs && " +
				"nft 'add chain ip theirs pre { type filter hook prerouting priority -300; }' && " +
				"nft add rule ip theirs pre ip daddr 10.2.0.0/16 iifname != docker0 drop",
			undo: "nft delete table ip theirs", code: fault.FirewallDrops, item: "firewall, ip theirs pre", also: unreachable,
		},
		{
			name: "drop in postrouting", inject: "nft add table ip theirs && " +
				"nft 'add chain ip theirs post { type filter hook postrouting priority 0; }' && " +
				"nft add rule ip theirs post ip daddr 10.2.0.0/16 drop",
			undo: "nft delete table ip theirs", code: fault.FirewallDrops, item: "firewall, ip theirs post", also: unreachable,
		},
		{
			name: "drop at the device's ingress", inject: "nft add table netdev theirs && " +
				"nft 'add chain netdev theirs in { type filter hook ingress device br-phy priority 0; }' && " +
				"nft add rule netdev theirs in ip daddr 10.2.0.0/16 drop",
			undo: "nft delete table netdev theirs", code: fault.FirewallDrops, item: "firewall, netdev theirs in", also: unreachable,
		},
		{
			name: "a container's way taken by a blackhole", inject: "ip route add blackhole PEER/32", undo: "ip route del blackhole PEER/32",
			code: fault.RouteForeign, item: "PEER", also: unreachable,
		},
		{
			name: "a policy rule before all routes", inject: "ip rule add pref 5 to 10.2.0.0/16 lookup 77 && " +
				"ip route add blackhole default table 77",
			undo: "ip rule del pref 5; ip route flush table 77", clean: "ip route flush table 77", code: fault.RouteForeign,
			item: "route to 10.2.", also: unreachable, person: "ip rule del pref 5",
		},
	},
}

// unreachable is what follows where packets of a routed network do not arrive.
var unreachable = []fault.Code{fault.PeerSilent, fault.PeerDeaf, fault.Unreachable}

// TestCatalogueOfRoutes is the part of the catalogue for networks that are routed.
func TestCatalogueOfRoutes(t *testing.T) { routed.visit(t) }
