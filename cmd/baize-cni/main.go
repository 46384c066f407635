// Command baize-cni is Baize's CNI plugin: container runtimes start it. See docs/cni.md.
package main

import (
	"os"

	"github.com/baize-net/baize/cmd/internal/cni"
)

func main() {
	os.Exit(cni.Main("baize-cni is Baize's CNI plugin: container runtimes start it; see docs/cni.md"))
}
