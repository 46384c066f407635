// Command baize joins hosts into large Ethernets with Open vSwitch. See
// 'baize --help' and docs/cli.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/baize-net/baize/cmd/internal/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// The first signal asks; with the handler gone, the second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(command.Run(ctx, os.Args[1:], command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
