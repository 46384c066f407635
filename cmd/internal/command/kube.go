package command

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"net/url"
	"os"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/kube"
	"github.com/baize-net/baize/topology/source"
)

// flagKube makes the Kubernetes API the agent's topology.
const flagKube = "kube-subnet-mgr"

// flagOwnNetworks leaves the agent its etcd beside the Kubernetes API.
const flagOwnNetworks = "own-networks"

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
		&ucli.BoolFlag{
			Name: flagOwnNetworks,
			Usage: "with --kube-subnet-mgr: have etcd as well, for networks of Baize's own, which pods may have further " +
				"interfaces in",
		},
	}
}

// kubeFile is where an agent keeps what it saw of the Kubernetes API last.
const kubeFile = "kubernetes.json"

// kubeTimeout bounds the question to this host's agent.
const kubeTimeout = 5 * time.Second

// kubeNodes returns what adds the nodes of the Kubernetes API to what etcd has, as this
// host's agent has seen them last, where they are a source of its topology. self is the
// node whose view is meant; it may be "".
func (r *runner) kubeNodes(c *ucli.Context) func(own *topology.Snapshot, self string) *topology.Snapshot {
	ctx, cancel := context.WithTimeout(c.Context, kubeTimeout)
	defer cancel()
	value := map[string]string{}
	if cfg, err := api.NewClient(r.socket(c).Value).Config(ctx); err == nil {
		for _, s := range cfg.Settings {
			value[s.Name] = s.Value
		}
	}
	return func(own *topology.Snapshot, self string) *topology.Snapshot {
		if value[flagKube] != "true" || own == nil {
			return own
		}
		kept, err := agent.KeptSource(value["state-dir"], kubeFile)
		if err != nil {
			return own // it has not seen any yet
		}
		merged, err := kube.Merge(own, kept, self, value["kube-annotation-prefix"])
		if err != nil {
			return own // the agent does not run with such a prefix
		}
		return merged
	}
}

// nodeNameVar is the variable that a DaemonSet tells the node's name by, as flannel's
// does.
const nodeNameVar = "NODE_NAME"

// addKube makes the Kubernetes API the source of an agent's topology, where that was
// asked for.
func addKube(c *ucli.Context, cfg *agent.Config) error {
	if !c.Bool(flagKube) {
		if c.Bool(flagOwnNetworks) {
			return usagef("baize agent", "--%s goes with --%s: without it every agent has networks of its own",
				flagOwnNetworks, flagKube)
		}
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
	cfg.WithoutEtcd, cfg.Reach = !c.Bool(flagOwnNetworks), apiServer(found.Host)
	file, config, masquerade := c.String("subnet-file"), c.String("net-config-path"), c.Bool("ip-masq")
	cfg.Masquerade, cfg.Pods = masqueraded(masquerade), masqueraded(true)
	o := kube.Options{
		Nodes: api, AnnotationPrefix: c.String("kube-annotation-prefix"),
		NetConf:       func() ([]byte, error) { return os.ReadFile(config) },
		KeepCondition: !c.Bool("set-node-network-unavailable"),
	}
	cfg.Sources = append(cfg.Sources, func(d agent.SourceDeps) (source.Source, error) {
		o.Source = flannelOptions(d, kubeFile, file, masquerade)
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
