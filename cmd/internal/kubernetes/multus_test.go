//go:build kubernetes

package kubernetes_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

// multusNetworks is Multus' annotation.
const multusNetworks = "k8s.v1.cni.cncf.io/networks"

// TestMultus is a cluster with Multus: it gives pods their first interface by the plugin of
// the cluster's network, whichever that is, and a second one by the NetworkAttachmentDefinition
// of docs/kubernetes.md.
func TestMultus(t *testing.T) {
	for name, provider := range map[string]bool{"with Baize's plugin": true, "in flannel's place": false} {
		t.Run(name, func(t *testing.T) { testMultus(t, provider) })
	}
}

func testMultus(t *testing.T, provider bool) {
	c := upAs(t, 3, kubernetes.Options{OwnNetworks: true})
	c.provider = provider
	c.k.Nodes, c.nodes = c.k.Nodes[:2], c.nodes[:2]
	agents := map[string]kubernetes.Process{}
	c.multus = true
	c.startNodes(func(n string) { agents[n] = c.baize(n) })
	kind, err := os.ReadFile("testdata/network-attachment-definition.yaml")
	require.NoError(t, err)
	c.apply(string(kind))
	c.must("wait", "--for=condition=established", "--timeout=30s", "crd/network-attachment-definitions.k8s.cni.cncf.io")
	c.apply(documented(t))
	c.Must(outside, "ip", "netns", "add", "stranger")
	c.Must(outside, "baize", "endpoint", "add", "stranger", "--network", "blue", "--netns", "stranger")
	c.startPods()
	for _, n := range c.nodes {
		c.apply(annotated("peer-"+n, n, multusNetworks, "blue"))
	}
	c.ready("--all")

	c.oneEthernet()
	c.matrix()
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
		require.Len(t, c.podEndpoints(n), 1)
		assert.Equal(t, "default/peer-"+n, c.podEndpoints(n)[0].Container)
		// Multus tells Kubernetes of it.
		status := c.must("get", "pod", "peer-"+n, "-o", `jsonpath={.metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status}`)
		assert.Contains(t, status, c.second("peer-"+n).String())
	}

	// An address and a MAC that somebody wants, and an end without an agent.
	wish := `[{"name": "blue", "interface": "lan0", "ips": ["10.1.200.10/16"], "mac": "02:00:00:00:00:07"}]`
	c.apply(annotated("wish", "host1", multusNetworks, wish))
	c.ready("wish")
	out, err := c.inPod("wish", "ip", "address", "show", "dev", "lan0")
	require.NoError(t, err)
	assert.Contains(t, out, "10.1.200.10/16")
	assert.Contains(t, out, "02:00:00:00:00:07")
	c.kill(agents["host1"])
	c.must("delete", "pod", "wish", "--wait")
	agents["host1"] = c.baize("host1")
	c.must("delete", "pod", "--all", "--wait")
	for _, n := range c.nodes {
		c.Await("the endpoints of pods to go", func() (bool, string) {
			left := c.podEndpoints(n)
			return len(left) == 0, fmt.Sprint(left)
		})
	}
}

// writeMultus has runtimes call Multus, the first by name, which calls the plugin that is
// there.
func (c *cluster) writeMultus() {
	t := c.T
	t.Helper()
	there, err := filepath.Glob(filepath.Join(c.k.CNIConf, "*.conflist"))
	require.NoError(t, err)
	require.Len(t, there, 1)
	plugin, err := labkit.Build("baize-cni", "../../..", "./cmd/baize-cni")
	require.NoError(t, err)
	for name, program := range map[string]string{"multus": beside("multus"), "baize-cni": plugin} {
		b, err := os.ReadFile(program)
		require.NoError(t, err, "'make test-kubernetes' builds it")
		require.NoError(t, os.WriteFile(filepath.Join(c.k.CNIBin, name), b, 0o755))
	}
	b, err := json.Marshal(map[string]any{
		"cniVersion": "0.3.1", "name": "multus", "type": "multus", "kubeconfig": c.k.Kubeconfig(), "clusterNetwork": there[0],
		"cniDir": filepath.Join(c.dir, "multus"), "binDir": c.k.CNIBin,
		"capabilities": map[string]bool{"portMappings": true, "bandwidth": true},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(c.k.CNIConf, "00-multus.conf"), b, 0o600))
}

// documented is the NetworkAttachmentDefinition of docs/kubernetes.md.
func documented(t *testing.T) string {
	t.Helper()
	const begin = "apiVersion: k8s.cni.cncf.io/v1"
	page, err := os.ReadFile("../../../docs/kubernetes.md")
	require.NoError(t, err)
	_, after, found := strings.Cut(string(page), "\n    "+begin+"\n")
	require.True(t, found)
	block, _, _ := strings.Cut(after, "\n\n")
	return begin + strings.ReplaceAll("\n"+block, "\n    ", "\n")
}
