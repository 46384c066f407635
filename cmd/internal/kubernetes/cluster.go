// Package kubernetes makes a Kubernetes cluster of a lab: the control plane in its fabric,
// on the lab's etcd, and a node in each host, whose network is Baize. All of Kubernetes is
// one program (cluster/main.go), which 'make lab-kubernetes' and 'make test-kubernetes'
// build; containerd, runc and CNI's reference plugins are the machine's.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

const (
	apiPort = 6443
	// podNetwork and serviceNetwork are the usual ones, serviceIP is the API server's.
	podNetwork     = "10.244.0.0/16"
	serviceNetwork = "10.96.0.0/16"
	serviceIP      = "10.96.0.1"
	// namesIP is the Service's that names are asked of.
	namesIP = "10.96.0.10"
	// The same with IPv6 alone.
	serviceIPv6 = "fd00:10:96::1"
	namesIPv6   = "fd00:10:96::a"
	// Those of a cluster with both families.
	podNetwork6     = "fd00:10:244::/56"
	serviceNetwork6 = "fd00:10:96::/112"
	// netConf is flannel's configuration in its own manifest.
	netConf     = `{"Network": "` + podNetwork + `", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}`
	netConfDual = `{"Network": "` + podNetwork + `", "EnableIPv6": true, "IPv6Network": "` + podNetwork6 + `",
		"Backend": {"Type": "vxlan"}}`
	netConf6 = `{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "` + podNetwork6 + `",
		"Backend": {"Type": "vxlan"}}`
)

const (
	// callLimit bounds one command in a member, startLimit what is waited for to start.
	callLimit  = time.Minute
	startLimit = 3 * time.Minute
	lookEvery  = 200 * time.Millisecond
	// fabric is the member with the control plane; fabricIPv6 is an address of it.
	fabric     = "fabric"
	fabricIPv6 = "fd77::1"
)

// Options say what a cluster is made of.
type Options struct {
	// Program has all of Kubernetes.
	Program string
	// Dir is for the cluster's files and logs. Its path is the same in all members.
	Dir string
	// Dual: pods and Services have addresses of both families; Only6: of IPv6 alone.
	Dual, Only6 bool
	// OwnNetworks: agents have the lab's etcd as well, and with it networks of Baize's own.
	OwnNetworks bool
	// CNIBin and CNIConf are where runtimes find CNI's plugins and their configurations.
	CNIBin, CNIConf string
	// Progress is told what is done; may be nil.
	Progress func(step string)
}

// Node is a node of a cluster, named as its host.
type Node struct {
	Name string
	// Addrs are its addresses in the underlay, of IPv4 and of IPv6.
	Addrs []netip.Addr
}

// Cluster is a Kubernetes cluster in a lab.
type Cluster struct {
	Options
	Nodes []Node
	lab   *lab.Lab
	etcd  string
	api   netip.Addr
	pki   *pki
}

// New prepares a cluster: its users and certificates. It starts nothing.
func New(l *lab.Lab, o Options) (*Cluster, error) {
	s, err := l.Status()
	if err != nil {
		return nil, err
	}
	etcd, _, _ := strings.Cut(s.Etcd, ",")
	at, err := netip.ParseAddrPort(strings.TrimPrefix(etcd, "http://"))
	if err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	c := &Cluster{Options: o, lab: l, etcd: etcd, api: at.Addr()}
	if o.Only6 {
		c.api = netip.MustParseAddr(fabricIPv6)
	}
	for _, h := range s.Hosts {
		if len(h.Addrs) != 2 {
			return nil, fmt.Errorf("%s has not one address of each family in the underlay: %v", h.Name, h.Addrs)
		}
		c.Nodes = append(c.Nodes, Node{h.Name, h.Addrs})
	}
	if c.pki, err = newPKI(o.Dir, c.api); err != nil {
		return nil, err
	}
	errs := []error{
		c.pki.user("admin", "system:masters"), c.pki.user("system:kube-controller-manager", ""),
		c.pki.user("system:kube-scheduler", ""), c.pki.user("system:kube-proxy", ""), c.pki.user("baize", ""),
	}
	for _, n := range c.Nodes {
		errs = append(errs, c.pki.user("system:node:"+n.Name, "system:nodes"))
	}
	return c, errors.Join(errs...)
}

// Kubeconfig is the administrator's.
func (c *Cluster) Kubeconfig() string { return c.pki.conf("admin") }

// run runs a command in a member.
func (c *Cluster) run(ctx context.Context, member string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return c.lab.Host(member).Exec(ctx, argv...)
}

// Process is a program that runs in a member, on its own: it ends with the lab.
type Process struct {
	c           *Cluster
	member, pid string
}

// Kill ends a program at once, and waits for that.
func (p Process) Kill(ctx context.Context) error {
	_, err := p.c.run(ctx, p.member, "sh", "-c",
		`kill -9 "$0" 2>/dev/null; while kill -0 "$0" 2>/dev/null; do sleep 0.05; done`, p.pid)
	return err
}

