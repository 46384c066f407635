package command

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/dockerhost"
	"github.com/baize-net/baize/topology"
)

func (r *runner) dockerCommand() *ucli.Command {
	return &ucli.Command{
		Name: "docker", Usage: "make Docker's own bridge, docker0, a part of a network",
		Subcommands: []*ucli.Command{
			{
				Name: "configure", Usage: "convert this host, or take that back",
				Description: `Writes drop-in files for docker.service and baize.service, and the script they run;
it names them first and asks. Docker goes on as it is until it is restarted: its
containers get new addresses then. Settings of Docker that contradict it are
refused, not changed.

  baize docker configure --dry-run
  baize docker configure --network blue --yes --restart
  baize docker configure --undo`,
				Flags: []ucli.Flag{
					&ucli.StringFlag{Name: "network", Usage: "`NAME` of the network that docker0 becomes a part of (default the only one)"},
					&ucli.BoolFlag{Name: "flannel", Usage: "take the place of flannel, whose network docker0 is in, behind the host: see docs/from-flannel.md"},
					&ucli.BoolFlag{Name: "yes", Usage: "do not ask"},
					&ucli.BoolFlag{Name: "dry-run", Usage: "show what would change, and change nothing"},
					&ucli.BoolFlag{Name: "restart", Usage: "restart the agent and Docker at the end"},
					&ucli.BoolFlag{Name: "undo", Usage: "take it all back"},
				},
				Action: r.dockerConfigure,
			},
			{
				Name: standIn, Usage: "answer Docker while no agent runs; the agent starts it", Hidden: true, ArgsUsage: "SOCKET",
				Action: r.dockerStandIn,
			},
		},
	}
}

const standIn = "stand-in"

func (r *runner) dockerStandIn(c *ucli.Context) error {
	log, err := cli.Logger(c, r.Err)
	if err != nil {
		return err
	}
	return docker.StandIn(c.Context, r.In, c.Args().First(), log)
}

// systemctlTimeout: Docker waits for the agent, and stops its containers.
const systemctlTimeout = 3 * time.Minute

func (r *runner) dockerConfigure(c *ucli.Context) error {
	h := dockerhost.Host{Network: c.String("network"), Flannel: c.Bool("flannel")}
	if h.Flannel && h.Network != "" {
		return usagef("baize docker configure", "--flannel and --network contradict each other: flannel has one network")
	}
	plan := h.Plan
	if c.Bool("undo") {
		plan = h.Undo
	}
	changes, err := plan()
	if err != nil {
		return err
	}
	for _, ch := range changes {
		if err := r.showChange(ch, c.Bool("dry-run")); err != nil {
			return err
		}
	}
	if len(changes) == 0 {
		if err := r.say("nothing is to change"); err != nil {
			return err
		}
	}
	commands := [][]string{{"systemctl", "daemon-reload"}}
	if c.Bool("restart") {
		// The agent first: it writes what Docker is started with.
		commands = append(commands, []string{"systemctl", "restart", "baize.service"}, []string{"systemctl", "restart", "docker.service"})
	}
	if c.Bool("dry-run") || (len(changes) == 0 && !c.Bool("restart")) {
		return nil
	}
	if os.Geteuid() != 0 {
		return &topology.Error{Kind: topology.ErrUnavailable, Item: "baize docker configure", What: "needs root", Remedy: "run it with sudo; --dry-run needs none"}
	}
	if !c.Bool("yes") {
		question := "Do this?"
		if c.Bool("restart") {
			question = "Do this, and restart the agent and Docker, which stops its containers unless live-restore is set?"
		}
		if ok, err := r.confirm(question); err != nil || !ok {
			return err
		}
	}
	if err := h.Apply(changes); err != nil {
		return err
	}
	for _, argv := range commands {
		if err := r.systemctl(c.Context, argv); err != nil {
			return err
		}
	}
	if !c.Bool("restart") {
		return r.say("done; it takes effect with 'systemctl restart baize docker'")
	}
	return r.say("done; 'baize status' says whether docker0 is as it has to be")
}

func (r *runner) showChange(c dockerhost.Change, whole bool) error {
	if c.Text == nil {
		return r.say("remove %s", c.Path)
	}
	if err := r.say("write  %s", c.Path); err != nil || !whole {
		return err
	}
	if strings.HasSuffix(c.Path, ".sh") {
		return nil // long, and the same everywhere
	}
	for line := range strings.Lines(string(c.Text)) {
		if err := r.say("       | %s", strings.TrimRight(line, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// confirm takes nothing but a yes for a yes.
func (r *runner) confirm(question string) (bool, error) {
	if _, err := fmt.Fprint(r.Out, question+" [y/N] "); err != nil {
		return false, err
	}
	answer, _ := bufio.NewReader(r.In).ReadString('\n') // the end of input is a no
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	}
	return false, r.say("nothing was changed")
}

func (r *runner) systemctl(ctx context.Context, argv []string) error {
	ctx, cancel := context.WithTimeout(ctx, systemctlTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return &topology.Error{Kind: topology.ErrUnavailable, Item: strings.Join(argv, " "), What: strings.TrimSpace(fmt.Sprintf("%v: %s", err, out)), Remedy: "see 'journalctl -u docker -u baize'; 'baize docker configure --undo' takes the change back"}
	}
	return r.say("%s", strings.Join(argv, " "))
}
