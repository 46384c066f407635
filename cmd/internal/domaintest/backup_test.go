//go:build system

package domaintest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// etcd loses everything; with the agents stopped, and a backup restored, no
// packet is lost and no address changes.
func TestRestore(t *testing.T) {
	t.Parallel()
	d := up(t, topology.VXLAN, lab.Config{Hosts: 2})
	before := map[string][]lab.EndpointStatus{"blue": d.Endpoints("blue"), "red": d.Endpoints("red")}
	subnets := d.Must("host1", "baize", "subnet", "list")
	d.Must("host1", "baize", "backup", "/run/baize.json")
	require.Zero(t, d.Lost("host1/c1", "host2/c1", func() {
		for _, host := range []string{"host1", "host2"} {
			require.NoError(t, d.Host(host).StopService(t.Context(), lab.ServiceAgent))
		}
		d.Must("host1", "etcdctl", "--endpoints", "http://192.168.77.1:2379", "del", "--prefix", "/baize/v1/")
		require.Contains(t, d.Must("host1", "baize", "network", "list"), "no networks")
		d.Must("host1", "baize", "restore", "/run/baize.json")
		for _, host := range []string{"host1", "host2"} {
			require.NoError(t, d.Host(host).StartService(context.Background(), lab.ServiceAgent))
		}
	}))
	require.Equal(t, subnets, d.Must("host1", "baize", "subnet", "list"))
	for network, endpoints := range before {
		require.Equal(t, endpoints, d.Endpoints(network))
	}
	proof, err := d.Prove(t.Context())
	require.NoError(t, err)
	require.Empty(t, proof.Failed())
}
