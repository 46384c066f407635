package kubernetes

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/hostfile"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
)

// hostScript makes a host of a lab one that a kubelet runs on.
//
//go:embed host.sh
var hostScript []byte

// referencePlugins is where Debian keeps CNI's, and plugins are those that a cluster needs.
const referencePlugins = "/usr/lib/cni"

var plugins = []string{"bridge", "host-local", "loopback", "portmap"}

// WritePlugins makes the directory of CNI's plugins, with links to those of others, and
// the configuration of the network.
func (c *Cluster) WritePlugins() error {
	errs := []error{os.MkdirAll(c.CNIBin, 0o755), os.MkdirAll(c.CNIConf, 0o755)}
	for _, p := range plugins {
		errs = append(errs, os.Symlink(filepath.Join(referencePlugins, p), filepath.Join(c.CNIBin, p)))
	}
	conf := netConf
	if c.Dual {
		conf = netConfDual
	} else if c.Only6 {
		conf = netConf6
	}
	return errors.Join(append(errs, os.WriteFile(filepath.Join(c.Dir, "net-conf.json"), []byte(conf), 0o600))...)
}

// WriteProvider does what 'baize kubernetes configure --provider' does, in directories
// below the cluster's own. plugin is baize-cni.
func (c *Cluster) WriteProvider(plugin string) error {
	changes, err := cnihost.Host{
		Root: c.Dir, Network: "baize", First: true, Ports: true, SubnetFile: subnetenv.FlannelFile,
		BinDir: strings.TrimPrefix(c.CNIBin, c.Dir), Plugin: plugin,
	}.Plan()
	if err != nil {
		return err
	}
	return hostfile.Apply(c.Dir, changes)
}

// PrepareNode makes a host a node: with a container runtime, which has the images that lie
// in the cluster's directory, a kubelet and kube-proxy. It has no network yet, and no
// other agent.
func (c *Cluster) PrepareNode(ctx context.Context, n Node) (runtime, kubelet Process, err error) {
	c.Progress("starting node " + n.Name)
	script := filepath.Join(c.Dir, "host.sh")
	if err := os.WriteFile(script, hostScript, 0o700); err != nil {
		return runtime, kubelet, err
	}
	if _, err := c.run(ctx, n.Name, "sh", script, c.lab.Host(n.Name).Dir(), c.cgroup(n)); err != nil {
		return runtime, kubelet, err
	}
	if err := c.writeNode(n); err != nil {
		return runtime, kubelet, err
	}
	if runtime, err = c.StartRuntime(ctx, n); err != nil {
		return runtime, kubelet, err
	}
	images, err := filepath.Glob(filepath.Join(c.Dir, "*.tar"))
	if err != nil {
		return runtime, kubelet, err
	}
	for _, file := range images {
		if _, err := c.run(ctx, n.Name, "ctr", "-n", "k8s.io", "images", "import", file); err != nil {
			return runtime, kubelet, err
		}
	}
	if kubelet, err = c.StartKubelet(ctx, n); err != nil {
		return runtime, kubelet, err
	}
	_, err = c.component(ctx, n.Name, "kube-proxy", "--config", c.nodeFile(n, "proxy.yaml"), "--v", "2")
	return runtime, kubelet, errors.Join(err, c.freeNetwork(ctx, n))
}

// freeNetwork ends the lab's own agent of a node, and gives the node a default route: a
// ClusterIP is looked up before kube-proxy's rules.
func (c *Cluster) freeNetwork(ctx context.Context, n Node) error {
	if _, err := c.run(ctx, n.Name, "ip", "route", "get", serviceIP); err != nil && !c.Only6 {
		if _, err := c.run(ctx, n.Name, "ip", "route", "add", "default", "via", c.api.String()); err != nil {
			return err
		}
	}
	if c.Dual || c.Only6 {
		if _, err := c.run(ctx, n.Name, "ip", "-6", "route", "replace", "default", "via", fabricIPv6); err != nil {
			return err
		}
	}
	return c.lab.Host(n.Name).StopService(ctx, lab.ServiceAgent)
}

func (c *Cluster) nodeFile(n Node, name string) string { return filepath.Join(c.Dir, n.Name+"-"+name) }

// cgroup is a node's control group; the lab removes what it leaves.
func (c *Cluster) cgroup(n Node) string { return "baize-" + c.lab.Name() + "-" + n.Name }

