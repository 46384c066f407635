package netfilter

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var tunnelIn = Packet{
	Hook: "input", Proto: "udp", Port: 4789, In: "eth0",
	Src: netip.MustParseAddr("192.168.77.12"), Dst: netip.MustParseAddr("192.168.77.11"),
}

// input is a table with a base chain of a policy and rules.
func input(policy, rules string) string {
	return "table inet filter { # handle 1\n\tset s { # handle 2\n\t\ttype ipv4_addr\n\t}\n" +
		"\tchain input { # handle 3\n\t\ttype filter hook input priority filter; policy " + policy + ";\n" + rules +
		"\t}\n\tchain other { # handle 4\n\t\tudp dport 4789 drop # handle 44\n\t}\n}\n"
}

func TestDrops(t *testing.T) {
	for name, tc := range map[string]struct {
		rules, policy string
		want          string // the rule that drops; empty: none is certain
	}{
		"nothing":                    {"", "accept", ""},
		"the port":                   {"udp dport 4789 counter packets 0 bytes 0 drop # handle 9\n", "accept", "udp dport 4789 counter packets 0 bytes 0 drop"},
		"another port":               {"udp dport 53 drop # handle 9\n", "accept", ""},
		"a set of ports":             {"udp dport { 53, 4789 } drop # handle 9\n", "accept", "udp dport { 53, 4789 } drop"},
		"a range":                    {"udp dport 4000-5000 drop # handle 9\n", "accept", "udp dport 4000-5000 drop"},
		"all but":                    {"udp dport != 53 drop # handle 9\n", "accept", "udp dport != 53 drop"},
		"tcp":                        {"tcp dport 4789 drop # handle 9\n", "accept", ""},
		"of a peer":                  {"ip saddr 192.168.77.0/24 drop # handle 9\n", "accept", "ip saddr 192.168.77.0/24 drop"},
		"of others":                  {"ip saddr 10.0.0.0/8 drop # handle 9\n", "accept", ""},
		"by a device":                {"iifname \"eth*\" drop # handle 9\n", "accept", `iifname "eth*" drop`},
		"by another device":          {"iifname \"lo\" accept # handle 8\niifname != \"eth0\" drop # handle 9\n", "accept", ""},
		"accepted before":            {"udp dport 4789 accept # handle 8\ndrop # handle 9\n", "accept", ""},
		"perhaps accepted before":    {"ip saddr @s accept # handle 8\ndrop # handle 9\n", "accept", ""},
		"an unknown match drops":     {"meta mark 0x1 drop # handle 9\n", "accept", ""},
		"an unknown match accepts":   {"meta mark 0x1 accept # handle 8\nudp dport 4789 drop # handle 9\n", "accept", ""},
		"an unknown match, and sure": {"meta mark 0x1 drop # handle 8\nudp dport 4789 drop # handle 9\n", "accept", "udp dport 4789 drop"},
		"the policy":                 {"tcp dport 22 accept # handle 9\n", "drop", "policy drop"},
		"policy, but established":    {"ct state established,related accept # handle 9\n", "drop", "policy drop"},
		"policy, but new":            {"ct state new accept # handle 9\n", "drop", ""},
		"policy, perhaps accepted":   {"ip saddr @s udp dport 4789 accept # handle 9\n", "drop", ""},
		"in another chain":           {"jump other # handle 9\n", "accept", "udp dport 4789 drop"},
		"reject":                     {"udp dport 4789 reject with icmp port-unreachable # handle 9\n", "accept", "udp dport 4789 reject with icmp port-unreachable"},
		"a map of verdicts":          {"udp dport vmap { 53 : drop, 4789 : accept } # handle 9\n", "drop", ""},
		"a map that goes elsewhere":  {"iifname vmap { \"lo\" : accept, \"eth0\" : jump other } # handle 9\n", "drop", ""},
		"a map of something unknown": {"meta mark vmap { 1 : drop, 2 : accept } # handle 9\n", "drop", ""},
		"two fields at once":         {"ip saddr . udp dport { 192.168.77.12 . 4789 } accept # handle 9\n", "drop", ""},
		"ports above one":            {"udp dport >= 1024 accept # handle 9\n", "drop", ""},
		"a range of addresses":       {"ip saddr 192.168.77.1-192.168.77.20 accept # handle 9\n", "drop", ""},
		"another range":              {"ip saddr 192.168.77.13-192.168.77.20 accept # handle 9\n", "drop", "policy drop"},
		"a comment":                  {"udp dport 4789 drop comment \"no tunnels here\" # handle 9\n", "accept", "udp dport 4789 drop comment \"no tunnels here\""},
		"a set that does not end":    {"udp dport { 53, 4789 # handle 9\n", "accept", ""},
		"goes elsewhere for good":    {"goto empty # handle 9\ndrop # handle 10\n\t}\n\tchain empty {\n", "accept", ""},
		"returned":                   {"return # handle 8\ndrop # handle 9\n", "accept", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ParseNFT(input(tc.policy, tc.rules)).Drops(tunnelIn)
			if tc.want == "" {
				require.Empty(t, got)
				return
			}
			require.Len(t, got, 1)
			require.Equal(t, tc.want, got[0].Rule)
		})
	}
}

// A chain of some devices has nothing to do with what comes by others.
func TestDevices(t *testing.T) {
	for devices, drops := range map[string]int{`device "eth0"`: 1, `devices = { "eth0", "eth9" }`: 1, `devices = { eth7, eth8 }`: 0} {
		rules := ParseNFT("table netdev t {\n\tchain in {\n\t\ttype filter hook ingress " + devices +
			" priority filter; policy accept;\n\t\tdrop # handle 9\n\t}\n}\n")
		p := tunnelIn
		p.Hook = "ingress"
		require.Len(t, rules.Drops(p), drops, devices)
	}
}

