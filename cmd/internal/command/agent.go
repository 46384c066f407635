package command

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent"
	"github.com/baize-net/baize/cmd/internal/agent/bgp"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/console"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
	"github.com/baize-net/baize/topology/fault"
)

func (r *runner) agentCommand() *ucli.Command {
	return &ucli.Command{
		Name: "agent", Usage: "run the agent of this node, or remove what it made",
		Description: `The agent runs on every node, as root. It registers the node, leases
subnets in the networks that something on it needs, and keeps Open vSwitch in the
state that the topology asks for. When it stops, forwarding goes on. It tells
systemd when the node forwards (Type=notify).`,
		Flags: slices.Concat(
			agentFlags(), watchFlags(), dockerFlags(), bgpFlags(), flannelFlags(), kubeFlags(), consoleFlags(), bridgeFlags(),
		),
		Action: r.agentRun,
		Subcommands: []*ucli.Command{
			{
				Name: "cleanup", Usage: "remove exactly what Baize made on this node",
				Description: `Stop the agent first. Its ports and flows go, the bridge unless somebody else's
port hangs on it, the endpoints' interfaces and the state directory's files; and
with them the traffic of every endpoint on this node. The node stays registered
and keeps its subnets for the next installation of its name; 'baize node remove'
gives them back. Where the node has endpoints, a person at a terminal is asked first.
With the agent's flags of BGP, the routers forget the node at once. --dry-run says
what would go, also while the agent runs:

  baize agent cleanup --dry-run
  baize agent --bgp 65001 --bgp-neighbor 65000@192.0.2.1 cleanup`,
				Flags: []ucli.Flag{
					yesFlag(), &ucli.BoolFlag{Name: flagDryRun, Usage: "change nothing, and show what would be removed"},
				},
				Action: r.agentCleanup,
			},
		},
	}
}

// agentFlags are those that no other command has.
func agentFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{Name: "node", Usage: "`NAME` of this node (default the host's name)"},
		&ucli.StringFlag{
			Name: "vtep", Usage: "`ADDRESS` or interface that tunnels end at (default the way to etcd)", Action: isVTEP("vtep"),
		},
		&ucli.StringFlag{
			Name:  "datapath",
			Usage: "`TYPE` of the datapath: auto, system (kernel) or netdev (userspace)",
			Value: "auto",
		},
		&ucli.StringFlag{
			Name: "fastpath",
			Usage: "forward routed packets past Open vSwitch by eBPF: `MODE` auto (wherever it is possible) or off; " +
				"see docs/routing.md",
			Value: "auto",
		},
		&ucli.StringSliceFlag{
			Name:    "network",
			Usage:   "`NAME` of a network to lease a subnet in ahead: then its first endpoint here does not need etcd",
			EnvVars: cli.Env("networks"),
			Action:  areNames("network", "network"),
		},
		&ucli.DurationFlag{
			Name:   "lease-grace",
			Usage:  "how long the subnets of a network are kept after the last endpoint, or other use, on this node",
			Value:  10 * time.Minute,
			Action: atLeast("lease-grace", 0),
		},
		&ucli.StringFlag{
			Name:  "state-dir",
			Usage: "`DIRECTORY` with the node's identity and its copy of the topology",
			Value: "/var/lib/baize",
		},
		&ucli.DurationFlag{
			Name:  "liveness-ttl",
			Usage: "how long after its death others see the agent as alive",
			Value: 10 * time.Second,
			// A lease of etcd has whole seconds.
			Action: atLeast("liveness-ttl", time.Second),
		},
		&ucli.DurationFlag{
			Name:   "audit-interval",
			Usage:  "how often every flow is compared in full",
			Value:  30 * time.Second,
			Action: atLeast("audit-interval", time.Second),
		},
	}
}

// watchFlags are those of what looks at the node and tells of it.
func watchFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.DurationFlag{
			Name:   "probe-interval",
			Usage:  "how long a round of probes to all peers takes, see docs/mesh.md; 0 turns probes off, there and back",
			Value:  time.Minute,
			Action: probeInterval,
		},
		&ucli.StringFlag{
			Name: "metrics",
			Usage: "serve metrics for Prometheus at this `ADDRESS`, 127.0.0.1:9799 or unix:/run/baize/metrics.sock: " +
				"see docs/metrics.md (default none)",
		},
		&ucli.StringSliceFlag{
			Name: "sflow",
			Usage: "tell of packets that come into this node's bridge by sFlow, to the collector at this `ADDRESS`, " +
				"192.0.2.9:6343: see docs/flows.md (default none)",
		},
		&ucli.IntFlag{
			Name: "sflow-sampling", Usage: "tell by it of one of `N` packets", Value: topology.DefaultSampling,
			Action: between("sflow-sampling", 1, math.MaxInt32),
		},
		&ucli.BoolFlag{
			Name:  "no-remote-capture",
			Usage: "capture packets for commands of this host only, for none on another node: see docs/capture.md",
		},
		&ucli.DurationFlag{
			Name: "ready-after",
			Usage: "after which time systemd is told that the node is ready though it is not, so that Docker starts; never " +
				"where Docker needs the agent's file (default never)",
		},
	}
}