// writeNode writes the configurations of a node's programs.
func (c *Cluster) writeNode(n Node) error {
	dir, resolv := c.lab.Host(n.Name).Dir(), filepath.Join(c.Dir, "resolv.conf")
	return errors.Join(
		os.WriteFile(resolv, []byte("# none\n"), 0o644),
		os.WriteFile(c.nodeFile(n, "containerd.toml"), fmt.Appendf(nil, `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE nobody may lower it, and runc dies of trying.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
`, Image, c.CNIBin, c.CNIConf), 0o600),
		os.WriteFile(c.nodeFile(n, "kubelet.yaml"), fmt.Appendf(nil, `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %q}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /%s
protectKernelDefaults: true
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [%s]
resolvConf: %q
podLogsDir: %q
volumePluginDir: %q
nodeStatusUpdateFrequency: 2s
# The disk is shared with others and may be nearly full.
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%",
  imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`, c.pki.file("ca.crt"), c.cgroup(n), c.first(namesIP, namesIPv6), resolv, filepath.Join(dir, "pod-logs"),
			filepath.Join(dir, "volume-plugins")), 0o600),
		os.WriteFile(c.nodeFile(n, "proxy.yaml"), fmt.Appendf(nil, `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %q}
hostnameOverride: %s
mode: %s
clusterCIDR: %s
bindAddress: %s
# These are the whole machine's.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, c.pki.conf("system:kube-proxy"), n.Name, proxyMode(n.Name), c.both(podNetwork, podNetwork6),
			c.first(n.Addrs[0].String(), n.Addrs[1].String())), 0o600))
}

// proxyMode is that of a node's kube-proxy: a cluster has both.
func proxyMode(n string) string {
	if n == "host2" {
		return "iptables"
	}
	return "nftables"
}

// StartRuntime starts a node's containerd, and waits for it.
func (c *Cluster) StartRuntime(ctx context.Context, n Node) (Process, error) {
	p, err := c.Spawn(ctx, n.Name, "containerd", "containerd", "--config", c.nodeFile(n, "containerd.toml"))
	if err != nil {
		return p, err
	}
	return p, c.await(ctx, "containerd of "+n.Name, func(ctx context.Context) error {
		_, err := c.run(ctx, n.Name, "ctr", "version")
		return err
	})
}

// StartKubelet starts a node's kubelet.
func (c *Cluster) StartKubelet(ctx context.Context, n Node) (Process, error) {
	dir := c.lab.Host(n.Name).Dir()
	return c.component(ctx, n.Name, "kubelet", "--config", c.nodeFile(n, "kubelet.yaml"),
		"--kubeconfig", c.pki.conf("system:node:"+n.Name),
		"--root-dir", filepath.Join(dir, "kubelet"), "--cert-dir", filepath.Join(dir, "kubelet-certs"),
		"--hostname-override", n.Name, "--node-ip", c.both(n.Addrs[0].String(), n.Addrs[1].String()), "--v", "2")
}

// StartBaize starts a node's agent, and waits until it is ready.
func (c *Cluster) StartBaize(ctx context.Context, n Node) (Process, error) {
	argv := []string{"baize", "agent", "--kube-subnet-mgr",
		"--kubeconfig-file", c.pki.conf("baize"), "--net-config-path", filepath.Join(c.Dir, "net-conf.json"),
		"--node", n.Name, "--ip-masq", "--docker-plugin", "off"}
	if c.OwnNetworks {
		// In etcd the node is that of the lab's own agent, in whose place this one is.
		argv = append(argv, "--own-networks", "--state-dir", "/var/lib/baize")
	} else {
		argv = append(argv, "--state-dir", "/var/lib/baize/kubernetes")
	}
	p, err := c.Spawn(ctx, n.Name, "baize", argv...)
	if err != nil {
		return p, err
	}
	return p, c.await(ctx, "Baize on "+n.Name, func(ctx context.Context) error {
		out, err := c.run(ctx, n.Name, "baize", "status")
		if !strings.Contains(out, "Node "+n.Name+": ready") {
			return errors.Join(err, errors.New(out))
		}
		return nil // it may have more to say
	})
}

// AwaitNodes waits until all nodes are ready for pods.
func (c *Cluster) AwaitNodes(ctx context.Context) error {
	return c.await(ctx, "the nodes", func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "node", "--all", "--timeout=1s")
		return err
	})
}
