package command

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/docker"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/dockerhost"
	"github.com/baize-net/baize/cmd/internal/hostfile"
	"github.com/baize-net/baize/topology"
)

func (r *runner) dockerCommand() *ucli.Command {
	return &ucli.Command{
		Name: "docker", Usage: "make Docker's own bridge, docker0, a part of a network",
		Subcommands: []*ucli.Command{
			{
				Name: "configure", Usage: "convert this host, or undo that",
				Description: `Writes drop-in files for docker.service and baize.service, and the script they run;
it lists them first and asks. Docker keeps running until it is restarted; then its
containers get new addresses. Settings of Docker that contradict the agent's are
reported, not changed.

  baize docker configure --dry-run
  baize docker configure --network blue --yes --restart
  baize docker configure --undo`,
				Flags: []ucli.Flag{
					&ucli.StringFlag{
						Name: "network", Usage: "`NAME` of the network that docker0 becomes a part of (default the only one)",
					},
					&ucli.BoolFlag{
						Name:  "flannel",
						Usage: "replace flannel, with docker0 behind its host as before: see docs/from-flannel.md",
					},
					&ucli.BoolFlag{Name: "yes", Usage: "do not ask"},
					&ucli.BoolFlag{Name: "dry-run", Usage: "show what would change, and change nothing"},
					&ucli.BoolFlag{Name: "restart", Usage: "restart the agent and Docker at the end"},
					&ucli.BoolFlag{Name: "undo", Usage: "undo everything"},
				},
				Action: r.dockerConfigure,
			},
			{
				Name: dockerRelay, Usage: "pass Docker's requests to the agent, which starts it", Hidden: true,
				ArgsUsage: "SOCKET AGENT-SOCKET", Action: r.dockerRelay,
			},
		},
	}
}

const dockerRelay = "relay"

func (r *runner) dockerRelay(c *ucli.Context) error {
	log, err := cli.Logger(c, r.Err)
	if err != nil {
		return err
	}
	return docker.Relay(c.Context, c.Args().Get(0), c.Args().Get(1), log)
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
	dryRun, restart := c.Bool("dry-run"), c.Bool("restart")
	if err := r.showChanges(changes, dryRun); err != nil {
		return err
	}
	if dryRun || (len(changes) == 0 && !restart) {
		return nil
	}
	if ok, err := r.mayChangeHost(c, configureQuestion(restart)); err != nil || !ok {
		return err
	}
	if err := hostfile.Apply("", changes); err != nil {
		return err
	}
	return r.reloadDocker(c.Context, restart)
}

func configureQuestion(restart bool) string {
	if restart {
		return "Do this, and restart the agent and Docker, which stops its containers unless live-restore is set?"
	}
	return "Do this?"
}

// reloadDocker makes systemd read the new files, and restarts the services when
// that was asked for.
func (r *runner) reloadDocker(ctx context.Context, restart bool) error {
	if err := r.systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	if !restart {
		return r.say("done; it takes effect with 'systemctl restart baize docker'")
	}
	// The agent first: it writes the options that Docker starts with.
	for _, unit := range []string{"baize.service", "docker.service"} {
		if err := r.systemctl(ctx, "restart", unit); err != nil {
			return err
		}
	}
	return r.say("done; 'baize status' says whether docker0 is set up as it must be")
}

// confirm asks; any answer but yes is a no.
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

func (r *runner) systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, systemctlTimeout)
	defer cancel()
	command := "systemctl " + strings.Join(args, " ")
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: command, What: strings.TrimSpace(fmt.Sprintf("%v: %s", err, out)),
			Remedy: "see 'journalctl -u docker -u baize'; 'baize docker configure --undo' takes the change back",
		}
	}
	return r.say("%s", command)
}
