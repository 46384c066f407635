package command

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"os"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/topology/kube"
	"github.com/baize-net/baize/topology/source"
)

// flagKube makes the Kubernetes API the agent's topology.
const flagKube = "kube-subnet-mgr"

// kubeFlags are those with which an agent takes flannel's place in a Kubernetes
// cluster. They have flannel's names.
func kubeFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.BoolFlag{
			Name: flagKube, Usage: "take flannel's place in a Kubernetes cluster, without etcd: see docs/kubernetes.md",
		},
		&ucli.StringFlag{
			Name:  "kubeconfig-file",
			Usage: "`FILE` that says how the Kubernetes API is reached (default the pod's service account)",
		},
		&ucli.StringFlag{Name: "kube-api-url", Usage: "`URL` of the Kubernetes API (default that of the kubeconfig)"},
		&ucli.StringFlag{
			Name:  "kube-annotation-prefix",
			Usage: "`PREFIX` of flannel's annotations of nodes",
			Value: kube.DefaultAnnotationPrefix,
		},
		&ucli.StringFlag{
			Name:  "net-config-path",
			Usage: "`FILE` with flannel's configuration of the network, for --kube-subnet-mgr",
			Value: kube.DefaultNetConf,
		},
		&ucli.BoolFlag{
			Name:  "set-node-network-unavailable",
			Usage: "have the node's condition NetworkUnavailable say that there is a network",
			Value: true,
		},
	}
}

// nodeNameVar is the variable that a DaemonSet tells the node's name by, as flannel's
// does.
const nodeNameVar = "NODE_NAME"

// addKube makes the Kubernetes API the source of an agent's topology, where that was
// asked for.
func addKube(c *ucli.Context, cfg *agent.Config) error {
	if !c.Bool(flagKube) {
		return nil
	}
	for _, other := range []string{"flannel", "docker-bridge"} {
		if c.IsSet(other) {
			return usagef("baize agent", "--%s takes its topology from Kubernetes alone: leave --%s out", flagKube, other)
		}
	}
	found, err := kube.LoadConfig(c.String("kube-api-url"), c.String("kubeconfig-file"))
	if err != nil {
		return err
	}
	api, err := kube.NewAPI(found, "baize/"+cfg.Version)
	if err != nil {
		return err
	}
	cfg.Node = cmp.Or(cfg.Node, os.Getenv(nodeNameVar))
	cfg.WithoutEtcd, cfg.Reach = true, apiServer(found.Host)
	file, config, masquerade := c.String("subnet-file"), c.String("net-config-path"), c.Bool("ip-masq")
	cfg.Masquerade = masqueraded(masquerade)
	o := kube.Options{
		Nodes: api, AnnotationPrefix: c.String("kube-annotation-prefix"),
		NetConf:       func() ([]byte, error) { return os.ReadFile(config) },
		KeepCondition: !c.Bool("set-node-network-unavailable"),
	}
	cfg.Sources = append(cfg.Sources, func(d agent.SourceDeps) (source.Source, error) {
		o.Source = flannelOptions(d, "kubernetes.json", file, masquerade)
		return kube.NewSource(o)
	})
	return nil
}

// apiServer is the API server's address, where the URL has one.
func apiServer(host string) []agent.Reached {
	if u, err := url.Parse(host); err == nil && u.Host != "" {
		host = u.Host
	}
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	return []agent.Reached{{Addr: a, What: "the Kubernetes API's address"}}
}
