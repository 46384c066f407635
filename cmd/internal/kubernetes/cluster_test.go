//go:build kubernetes

package kubernetes_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

// programVar names the program with all of Kubernetes (cluster/main.go).
const programVar = "BAIZE_KUBERNETES"

func TestMain(m *testing.M) { os.Exit(labkit.Main(m, findProgram)) }

var program string

func findProgram() error {
	program = os.Getenv(programVar)
	if _, err := os.Stat(program); program == "" || err != nil {
		return errors.New("there is no Kubernetes: 'make test-kubernetes' builds it, once, and runs these tests")
	}
	return nil
}

// cluster is a Kubernetes cluster in a lab of a test.
type cluster struct {
	*labkit.Lab
	k     *kubernetes.Cluster
	dir   string
	nodes []string // their names
	// provider: pods have Baize's own CNI plugin, and not flannel's.
	provider bool
	// multus: what runtimes call is Multus, which calls the plugin.
	multus bool
	// kubelets and runtimes are those of nodes.
	kubelets, runtimes map[string]kubernetes.Process
	api                kubernetes.Process
}

// up brings a control plane up in the fabric of a lab, and no nodes yet.
func up(t *testing.T, hosts int) *cluster {
	t.Helper()
	return upAs(t, hosts, kubernetes.Options{})
}

// upAs is up; o says what is not usual.
func upAs(t *testing.T, hosts int, o kubernetes.Options) *cluster {
	t.Helper()
	o.Program, o.Dir = program, t.TempDir()
	require.NoError(t, os.Chmod(o.Dir, 0o755))
	if o.CNIBin == "" {
		o.CNIBin, o.CNIConf = filepath.Join(o.Dir, "cni"), filepath.Join(o.Dir, cnihost.Dir)
	}
	c := &cluster{dir: o.Dir, kubelets: map[string]kubernetes.Process{}, runtimes: map[string]kubernetes.Process{}}
	c.Lab = labkit.Up(t, lab.Config{Hosts: hosts, Endpoints: -1, NoProof: true})
	var err error
	c.k, err = kubernetes.New(c.Lab.Lab, o)
	require.NoError(t, err)
	for _, n := range c.k.Nodes {
		c.nodes = append(c.nodes, n.Name)
	}
	c.startAPI()
	require.NoError(t, c.k.StartControllers(t.Context()))
	return c
}

func (c *cluster) startAPI() {
	c.T.Helper()
	var err error
	c.api, err = c.k.StartAPI(c.T.Context())
	require.NoError(c.T, err)
}

// kill ends a program.
func (c *cluster) kill(p kubernetes.Process) {
	c.T.Helper()
	require.NoError(c.T, p.Kill(c.T.Context()))
}

// kubectl runs kubectl as an administrator.
func (c *cluster) kubectl(args ...string) (string, error) { return c.k.Kubectl(c.T.Context(), args...) }

// must is kubectl of what has to succeed.
func (c *cluster) must(args ...string) string {
	c.T.Helper()
	out, err := c.kubectl(args...)
	require.NoError(c.T, err, "kubectl %v", args)
	return out
}

// apply applies a manifest.
func (c *cluster) apply(manifest string) {
	c.T.Helper()
	require.NoError(c.T, c.k.Apply(c.T.Context(), manifest))
}

// startNodes starts containerd, the kubelet, kube-proxy and what gives each node its
// network: network, called with the node's name.
func (c *cluster) startNodes(network func(node string)) {
	c.T.Helper()
	ctx := c.T.Context()
	require.NoError(c.T, kubernetes.WriteImage(ctx, filepath.Join(c.dir, "image.tar")))
	if filepath.Dir(c.k.CNIBin) == c.dir {
		require.NoError(c.T, c.k.WritePlugins())
		c.writePlugin()
		if c.multus {
			c.writeMultus()
		}
	}
	for _, n := range c.k.Nodes {
		var err error
		c.runtimes[n.Name], c.kubelets[n.Name], err = c.k.PrepareNode(ctx, n)
		require.NoError(c.T, err)
	}
	for _, n := range c.nodes {
		network(n)
	}
	require.NoError(c.T, c.k.AwaitNodes(ctx))
}

// writePlugin gives runtimes the plugin of the network: Baize's, or a stand-in for
// flannel's with the configuration of flannel's manifest.
func (c *cluster) writePlugin() {
	c.T.Helper()
	if c.provider {
		plugin, err := labkit.Build("baize-cni", "../../..", "./cmd/baize-cni")
		require.NoError(c.T, err)
		require.NoError(c.T, c.k.WriteProvider(plugin))
		return
	}
	stand, err := os.ReadFile("testdata/flannel")
	require.NoError(c.T, err)
	require.NoError(c.T, os.WriteFile(filepath.Join(c.k.CNIBin, "flannel"), stand, 0o755))
	require.NoError(c.T, os.WriteFile(filepath.Join(c.k.CNIConf, "10-flannel.conflist"), []byte(`{
  "name": "cbr0", "cniVersion": "0.3.1", "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}`), 0o600))
}

// node is the node of a name.
func (c *cluster) node(name string) kubernetes.Node {
	c.T.Helper()
	for _, n := range c.k.Nodes {
		if n.Name == name {
			return n
		}
	}
	require.Fail(c.T, "no node "+name)
	return kubernetes.Node{}
}

// addr is a node's address in the underlay.
func (c *cluster) addr(n string) netip.Addr { return c.node(n).Addrs[0] }

// baize starts Baize on a node, and waits until it is ready.
func (c *cluster) baize(n string) kubernetes.Process {
	c.T.Helper()
	p, err := c.k.StartBaize(c.T.Context(), c.node(n))
	require.NoError(c.T, err)
	return p
}

// flannel starts flannel on a node, made of its own packages.
func (c *cluster) flannel(n string) kubernetes.Process {
	c.T.Helper()
	peer, err := labkit.Build("flannel-peer", "../flannel/peer", ".", "GOFLAGS=-mod=readonly")
	require.NoError(c.T, err)
	c.Must(n, "baize", "agent", "cleanup")
	c.Must(n, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	p, err := c.k.Spawn(c.T.Context(), n, "flannel", peer, "-node", n, "-kubeconfig-file", c.k.Conf("baize"),
		"-net-config-path", filepath.Join(c.dir, "net-conf.json"), "-iface", c.addr(n).String())
	require.NoError(c.T, err)
	c.AwaitRun("flannel on "+n, n, "grep", "FLANNEL_SUBNET", subnetenv.FlannelFile)
	return p
}

// ready waits for pods.
func (c *cluster) ready(args ...string) {
	c.T.Helper()
	c.Await("the pods", func() (bool, string) {
		out, err := c.kubectl(append([]string{"wait", "--for=condition=Ready", "pod", "--timeout=1s"}, args...)...)
		if err != nil {
			seen, _ := c.kubectl("get", "events", "--sort-by=.lastTimestamp")
			out += seen
		}
		return err == nil, fmt.Sprint(out, err)
	})
}
