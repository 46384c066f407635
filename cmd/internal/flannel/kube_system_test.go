//go:build system

package flannel

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology/kube"
	"github.com/baize-net/baize/topology/kube/kubefake"
)

// kubeCluster is a lab whose hosts are nodes of a Kubernetes cluster, of which there is
// no more than the API server's nodes.
type kubeCluster struct {
	*cluster
	api     *kubefake.Cluster
	url     string
	netConf string
}

func newKubeCluster(t *testing.T) *kubeCluster {
	t.Helper()
	// The lab's own agents, with etcd, make way.
	c := &kubeCluster{cluster: &cluster{peer: peer(t)}, api: kubefake.New()}
	t.Cleanup(c.api.Stop)
	c.Lab = labkit.Up(t, lab.Config{Hosts: 3, Endpoints: -1, NoProof: true})
	s, err := c.Status()
	require.NoError(t, err)
	for i, h := range s.Hosts {
		require.NoError(t, c.Host(h.Name).StopService(t.Context(), lab.ServiceAgent))
		c.Must(h.Name, "baize", "agent", "cleanup")
		c.api.Put(h.Name, []string{fmt.Sprintf("10.244.%d.0/24", i)}, nil)
	}
	l := c.listen("192.168.77.1:6443")
	go func() { _ = http.Serve(l, c.api.Handler()) }() //nolint:gosec // a test's
	t.Cleanup(func() { _ = l.Close() })
	c.url = "http://" + l.Addr().String()
	c.netConf = filepath.Join(t.TempDir(), "net-conf.json")
	require.NoError(t, os.WriteFile(c.netConf, []byte(`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`), 0o644))
	return c
}

// listen opens a socket in the lab's fabric.
func (c *kubeCluster) listen(addr string) (l net.Listener) {
	c.T.Helper()
	err := hostnet.InNetns(c.Netns("fabric"), func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	require.NoError(c.T, err)
	return l
}

// agent is the agent's command line.
func (c *kubeCluster) agent(host string, more ...string) []string {
	return append([]string{"env", "NODE_NAME=" + host, "baize", "agent", "--kube-subnet-mgr", "--kube-api-url", c.url,
		"--net-config-path", c.netConf, "--ip-masq", "--docker-plugin", "off", "--audit-interval", "1s"}, more...)
}

// baize starts Baize in flannel's place.
func (c *kubeCluster) baize(host string) (stop func()) {
	c.T.Helper()
	log := &testkit.Output{}
	stop, err := c.Host(host).Start(context.Background(), log, c.agent(host)...)
	require.NoError(c.T, err)
	c.T.Cleanup(stop)
	c.Await("Baize to write its subnet", func() (bool, string) {
		_, err := c.Run(host, "grep", "FLANNEL_SUBNET", subnetenv.FlannelFile)
		return err == nil, log.String()
	})
	return stop
}

// flannelNode starts flannel.
func (c *kubeCluster) flannelNode(host string) (stop func()) {
	c.T.Helper()
	c.Must(host, "rm", "-f", subnetenv.FlannelFile)
	return c.flannel(host, "-node", host, "-kube-api-url", c.url, "-net-config-path", c.netConf)
}

// Nodes of a Kubernetes cluster, of which one runs flannel, made of flannel's own
// packages: pods of all exchange traffic; the API goes away; a node changes from Baize to
// flannel and back, and its pods' traffic with it.
func TestKubernetesNodes(t *testing.T) {
	t.Parallel()
	c := newKubeCluster(t)
	stops := map[string]func(){"host1": c.baize("host1"), "host2": c.baize("host2"), "host3": c.flannelNode("host3")}
	addrs := map[string]string{}
	for h := range stops {
		addrs[h] = c.bridge(h)[0]
		c.Serve(h + "/c1")
	}
	all := func() {
		t.Helper()
		for from := range addrs {
			for to, addr := range addrs {
				if from != to {
					c.exchange(from+"/c1", to+"/c1", addr)
				}
			}
		}
	}
	all()
	prefix := kube.DefaultAnnotationPrefix + "/"
	assert.Equal(t, "192.168.77.11", c.api.Annotations("host1")[prefix+"public-ip"])
	assert.Equal(t, "vxlan", c.api.Annotations("host3")[prefix+"backend-type"])
	assert.Empty(t, c.AgentStatus("host1").Problems)
	_, encapsulated := c.wire("host1/c1", "host3/c1", addrs["host3"], 8472)
	assert.Equal(t, 50, encapsulated)

	// An agent that is started again loses no packet.
	done := c.pinging("host1/c1", addrs["host3"])
	stops["host1"]()
	stops["host1"] = c.baize("host1")
	assert.Positive(t, done())

	// From Baize to flannel, and back.
	stops["host2"]()
	c.Must("host2", c.agent("host2", "cleanup")...)
	stop := c.flannelNode("host2")
	all()
	stop()
	c.Must("host2", "ip", "link", "delete", "flannel.1")
	c.Must("host2", "rm", "-f", subnetenv.FlannelFile)
	c.baize("host2")
	all()
	assert.Equal(t, "192.168.77.12", c.api.Annotations("host2")[prefix+"public-ip"])
}
