// Package command is the command line of Baize: every command with its flags,
// and what it does. A command turns flags into a call and the result into
// output; nothing here decides anything about topologies or switches.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// runner carries what every command needs.
type runner struct {
	Streams
	root *ucli.Command
	// given are the flags on the line.
	given map[string]bool
	// known is where etcd and the agent are, once somebody asked.
	known *whereabouts
}

// EnvVar returns the environment variable of a flag: BAIZE_ETCD_ENDPOINTS for
// etcd-endpoints.
func EnvVar(flag string) string {
	return cli.Env(flag)[0]
}

// Run executes a command line (without the program's name) and returns the
// exit code. It writes errors to std.Err. Cancelling ctx stops what runs.
func Run(ctx context.Context, args []string, std Streams) int {
	r := &runner{Streams: std}
	app := r.app()
	r.root = rootCommand(app)
	if len(args) > 0 && args[0] == completeCommand {
		return r.complete(ctx, args[1:])
	}
	if len(args) == 0 {
		writeHelp(std.Err, []*ucli.Command{r.root})
		return cli.ExitUsage
	}
	l, err := parseLine(r.root, args)
	if err == nil && l.help {
		writeHelp(std.Out, l.path)
		return cli.ExitOK
	}
	r.given = l.given
	if err == nil {
		err = app.RunContext(ctx, append([]string{app.Name}, l.args...))
	}
	return r.report(err)
}

// exitProblems is the exit code of a command that did its work and found
// something wrong: status, plan --diff.
const exitProblems = 7

// report shows an error and returns its exit code.
func (r *runner) report(err error) int {
	var usage *usageError
	var status *cli.ExitStatus
	switch {
	case err == nil:
	case errors.As(err, &usage):
		fmt.Fprintf(r.Err, "%s\nRun '%s --help' for help.\n", fault.Printable(usage.Error()), usage.command)
		return cli.ExitUsage
	case errors.As(err, &status) && status.Err == nil: // the command has said everything
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(r.Err, "baize: interrupted")
	default:
		fmt.Fprintf(r.Err, "baize: %s\n", fault.Printable(err.Error()))
	}
	return cli.ExitCode(err)
}

// app builds the whole tree. It is built again for every run: urfave/cli keeps
// parsed values in the flags.
func (r *runner) app() *ucli.App {
	app := &ucli.App{
		Name:        "baize",
		Usage:       "one large Ethernet over many hosts, with Open vSwitch",
		Description: rootDescription,
		Flags:       globalFlags(),
		Commands: []*ucli.Command{
			r.networkCommand(), r.nodeCommand(), r.subnetCommand(), r.endpointCommand(), r.pinCommand(), r.routeCommand(),
			r.nameCommand(),
			r.statusCommand(), r.doctorCommand(), r.topologyCommand(), r.consoleCommand(), r.planCommand(),
			r.traceCommand(), r.traceHopCommand(), r.explainCommand(), r.pingCommand(), r.captureCommand(), r.eventsCommand(),
			r.agentCommand(), r.dockerCommand(), r.podmanCommand(), r.kubernetesCommand(), r.migrateCommand(),
			r.backupCommand(), r.restoreCommand(), r.authCommand(),
			r.labCommand(), r.etcdCommand(), r.configCommand(), r.contextCommand(),
			r.versionCommand(), r.schemaCommand(), r.completionCommand(), r.docsCommand(), r.probeCommand(),
			r.withSettingsCommand(),
		},
		HideHelp: true, HideHelpCommand: true, HideVersion: true,
		Reader: r.In, Writer: r.Out, ErrWriter: r.Err,
		ExitErrHandler: func(*ucli.Context, error) {}, // Run returns the code, main exits
		OnUsageError:   onUsageError("baize"),
	}
	app.Before = func(c *ucli.Context) error {
		_, err := cli.Logger(c, io.Discard) // a wrong level is refused by commands that log nothing, too
		return err
	}
	prepareFlags(app.Flags)
	for _, c := range app.Commands {
		prepare(c, app.Name)
	}
	return app
}

const rootDescription = `Networks, nodes, subnets and pins live in etcd; any machine that reaches it can
list and change them. Endpoints live on their node: those commands talk to the
agent there. Flags may stand anywhere on the line, and every flag has an
environment variable.`

// requiredMark ends the usage of a flag that must be given.
const requiredMark = " (required)"

// prepare completes a command and those below it: environment variables,
// required flags, the format of the output, errors in our own words.
func prepare(c *ucli.Command, parent string) {
	full := parent + " " + c.Name
	c.HideHelp, c.HideHelpCommand = true, true
	c.OnUsageError = onUsageError(full)
	required := prepareFlags(c.Flags)
	if action := c.Action; action != nil {
		c.Action = func(ctx *ucli.Context) error {
			if err := checkFlags(ctx, full, required); err != nil {
				return err
			}
			return action(ctx)
		}
	}
	for _, s := range c.Subcommands {
		prepare(s, full)
	}
}

// checkFlags refuses what can be refused before etcd or the agent is asked.
func checkFlags(ctx *ucli.Context, full string, required []string) error {
	var missing []string
	for _, f := range required {
		if !ctx.IsSet(f) {
			missing = append(missing, "--"+f)
		}
	}
	if len(missing) > 0 {
		return usagef(full, "needs %s", strings.Join(missing, " and "))
	}
	_, err := outputOf(ctx)
	return err
}