// probeInterval refuses rounds that would take less than a second.
func probeInterval(c *ucli.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	return atLeast("probe-interval", time.Second)(c, d)
}

// dockerFlags are those of its parts for Docker.
func dockerFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{
			Name: "docker-bridge",
			Usage: "`NAME` of Docker's own bridge (docker0), which becomes a part of the network: " +
				"see docs/docker.md (default none)",
		},
		&ucli.StringFlag{
			Name:   "docker-network",
			Usage:  "`NAME` of the network that --docker-bridge is a part of (default the only one)",
			Action: isName("docker-network", "network"),
		},
		&ucli.StringFlag{
			Name:  "docker-env",
			Usage: "`FILE` to write with what Docker must be started with",
			Value: subnetenv.BaizeFile,
		},
		&ucli.StringFlag{
			Name: "docker-plugin",
			Usage: "serve Docker's network and IPAM driver 'baize': `MODE` auto, on or off; " +
				"auto is on where Docker is installed",
			Value: "auto",
		},
		&ucli.BoolFlag{
			Name: "public-names",
			Usage: "answer names of the Internet, such as example.com, where a container of another host has one: " +
				"see docs/names.md",
		},
		&ucli.StringFlag{
			Name: "host-names",
			Usage: "loopback `ADDRESS` where processes of this host may ask for containers' names by DNS, such as 127.0.0.12: " +
				"see docs/names.md (default none)",
			Action: func(_ *ucli.Context, s string) error {
				if err := agent.CheckHostNames(s); err != nil {
					return usagef("baize agent", "--host-names: %v", err)
				}
				return nil
			},
		},
	}
}

// bgpFlags are those of its speaker.
func bgpFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.UintFlag{
			Name: "bgp",
			Usage: "`AS` number of this node: announce its subnets to --bgp-neighbor, and learn those of others: " +
				"see docs/routing.md (default none)",
		},
		&ucli.StringSliceFlag{Name: "bgp-neighbor", Usage: "`AS@ADDRESS[:PORT]` of a router on the link"},
		&ucli.StringFlag{Name: "bgp-password-file", Usage: "`FILE` with one line, the password of the sessions (TCP MD5)"},
		&ucli.DurationFlag{
			Name:  "bgp-hold-time",
			Usage: "silence after which a router is taken for dead, and this node by it",
			Value: bgp.DefaultHoldTime,
		},
		&ucli.DurationFlag{
			Name:  "bgp-restart-time",
			Usage: "how long routers keep this node's subnets while the agent is away",
			Value: bgp.DefaultRestartTime,
		},
	}
}

func (r *runner) agentConfig(c *ucli.Context) (agent.Config, error) {
	etcd, all, err := r.agentSettings(c)
	if err != nil {
		return agent.Config{}, err
	}
	speak, err := bgpConfig(c)
	if err != nil {
		return agent.Config{}, err
	}
	cfg := agent.Config{
		Node: c.String("node"), VTEP: c.String("vtep"), Bridge: c.String("bridge"), Datapath: c.String("datapath"),
		FastPath: c.String("fastpath"),
		OVSDB:    c.String("ovsdb"), OVSRunDir: c.String("ovs-rundir"), Networks: c.StringSlice("network"),
		LeaseGrace: c.Duration("lease-grace"), Metrics: c.String("metrics"),
		StateDir: c.String("state-dir"), Socket: c.String(flagSocket), DockerPlugin: c.String("docker-plugin"),
		PublicNames: c.Bool("public-names"), HostNames: c.String("host-names"), NoRemoteCapture: c.Bool("no-remote-capture"),
		VXLANPort: c.Int("vxlan-port"), GenevePort: c.Int("geneve-port"),
		LivenessTTL: c.Duration("liveness-ttl"), AuditInterval: c.Duration("audit-interval"),
		ProbeInterval: c.Duration("probe-interval"), ReadyAfter: c.Duration("ready-after"),
		DockerBridge: c.String("docker-bridge"), DockerNetwork: c.String("docker-network"),
		DockerEnv: c.String("docker-env"),
		BGP:       speak,
		Console: console.Access{
			Listen: c.String("console"), CertFile: c.String("console-" + flagTLSCert),
			KeyFile: c.String("console-" + flagTLSKey), TokenFile: c.String("console-" + flagTokenFile),
		},
		Etcd: etcd, Version: currentVersion().Version, Settings: all,
	}
	if c.IsSet("sflow") {
		all, err := collectorsOf(c, "baize agent", "sflow", topology.SFlowPort)
		if err != nil {
			return cfg, err
		}
		cfg.SFlow = ovs.NewSFlow(all, c.Int("sflow-sampling"))
	}
	addFlannel(c, &cfg)
	err = addKube(c, &cfg)
	return cfg, err
}

// notTheAgents are global flags that mean nothing to an agent.
var notTheAgents = []string{flagContext, flagConfig, flagSettings}

