package command

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/lab"
)

// All that the command line of the lab knows of flannel.

func labForeignFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.BoolFlag{
			Name: "flannel",
			Usage: "the network is flannel's, with its keys in etcd, and the last host runs flannel itself " +
				"where there is a flanneld: see --flanneld",
			EnvVars: cli.Env("lab-flannel"),
		},
		&ucli.StringFlag{
			Name:    "flanneld",
			Usage:   "flannel's `PROGRAM` (default flanneld beside baize, which 'make lab-flannel' builds, or in PATH)",
			EnvVars: cli.Env("lab-flanneld"),
		},
	}
}

func labForeign(c *ucli.Context) lab.Foreign {
	f := lab.Foreign{Flannel: c.Bool("flannel")}
	if !f.Flannel {
		return f
	}
	if f.Flanneld = c.String("flanneld"); f.Flanneld == "" {
		f.Flanneld = lab.FindFlannel("")
	}
	return f
}

// labForeignLines say, in a lab with flannel's network, who runs flannel.
func labForeignLines(f lab.Foreign, l *lab.Lab) []string {
	if !f.Flannel {
		return nil
	}
	if host := l.FlannelHost(); host != "" {
		return []string{host + " runs flannel (" + f.Flanneld + "), the others Baize"}
	}
	return []string{
		"no flanneld was found: every host runs Baize; 'make lab-flannel' builds one of flannel's own packages",
	}
}
