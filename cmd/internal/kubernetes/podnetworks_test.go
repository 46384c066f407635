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

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

// outside is a host of the lab that is no node of the cluster, and has Baize's network.
const outside = "host3"

// TestPodNetworks is a cluster whose pods have a second interface, in a network that a host
// outside of the cluster is in as well: one Ethernet, beside the interface that Kubernetes
// knows. Addresses stay with a StatefulSet's pods.
func TestPodNetworks(t *testing.T) {
	c := upAs(t, 3, kubernetes.Options{OwnNetworks: true})
	c.provider = true
	c.k.Nodes, c.nodes = c.k.Nodes[:2], c.nodes[:2]
	agents := map[string]kubernetes.Process{}
	c.startNodes(func(n string) { agents[n] = c.baize(n) })
	c.Must(outside, "ip", "netns", "add", "stranger")
	c.Must(outside, "baize", "endpoint", "add", "stranger", "--network", "blue", "--netns", "stranger")
	c.startPods()
	for _, n := range c.nodes {
		c.apply(pod("peer-"+n, n, "blue"))
	}
	c.ready("--all")

	c.oneEthernet()
	c.matrix()
	if t.Failed() {
		return
	}
	c.withoutAgent(agents)
	c.staysWithPod()
	for _, n := range c.nodes {
		assert.Empty(t, c.AgentStatus(n).Problems, n)
		out, err := c.Run(n, "baize", "doctor")
		assert.NoError(t, err, out)
	}
	c.must("delete", "pod", "--all", "--wait")
	for _, n := range c.nodes {
		c.Await("the endpoints of pods to go", func() (bool, string) {
			left := c.podEndpoints(n)
			return len(left) == 0, fmt.Sprint(left)
		})
	}
}

// pod is one with a server, in networks of Baize's.
func pod(name, node, networks string) string {
	return annotated(name, node, "baize.network/networks", networks)
}

