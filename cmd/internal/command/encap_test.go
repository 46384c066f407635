package command

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
)

// An encapsulation that has one row in topology has tunnels, an MTU, a plan,
// completion and a place in the help.
func TestMadeUpEncapsulation(t *testing.T) {
	t.Cleanup(
		topology.RegisterEncapsulation(
			topology.Encapsulation{Name: "stt", PortPrefix: "st-", OverheadIPv4: 76, OverheadIPv6: 96, Port: 7471},
		),
	)
	s := cluster(t)
	for i, transport := range []string{"stt", "auto-stt"} {
		res := baize(
			t,
			"network",
			"create",
			transport,
			"--subnet",
			[]string{"10.8.0.0/16", "10.9.0.0/16"}[i],
			"--transport",
			transport,
		)
		require.Equal(t, cli.ExitOK, res.code, res.err)
		for _, node := range []string{"host1", "host2"} {
			_, err := s.LeaseSubnet(t.Context(), transport, node, topology.IPv4, false)
			require.NoError(t, err)
		}
	}
	res := baize(t, "network", "list")
	assert.Regexp(t, `(?m)^auto-stt\s.*auto-stt\s+1424`, res.out)
	res = baize(t, "plan", "--node", "host1")
	assert.Contains(
		t,
		res.out,
		"    Port st-host2 (stt)\n        options: key=flow, local_ip=192.168.77.11, remote_ip=192.168.77.12\n",
	)
	assert.Contains(t, res.out, `output:"st-host2"`)
	assert.Contains(t, res.out, "    Port bn-auto-stt (internal)\n")
	assert.Contains(t, complete(t, "network", "create", "x", "--transport", "auto-s"), "auto-stt")
	res = baize(t, "network", "create", "--help")
	assert.Contains(t, res.out, "vxlan, gre, geneve, stt, route, auto, auto-gre, auto-geneve or auto-stt")
	res = baize(t, "network", "create", "y", "--subnet", "10.10.0.0/16", "--transport", "sst")
	assert.NotZero(t, res.code)
	assert.Contains(t, res.err, "stt")
}
