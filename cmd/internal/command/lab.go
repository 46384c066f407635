package command

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/cmd/internal/kubernetes"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/lab/pid1"
	"github.com/baize-net/baize/cmd/internal/lab/supervisor"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

func (r *runner) labCommand() *ucli.Command {
	return &ucli.Command{
		Name: "lab", Usage: "several hosts on one machine, each with an Open vSwitch of its own",
		Subcommands: []*ucli.Command{
			{
				Name: "up", Usage: "make the hosts, or change them to what is asked for",
				Description: labUpDescription, Flags: labUpFlags(), Action: r.labUp,
			},
			{
				Name: "status", Usage: "show the hosts and what runs on them",
				Description: `The tree and the pictures show the topology with the endpoints of all hosts. The
exit code is 7 when something does not run.

  baize lab status
  baize lab status -o svg > lab.svg`,
				Flags:  []ucli.Flag{labNameFlag(), colorFlag(), outputFlag(append(slices.Clone(formatsItem), drawings...)...)},
				Action: r.labStatus,
			},
			{
				Name: "exec", Usage: "run a command inside a host, or inside an endpoint",
				ArgsUsage: "HOST[/ENDPOINT] -- COMMAND...", Category: takesCommand,
				Description: `Inside a host ovs-vsctl, ovs-ofctl and baize work without flags. The exit code is
that of the command.

  baize lab exec host1 -- ovs-vsctl show
  baize lab exec host1/c1 -- ping -c 3 10.1.66.2`,
				Flags: []ucli.Flag{labNameFlag()}, Action: r.labExec,
			},
			{
				Name: "down", Usage: "remove the lab without a trace",
				Flags: []ucli.Flag{labNameFlag()}, Action: r.labDown,
			},
			{
				Name: "host-init", Usage: "the first process of a host; lab up starts it", Hidden: true, Category: takesRaw,
				Action: func(c *ucli.Context) error { return pid1.Main(c.Args().Slice(), r.Err) },
			},
		},
	}
}

func labNameFlag() ucli.Flag {
	return &ucli.StringFlag{
		Name: "name", Usage: "`NAME` of the lab, where there are several", Value: lab.DefaultName,
		EnvVars: cli.Env("lab-name"),
	}
}

const labUpDescription = `Needs root. Every host is a set of namespaces with its own Open vSwitch and agent;
an underlay joins them. Running it again completes, or changes, what is there.
At the end traffic between all endpoints is proven.

  baize lab up
  baize lab up --hosts 5 --transport gre
  baize lab up --network 10.9.0.0/16 --endpoints 3
  baize lab up --transport auto --segments 2 --hosts 4
  baize lab up --docker
  baize lab up --docker-bridge
  baize lab up --flannel
  baize lab up --kubernetes`

func labUpFlags() []ucli.Flag {
	flags := []ucli.Flag{
		labNameFlag(),
		&ucli.IntFlag{Name: "hosts", Usage: "`NUMBER` of hosts: host1, host2, … (default 3, or as they are)"},
		&ucli.StringFlag{
			Name: "transport", Usage: "`TRANSPORT` between the hosts: " + transportNames() + " (default vxlan)",
			EnvVars: cli.Env("lab-transport"),
		},
		&ucli.StringSliceFlag{
			Name: "network", Usage: "`[NAME=]CIDR` of a network (default blue, 10.1.0.0/16 and fd00:10:1::/48)",
			EnvVars: cli.Env("lab-network"),
		},
		&ucli.IntFlag{
			Name: "endpoints", Usage: "`NUMBER` of endpoints on each host in each network: c1, c2, … (default 1)",
		},
		&ucli.BoolFlag{
			Name: "docker", Usage: "a Docker engine on every host, with the image busybox", EnvVars: cli.Env("lab-docker"),
		},
		&ucli.BoolFlag{
			Name:    "docker-bridge",
			Usage:   "the same, and docker0 of every engine is a part of the first network: plain 'docker run' is in it",
			EnvVars: cli.Env("lab-docker-bridge"),
		},
		&ucli.IntFlag{
			Name: "segments",
			Usage: "`NUMBER` of segments of the underlay, 1 or 2: hosts take turns in them, " +
				"and a router with FRR is between them",
		},
		&ucli.BoolFlag{
			Name: "frr", Usage: "with --segments, FRR on every host announces its subnets to the router, in place of the agent",
		},
	}
	flags = append(append(flags, labForeignFlags()...), labKubernetesFlags()...)
	return append(flags,
		&ucli.BoolFlag{Name: "ipv6-underlay", Usage: "tunnels and etcd use the underlay's IPv6 addresses"},
		&ucli.BoolFlag{Name: "no-proof", Usage: "do not send traffic at the end"},
	)
}