// Spawn starts a program in a member, with a log of its own.
func (c *Cluster) Spawn(ctx context.Context, member, name string, argv ...string) (Process, error) {
	out, err := c.run(ctx, member, append([]string{"sh", "-c", `log=$0; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!`,
		filepath.Join(c.Dir, member+"-"+name+".log")}, argv...)...)
	if err != nil {
		return Process{}, fmt.Errorf("start %s in %s: %w", name, member, err)
	}
	return Process{c, member, strings.TrimSpace(out)}, nil
}

// component starts one of Kubernetes' programs.
func (c *Cluster) component(ctx context.Context, member, name string, args ...string) (Process, error) {
	return c.Spawn(ctx, member, name, append([]string{c.Program, name}, args...)...)
}

// await waits for what takes its time to start: until ready has no error.
func (c *Cluster) await(ctx context.Context, what string, ready func(context.Context) error) error {
	c.Progress("waiting for " + what)
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return &topology.Error{
				Kind: topology.ErrUnavailable, Item: what, What: fmt.Sprintf("not ready after %s: %v", startLimit, err),
				Remedy: "see the logs in " + c.Dir,
			}
		}
	}
}

// Kubectl runs kubectl as an administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, fabric, append([]string{c.Program, "kubectl", "--kubeconfig", c.Kubeconfig()}, args...)...)
}

// Apply applies a manifest.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	file := filepath.Join(c.Dir, "manifest.yml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		return err
	}
	_, err := c.Kubectl(ctx, "apply", "-f", file)
	return err
}

// both are values of both families, or that of the one there is.
func (c *Cluster) both(ipv4, ipv6 string) string {
	switch {
	case c.Dual:
		return ipv4 + "," + ipv6
	case c.Only6:
		return ipv6
	}
	return ipv4
}

// first is the value of the first family.
func (c *Cluster) first(ipv4, ipv6 string) string {
	if c.Only6 {
		return ipv6
	}
	return ipv4
}

// StartAPI starts the API server, on the lab's etcd, and waits for it.
func (c *Cluster) StartAPI(ctx context.Context) (Process, error) {
	p := c.pki
	api, err := c.component(ctx, fabric, "kube-apiserver", "--etcd-servers", c.etcd, "--etcd-prefix", "/kubernetes",
		"--bind-address", "::", "--advertise-address", c.api.String(), "--secure-port", fmt.Sprint(apiPort),
		"--cert-dir", filepath.Join(c.Dir, "apiserver-certs"),
		"--tls-cert-file", p.file("apiserver.crt"), "--tls-private-key-file", p.file("apiserver.key"),
		"--client-ca-file", p.file("ca.crt"), "--token-auth-file", p.file("tokens.csv"),
		"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file", p.file("accounts.pub"), "--service-account-signing-key-file", p.file("accounts.key"),
		"--service-cluster-ip-range", c.both(serviceNetwork, serviceNetwork6), "--authorization-mode", "Node,RBAC",
		"--enable-admission-plugins", "NodeRestriction", "--allow-privileged",
		"--kubelet-preferred-address-types", "InternalIP",
		"--kubelet-client-certificate", p.file("kubelet-client.crt"), "--kubelet-client-key", p.file("kubelet-client.key"))
	if err != nil {
		return api, err
	}
	return api, c.await(ctx, "the API server", func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "get", "--raw", "/readyz")
		return err
	})
}

// StartControllers starts what else the control plane has.
func (c *Cluster) StartControllers(ctx context.Context) error {
	p := c.pki
	// Else it would hide that a node lacks a way to the pods of another.
	_, err := c.run(ctx, fabric, "sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
	if err != nil {
		return err
	}
	_, err = c.component(ctx, fabric, "kube-controller-manager", "--kubeconfig", p.conf("system:kube-controller-manager"),
		"--bind-address", "127.0.0.1", "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file", p.file("accounts.key"), "--root-ca-file", p.file("ca.crt"),
		"--allocate-node-cidrs", "--cluster-cidr", c.both(podNetwork, podNetwork6),
		"--service-cluster-ip-range", c.both(serviceNetwork, serviceNetwork6),
		"--node-monitor-period", "1s", "--node-monitor-grace-period", "12s")
	if err != nil {
		return err
	}
	_, err = c.component(ctx, fabric, "kube-scheduler", "--kubeconfig", p.conf("system:kube-scheduler"),
		"--bind-address", "127.0.0.1", "--leader-elect=false")
	if err != nil {
		return err
	}
	if err := c.Apply(ctx, baizeRights); err != nil {
		return err
	}
	return c.await(ctx, "the service account of pods", func(ctx context.Context) error {
		_, err := c.Kubectl(ctx, "-n", "default", "get", "serviceaccount", "default")
		return err
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
