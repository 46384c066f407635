package member

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runTimeout is for commands whose caller gave no deadline.
const runTimeout = 10 * time.Minute

// Enter is the command line that runs another in a member's namespaces, by
// nsenter(1).
func (m Member) Enter(argv []string) []string {
	return append([]string{"nsenter", "-t", fmt.Sprint(m.PID), "-m", "-u", "-i", "-n", "-p", "--"}, argv...)
}

// InNetns is the command line that runs another in one of a member's network
// namespaces; to be entered.
func InNetns(name string, argv []string) []string {
	return append([]string{"ip", "netns", "exec", name}, argv...)
}

// command is one of Enter, not yet started. Its process group is killed with it:
// nsenter's child is not killed by killing nsenter.
func command(ctx context.Context, argv, env []string, w io.Writer) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, w, w
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a command line of Enter to its end and returns what it printed. The
// error is a wrapped *exec.ExitError where it failed.
func Run(ctx context.Context, argv, env []string) (string, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, runTimeout)
		defer cancel()
	}
	var out bytes.Buffer
	err := command(ctx, argv, env, &out).Run()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		shown := argv
		if i := slices.Index(argv, "--"); i >= 0 {
			shown = argv[i+1:]
		}
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(shown, " "), err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), nil
}

// Start starts a command line of Enter that runs on, with its output to w. It is
// killed when ctx ends, or by the function returned, which also waits.
func Start(ctx context.Context, w io.Writer, argv, env []string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := command(ctx, argv, env, w)
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	return func() {
		cancel()
		_ = cmd.Wait() // killed
	}, nil
}
