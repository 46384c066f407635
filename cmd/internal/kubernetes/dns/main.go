// Command dns is CoreDNS with the plugins that a cluster's names need, and no other, for
// tests.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"       // names once asked for
	_ "github.com/coredns/coredns/plugin/errors"      // errors in the log
	_ "github.com/coredns/coredns/plugin/kubernetes"  // names of Services and pods
	_ "github.com/coredns/coredns/plugin/loadbalance" // the order of addresses
	_ "github.com/coredns/coredns/plugin/ready"       // the readiness probe
)

func main() { coremain.Run() }