// labNetworks reads --network: several prefixes of one name are one network.
func labNetworks(raw []string) ([]lab.NetworkSpec, error) {
	var out []lab.NetworkSpec
	for _, s := range raw {
		name, cidr, named := strings.Cut(s, "=")
		if !named {
			name, cidr = lab.DefaultNetwork, s
		}
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, usagef("baize lab up", "--network %q is not a prefix: write it like 10.1.0.0/16 or red=10.2.0.0/16", s)
		}
		i := -1
		for j := range out {
			if out[j].Name == name {
				i = j
			}
		}
		if i < 0 {
			out = append(out, lab.NetworkSpec{Name: name})
			i = len(out) - 1
		}
		out[i].Prefixes = append(out[i].Prefixes, p)
	}
	// The one network of a lab has both families unless both are named.
	if len(out) == 1 && out[0].Name == lab.DefaultNetwork && len(out[0].Prefixes) == 1 {
		out[0] = lab.DefaultNetworkSpec(out[0].Prefixes[0])
	}
	return out, nil
}

func (r *runner) labConfig(c *ucli.Context) lab.Config {
	cfg := lab.Config{Name: c.String("name")}
	// One line when something takes long would be too little here: there are
	// many steps, and a person wants to see them go by.
	start := time.Now()
	cfg.Progress = func(e lab.Event) {
		if e.Ended && e.Elapsed > 100*time.Millisecond {
			fmt.Fprintf(r.Err, "%6.1fs  %s\n", time.Since(start).Seconds(), e.Step)
		}
	}
	return cfg
}

// labUpConfig is what the flags of 'lab up' ask for.
func (r *runner) labUpConfig(c *ucli.Context) (lab.Config, error) {
	const command = "baize lab up"
	cfg := r.labConfig(c)
	var err error
	if cfg.Transport, err = transportOf(c, command); err != nil {
		return cfg, err
	}
	if cfg.Networks, err = labNetworks(c.StringSlice("network")); err != nil {
		return cfg, err
	}
	if c.IsSet("hosts") && c.Int("hosts") < 1 {
		return cfg, usagef(
			command, "--hosts %d: a lab has 1 to %d; 'baize lab down' removes it", c.Int("hosts"), lab.MaxHosts,
		)
	}
	cfg.Hosts, cfg.Endpoints = c.Int("hosts"), c.Int("endpoints")
	if c.IsSet("endpoints") && cfg.Endpoints == 0 {
		cfg.Endpoints = -1 // none: 0 leaves it to the lab
	}
	cfg.Segments, cfg.FRR = c.Int("segments"), c.Bool("frr")
	cfg.Docker, cfg.DockerBridge = c.Bool("docker"), c.Bool("docker-bridge")
	cfg.IPv6Underlay, cfg.NoProof = c.Bool("ipv6-underlay"), c.Bool("no-proof")
	cfg.Foreign = labForeign(c)
	return cfg, nil
}

func (r *runner) labUp(c *ucli.Context) error {
	cfg, err := r.labUpConfig(c)
	if err != nil {
		return err
	}
	cluster, err := r.labKubernetesOf(c, &cfg)
	if err != nil {
		return err
	}
	start := time.Now()
	l, err := lab.Up(c.Context, cfg)
	if err != nil {
		return err
	}
	if cluster != nil {
		return cluster.up(c.Context, r, l, start)
	}
	lines := append(labForeignLines(cfg.Foreign, l),
		fmt.Sprintf(
			"lab %s is up: %s, in %s", l.Name(), fault.Counted(len(l.Hosts()), "host"),
			time.Since(start).Round(100*time.Millisecond),
		))
	if p := l.Proof; p != nil {
		lines = append(lines, fmt.Sprintf("proven: %s between %s, pings and bulk TCP, median round trip %s",
			fault.Counted(len(p.Paths), "path"), fault.Counted(len(p.Endpoints), "endpoint"),
			p.MedianRTT().Round(10*time.Microsecond)))
	}
	if err := r.say("%s", strings.Join(lines, "\n")); err != nil {
		return err
	}
	s, err := l.Status()
	if err != nil {
		return err
	}
	top, err := labTopology(c.Context, l, s)
	if err != nil {
		return err
	}
	if err := r.say(""); err != nil {
		return err
	}
	if err := draw.Tree(r.Out, top, false); err != nil {
		return err
	}
	return r.say("%s", strings.Join(labHints(os.Args[0], l.Name(), l.Hints(s)), "\n"))
}

// labTopology is that of a lab with the endpoints of all its hosts.
func labTopology(ctx context.Context, l *lab.Lab, s *lab.Status) (draw.Topology, error) {
	store, err := etcdstore.Open(ctx, etcdstore.Config{Endpoints: []string{l.EtcdEndpoint()}})
	if err != nil {
		return draw.Topology{}, err
	}
	defer func() { _ = store.Close() }()
	snap, err := store.Snapshot(ctx)
	if err != nil {
		return draw.Topology{}, err
	}
	if snap, err = l.WithForeign(ctx, snap); err != nil {
		return draw.Topology{}, err
	}
	var endpoints []draw.Endpoint
	for _, e := range s.Endpoints {
		e.Node = l.NodeName(s, e.Node)
		endpoints = append(endpoints, draw.Endpoint{Name: e.Name, Node: e.Node, Network: e.Network, IPs: e.IPs, MAC: e.MAC})
	}
	return draw.New(snap, endpoints), nil
}