// agentSettings are those that an agent runs with. They come from its flags and its
// environment alone: what it runs with is to be seen in its unit, and there is one
// settings file for all agents of a machine, those of a lab included.
func (r *runner) agentSettings(c *ucli.Context) (etcdstore.Config, []settings.Setting, error) {
	if r.given[flagContext] {
		return etcdstore.Config{}, nil, usagef("baize agent", "--context is for who gives commands: an agent has flags, "+
			"variables and, under systemd, %s", settings.DefaultFile)
	}
	flags := slices.Concat(r.root.Flags, r.root.Command("agent").Flags)
	flags = slices.DeleteFunc(flags, func(f ucli.Flag) bool { return slices.Contains(notTheAgents, f.Names()[0]) })
	own, err := r.ownPlaces(c, flags)
	if err != nil {
		return etcdstore.Config{}, nil, err
	}
	specs := specsOf(c, flags)
	resolved := settings.Resolve(specs, own)
	cfg, err := etcdConfig(resolved)
	cfg.Origin = "" // an agent's faults are read by others than those who started it
	all := listed(specs, resolved)
	for i, s := range all {
		if abs, err := filepath.Abs(s.Value); settings.IsFile(s.Name) && s.Set && err == nil {
			all[i].Value = abs // for those who ask from another directory
		}
	}
	return cfg, all, err
}

// bgpConfig reads the flags of BGP; without any it is empty.
func bgpConfig(c *ucli.Context) (bgp.Config, error) {
	out := bgp.Config{
		AS:          uint32(c.Uint("bgp")),
		HoldTime:    c.Duration("bgp-hold-time"),
		RestartTime: c.Duration("bgp-restart-time"),
	}
	if uint64(c.Uint("bgp")) > math.MaxUint32 {
		return out, usagef("baize agent", "--bgp %d: an AS number has 32 bits", c.Uint("bgp"))
	}
	for _, s := range c.StringSlice("bgp-neighbor") {
		n, err := bgp.ParseNeighbor(s)
		if err != nil {
			return out, err
		}
		out.Neighbors = append(out.Neighbors, n)
	}
	if out.AS == 0 && len(out.Neighbors) == 0 {
		return bgp.Config{}, nil
	}
	if file := c.String("bgp-password-file"); file != "" {
		password, err := bgp.ReadPassword(file)
		if err != nil {
			return out, err
		}
		out.Password = password
	}
	return out.Defaults()
}

func (r *runner) agentRun(c *ucli.Context) error {
	cfg, err := r.agentConfig(c)
	if err != nil {
		return err
	}
	log, err := cli.Logger(c, r.Err)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("this program's own file: %w", err)
	}
	cfg.DockerRelay = []string{self, "docker", dockerRelay}
	return agent.Run(c.Context, cfg, log)
}

// hostName is the name an agent gives its node unless told otherwise: the
// host's, without a domain.
func hostName() (string, error) {
	h, err := os.Hostname()
	h, _, _ = strings.Cut(h, ".")
	return h, err
}

// cleanupAgreed asks before endpoints lose their networks. What is no terminal is not
// asked: packages call this, and who does has stopped the agent before.
func (r *runner) cleanupAgreed(c *ucli.Context, cfg agent.Config) (bool, error) {
	if in, ok := r.In.(*os.File); c.Bool(flagYes) || c.Bool(flagDryRun) || ok && !cli.IsTerminal(in) {
		return true, nil
	}
	kept, err := agent.Kept(c.Context, cfg)
	if err != nil || len(kept) == 0 {
		return err == nil, err
	}
	const most = 5
	var names []string
	for _, e := range kept[:min(most, len(kept))] {
		names = append(names, fmt.Sprintf("%s (%s in %s)", e.Name, joined(e.IPs), e.Network))
	}
	if more := len(kept) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return r.confirm(fmt.Sprintf("%s of this host lose their network: %s. Remove all that Baize made?",
		capital(fault.Counted(len(kept), "endpoint")), strings.Join(names, ", ")))
}

// would says of what a cleanup did that it would have done it.
func would(line string) string {
	for did, does := range map[string]string{"removed": "remove", "left": "leave", "withdrew": "withdraw"} {
		if rest, ok := strings.CutPrefix(line, did+" "); ok {
			return "would " + does + " " + rest
		}
	}
	return line
}

func (r *runner) agentCleanup(c *ucli.Context) error {
	dryRun := c.Bool(flagDryRun)
	cfg, err := r.agentConfig(c)
	if err != nil {
		return err
	}
	log, err := cli.Logger(c, r.Err)
	if err != nil {
		return err
	}
	if ok, err := r.cleanupAgreed(c, cfg); err != nil || !ok {
		return err
	}
	done, err := waiting(r, c, "removing what Baize made", func(ctx context.Context) ([]string, error) {
		return agent.Cleanup(ctx, cfg, dryRun, log)
	})
	for _, line := range done { // also what was done before an error
		if dryRun {
			line = would(line)
		}
		if err := r.say("%s", line); err != nil {
			return err
		}
	}
	switch {
	case err == nil && len(done) == 0:
		return r.say("nothing of Baize's is left on this node")
	case err == nil && dryRun:
		return r.say("nothing was changed (--dry-run)")
	}
	return err
}