// annotated is one whose networks another annotation says.
func annotated(name, node, annotation, networks string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, annotations: {%s: %q}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: %q, command: [sh, -c, %s]}
`, name, annotation, networks, node, kubernetes.Image,
		"mkdir /www && dd if=/dev/zero of=/www/bulk bs=1M count=20 && httpd -f -p 8080 -h /www")
}

// podEndpoints are those of a node's pods.
func (c *cluster) podEndpoints(node string) (out []api.Endpoint) {
	for _, e := range c.AgentStatus(node).Endpoints {
		if e.Engine == api.EngineCNI {
			out = append(out, e)
		}
	}
	return out
}

// second is the address of a pod's second interface.
func (c *cluster) second(pod string) netip.Addr {
	c.T.Helper()
	out, err := c.inPod(pod, "ip", "-o", "-4", "address", "show", "dev", "net1")
	require.NoError(c.T, err)
	_, addr, _ := strings.Cut(out, "inet ")
	addr, _, _ = strings.Cut(addr, " ")
	p, err := netip.ParsePrefix(addr)
	require.NoError(c.T, err, out)
	require.Equal(c.T, 16, p.Bits())
	return p.Addr()
}

// inside runs a command in the endpoint of the host outside.
func (c *cluster) inside(argv ...string) (string, error) {
	return c.Run(outside, append([]string{"ip", "netns", "exec", "stranger"}, argv...)...)
}

// oneEthernet proves that pods of two nodes and an endpoint of a host outside are in one:
// bulk, and what has no address.
func (c *cluster) oneEthernet() {
	t, one, two := c.T, c.second("peer-host1"), c.second("peer-host2")
	for _, ip := range []netip.Addr{one, two} {
		out, err := c.inside("sh", "-c", "curl -sf -m 30 "+at(ip.String(), 8080)+"/bulk | wc -c")
		assert.NoError(t, err, "20 MiB from %s to outside", ip)
		assert.Equal(t, fmt.Sprint(20<<20), strings.TrimSpace(out), "20 MiB from %s to outside", ip)
	}
	out, err := c.inPod("peer-host1", "sh", "-c", "timeout 30 wget -qO- "+at(two.String(), 8080)+"/bulk | wc -c")
	assert.NoError(t, err)
	assert.Equal(t, fmt.Sprint(20<<20), strings.TrimSpace(out), "20 MiB from pod to pod")

	// A frame to all, of a protocol that is not IP's (the local experimental one).
	pid, err := c.Host(outside).PID()
	require.NoError(t, err)
	stranger := c.Listen(fmt.Sprintf("/proc/%d/root/run/netns/stranger", pid), "eth0")
	first := c.Listen(c.podNetns("host1", "peer-host1"), "net1")
	other := c.Listen(c.podNetns("host2", "peer-host2"), "net1")
	b := one.As4()
	frame := append([]byte{0x01, 0x00, 0x5e, 1, 2, 3, 0x02, 0x42, b[0], b[1], b[2], b[3], 0x88, 0xb5}, make([]byte, 60)...)
	copy(frame[20:], "to all of blue")
	c.Await("a multicast frame to arrive", func() (bool, string) {
		first.Send(t, frame)
		heard := []int{other.Count([]byte("to all of blue")), stranger.Count([]byte("to all of blue"))}
		return heard[0] > 0 && heard[1] > 0, fmt.Sprint(heard)
	})
}

// withoutAgent ends an agent: what is there goes on, pods without further interfaces
// start, one with some waits for it and has none meanwhile.
func (c *cluster) withoutAgent(agents map[string]kubernetes.Process) {
	t := c.T
	pid, err := c.Host(outside).PID()
	require.NoError(t, err)
	pings := c.Ping(fmt.Sprintf("/proc/%d/root/run/netns/stranger", pid), c.second("peer-host1"), 20*time.Millisecond)
	c.kill(agents["host1"])
	c.apply(pod("plain", "host1", ""))
	c.ready("plain")
	c.apply(pod("late", "host1", `[{"name": "blue", "interface": "lan0"}]`))
	c.Await("the pod to wait for the agent", func() (bool, string) {
		out, err := c.kubectl("get", "events", "--field-selector", "involvedObject.name=late", "-o",
			"jsonpath={.items[*].message}")
		return err == nil && strings.Contains(out, "interface lan0, by the annotation baize.network/networks: "), out
	})
	assert.Equal(t, "false", strings.TrimSpace(c.must("get", "pod", "late", "-o",
		`jsonpath={range .status.containerStatuses[*]}{.started}{end}`)))
	agents["host1"] = c.baize("host1")
	c.ready("late")
	out, err := c.inPod("late", "ip", "-o", "-4", "address", "show", "dev", "lan0")
	assert.NoError(t, err)
	assert.Contains(t, out, "10.1.")
	labkit.GoOn(20, pings)
	e := pings.Ends()
	assert.Empty(t, e.Missing, "lost, of %d", e.Sent)

	refused := pod("refused", "host1", "blue@eth0")
	c.apply(refused)
	c.Await("the pod to be refused", func() (bool, string) {
		out, err := c.kubectl("get", "events", "--field-selector", "involvedObject.name=refused", "-o",
			"jsonpath={.items[*].message}")
		return err == nil && strings.Contains(out, "two interfaces eth0"), out
	})
}

// staysWithPod moves a StatefulSet's pods to the other node: their addresses stay.
func (c *cluster) staysWithPod() {
	t := c.T
	c.must("cordon", "host2")
	c.apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata:
      labels: {app: db}
      annotations: {baize.network/networks: '[{"name": "blue", "ips-from": ["10.1.200.10"]}]'}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: %q, command: [sleep, "1000000"]}]
`, kubernetes.Image))
	require.Equal(t, "host1", c.dbOn("host1"))
	c.must("uncordon", "host2")
	c.must("cordon", "host1")
	c.must("delete", "pod", "db-0", "db-1", "--wait")
	require.Equal(t, "host2", c.dbOn("host2"))
	c.must("uncordon", "host1")
}

// dbOn waits for the StatefulSet's pods and that all reach them, and returns where they are.
func (c *cluster) dbOn(node string) string {
	c.T.Helper()
	c.Await("the StatefulSet", func() (bool, string) {
		out, err := c.kubectl("rollout", "status", "statefulset/db", "--timeout=1s")
		seen, _ := c.kubectl("get", "events", "--field-selector", "involvedObject.name=db-0", "-o",
			"jsonpath={.items[*].message}")
		return err == nil, fmt.Sprint(out, err, seen)
	})
	for i, want := range []string{"10.1.200.10", "10.1.200.11"} {
		assert.Equal(c.T, want, c.second(fmt.Sprintf("db-%d", i)).String())
		c.Await("outside to reach "+want, func() (bool, string) {
			out, err := c.inside("ping", "-c", "1", "-W", "1", want)
			return err == nil, out
		})
		_, err := c.inPod("peer-host1", "ping", "-c", "1", "-W", "5", want)
		assert.NoError(c.T, err, want)
	}
	return c.must("get", "pod", "db-0", "-o", "jsonpath={.spec.nodeName}")
}
