package command

import (
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/probe"
)

func (r *runner) probeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "probe", Usage: "send traffic and check what arrives, for tests", Hidden: true,
		Subcommands: []*ucli.Command{
			{
				Name: "serve", Usage: "answer probes, TCP and UDP; one line of JSON for each",
				Flags: []ucli.Flag{
					&ucli.StringFlag{
						Name: "listen", Usage: "`[ADDRESS]:PORT` to listen on", Value: ":" + probe.DefaultPort,
						EnvVars: cli.Env("probe-listen"),
					},
					&ucli.BoolFlag{Name: "once", Usage: "end after the first bulk exchange", EnvVars: cli.Env("probe-once")},
				},
				Action: func(c *ucli.Context) error {
					return probe.RunServe(c.Context, probe.ServeOptions{Listen: c.String("listen"), Once: c.Bool("once")}, r.Out)
				},
			},
			{
				Name: "send", Usage: "send bulk TCP, or counted UDP datagrams, and report as JSON",
				Flags: []ucli.Flag{
					&ucli.StringFlag{Name: "to", Usage: "`ADDRESS[:PORT]` of a server", Required: true, EnvVars: cli.Env("probe-to")},
					&ucli.StringFlag{
						Name: "bytes", Usage: "`SIZE` of a bulk exchange; K, M and G are understood", Value: "4M",
						EnvVars: cli.Env("probe-bytes"),
					},
					&ucli.IntFlag{
						Name: "datagrams", Usage: "`NUMBER` of UDP datagrams to send instead", EnvVars: cli.Env("probe-datagrams"),
					},
					&ucli.IntFlag{
						Name: "size", Usage: "`BYTES` of a datagram", Value: 1000, EnvVars: cli.Env("probe-size"),
						Action: between("size", 1, 65507), // what UDP over IPv4 carries
					},
					&ucli.DurationFlag{Name: "interval", Usage: "pause between datagrams", EnvVars: cli.Env("interval")},
					&ucli.DurationFlag{
						Name: "timeout", Usage: "the longest it may take", Value: time.Minute, EnvVars: cli.Env("probe-timeout"),
						Action: atLeast("timeout", time.Millisecond),
					},
				},
				Action: func(c *ucli.Context) error {
					bytes, err := probe.ParseBytes(c.String("bytes"))
					if err != nil {
						return usagef("baize probe send", "--bytes: %v", err)
					}
					return probe.RunSend(c.Context, probe.SendOptions{
						To: c.String("to"), Bytes: bytes, Datagrams: c.Int("datagrams"), Size: c.Int("size"),
						Interval: c.Duration("interval"), Timeout: c.Duration("timeout"),
					}, r.Out)
				},
			},
		},
	}
}
