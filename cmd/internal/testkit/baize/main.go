// Command baize is the baize of the labs that tests make: 'baize agent' becomes
// the program that the environment names, which is built with the race detector;
// all else, such as the commands that tests run by the hundred and the first
// process of each host, is itself and not slowed down by one.
package main

import (
	"context"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/command"
)

func main() {
	args := os.Args[1:]
	daemon := len(args) > 0 && args[0] == "agent" && (len(args) == 1 || strings.HasPrefix(args[1], "-"))
	if agent := os.Getenv("BAIZE_TEST_AGENT"); agent != "" && daemon {
		// Where it fails there is no agent, and so no test that passes.
		_ = unix.Exec(agent, os.Args, os.Environ())
		os.Exit(127)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code := command.Run(ctx, args, command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
