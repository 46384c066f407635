package command

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cnihost"
	"github.com/baize-net/baize/cmd/internal/hostfile"
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
				return r.cniConfigure(c, h)
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
