package command

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/hostfile"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
)

func (r *runner) podmanCommand() *ucli.Command {
	return &ucli.Command{
		Name: "podman", Usage: "make a network one of Podman's",
		Subcommands: []*ucli.Command{{
			Name: "configure", Usage: "write the CNI configuration of a network for Podman 4, or undo that",
			Description: `Writes /etc/cni/net.d/10-NETWORK.conflist, which is a network of Podman's where
'podman info' has networkBackend cni. It takes effect at once; running containers
stay as they are. With netavark no file is needed:
'podman network create -d baize NETWORK'.

  baize podman configure --network blue
  podman run --network blue …
  baize podman configure --network blue --undo`,
			Flags: cniFlags(),
			Action: func(c *ucli.Context) error {
				return r.cniConfigure(c, cnihost.Host{Network: c.String("network"), Ports: true})
			},
		}},
	}
}

func (r *runner) kubernetesCommand() *ucli.Command {
	return &ucli.Command{
		Name: "kubernetes", Usage: "make this host's pods those of Baize's",
		Subcommands: []*ucli.Command{{
			Name: "configure", Usage: "write the CNI configuration for this host's kubelet, or undo that",
			Description: `Writes /etc/cni/net.d/10-NETWORK.conflist. Runtimes of Kubernetes take the first
file there alone, so another one before it is reported. It takes effect for new
pods, and the cluster itself is not changed.

With --provider pods have addresses of the node's podCIDR, and are routed by their
node, as Services need it: see docs/kubernetes.md. With --network they are in that
network: see docs/cni.md for what does not work then.

  baize kubernetes configure --provider
  baize kubernetes configure --network pods --dry-run
  baize kubernetes configure --network pods
  baize kubernetes configure --network pods --undo`,
			Flags:  kubernetesFlags(),
			Action: func(c *ucli.Context) error { return r.configureKubernetes(c) },
		}},
	}
}

// flagProvider makes Baize's plugin the one of the cluster's network.
const flagProvider = "provider"

func kubernetesFlags() []ucli.Flag {
	flags := cniFlags()
	flags[0].(*ucli.StringFlag).Required = false
	return append(flags,
		&ucli.BoolFlag{Name: flagProvider, Usage: "route pods by this node, for 'baize agent --kube-subnet-mgr'"},
		&ucli.StringFlag{
			Name: "subnet-file", Value: subnetenv.FlannelFile, Usage: "with --provider: the `FILE` that the agent writes",
		},
		&ucli.StringFlag{
			Name: "bin-dir", Usage: "with --provider: copy the plugin of the agent's image into `DIR`, /opt/cni/bin for example",
		},
	)
}

func (r *runner) configureKubernetes(c *ucli.Context) error {
	h := cnihost.Host{Network: c.String("network"), First: true, Ports: true}
	provider := c.Bool(flagProvider)
	switch {
	case provider == (h.Network != ""):
		return usagef(c.Command.HelpName, "use either --%s or --network NAME", flagProvider)
	case !provider && (c.IsSet("subnet-file") || c.IsSet("bin-dir")):
		return usagef(c.Command.HelpName, "--subnet-file and --bin-dir go with --%s", flagProvider)
	case provider:
		h.Network, h.SubnetFile = providerNetwork, c.String("subnet-file")
		h.BinDir, h.Plugin = c.String("bin-dir"), cnihost.ImagePlugin
	}
	return r.cniConfigure(c, h)
}

// providerNetwork is the name of pods' network in the CNI configuration.
const providerNetwork = "baize"

func cniFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{Name: "network", Usage: "`NAME` of the network", Required: true},
		&ucli.BoolFlag{Name: "yes", Usage: "do not ask"},
		&ucli.BoolFlag{Name: "dry-run", Usage: "show what would change, and change nothing"},
		&ucli.BoolFlag{Name: "undo", Usage: "undo everything"},
	}
}

func (r *runner) cniConfigure(c *ucli.Context, h cnihost.Host) error {
	plan := h.Plan
	if c.Bool("undo") {
		plan = h.Undo
	}
	changes, err := plan()
	if err != nil {
		return err
	}
	dryRun := c.Bool("dry-run")
	if err := r.showChanges(changes, dryRun); err != nil || dryRun || len(changes) == 0 {
		return err
	}
	if ok, err := r.mayChangeHost(c, "Do this?"); err != nil || !ok {
		return err
	}
	return hostfile.Apply("", changes)
}
