// Command baize-cni is the plugin that container runtimes start: by CNI's protocol, and, with
// arguments, by netavark's. See docs/cni.md and docs/podman.md.
package main

import (
	"context"
	"os"

	"github.com/baize-net/baize/cmd/internal/cni"
	"github.com/baize-net/baize/cmd/internal/netavark"
)

// version is stamped by the build.
var version = "dev"

func main() {
	if len(os.Args) > 1 {
		os.Exit(netavark.Run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, version))
	}
	os.Exit(cni.Main("baize-cni " + version + " is Baize's CNI plugin: container runtimes start it; see docs/cni.md"))
}
