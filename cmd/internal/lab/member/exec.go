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
func command(ctx context.Context, argv, env []string, out, errs io.Writer) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, errs
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a command line of Enter to its end and returns what it printed. The
// error is a wrapped *exec.ExitError where it failed.
func Run(ctx context.Context, argv, env []string) (string, error) {
	var out bytes.Buffer
	err := run(ctx, argv, env, &out, &out)
	return out.String(), failed(argv, err, &out)
}

// Output is Run that returns standard output alone: programs that read it are not
// to read progress and warnings.
func Output(ctx context.Context, argv, env []string) (string, error) {
	var out, errs bytes.Buffer
	err := run(ctx, argv, env, &out, &errs)
	return out.String(), failed(argv, err, &errs)
}

func run(ctx context.Context, argv, env []string, out, errs io.Writer) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, runTimeout)
		defer cancel()
	}
	err := command(ctx, argv, env, out, errs).Run()
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// failed names the command of an error, and what it said.
func failed(argv []string, err error, said *bytes.Buffer) error {
	if err == nil {
		return nil
	}
	if i := slices.Index(argv, "--"); i >= 0 {
		argv = argv[i+1:]
	}
	return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(said.Bytes()))
}

// Start starts a command line of Enter that runs on, with its output to w. It is
// killed when ctx ends, or by the function returned, which also waits.
func Start(ctx context.Context, w io.Writer, argv, env []string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := command(ctx, argv, env, w, w)
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	return func() {
		cancel()
		_ = cmd.Wait() // killed
	}, nil
}
