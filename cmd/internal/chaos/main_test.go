//go:build system

// Package chaos lets a lab of real components live through random faults under traffic:
// agents are killed, etcd and Open vSwitch restarted, flows, ports and bridges deleted,
// hosts cut off, two of these at a time. A checker of its own compares afterwards: it reads
// etcd by key, Open vSwitch by its tools, and counts packets.
package chaos

import (
	"os"
	"testing"

	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

func TestMain(m *testing.M) { os.Exit(labkit.Main(m)) }
