//go:build kubernetes

package kubernetes_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

// TestFaults is what happens to a cluster as its provider's network stays: the API server,
// kubelets and runtimes end and start again, and a node is drained and comes back. Pods
// that stay lose no packet.
func TestFaults(t *testing.T) {
	c := up(t, 3)
	c.provider = true
	c.startNodes(func(n string) { c.baize(n) })
	c.startPods()
	c.matrix()

	pings := []labkit.Pings{c.pingPod("host1", "host2"), c.pingPod("host2", "host1")}
	c.kill(c.api)
	for _, n := range []string{"host1", "host2"} {
		c.kill(c.kubelets[n])
		c.kill(c.runtimes[n])
	}
	labkit.GoOn(20, pings...)
	for _, n := range []string{"host1", "host2"} {
		_, err := c.k.StartRuntime(t.Context(), c.node(n))
		require.NoError(t, err)
		_, err = c.k.StartKubelet(t.Context(), c.node(n))
		require.NoError(t, err)
	}
	c.startAPI()
	c.must("drain", "host3", "--force", "--timeout=50s")
	c.Await("no pods on the drained node", func() (bool, string) {
		out, err := c.kubectl("get", "pods", "--field-selector=spec.nodeName=host3", "-o", "name")
		return err == nil && out == "", fmt.Sprint(out, err)
	})
	c.must("uncordon", "host3")
	c.startPods()
	labkit.GoOn(20, pings...)
	for _, p := range pings {
		e := p.Ends()
		assert.Empty(t, e.Missing, "lost, of %d", e.Sent)
	}
	c.matrix()
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
		routed := c.Must(n, "sh", "-c", "ip -o route | grep ' dev bp' | cut -d ' ' -f 1; true")
		pods := c.must("get", "pods", "--field-selector=spec.nodeName="+n, "-o", "jsonpath={.items[*].status.podIP}")
		assert.ElementsMatch(t, strings.Fields(pods), strings.Fields(routed), "routes of %s to pods", n)
	}
}
