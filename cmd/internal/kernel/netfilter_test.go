package kernel

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/topology"
)

const dockerRules = `-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N BAIZE-FORWARD
-N DOCKER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j BAIZE-FORWARD
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A BAIZE-FORWARD -d 10.1.0.0/16 -i bn-blue -j ACCEPT
-A DOCKER-USER -j RETURN
`

const dockerNAT = `-P PREROUTING ACCEPT
-P POSTROUTING ACCEPT
-N DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
`

func TestConcerns(t *testing.T) {
	for _, c := range []struct {
		name, table, rules, why string
	}{
		{"nothing", "filter", "-P FORWARD ACCEPT\n", ""},
		{"Docker's filter, with Baize's chain", "filter", dockerRules, ""},
		{"Docker's nat", "nat", dockerNAT, ""},
		{"a policy", "filter", "-P FORWARD DROP\n", "iptables -t filter: -P FORWARD DROP"},
		{"the policy of what the host itself takes", "filter", "-P INPUT DROP\n-P FORWARD ACCEPT\n", ""},
		{
			"an operator's rule before Baize's chain", "filter",
			dockerRules + "-A DOCKER-USER -p tcp -m tcp --dport 22 -j DROP\n",
			"iptables -t filter: -A DOCKER-USER -p tcp -m tcp --dport 22 -j DROP",
		},
		{"behind it", "filter", dockerRules + "-A FORWARD -p tcp -j DROP\n", ""},
		{"other addresses", "filter", "-A FORWARD -s 10.2.0.0/16 -j DROP\n-A FORWARD ! -d 10.0.0.0/8 -j DROP\n", ""},
		{"some of the network's", "filter", "-A FORWARD -d 10.1.5.9/32 -j DROP\n", "iptables -t filter: -A FORWARD -d 10.1.5.9/32 -j DROP"},
		{"all but some", "filter", "-A FORWARD ! -s 10.1.5.0/24 -j DROP\n", "iptables -t filter: -A FORWARD ! -s 10.1.5.0/24 -j DROP"},
		{"other devices", "filter", "-A FORWARD -i docker0 -j DROP\n-A FORWARD -o br-+ -j DROP\n", ""},
		{"the underlay's", "mangle", "-A POSTROUTING -o eth+ -j MARK --set-xmark 0x1/0xffffffff\n", "iptables -t mangle: -A POSTROUTING -o eth+ -j MARK --set-xmark 0x1/0xffffffff"},
		{"a counter", "raw", "-A PREROUTING -p udp\n", "iptables -t raw: -A PREROUTING -p udp"},
		{"a chain without rules", "filter", "-N mine\n-A FORWARD -j mine\n", ""},
		{"what accepts", "filter", "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := Netfilter{Tables: []IPTable{{Tool: "iptables", Family: topology.IPv4, Name: c.table, Rules: c.rules}}}
			prefixes := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")}
			assert.Equal(t, c.why, n.Concerns(prefixes, []string{"bn-blue", "eth0"}))
			assert.Empty(t, n.Concerns(prefixes[1:], []string{"bn-blue", "eth0"}), "the other family")
		})
	}
	assert.NotEmpty(t, Netfilter{Policies: 1}.Concerns(nil, nil))
	assert.NotEmpty(t, Netfilter{Chains: []string{"table inet filter, chain forward"}}.Concerns(nil, nil))
}