// prepareFlags gives every flag its environment variable and the checks of its
// type, and returns the names of the required ones. urfave/cli's own check of
// them would print the whole help before the one line that matters.
func prepareFlags(flags []ucli.Flag) (required []string) {
	for _, f := range flags {
		name := f.Names()[0]
		complete := func(env *[]string, req *bool, usage *string) {
			if len(*env) == 0 {
				*env = cli.Env(name)
			}
			if *req {
				required = append(required, name)
				*usage += requiredMark
			}
			*req = false
		}
		switch f := f.(type) {
		case *ucli.StringFlag:
			if f.Action == nil && name == "network" {
				f.Action = isName(name, name)
			}
			complete(&f.EnvVars, &f.Required, &f.Usage)
		case *ucli.StringSliceFlag:
			complete(&f.EnvVars, &f.Required, &f.Usage)
		case *ucli.IntFlag:
			if f.Action == nil {
				f.Action = notNegativeInt(name)
			}
			complete(&f.EnvVars, &f.Required, &f.Usage)
		case *ucli.UintFlag:
			complete(&f.EnvVars, &f.Required, &f.Usage)
		case *ucli.DurationFlag:
			if f.Action == nil {
				f.Action = notNegative(name)
			}
			complete(&f.EnvVars, &f.Required, &f.Usage)
		case *ucli.BoolFlag:
			complete(&f.EnvVars, &f.Required, &f.Usage)
		default:
			panic(fmt.Sprintf("command: flag --%s has the unforeseen type %T", name, f))
		}
	}
	return required
}

// onUsageError puts package flag's words into ours.
func onUsageError(full string) ucli.OnUsageErrorFunc {
	return func(_ *ucli.Context, err error, _ bool) error {
		s := strings.NewReplacer(" for flag -", " for flag --", ": parse error", "").Replace(err.Error())
		return usagef(full, "%s", s)
	}
}

// Names of global flags that are read in more than one place.
const (
	flagSocket   = "socket"
	flagConfig   = "config"
	flagContext  = "context"
	flagSettings = "settings"
)

func globalFlags() []ucli.Flag {
	return append([]ucli.Flag{
		&ucli.StringSliceFlag{
			Name: settings.EtcdEndpoints, Usage: "`URL` of an etcd member, https:// for TLS; repeat it or separate with commas",
			DefaultText: etcdstore.DefaultEndpoint,
		},
		&ucli.StringFlag{
			Name: settings.EtcdPrefix, Usage: "the `PREFIX` of the cluster's keys in etcd", Value: topology.DefaultPrefix,
		},
		&ucli.StringFlag{Name: settings.EtcdCAFile, Usage: "PEM `FILE` of the authority that signed etcd's certificate"},
		&ucli.StringFlag{Name: settings.EtcdCertFile, Usage: "PEM `FILE` of the client certificate for etcd"},
		&ucli.StringFlag{Name: settings.EtcdKeyFile, Usage: "PEM `FILE` of the client certificate's key"},
		&ucli.StringFlag{Name: settings.EtcdUser, Usage: "etcd user, as `NAME:PASSWORD` or a name alone"},
		&ucli.StringFlag{Name: settings.EtcdUsername, Usage: "etcd user's `NAME`, as an alternative to --etcd-user"},
		&ucli.StringFlag{
			Name:  settings.EtcdPassword,
			Usage: "etcd user's `PASSWORD`; other users of the machine can read flags, not variables",
		},
		&ucli.StringFlag{
			Name: settings.EtcdPasswordFile, Usage: "`FILE` with one line, the etcd user's password",
		},
		&ucli.BoolFlag{
			Name:  settings.EtcdPlainPassword,
			Usage: "send the password over http:// as well, where anybody on the way can read it",
		},
		&ucli.DurationFlag{
			Name: settings.EtcdTimeout, Usage: "the longest a single request to etcd may take", Value: etcdstore.DefaultTimeout,
		},
		&ucli.StringFlag{Name: flagSocket, Usage: "`PATH` of the agent's socket", Value: api.DefaultSocket},
		&ucli.StringFlag{
			Name: flagContext, Usage: "`NAME` of the context to use: see 'baize context' (default the current one)",
		},
		&ucli.StringFlag{
			Name: flagConfig, Usage: "`FILE` with the contexts (default ~/.config/baize/config.yaml)",
		},
		&ucli.StringFlag{
			Name: flagSettings, Value: settings.DefaultFile,
			Usage: "`FILE` with the settings of this node's agent; empty for none",
		},
	}, cli.LogFlags()...)
}

// withStore opens the store for the time of f.
func (r *runner) withStore(c *ucli.Context, f func(s *etcdstore.Store) error) error {
	cfg, err := r.storeConfig(c)
	if err != nil {
		return err
	}
	s, err := etcdstore.Open(c.Context, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	return f(s)
}

// withSnapshot reads the whole topology, showing that it waits when etcd is
// slow.
func (r *runner) withSnapshot(c *ucli.Context, f func(s *etcdstore.Store, snap *topology.Snapshot) error) error {
	return r.withStore(c, func(s *etcdstore.Store) error {
		snap, err := waiting(r, c, "reading the topology from etcd", func(ctx context.Context) (*topology.Snapshot, error) {
			return s.Snapshot(ctx)
		})
		if err != nil {
			return err
		}
		return f(s, snap)
	})
}
