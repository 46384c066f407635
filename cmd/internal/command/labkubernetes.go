package command

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology/fault"
)

// All that the command line of the lab knows of Kubernetes.

const (
	flagKubernetes = "kubernetes"
	flagDualStack  = "dual-stack"
	flagIPv6Only   = "ipv6-only"
)

func labKubernetesFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.BoolFlag{
			Name: flagKubernetes, EnvVars: cli.Env("lab-kubernetes"),
			Usage: "a Kubernetes cluster: every host is a node, and Baize is its provider " +
				"('make lab-kubernetes' builds what it needs)",
		},
		&ucli.BoolFlag{Name: flagDualStack, Usage: "with --kubernetes: pods and Services have addresses of both families"},
		&ucli.BoolFlag{Name: flagIPv6Only, Usage: "with --kubernetes: pods and Services have IPv6 alone"},
	}
}

// labKubernetes is what a lab with a cluster needs, before anything is made.
type labKubernetes struct {
	options       kubernetes.Options
	baize, plugin string
}

// labKubernetesOf reads the flags; nil where no cluster is asked for.
func (r *runner) labKubernetesOf(c *ucli.Context, cfg *lab.Config) (*labKubernetes, error) {
	if !c.Bool(flagKubernetes) {
		for _, f := range []string{flagDualStack, flagIPv6Only} {
			if c.Bool(f) {
				return nil, usagef("baize lab up", "--%s goes with --%s", f, flagKubernetes)
			}
		}
		return nil, nil
	}
	if c.Bool(flagDualStack) && c.Bool(flagIPv6Only) {
		return nil, usagef("baize lab up", "use either --%s or --%s", flagDualStack, flagIPv6Only)
	}
	for _, other := range []string{
		"network", "transport", "endpoints", "docker", "docker-bridge", "segments", "frr", "flannel", "ipv6-underlay",
	} {
		if c.IsSet(other) {
			return nil, usagef("baize lab up", "--%s makes the network itself: leave --%s out", flagKubernetes, other)
		}
	}
	cfg.Endpoints, cfg.NoProof = -1, true // the agents of these are replaced by the cluster's
	k := &labKubernetes{options: kubernetes.Options{
		Dual: c.Bool(flagDualStack), Only6: c.Bool(flagIPv6Only), OwnNetworks: true,
	}}
	var err error
	if k.options.Program, err = kubernetes.FindProgram(); err != nil {
		return k, err
	}
	if err := kubernetes.CheckMachine(); err != nil {
		return k, err
	}
	if k.baize, err = os.Executable(); err != nil {
		return k, err
	}
	if k.plugin, err = kubernetes.FindPlugin(k.baize); err != nil {
		return k, err
	}
	start := time.Now()
	k.options.Progress = func(step string) { fmt.Fprintf(r.Err, "%6.1fs  %s\n", time.Since(start).Seconds(), step) }
	return k, nil
}

// up makes the cluster of a lab that is up, and says what to try.
func (k *labKubernetes) up(ctx context.Context, r *runner, l *lab.Lab, start time.Time) error {
	cluster, err := kubernetes.Up(ctx, l, k.options, k.baize, k.plugin)
	if err != nil {
		return err
	}
	kubectl := cluster.KubectlFile()
	first := strings.TrimPrefix(lab.CommandLine(l.Name(), "exec"), "baize") + " " + cluster.Nodes[0].Name
	return r.say("%s", strings.Join([]string{
		fmt.Sprintf("lab %s is up: a Kubernetes cluster with %s, in %s", l.Name(), fault.Counted(len(cluster.Nodes), "node"),
			time.Since(start).Round(100*time.Millisecond)),
		"", "Try:",
		"  " + kubectl + " get nodes -o wide",
		"  " + kubectl + " create deployment web --replicas 6 --image " + kubernetes.Image + " -- httpd -f -p 8080",
		"  " + kubectl + " expose deployment web --port 80 --target-port 8080",
		"  " + kubectl + " get pods,services -o wide",
		"  " + kubectl + " run second --image " + kubernetes.Image + " --annotations baize.network/networks=" +
			l.Networks()[0].Name + " -- sleep 1000000",
		"  " + kubectl + " exec second -- ip addr",
		"  " + os.Args[0] + first + " -- baize status",
		"", "Inside, KUBECONFIG is " + cluster.Kubeconfig() + "; logs are in " + cluster.Dir + ".",
		"It stays up until '" + os.Args[0] + strings.TrimPrefix(lab.CommandLine(l.Name(), "down"), "baize") + "'.",
	}, "\n"))
}
