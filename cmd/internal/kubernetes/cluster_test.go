//go:build kubernetes

// Package kubernetes proves Baize as the network of a real Kubernetes: control plane,
// kubelets, kube-proxies and containerd in the hosts of a lab, one node a host.
package kubernetes

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/hostfile"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

const (
	apiPort = 6443
	// podNetwork and serviceNetwork are the usual ones, serviceIP is the API server's.
	podNetwork     = "10.244.0.0/16"
	serviceNetwork = "10.96.0.0/16"
	serviceIP      = "10.96.0.1"
	// Those of a cluster with both families.
	podNetwork6     = "fd00:10:244::/56"
	serviceNetwork6 = "fd00:10:96::/112"
	// netConf is flannel's configuration in its own manifest.
	netConf     = `{"Network": "` + podNetwork + `", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}`
	netConfDual = `{"Network": "` + podNetwork + `", "EnableIPv6": true, "IPv6Network": "` + podNetwork6 + `",
		"Backend": {"Type": "vxlan"}}`
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

// cluster is a Kubernetes cluster in a lab, whose nodes are named as their hosts.
type cluster struct {
	*labkit.Lab
	dir   string // the same in all members
	pki   *pki
	admin string
	api   netip.Addr
	nodes []string
	// dual: pods and Services have addresses of both families.
	dual bool
	// provider: pods have Baize's own CNI plugin, and not flannel's.
	provider bool
	// cniBin and cniConf are where runtimes find CNI's plugins and their configurations.
	cniBin, cniConf string
	// kubelets and runtimes end a node's kubelet and containerd.
	kubelets, runtimes map[string]func()
	// startAPI starts the API server.
	startAPI func() (stop func())
	stopAPI  func()
}

// up brings a control plane up in the fabric of a lab, and no nodes yet.
func up(t *testing.T, hosts int) *cluster {
	t.Helper()
	return upAs(t, hosts, false)
}

// upAs is up; dual is for both families.
func upAs(t *testing.T, hosts int, dual bool) *cluster {
	t.Helper()
	c := &cluster{dir: t.TempDir(), dual: dual, kubelets: map[string]func(){}, runtimes: map[string]func(){}}
	require.NoError(t, os.Chmod(c.dir, 0o755))
	c.cniBin, c.cniConf = filepath.Join(c.dir, "cni"), filepath.Join(c.dir, cnihost.Dir)
	c.Lab = labkit.Up(t, lab.Config{Hosts: hosts, Endpoints: -1, NoProof: true})
	s, err := c.Status()
	require.NoError(t, err)
	at, err := netip.ParseAddrPort(strings.TrimPrefix(s.Etcd, "http://"))
	require.NoError(t, err)
	c.api = at.Addr()
	for _, h := range s.Hosts {
		c.nodes = append(c.nodes, h.Name)
	}
	c.pki = newPKI(t, c.dir, c.api)
	c.admin = c.pki.user("admin", "system:masters")
	c.controlPlane(s.Etcd)
	return c
}

// both are values of both families, or that of IPv4.
func (c *cluster) both(ipv4, ipv6 string) string {
	if c.dual {
		return ipv4 + "," + ipv6
	}
	return ipv4
}

// run starts a program in a member, with a log of its own.
func (c *cluster) run(member, name string, argv ...string) (stop func()) {
	c.T.Helper()
	stop, _ = c.Start(member, append([]string{"sh", "-c", `exec "$@" >>"$0" 2>&1`,
		filepath.Join(c.dir, member+"-"+name+".log")}, argv...)...)
	return stop
}

// component starts one of Kubernetes' programs.
func (c *cluster) component(member, name string, args ...string) (stop func()) {
	c.T.Helper()
	return c.run(member, name, append([]string{program, name}, args...)...)
}

// controlPlane starts the API server, on the lab's etcd, and what it needs.
func (c *cluster) controlPlane(etcd string) {
	c.T.Helper()
	p := c.pki
	controllers := p.user("system:kube-controller-manager", "")
	scheduler := p.user("system:kube-scheduler", "")
	p.user("system:kube-proxy", "")
	for _, n := range c.nodes {
		p.user("system:node:"+n, "system:nodes")
	}
	p.user("baize", "")
	// Else it would hide that a node lacks a way to the pods of another.
	c.Must("fabric", "sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
	pods, services := c.both(podNetwork, podNetwork6), c.both(serviceNetwork, serviceNetwork6)
	args := []string{"--etcd-servers", etcd, "--etcd-prefix", "/kubernetes",
		"--bind-address", "0.0.0.0", "--advertise-address", c.api.String(), "--secure-port", fmt.Sprint(apiPort),
		"--cert-dir", filepath.Join(c.dir, "apiserver-certs"),
		"--tls-cert-file", p.file("apiserver.crt"), "--tls-private-key-file", p.file("apiserver.key"),
		"--client-ca-file", p.file("ca.crt"), "--token-auth-file", p.file("tokens.csv"),
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file", p.file("accounts.pub"), "--service-account-signing-key-file", p.file("accounts.key"),
		"--service-cluster-ip-range", services, "--authorization-mode", "Node,RBAC",
		"--enable-admission-plugins", "NodeRestriction", "--allow-privileged",
		"--kubelet-preferred-address-types", "InternalIP",
		"--kubelet-client-certificate", p.file("kubelet-client.crt"), "--kubelet-client-key", p.file("kubelet-client.key")}
	c.startAPI = func() (stop func()) {
		stop = c.component("fabric", "kube-apiserver", args...)
		c.Await("the API server", func() (bool, string) {
			out, err := c.kubectl("get", "--raw", "/readyz")
			return err == nil, fmt.Sprint(out, err)
		})
		return stop
	}
	c.stopAPI = c.startAPI()
	c.component("fabric", "kube-controller-manager", "--kubeconfig", controllers, "--bind-address", "127.0.0.1",
		"--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file", p.file("accounts.key"), "--root-ca-file", p.file("ca.crt"),
		"--allocate-node-cidrs", "--cluster-cidr", pods, "--service-cluster-ip-range", services,
		"--node-monitor-period", "1s", "--node-monitor-grace-period", "12s")
	c.component("fabric", "kube-scheduler", "--kubeconfig", scheduler, "--bind-address", "127.0.0.1", "--leader-elect=false")
	c.apply(baizeRights)
	c.Await("the service account of pods", func() (bool, string) {
		out, err := c.kubectl("-n", "default", "get", "serviceaccount", "default")
		return err == nil, fmt.Sprint(out, err)
	})
}

// baizeRights are those of the ClusterRole in Baize's manifest (a test compares that with
// flannel's), for an agent that is no pod.
const baizeRights = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: flannel}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get]}
- {apiGroups: [""], resources: [nodes], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [nodes/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flannel}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flannel}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: baize}]
`

// kubectl runs kubectl as an administrator.
func (c *cluster) kubectl(args ...string) (string, error) {
	return c.Run("fabric", append([]string{program, "kubectl", "--kubeconfig", c.admin}, args...)...)
}

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
	file := filepath.Join(c.dir, "manifest.yml")
	require.NoError(c.T, os.WriteFile(file, []byte(manifest), 0o600))
	c.must("apply", "-f", file)
}

// startNodes starts containerd, the kubelet, kube-proxy and what gives each node its
// network: network, called with the node's name.
func (c *cluster) startNodes(network func(node string)) {
	c.T.Helper()
	writeImage(c.T, filepath.Join(c.dir, "image.tar"))
	if strings.HasPrefix(c.cniBin, c.dir) {
		c.writePlugins()
	}
	for _, n := range c.nodes {
		c.runtime(n)
		c.kubelet(n)
	}
	for _, n := range c.nodes {
		c.prepare(n)
		network(n)
	}
	c.Await("the nodes", func() (bool, string) {
		out, err := c.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=1s")
		return err == nil, fmt.Sprint(out, err)
	})
}

// plugins are those of others that a cluster needs.
var plugins = []string{"bridge", "host-local", "loopback", "portmap"}

// writePlugins makes the directory of CNI's plugins, and the configuration of them.
func (c *cluster) writePlugins() {
	c.T.Helper()
	require.NoError(c.T, errors.Join(os.MkdirAll(c.cniBin, 0o755), os.MkdirAll(c.cniConf, 0o755)))
	for _, p := range plugins {
		require.NoError(c.T, os.Symlink(filepath.Join("/usr/lib/cni", p), filepath.Join(c.cniBin, p)))
	}
	conf := netConf
	if c.dual {
		conf = netConfDual
	}
	require.NoError(c.T, os.WriteFile(filepath.Join(c.dir, "net-conf.json"), []byte(conf), 0o600))
	if c.provider {
		c.writeBaizePlugin()
		return
	}
	stand, err := os.ReadFile("testdata/flannel")
	require.NoError(c.T, err)
	require.NoError(c.T, os.WriteFile(filepath.Join(c.cniBin, "flannel"), stand, 0o755))
	// As in flannel's manifest.
	require.NoError(c.T, os.WriteFile(filepath.Join(c.cniConf, "10-flannel.conflist"), []byte(`{
  "name": "cbr0", "cniVersion": "0.3.1", "plugins": [
    {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}`), 0o600))
}

// writeBaizePlugin does what 'baize kubernetes configure --provider' does.
func (c *cluster) writeBaizePlugin() {
	c.T.Helper()
	plugin, err := labkit.Build("baize-cni", "../../..", "./cmd/baize-cni")
	require.NoError(c.T, err)
	changes, err := cnihost.Host{
		Root: c.dir, Network: "baize", First: true, Ports: true, SubnetFile: subnetenv.FlannelFile,
		BinDir: "/" + filepath.Base(c.cniBin), Plugin: plugin,
	}.Plan()
	require.NoError(c.T, err)
	require.NoError(c.T, hostfile.Apply(c.dir, changes))
}

// runtime prepares a host and starts containerd in it, with the images.
func (c *cluster) runtime(n string) {
	c.T.Helper()
	script, err := filepath.Abs("testdata/host.sh")
	require.NoError(c.T, err)
	c.Must(n, "sh", script, c.Host(n).Dir(), c.cgroup(n))
	config := filepath.Join(c.dir, n+"-containerd.toml")
	require.NoError(c.T, os.WriteFile(config, fmt.Appendf(nil, `version = 2
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
`, image, c.cniBin, c.cniConf), 0o600))
	c.startRuntime(n)
	images, err := filepath.Glob(filepath.Join(c.dir, "*.tar"))
	require.NoError(c.T, err)
	for _, file := range images {
		c.Must(n, "ctr", "-n", "k8s.io", "images", "import", file)
	}
}

// startRuntime starts a node's containerd.
func (c *cluster) startRuntime(n string) {
	c.T.Helper()
	c.runtimes[n] = c.run(n, "containerd", "containerd", "--config", filepath.Join(c.dir, n+"-containerd.toml"))
	c.AwaitRun("containerd of "+n, n, "ctr", "version")
}

// cgroup is a node's control group; the lab removes what it leaves.
func (c *cluster) cgroup(n string) string { return "baize-" + c.Name() + "-" + n }

// kubelet starts a node's kubelet and kube-proxy.
func (c *cluster) kubelet(n string) {
	c.T.Helper()
	dir := c.Host(n).Dir()
	addrs := c.addrs(n)
	config := filepath.Join(c.dir, n+"-kubelet.yaml")
	require.NoError(c.T, os.WriteFile(filepath.Join(c.dir, "resolv.conf"), []byte("# none\n"), 0o644))
	require.NoError(c.T, os.WriteFile(config, fmt.Appendf(nil, `apiVersion: kubelet.config.k8s.io/v1beta1
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
`, c.pki.file("ca.crt"), c.cgroup(n), namesIP, filepath.Join(c.dir, "resolv.conf"), filepath.Join(dir, "pod-logs"),
		filepath.Join(dir, "volume-plugins")), 0o600))
	c.startKubelet(n)
	proxy := filepath.Join(c.dir, n+"-proxy.yaml")
	require.NoError(c.T, os.WriteFile(proxy, fmt.Appendf(nil, `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %q}
hostnameOverride: %s
mode: %s
clusterCIDR: %s
bindAddress: %s
# These are the whole machine's.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, c.pki.file("system:kube-proxy.conf"), n, proxyMode(n), c.both(podNetwork, podNetwork6), addrs[0]), 0o600))
	c.component(n, "kube-proxy", "--config", proxy, "--v", "2")
}

