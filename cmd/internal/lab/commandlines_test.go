package lab

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/topology"
)

func TestCommandLines(t *testing.T) {
	n := DefaultNetworkSpec(netip.MustParsePrefix("10.9.0.0/16"))
	for want, got := range map[string][]string{
		"etcd --data-dir /d --unsafe-no-fsync --listen-client-urls " +
			"http://192.168.77.1:2379,http://[fd77::1]:2379,unix:///s": etcdArgs("/d", "/s"),
		"agent --vtep x": agentArgs([]string{"--vtep", "x"}),
		"network create blue --subnet 10.9.0.0/16 --subnet fd00:10:1::/48 --transport gre --vni 7": networkCreateArgs(
			n, topology.GRE, "7", false,
		),
		"network create blue --subnet 10.9.0.0/16 --subnet fd00:10:1::/48 --transport vxlan --mtu 1430": networkCreateArgs(
			n, topology.VXLAN, "", true,
		),
		"network show blue -o json":              networkShowArgs("blue"),
		"network update blue --transport geneve": networkUpdateArgs("blue", topology.Geneve),
		"endpoint add --network blue --netns c1": endpointAddArgs("blue", "c1"),
		"endpoint remove blue/c1":                endpointRemoveArgs("blue", "c1"),
		"agent cleanup":                          agentCleanupArgs(nil),
		"agent --bgp 65001 cleanup":              agentCleanupArgs([]string{"--bgp", "65001"}),
		"node remove host3 --force --yes":        nodeRemoveArgs("host3"),
	} {
		assert.Equal(t, want, strings.Join(got, " "))
	}
}

func TestEnvironmentOfHosts(t *testing.T) {
	own := hostEnv("host2", true, 1)
	assert.Equal(
		t,
		[]string{
			"BAIZE_ETCD_ENDPOINTS=http://[fd77::1]:2379", "BAIZE_NODE=host2", "HOSTNAME=host2", "BAIZE_SETTINGS=",
			"BAIZE_VTEP=fd77::12",
		},
		own,
	)
	assert.Equal(
		t,
		[]string{
			"BAIZE_ETCD_ENDPOINTS=http://192.168.77.1:2379", "BAIZE_NODE=host1", "HOSTNAME=host1", "BAIZE_SETTINGS=",
		},
		hostEnv("host1", false, 1),
	)
}
