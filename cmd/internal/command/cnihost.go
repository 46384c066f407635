package command

import (
	"os"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/dockerhost"
	"github.com/baize-net/baize/topology"
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
				return r.cniConfigure(c, "baize podman configure", cnihost.Host{Network: c.String("network"), Ports: true})
			},
		}},
	}
}

func (r *runner) kubernetesCommand() *ucli.Command {
	return &ucli.Command{
		Name: "kubernetes", Usage: "make a network that of Kubernetes' pods",
		Subcommands: []*ucli.Command{{
			Name: "configure", Usage: "write the CNI configuration of a network for this host's kubelet, or undo that",
			Description: `Writes /etc/cni/net.d/10-NETWORK.conflist. Runtimes of Kubernetes take the first
file there alone, so another one before it is reported. It takes effect for new
pods. The cluster itself is not changed: see docs/cni.md for what Baize does not do.

  baize kubernetes configure --network pods --dry-run
  baize kubernetes configure --network pods
  baize kubernetes configure --network pods --undo`,
			Flags: cniFlags(),
			Action: func(c *ucli.Context) error {
				h := cnihost.Host{Network: c.String("network"), First: true, Ports: true}
				return r.cniConfigure(c, "baize kubernetes configure", h)
			},
		}},
	}
}

func cniFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{Name: "network", Usage: "`NAME` of the network", Required: true},
		&ucli.BoolFlag{Name: "yes", Usage: "do not ask"},
		&ucli.BoolFlag{Name: "dry-run", Usage: "show what would change, and change nothing"},
		&ucli.BoolFlag{Name: "undo", Usage: "undo everything"},
	}
}

func (r *runner) cniConfigure(c *ucli.Context, command string, h cnihost.Host) error {
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
	if os.Geteuid() != 0 {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: command, What: "needs root",
			Remedy: "run it with sudo; --dry-run needs none",
		}
	}
	if !c.Bool("yes") {
		if ok, err := r.confirm("Do this?"); err != nil || !ok {
			return err
		}
	}
	return dockerhost.Apply("", changes)
}