// startKubelet starts a node's kubelet.
func (c *cluster) startKubelet(n string) {
	c.T.Helper()
	dir, addrs := c.Host(n).Dir(), c.addrs(n)
	c.kubelets[n] = c.component(n, "kubelet", "--config", filepath.Join(c.dir, n+"-kubelet.yaml"),
		"--kubeconfig", c.pki.file("system:node:"+n+".conf"),
		"--root-dir", filepath.Join(dir, "kubelet"), "--cert-dir", filepath.Join(dir, "kubelet-certs"),
		"--hostname-override", n, "--node-ip", c.both(addrs[0].String(), addrs[1].String()), "--v", "2")
}

// proxyMode is that of a node's kube-proxy: the cluster has both.
func proxyMode(n string) string {
	if n == "host2" {
		return "iptables"
	}
	return "nftables"
}

// addr is a node's address in the underlay.
func (c *cluster) addr(n string) netip.Addr { return c.addrs(n)[0] }

// addrs are a node's addresses in the underlay, of IPv4 and of IPv6.
func (c *cluster) addrs(n string) []netip.Addr {
	s, err := c.Status()
	require.NoError(c.T, err)
	for _, h := range s.Hosts {
		if h.Name == n {
			require.Len(c.T, h.Addrs, 2)
			return h.Addrs
		}
	}
	c.T.Fatalf("no host %s", n)
	return nil
}

