package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/lab/member"
	"github.com/baize-net/baize/topology"
)

func (l *Lab) exec(ctx context.Context, target string, argv []string) (string, error) {
	argv, env, err := l.ExecCommand(target, argv)
	if err != nil {
		return "", err
	}
	return member.Run(ctx, argv, env)
}

// ExecCommand returns what runs a command in "HOST", "HOST/ENDPOINT" or
// "fabric": an argument vector that begins with the path of nsenter(1), and the
// environment for it. To be used with syscall.Exec, it gives the command this
// process's terminal, signals and exit code.
func (l *Lab) ExecCommand(target string, argv []string) (command, env []string, err error) {
	if len(argv) == 0 {
		return nil, nil, &topology.Error{
			Kind: topology.ErrInvalid, Item: target, What: "no command to run there",
			Remedy: "give one: " + CommandLine(l.cfg.Name, "exec") + " " + target + " -- COMMAND",
		}
	}
	name, endpoint, inEndpoint := strings.Cut(target, "/")
	m, err := l.member(name)
	if err != nil {
		return nil, nil, err
	}
	if inEndpoint {
		if err := checkEndpoint(m, endpoint); err != nil {
			return nil, nil, err
		}
		argv = member.InNetns(endpoint, argv)
	}
	path, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, nil, err
	}
	command = m.Enter(argv)
	command[0] = path
	return command, member.ExecEnv(os.Environ(), l.state.memberEnv(name), l.state.Env), nil
}

func checkEndpoint(m member.Member, endpoint string) error {
	entries, err := os.ReadDir(m.Inside(member.NetnsDir))
	if err != nil {
		return fmt.Errorf("endpoints of %s: %w", m.Name, err)
	}
	have := []string{}
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if slices.Contains(have, endpoint) {
		return nil
	}
	remedy := "it has " + strings.Join(have, ", ")
	if len(have) == 0 {
		remedy = "it has none: '" + CommandLine(m.Lab, "up") + "' attaches them"
	}
	return &topology.Error{
		Kind: topology.ErrNotFound, Item: "endpoint " + m.Name + "/" + endpoint, What: m.Name + " has no such endpoint",
		Remedy: remedy,
	}
}

func (l *Lab) start(ctx context.Context, w io.Writer, target string, argv []string) (func(), error) {
	argv, env, err := l.ExecCommand(target, argv)
	if err != nil {
		return nil, err
	}
	return member.Start(ctx, w, argv, env)
}
