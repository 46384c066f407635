//go:build system

// Package domaintest proves the L2 domain on real Open vSwitches: what must
// arrive, what must not, and how often.
package domaintest

import (
	"net/netip"
	"os"
	"testing"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

func TestMain(m *testing.M) { os.Exit(labkit.Main(m)) }

// domain is a lab, of three hosts with two networks of one prefix unless a test
// says otherwise.
type domain struct{ *labkit.Lab }

func up(t *testing.T, transport topology.Transport, config lab.Config) *domain {
	t.Helper()
	config.Transport = transport
	if config.Hosts == 0 {
		config.Hosts = 3
	}
	prefix := netip.MustParsePrefix("10.1.0.0/16")
	if config.Networks == nil {
		config.Networks = []lab.NetworkSpec{
			{Name: "blue", Prefixes: []netip.Prefix{prefix, netip.MustParsePrefix("fd00:10:1::/48")}},
			{Name: "red", Prefixes: []netip.Prefix{prefix}},
		}
	}
	return &domain{labkit.Up(t, config)}
}

// in makes a subtest's failures its own.
func (d *domain) in(t *testing.T) *domain { return &domain{d.Lab.In(t)} }