func TestUndo(t *testing.T) {
	got := ParseNFT(input("accept", "udp dport 4789 drop # handle 9\n")).Drops(tunnelIn)
	require.Equal(t, "nft delete rule inet filter input handle 9", got[0].Undo)
	got = ParseNFT(input("accept", "jump other # handle 9\n")).Drops(tunnelIn)
	require.Equal(t, "nft delete rule inet filter other handle 44", got[0].Undo, "where it is")
	got = ParseNFT(input("drop", "")).Drops(tunnelIn)
	require.Equal(t, "nft 'chain inet filter input { policy accept; }'", got[0].Undo)
	require.Empty(t, ParseNFT(input("drop", "")).Drops(tunnelIn, "filter"), "left out")
	forward := tunnelIn
	forward.Hook = "forward"
	require.Empty(t, ParseNFT(input("drop", "")).Drops(forward), "another hook")
}

func TestIPTablesSave(t *testing.T) {
	const save = `# Generated by iptables-save
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p udp -m udp --dport 4789 -m comment --comment no -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD ! -i docker0 -o docker0 -j DOCKER
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 10.1.5.2/32 ! -i docker0 -j DROP
COMMIT
`
	rs := ParseSave(save, "iptables-legacy", "ip")
	got := rs.Drops(tunnelIn)
	require.Len(t, got, 1)
	require.Equal(t, "iptables-legacy -t filter -D INPUT -p udp -m udp --dport 4789 -m comment --comment no -j DROP", got[0].Undo)
	p := Packet{Hook: "forward", In: "eth0", Out: "docker0", Dst: netip.MustParseAddr("10.1.5.2")}
	got = rs.Drops(p)
	require.Len(t, got, 1)
	require.True(t, got[0].Policy)
	p.Hook, p.Out = "prerouting", ""
	require.Len(t, rs.Drops(p), 1, "the raw table of Docker 28")
	p.In = "docker0"
	require.Empty(t, rs.Drops(p))

	rs = ParseSave("*filter\n:INPUT ACCEPT [0:0]\n:EMPTY - [0:0]\n-A INPUT -g EMPTY\n-A INPUT -j DROP\nCOMMIT\n", "iptables-legacy", "ip")
	require.Empty(t, rs.Drops(tunnelIn), "a chain that is gone to does not come back")
}

// Whatever protocol a packet has: only what drops all of them is certain.
func TestDropsOfAnyProtocol(t *testing.T) {
	p := tunnelIn
	p.Proto, p.Port = Any, 0
	for rules, want := range map[string]int{
		"": 1, "iifname \"lo\" accept # handle 8\n": 1, "ct state established,related accept # handle 8\n": 1,
		"tcp dport 22 accept # handle 8\n": 0, "meta l4proto icmp accept # handle 8\n": 0, "icmp type echo-request accept # handle 8\n": 0,
		"udp dport 53 drop # handle 8\n": 1, "drop # handle 8\n": 1,
	} {
		require.Len(t, ParseNFT(input("drop", rules)).Drops(p), want, rules)
	}
	require.Empty(t, ParseNFT(input("accept", "tcp dport 22 drop # handle 8\n")).Drops(p))
}

// firewalld's rules for a host in its zone public, as it makes them (version 1.3), without
// chains that have no rules.
const firewalld = `table inet firewalld { # handle 1
	chain filter_PREROUTING { # handle 2
		type filter hook prerouting priority filter + 10; policy accept;
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept # handle 3
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop # handle 4
	}
	chain filter_INPUT { # handle 5
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept # handle 6
		ct status dnat accept # handle 7
		iifname "lo" accept # handle 8
		ct state invalid drop # handle 9
		jump filter_INPUT_ZONES # handle 10
		reject with icmpx admin-prohibited # handle 11
	}
	chain filter_INPUT_ZONES { # handle 12
		iifname "eth9" goto filter_IN_internal # handle 13
		goto filter_IN_public # handle 14
	}
	chain filter_IN_public { # handle 15
		jump filter_IN_public_deny # handle 16
		jump filter_IN_public_allow # handle 17
		meta l4proto { icmp, ipv6-icmp } accept # handle 18
		reject with icmpx admin-prohibited # handle 19
	}
	chain filter_IN_public_deny { # handle 20
	}
	chain filter_IN_public_allow { # handle 21
		tcp dport 22 accept # handle 22
		ip6 daddr fe80::/64 udp dport 546 accept # handle 23
ALLOWED
	}
}
`

func TestFirewalld(t *testing.T) {
	gre := tunnelIn
	gre.Proto, gre.Port = "gre", 0
	for allowed, want := range map[string][2]int{
		"": {1, 1}, "udp dport 4789 accept # handle 30": {0, 1}, "meta l4proto gre accept # handle 30": {1, 0},
	} {
		rules := ParseNFT(strings.ReplaceAll(firewalld, "ALLOWED", allowed))
		for i, p := range []Packet{tunnelIn, gre} {
			found := rules.Drops(p)
			require.Len(t, found, want[i], "%s: %s", allowed, p.Proto)
			for _, d := range found {
				require.Equal(t, "inet firewalld filter_IN_public", d.Where)
			}
			p.Hook = "prerouting"
			require.Empty(t, rules.Drops(p))
		}
	}
}
