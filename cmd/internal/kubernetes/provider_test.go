//go:build kubernetes

package kubernetes_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

// TestQuick is what can be seen of a cluster in the shortest time: two nodes become Ready,
// and pods reach each other on both, and by a Service.
func TestQuick(t *testing.T) {
	c := up(t, 2)
	c.provider = true
	c.startNodes(func(n string) { c.baize(n) })
	c.startPods()
	c.ways("host1", "host1", 0)
	c.ways("host1", "host2", 0)
	c.requireAllServe("client-host1", at(c.clusterIP("server", 0), 80)+"/name")
}

// TestProvider is a cluster whose pods have Baize's own CNI plugin: each is routed by its
// node. They start and end without the agent, whose end costs no packet. As where Docker is
// on the nodes as well, these forward nothing that no rule is for.
func TestProvider(t *testing.T) {
	c := up(t, 2)
	c.provider = true
	c.dropForwarded("iptables")
	stops := map[string]kubernetes.Process{}
	c.startNodes(func(n string) { stops[n] = c.baize(n) })
	c.startPods()
	c.matrix()

	pings := c.pingPod("host1", "host2")
	c.kill(stops["host1"])
	c.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: slow, annotations: {kubernetes.io/ingress-bandwidth: 10M, kubernetes.io/egress-bandwidth: 20M}}
spec:
  nodeName: host1
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: %q, command: [sleep, "1000000"]}]
`, kubernetes.Image))
	c.ready("slow")
	ip := c.podIP("slow")
	end, _, _ := strings.Cut(c.Must("host1", "ip", "-o", "route", "get", ip), " src ")
	_, end, _ = strings.Cut(end, " dev ")
	assert.Contains(t, c.Must("host1", "tc", "qdisc", "show", "dev", strings.TrimSpace(end)), "tbf")
	out, err := c.fetch("slow", "http://"+c.podIP("server-host2")+":8080/name")
	assert.NoError(t, err, "started without an agent")
	assert.Equal(t, "server-host2", out)
	c.must("delete", "pod", "slow", "--wait")
	c.Await("the route to the pod to go", func() (bool, string) {
		out, err := c.Run("host1", "ip", "route", "show", ip)
		return err == nil && out == "", fmt.Sprint(out, err)
	})
	stops["host1"] = c.baize("host1")
	labkit.GoOn(20, pings)
	e := pings.Ends()
	assert.Empty(t, e.Missing, "lost, of %d", e.Sent)
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
		out, err := c.Run(n, "baize", "doctor")
		assert.NoError(t, err, out)
	}
}

// dropForwarded has all nodes drop what they forward, as Docker does.
func (c *cluster) dropForwarded(tools ...string) {
	c.T.Helper()
	for _, n := range c.nodes {
		for _, tool := range tools {
			c.Must(n, tool, "-P", "FORWARD", "DROP")
		}
	}
}

// TestDualStack is a cluster whose pods and Services have both families.
func TestDualStack(t *testing.T) {
	c := upAs(t, 2, kubernetes.Options{Dual: true})
	c.provider = true
	c.dropForwarded("iptables", "ip6tables")
	c.startNodes(func(n string) { c.baize(n) })
	c.startPods()
	c.matrix()
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
	}
}

// TestIPv6 is a cluster whose pods and Services have IPv6 alone.
func TestIPv6(t *testing.T) {
	t.Run("without etcd", func(t *testing.T) { testIPv6(t, kubernetes.Options{Only6: true}) })
	t.Run("with etcd", func(t *testing.T) { testIPv6(t, kubernetes.Options{Only6: true, OwnNetworks: true}) })
}

func testIPv6(t *testing.T, o kubernetes.Options) {
	c := upAs(t, 2, o)
	c.provider = true
	c.dropForwarded("ip6tables")
	c.startNodes(func(n string) { c.baize(n) })
	c.startPods()
	c.matrix()
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
		annotations := c.must("get", "node", n, "-o", "jsonpath={.metadata.annotations}")
		assert.Contains(t, annotations, `"flannel.alpha.coreos.com/public-ipv6"`)
		assert.NotContains(t, annotations, `"flannel.alpha.coreos.com/public-ip"`)
	}
}
