//go:build kubernetes

package kubernetes_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

// TestManifest is a bare cluster that one manifest makes Ready: agent and plugin come from
// images, where runtimes look for plugins by default. A new agent costs no packet.
func TestManifest(t *testing.T) {
	t.Run("provider", func(t *testing.T) { testManifest(t, "baize.yml", "kube-baize", "daemonset/baize", nil) })
	t.Run("in flannel's place", func(t *testing.T) {
		testManifest(t, "baize-flannel.yml", "kube-flannel", "daemonset/kube-baize-ds", func(c *cluster) {
			stand, err := os.ReadFile("testdata/flannel")
			require.NoError(t, err)
			require.NoError(t, c.k.WriteFlannelImages(t.Context(), stand))
		})
	})
}

// testManifest applies a manifest; more writes the images that it needs beside Baize's.
func testManifest(t *testing.T, file, namespace, set string, more func(*cluster)) {
	c := upAs(t, 2, kubernetes.Options{CNIBin: "/opt/cni/bin", CNIConf: cnihost.Dir})
	_, err := testkit.Try(testkit.Patience*4, nil, "sh", "../../../scripts/image.sh", c.dir)
	require.NoError(t, err)
	images, err := filepath.Glob(filepath.Join(c.dir, "baize-image_*.tar.gz"))
	require.NoError(t, err)
	require.Len(t, images, 1)
	// What is there as .tar, the nodes' runtimes get.
	_, err = testkit.Try(testkit.Patience, nil, "gunzip", images[0])
	require.NoError(t, err)
	if more != nil {
		more(c)
	}
	manifest, err := os.ReadFile("../../../scripts/kubernetes/" + file)
	require.NoError(t, err)
	last := c.nodes[len(c.nodes)-1]
	c.startNodes(func(n string) {
		for _, p := range kubernetes.Plugins {
			c.Must(n, "cp", filepath.Join(kubernetes.ReferencePlugins, p), c.k.CNIBin)
		}
		if n == last {
			c.apply(string(manifest))
		}
	})
	c.startPods()
	c.matrix()

	pings := c.pingPod("host1", "host2")
	c.must("-n", namespace, "rollout", "restart", set)
	c.Await("new agents", func() (bool, string) {
		out, err := c.kubectl("-n", namespace, "rollout", "status", set, "--timeout=1s")
		return err == nil, out
	})
	labkit.GoOn(20, pings)
	e := pings.Ends()
	assert.Empty(t, e.Missing, "lost, of %d", e.Sent)
	c.matrix()
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
	}
}