// labHints are commands to try in a new lab, and how to remove it. baize is the
// program as it was called: 'bin/baize' in a clone.
func labHints(baize, name string, hints []lab.Hint) []string {
	verb := func(v string) string {
		line := lab.CommandLine(name, v)
		return baize + strings.TrimPrefix(line, "baize")
	}
	lines := []string{"", "Try:"}
	for _, h := range hints {
		lines = append(lines, "  "+verb("exec")+" "+h.Target+" -- "+h.Command)
	}
	return append(lines, "", "It stays up until '"+verb("down")+"'.")
}

func (r *runner) labDown(c *ucli.Context) error {
	removed, err := lab.Down(c.Context, r.labConfig(c))
	if err == nil {
		err = kubernetes.Remove(c.String("name"))
	}
	switch {
	case err != nil:
		return err
	case !removed:
		return r.say("there is no lab %s", c.String("name"))
	}
	return r.say("lab %s is gone", c.String("name"))
}

var labMembers = kind[lab.MemberStatus]{
	name: "lab",
	key:  func(m lab.MemberStatus) string { return m.Name },
	none: "",
	columns: []column[lab.MemberStatus]{
		{"HOST", plain, func(m lab.MemberStatus) any { return m.Name }},
		{"STATE", state, func(m lab.MemberStatus) any {
			switch {
			case m.PID == 0:
				return "down"
			case m.Ready():
				return "ready"
			}
			return "not ready"
		}},
		{"ADDRESSES", plain, func(m lab.MemberStatus) any { return m.Addrs }},
		{"SERVICES", plain, func(m lab.MemberStatus) any {
			out := []string{}
			for _, s := range m.Services {
				if s.State == supervisor.StateReady {
					out = append(out, s.Name)
				} else {
					out = append(out, s.Name+"("+s.State+")")
				}
			}
			return out
		}},
		{"PID", wide, func(m lab.MemberStatus) any { return orEmpty(m.PID) }},
		{"NETNS", wide, func(m lab.MemberStatus) any { return m.Netns }},
	},
}

var labEndpoints = kind[lab.EndpointStatus]{
	name: "lab",
	key:  func(e lab.EndpointStatus) string { return e.String() },
	none: "",
	columns: []column[lab.EndpointStatus]{
		{"ENDPOINT", plain, func(e lab.EndpointStatus) any { return e.String() }},
		{"NETWORK", plain, func(e lab.EndpointStatus) any { return e.Network }},
		{"IPS", plain, func(e lab.EndpointStatus) any { return e.IPs }},
		{"MAC", plain, func(e lab.EndpointStatus) any { return e.MAC }},
		{"MTU", wide, func(e lab.EndpointStatus) any { return e.MTU }},
	},
}

func (r *runner) labStatus(c *ucli.Context) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	l, err := lab.Open(r.labConfig(c))
	if err != nil {
		return err
	}
	s, err := l.Status()
	if err != nil {
		return err
	}
	switch {
	case isTable(format):
		err = r.labTables(c, l, s)
	case slices.Contains(drawings, format):
		t, terr := labTopology(c.Context, l, s)
		if terr != nil {
			return terr
		}
		err = r.draw(format, t)
	default:
		err = r.data(format, s)
	}
	if err == nil && len(s.Problems) > 0 {
		err = &cli.ExitStatus{Code: exitProblems}
	}
	return err
}

func (r *runner) labTables(c *ucli.Context, l *lab.Lab, s *lab.Status) error {
	f, err := labMembers.form(r, c)
	if err != nil {
		return err
	}
	members := []lab.MemberStatus{s.Fabric}
	if s.Router != nil {
		members = append(members, *s.Router)
	}
	if err := labMembers.print(r, f, append(members, s.Hosts...)); err != nil {
		return err
	}
	if len(s.Endpoints) > 0 {
		if err := r.say(""); err != nil {
			return err
		}
		if err := labEndpoints.print(r, f, s.Endpoints); err != nil {
			return err
		}
	}
	if err := r.say("\netcd: %s inside, %s outside; logs in %s", s.Etcd, s.EtcdSocket, l.Dir()); err != nil {
		return err
	}
	for _, p := range s.Problems {
		if err := r.say("problem: %s", p); err != nil {
			return err
		}
	}
	return nil
}

// inWorkingDirectory makes a command start in the directory that we are in, where a host
// has that: files next to the user are named as they are outside.
func inWorkingDirectory(argv []string) []string {
	wd, err := os.Getwd()
	if err != nil || len(argv) == 0 {
		return argv
	}
	return append([]string{"sh", "-c", `cd "$0" 2>/dev/null; exec "$@"`, wd}, argv...)
}

// labExec becomes the command: it gets this process's terminal and signals,
// and its exit code is ours.
func (r *runner) labExec(c *ucli.Context) error {
	l, err := lab.Open(r.labConfig(c))
	if err != nil {
		return err
	}
	argv, env, err := l.ExecCommand(c.Args().First(), inWorkingDirectory(c.Args().Tail()))
	if err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", argv[0], unix.Exec(argv[0], argv, env))
}
