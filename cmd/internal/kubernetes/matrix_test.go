//go:build kubernetes

package kubernetes_test

import (
	"fmt"
	"net"
	"strings"

	"github.com/stretchr/testify/assert"

	"github.com/baize-net/baize/cmd/internal/kubernetes"
)

// nodePort is that of the service, hostPort that of the servers.
const (
	nodePort = 30080
	hostPort = 8088
	// localPort is that of the service which only the node's own server answers.
	localPort = 30081
)

// startPods starts a client and a server on every node, and a service of the servers.
func (c *cluster) startPods() {
	c.T.Helper()
	var b strings.Builder
	for _, n := range c.nodes {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata: {name: client-%[1]s, labels: {app: client}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: %[2]q, command: [sleep, "1000000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: server-%[1]s, labels: {app: server, on: %[1]s}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: %[2]q
    command:
    - sh
    - -c
    - |
      mkdir /www && echo server-%[1]s >/www/name && dd if=/dev/zero of=/www/bulk bs=1M count=20 && httpd -f -p '[::]:8080' -h /www
    ports: [{containerPort: 8080, hostPort: %[3]d}]
    readinessProbe: {httpGet: {path: /name, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: on-%[1]s}
spec: {ipFamilyPolicy: PreferDualStack, selector: {on: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
`, n, kubernetes.Image, hostPort)
	}
	fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  type: NodePort
  ports: [{port: 80, targetPort: 8080, nodePort: %d}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  type: NodePort
  externalTrafficPolicy: Local
  ports: [{port: 80, targetPort: 8080, nodePort: %d}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: server}
  sessionAffinity: ClientIP
  ports: [{port: 80, targetPort: 8080}]
`, nodePort, localPort)
	c.apply(b.String())
	c.ready("--all")
}

// podIP is the address of a pod.
func (c *cluster) podIP(pod string) string {
	c.T.Helper()
	return c.must("get", "pod", pod, "-o", "jsonpath={.status.podIP}")
}

// families are the places of a family's addresses in lists of both.
func (c *cluster) families() []int {
	if c.k.Dual {
		return []int{0, 1}
	}
	return []int{0}
}

// nodeAddr is a node's address in the underlay, of the family of a place in such lists.
func (c *cluster) nodeAddr(n string, family int) string {
	c.T.Helper()
	if c.k.Only6 {
		family = 1
	}
	return c.node(n).Addrs[family].String()
}

// at is an address of a family, and a port, in a URL.
func at(addr string, port int) string { return "http://" + net.JoinHostPort(addr, fmt.Sprint(port)) }

// inPod runs a command in a pod.
func (c *cluster) inPod(pod string, argv ...string) (string, error) {
	return c.kubectl(append([]string{"exec", pod, "--"}, argv...)...)
}

// fetch gets a page from within a pod. Debian's wget -T dies of it.
func (c *cluster) fetch(pod, url string) (string, error) {
	out, err := c.inPod(pod, "timeout", "5", "wget", "-qO-", url)
	return strings.TrimSpace(out), err
}

// clusterIP is the address of a service.
func (c *cluster) clusterIP(service string, family int) string {
	c.T.Helper()
	return c.must("get", "service", service, "-o", fmt.Sprintf("jsonpath={.spec.clusterIPs[%d]}", family))
}

// matrix proves every way between pods, services and nodes.
func (c *cluster) matrix() {
	for _, f := range c.families() {
		for _, a := range c.nodes {
			for _, b := range c.nodes {
				c.ways(a, b, f)
			}
		}
		c.services(f)
	}
}

// ways proves those from one node and its client to another and its server.
func (c *cluster) ways(a, b string, family int) {
	t, client, server := c.T, "client-"+a, "server-"+b
	ip := c.must("get", "pod", server, "-o", fmt.Sprintf("jsonpath={.status.podIPs[%d].ip}", family))
	node := c.nodeAddr(b, family)
	where := fmt.Sprintf("%s to %s, %s", client, server, ip)
	out, err := c.fetch(client, at(ip, 8080)+"/name")
	assert.NoError(t, err, where)
	assert.Equal(t, server, out, where)
	out, err = c.inPod(client, "sh", "-c", "timeout 30 wget -qO- "+at(ip, 8080)+"/bulk | wc -c")
	assert.NoError(t, err, "20 MiB, "+where)
	assert.Equal(t, fmt.Sprint(20<<20), strings.TrimSpace(out), "20 MiB, "+where)
	// A node reaches its own pods, which is what probes need, and others'.
	out, err = c.Run(a, "curl", "-sf", "-m", "5", at(ip, 8080)+"/name")
	assert.NoError(t, err, "%s, a node, to %s", a, server)
	assert.Equal(t, server, strings.TrimSpace(out))
	_, err = c.fetch(client, at(node, nodePort)+"/name")
	assert.NoError(t, err, "%s to the NodePort on %s, %s", client, b, node)
	out, err = c.fetch(client, at(node, hostPort)+"/name")
	assert.NoError(t, err, "%s to the hostPort on %s, %s", client, b, node)
	assert.Equal(t, server, out)
	_, err = c.inPod(client, "ping", "-c", "1", "-W", "5", node)
	assert.NoError(t, err, "%s to the node %s, %s", client, b, node)
}

// services proves what Services do.
func (c *cluster) services(family int) {
	t := c.T
	service, sticky := at(c.clusterIP("server", family), 80)+"/name", at(c.clusterIP("sticky", family), 80)+"/name"
	for _, n := range c.nodes {
		client, server, node := "client-"+n, "server-"+n, c.nodeAddr(n, family)
		c.requireAllServe(client, service)
		_, err := c.Run(n, "curl", "-sf", "-m", "5", service)
		assert.NoError(t, err, "%s, a node, to the service %s", n, service)
		// From outside of the cluster.
		_, err = c.Run("fabric", "curl", "-sf", "-m", "5", at(node, nodePort)+"/name")
		assert.NoError(t, err, "a stranger to the NodePort on %s", node)
		out, err := c.fetch(server, at(c.clusterIP("on-"+n, family), 80)+"/name")
		assert.NoError(t, err, "%s to itself by a service", server)
		assert.Equal(t, server, out)
		seen := map[string]bool{}
		for range 8 {
			out, err = c.fetch(client, sticky)
			assert.NoError(t, err, "%s to the service with sessionAffinity", client)
			seen[out] = true
			out, err = c.Run("fabric", "curl", "-sf", "-m", "5", at(node, localPort)+"/name")
			assert.NoError(t, err, "a stranger to the NodePort on %s, externalTrafficPolicy Local", node)
			assert.Equal(t, server, strings.TrimSpace(out))
		}
		assert.Len(t, seen, 1, "servers that answered %s, with sessionAffinity", client)
	}
}

// requireAllServe requires that every server answers for the service.
func (c *cluster) requireAllServe(client, url string) {
	seen := map[string]bool{}
	for range 30 * len(c.nodes) {
		out, err := c.fetch(client, url)
		if !assert.NoError(c.T, err, "%s to the service, of which %v answered", client, seen) {
			return
		}
		if seen[out] = true; len(seen) == len(c.nodes) {
			return
		}
	}
	assert.Fail(c.T, "not every server answers for the service", "%s: %v", client, seen)
}