// fabricIPv6 is the fabric's address of the family.
const fabricIPv6 = "fd77::1"

// prepare makes a node one whose network is not the lab's own agent's.
func (c *cluster) prepare(n string) {
	c.T.Helper()
	if _, err := c.Run(n, "ip", "route", "get", serviceIP); err != nil {
		// A ClusterIP is looked up before kube-proxy's rules.
		c.Must(n, "ip", "route", "add", "default", "via", c.api.String())
	}
	if c.dual {
		c.Must(n, "ip", "-6", "route", "replace", "default", "via", fabricIPv6)
	}
	require.NoError(c.T, c.Host(n).StopService(c.T.Context(), lab.ServiceAgent))
}

// baize starts Baize in flannel's place on a node, and waits until it is ready.
func (c *cluster) baize(n string) (stop func()) {
	c.T.Helper()
	stop = c.run(n, "baize", "baize", "agent", "--kube-subnet-mgr", "--kubeconfig-file", c.pki.file("baize.conf"),
		"--net-config-path", filepath.Join(c.dir, "net-conf.json"), "--node", n, "--ip-masq",
		"--docker-plugin", "off", "--state-dir", "/var/lib/baize/kubernetes")
	c.Await("Baize on "+n, func() (bool, string) {
		out, err := c.Run(n, "baize", "status")
		return strings.Contains(out, "Node "+n+": ready"), fmt.Sprint(out, err)
	})
	return stop
}

// flannel starts flannel on a node, made of its own packages.
func (c *cluster) flannel(n string) (stop func()) {
	c.T.Helper()
	peer, err := labkit.Build("flannel-peer", "../flannel/peer", ".", "GOFLAGS=-mod=readonly")
	require.NoError(c.T, err)
	c.Must(n, "baize", "agent", "cleanup")
	c.Must(n, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	stop = c.run(n, "flannel", peer, "-node", n, "-kubeconfig-file", c.pki.file("baize.conf"),
		"-net-config-path", filepath.Join(c.dir, "net-conf.json"), "-iface", c.addr(n).String())
	c.AwaitRun("flannel on "+n, n, "grep", "FLANNEL_SUBNET", subnetenv.FlannelFile)
	return stop
}
