//go:build system && versions

package domaintest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// A cluster of an older version is upgraded node by node, and one node goes
// back: no packet is lost, every path works and nobody has a problem, whatever
// versions there are side by side.
func TestTwoVersions(t *testing.T) {
	older := os.Getenv("BAIZE_TEST_OLDER")
	require.FileExists(t, older, "BAIZE_TEST_OLDER: an older baize: run 'make test-upgrade'")
	older, err := filepath.Abs(older)
	require.NoError(t, err)

	d := up(t, topology.VXLAN, lab.Config{Endpoints: -1})
	hosts := []string{"host1", "host2", "host3"}
	const installed = "/run/baize-lab/bin/baize"
	restart := func(host string) {
		require.NoError(t, d.Host(host).StopService(t.Context(), lab.ServiceAgent))
		require.NoError(t, d.Host(host).StartService(t.Context(), lab.ServiceAgent))
	}
	// What is installed is a mount: the older one goes on top of it.
	downgrade := func(host string) {
		d.Must(host, "mount", "--bind", older, installed)
		restart(host)
	}
	upgrade := func(host string) {
		// The relay, or the stand-in of an old agent, may still run it.
		d.Must(host, "umount", "--lazy", installed)
		restart(host)
	}
	works := func(when string) {
		t.Helper()
		proof, err := d.Prove(t.Context())
		require.NoError(t, err, when)
		require.Empty(t, proof.Failed(), when)
		require.NotEmpty(t, proof.Paths)
		for _, host := range hosts {
			d.Must(host, "baize", "status")
		}
	}
	attach := func(host, name string) {
		for _, network := range []string{"shop", "plain"} {
			_, err := d.Host(host).AddEndpoint(t.Context(), network, network+"-"+name)
			require.NoError(t, err)
		}
	}

	for _, host := range hosts {
		downgrade(host)
	}
	old, now := d.AgentStatus("host1").Version, d.Must("fabric", "baize", "version")
	require.NotContains(t, now, old, "the older version is another one")
	d.Must("host1", "baize", "network", "create", "shop", "--subnet", "10.9.0.0/16", "--subnet", "fd00:10:9::/48")
	d.Must("host2", "baize", "network", "create", "plain", "--subnet", "10.8.0.0/16", "--transport", "auto")
	for _, host := range hosts {
		attach(host, "c1")
		// The older version has no fast path. When a device first gets a place for classifiers
		// the kernel drops what leaves by it (docs/routing.md).
		d.Must(host, "tc", "qdisc", "add", "dev", "br-phy", "clsact")
	}
	works("all are " + old)

	for _, host := range hosts {
		require.Zero(t, d.Lost("host1/shop-c1", "host2/shop-c1", func() {
			require.Zero(t, d.Lost("host3/plain-c1", "host1/plain-c1", func() { upgrade(host) }))
		}), "%s is upgraded", host)
		assert.NotEqual(t, old, d.AgentStatus(host).Version)
		attach(host, "c2")
		works(host + " is upgraded")
	}
	require.Zero(t, d.Lost("host1/shop-c1", "host2/shop-c1", func() { downgrade("host2") }))
	assert.Equal(t, old, d.AgentStatus("host2").Version)
	attach("host2", "c3")
	works("host2 is " + old + " again")
}
