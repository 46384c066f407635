//go:build kubernetes

package kubernetes_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology/fault"
)

// TestFlannelsPlace is a cluster whose network is Baize in flannel's place: pods reach
// each other, services and nodes, on the same node and on others.
func TestFlannelsPlace(t *testing.T) {
	c := up(t, 2)
	c.startNodes(func(n string) { c.baize(n) })
	c.startPods()
	c.matrix()
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
		out, err := c.Run(n, "baize", "doctor")
		assert.NoError(t, err, out)
		assert.Contains(t, out, "the agent has no etcd")
		out = c.must("get", "node", n, "-o", `jsonpath={.metadata.annotations}`)
		assert.Contains(t, out, `"flannel.alpha.coreos.com/kube-subnet-manager":"true"`)
	}
}

// TestBesideFlannel is a cluster in which one node runs flannel: all reach all. An agent
// that ends, and the API that goes away, cost no packet; what was started meanwhile works
// by what was seen last. At the end flannel's node runs Baize as well.
func TestBesideFlannel(t *testing.T) {
	c := up(t, 3)
	stops := map[string]kubernetes.Process{}
	c.startNodes(func(n string) {
		if n == "host3" {
			stops[n] = c.flannel(n)
			return
		}
		stops[n] = c.baize(n)
	})
	c.startPods()
	c.matrix()
	require.False(t, t.Failed())

	pings := []labkit.Pings{c.pingPod("host1", "host2"), c.pingPod("host1", "host3"), c.pingPod("host3", "host2")}
	c.kill(stops["host1"])
	stops["host1"] = c.baize("host1")
	c.kill(c.api)
	c.Await("the agent to say that the API is away", func() (bool, string) {
		problems := c.AgentStatus("host2").Problems
		return len(problems) == 1 && problems[0].Code == fault.SourceUnavailable, fmt.Sprint(problems)
	})
	c.kill(stops["host2"])
	stops["host2"] = c.baize("host2")
	labkit.GoOn(20, pings...)
	c.startAPI()
	c.Await("the agent to see the API again", func() (bool, string) {
		problems := c.AgentStatus("host2").Problems
		return len(problems) == 0, fmt.Sprint(problems)
	})
	for _, p := range pings {
		e := p.Ends()
		assert.Empty(t, e.Missing, "lost, of %d", e.Sent)
	}
	c.matrix()

	// As docs/kubernetes.md has it, from flannel to Baize: pods stay as they are.
	c.kill(stops["host3"])
	c.Must("host3", "ip", "link", "delete", "flannel.1")
	c.baize("host3")
	c.Await("the others to hear of it", func() (bool, string) {
		out, err := c.fetch("client-host1", "http://"+c.podIP("server-host3")+":8080/name")
		return err == nil && out == "server-host3", fmt.Sprint(out, err)
	})
	c.matrix()
	assert.NotContains(t, c.must("get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"), "1")
}

// pingPod pings the server of one node from the client of another, until it ends.
func (c *cluster) pingPod(from, to string) labkit.Pings {
	c.T.Helper()
	addr, err := netip.ParseAddr(c.podIP("server-" + to))
	require.NoError(c.T, err)
	return c.Ping(c.podNetns(from, "client-"+from), addr, 20*time.Millisecond)
}

// podNetns is the path of a pod's network namespace, as seen from outside.
func (c *cluster) podNetns(node, pod string) string {
	c.T.Helper()
	ip := c.podIP(pod)
	pid, err := c.Host(node).PID()
	require.NoError(c.T, err)
	for _, name := range strings.Fields(c.Must(node, "ls", "/run/netns")) {
		out, err := c.Run(node, "ip", "-n", name, "-o", "-4", "address")
		if err == nil && strings.Contains(out, " "+ip+"/") {
			return fmt.Sprintf("/proc/%d/root/run/netns/%s", pid, name)
		}
	}
	require.Fail(c.T, "no namespace", "of %s, %s", pod, ip)
	return ""
}
