package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/topology"
)

// Flags of the console. Those of an agent have "console-" before them, and the same
// variables, but for the first.
const (
	flagListen    = "listen"
	flagTLSCert   = "tls-cert"
	flagTLSKey    = "tls-key"
	flagTokenFile = "token-file"
)

func (r *runner) consoleCommand() *ucli.Command {
	return &ucli.Command{
		Name: "console", Usage: "show the cluster in a browser, live",
		Description: `Prints the address of the page and serves it until Ctrl-C. The page only reads: hosts
and tunnels, networks and their leases, faults; and the endpoints of this host, where an
agent runs. On another address than the loopback, the page has to be encrypted and asks
for a token: https://ADDRESS:7474/#token=TOKEN. See docs/console.md.

  baize console
  baize console --token-file /etc/baize/console-token`,
		Flags: append([]ucli.Flag{
			&ucli.StringFlag{
				Name: flagListen, EnvVars: []string{EnvVar("console-" + flagListen)}, Value: console.DefaultListen,
				Usage: "`ADDRESS:PORT` of the page; port 0 is a free one",
			},
			consoleFlag(flagTLSCert, "PEM `FILE` of the page's certificate"),
			consoleFlag(flagTLSKey, "PEM `FILE` of the certificate's key"),
			consoleFlag(flagTokenFile, "`FILE` with the token that a browser has to know, 16 characters or more"),
			&ucli.StringFlag{Name: "node", Usage: "`NAME` of this node (default the name of this host)"},
			sourceFlag(),
		}, bridgeFlags()...),
		Action: r.console,
	}
}

// consoleFlags are those of an agent's console.
func consoleFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{
			Name: "console", Usage: "`ADDRESS:PORT` to serve the console at: see docs/console.md (default none)",
		},
		&ucli.StringFlag{Name: "console-" + flagTLSCert, Usage: "PEM `FILE` of the console's certificate"},
		&ucli.StringFlag{Name: "console-" + flagTLSKey, Usage: "PEM `FILE` of the certificate's key"},
		&ucli.StringFlag{
			Name: "console-" + flagTokenFile, Usage: "`FILE` with the token that the console's browsers have to know",
		},
	}
}

func consoleFlag(name, usage string) ucli.Flag {
	return &ucli.StringFlag{Name: name, EnvVars: []string{EnvVar("console-" + name)}, Usage: usage}
}

func (r *runner) console(c *ucli.Context) error {
	door, err := console.Access{
		Listen: c.String(flagListen), CertFile: c.String(flagTLSCert), KeyFile: c.String(flagTLSKey),
		TokenFile: c.String(flagTokenFile),
	}.Check()
	if err != nil {
		return err
	}
	topo, agent := part.NewCell[console.Topology](nil), part.NewCell[console.Agent](nil)
	deliver := func(s *topology.Snapshot, stale error) error {
		topo.Set(console.Topology{Snapshot: s, Err: stale})
		return nil
	}
	// Once before anything is opened: it waits, and fails, as a person expects.
	if err := r.withTopology(c, "", func(s *topology.Snapshot) error { return deliver(s, nil) }); err != nil {
		return err
	}
	l, url, err := door.Open(c.Context)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Context)
	own := *c
	own.Context = ctx
	more := r.newPanels(&own)
	page := console.New(more.Config(console.Config{
		Version: currentVersion().Version, Topology: topo, Agent: agent, Token: door.Token, Tracer: more,
	}))
	fmt.Fprintf(r.Out, "console: %s\n", url)
	if door.Token != "" {
		fmt.Fprintf(r.Out, "open it as %s#token=TOKEN, with the token of %s\n", url, c.String(flagTokenFile))
	}

	var following sync.WaitGroup
	defer following.Wait()
	defer cancel()
	following.Go(func() { more.Follow(ctx, page.Watched()) })
	following.Go(func() {
		console.FollowAgent(ctx, page.Watched(), askAgent(r.agentClient(c), r.socket(c).Value), agent)
	})
	failed := make(chan error, 1)
	following.Go(func() {
		if err := r.followTopology(&own, deliver); err != nil && ctx.Err() == nil {
			failed <- err
			cancel()
		}
	})
	err = page.Serve(ctx, l)
	select {
	case failure := <-failed:
		return failure
	default:
		return err
	}
}

// askAgent asks the agent of this host, where there is one.
func askAgent(client *api.Client, socket string) func(ctx context.Context) console.Agent {
	return func(ctx context.Context) console.Agent {
		if _, err := os.Stat(socket); errors.Is(err, os.ErrNotExist) {
			return console.Agent{} // this is no node
		}
		s, err := client.Status(ctx)
		if err != nil {
			return console.Agent{Err: err}
		}
		return console.Agent{Status: &s}
	}
}
