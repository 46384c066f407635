//go:build kubernetes

package kubernetes

import (
	"fmt"
	"strings"

	"github.com/stretchr/testify/assert"
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
      mkdir /www && echo server-%[1]s >/www/name && dd if=/dev/zero of=/www/bulk bs=1M count=20 && httpd -f -p 8080 -h /www
    ports: [{containerPort: 8080, hostPort: %[3]d}]
    readinessProbe: {httpGet: {path: /name, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: on-%[1]s}
spec: {selector: {on: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
`, n, image, hostPort)
	}
	fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, type: NodePort, ports: [{port: 80, targetPort: 8080, nodePort: %d}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  selector: {app: server}
  type: NodePort
  externalTrafficPolicy: Local
  ports: [{port: 80, targetPort: 8080, nodePort: %d}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {app: server}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: 8080}]}
`, nodePort, localPort)
	c.apply(b.String())
	c.Await("the pods", func() (bool, string) {
		out, err := c.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=1s")
		if err != nil {
			seen, _ := c.kubectl("get", "events", "--sort-by=.lastTimestamp")
			out += seen
		}
		return err == nil, fmt.Sprint(out, err)
	})
}

// podIP is the address of a pod.
func (c *cluster) podIP(pod string) string {
	c.T.Helper()
	return c.must("get", "pod", pod, "-o", "jsonpath={.status.podIP}")
}

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
func (c *cluster) clusterIP(service string) string {
	c.T.Helper()
	return c.must("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
}

// matrix proves every way between pods, services and nodes.
func (c *cluster) matrix() {
	t := c.T
	service := c.clusterIP("server")
	for _, a := range c.nodes {
		client := "client-" + a
		for _, b := range c.nodes {
			server, ip := "server-"+b, c.podIP("server-"+b)
			where := fmt.Sprintf("%s to %s", client, server)
			out, err := c.fetch(client, "http://"+ip+":8080/name")
			assert.NoError(t, err, where)
			assert.Equal(t, server, out, where)
			out, err = c.inPod(client, "sh", "-c", "timeout 30 wget -qO- http://"+ip+":8080/bulk | wc -c")
			assert.NoError(t, err, "20 MiB, "+where)
			assert.Equal(t, fmt.Sprint(20<<20), strings.TrimSpace(out), "20 MiB, "+where)
			// A node reaches its own pods, which is what probes need, and others'.
			out, err = c.Run(a, "curl", "-sf", "-m", "5", "http://"+ip+":8080/name")
			assert.NoError(t, err, "%s, a node, to %s", a, server)
			assert.Equal(t, server, strings.TrimSpace(out))
			_, err = c.fetch(client, fmt.Sprintf("http://%s:%d/name", c.addr(b), nodePort))
			assert.NoError(t, err, "%s to the NodePort on %s", client, b)
			out, err = c.fetch(client, fmt.Sprintf("http://%s:%d/name", c.addr(b), hostPort))
			assert.NoError(t, err, "%s to the hostPort on %s", client, b)
			assert.Equal(t, server, out)
			_, err = c.inPod(client, "ping", "-c", "1", "-W", "5", c.addr(b).String())
			assert.NoError(t, err, "%s to the node %s", client, b)
		}
		c.requireAllServe(client, "http://"+service+"/name")
		_, err := c.Run(a, "curl", "-sf", "-m", "5", "http://"+service+"/name")
		assert.NoError(t, err, "%s, a node, to the service", a)
		// From outside of the cluster.
		_, err = c.Run("fabric", "curl", "-sf", "-m", "5", fmt.Sprintf("http://%s:%d/name", c.addr(a), nodePort))
		assert.NoError(t, err, "a stranger to the NodePort on %s", a)
	}
	c.services()
}

// services proves what depends on where the client is.
func (c *cluster) services() {
	t := c.T
	sticky := c.clusterIP("sticky")
	for _, n := range c.nodes {
		server := "server-" + n
		out, err := c.fetch(server, "http://"+c.clusterIP("on-"+n)+"/name")
		assert.NoError(t, err, "%s to itself by a service", server)
		assert.Equal(t, server, out)
		seen := map[string]bool{}
		for range 8 {
			out, err = c.fetch("client-"+n, "http://"+sticky+"/name")
			assert.NoError(t, err, "client-%s to the service with sessionAffinity", n)
			seen[out] = true
			out, err = c.Run("fabric", "curl", "-sf", "-m", "5", fmt.Sprintf("http://%s:%d/name", c.addr(n), localPort))
			assert.NoError(t, err, "a stranger to the NodePort on %s, externalTrafficPolicy Local", n)
			assert.Equal(t, server, strings.TrimSpace(out))
		}
		assert.Len(t, seen, 1, "servers that answered client-%s, with sessionAffinity", n)
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
