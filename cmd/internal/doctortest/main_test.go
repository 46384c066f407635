//go:build system

// Package doctortest is the fault catalogue: faults that a program injects into a lab of
// real components, each with what 'baize doctor' has to say of it, and proof that the
// remedy which it prints mends it.
package doctortest

import (
	"os"
	"testing"

	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
)

func TestMain(m *testing.M) { os.Exit(labkit.Main(m)) }
