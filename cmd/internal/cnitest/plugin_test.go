//go:build system

package cnitest_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cnitest"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

func TestMain(m *testing.M) { os.Exit(labkit.Main(m)) }

// debianPlugins is where Debian keeps the reference plugins (containernetworking-plugins).
const debianPlugins = "/usr/lib/cni"

// plugin builds baize-cni, and returns its folder.
func plugin(t *testing.T) string {
	t.Helper()
	file, err := labkit.Build("baize-cni", "../../..", "./cmd/baize-cni")
	require.NoError(t, err)
	return filepath.Dir(file)
}

// Baize's plugin keeps to the specification, with every version of it.
func TestSpecification(t *testing.T) {
	t.Parallel()
	dir := plugin(t)
	l := labkit.Up(t, lab.Config{Hosts: 1, Transport: topology.VXLAN, Networks: []lab.NetworkSpec{
		{
			Name:     "blue",
			Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")},
		},
	}})
	own := l.AgentStatus("host1").Networks[0].Subnets[0].Addr()
	var taken atomic.Int64
	cnitest.Run(t, cnitest.Suite{
		Type: "baize-cni", Path: []string{dir, debianPlugins}, Config: map[string]any{"network": "blue"},
		Versions: []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"},
		Wrap:     func(argv []string) (command, env []string, err error) { return l.ExecCommand("host1", argv) },
		Broken: func(t *testing.T) (repair func()) {
			require.NoError(t, l.Host("host1").StopService(t.Context(), lab.ServiceAgent))
			return func() { require.NoError(t, l.Host("host1").StartService(t.Context(), lab.ServiceAgent)) }
		},
		Left:   func(t *testing.T, network string) []string { return left(l.In(t), network) },
		Strict: true, Delegates: true, MAC: true, Parallel: 24,
		Addr: func(*testing.T) string {
			// From the end of the node's subnet: the agent gives addresses from its beginning.
			b := own.As4()
			b[3] = byte(254 - taken.Add(1)%100)
			return netip.PrefixFrom(netip.AddrFrom4(b), 16).String()
		},
	})
}

// left is what a host has for a CNI network: endpoints, their ports and devices.
func left(l *labkit.Lab, network string) (out []string) {
	l.T.Helper()
	known := map[string]bool{}
	for _, e := range l.AgentStatus("host1").Endpoints {
		known[e.Port] = true
		if e.Engine == api.EngineCNI && e.EngineNetwork == network {
			out = append(out, fmt.Sprintf("endpoint %s of container %s", e.Name, e.ContainerID))
		}
	}
	for _, line := range strings.Split(l.Must("host1", "ip", "-br", "link", "show", "type", "veth"), "\n") {
		name, _, _ := strings.Cut(line, "@")
		if strings.HasPrefix(name, "bz") && !known[name] {
			out = append(out, "device "+name)
		}
	}
	for _, name := range strings.Fields(l.Must("host1", "ovs-vsctl", "list-ports", "br-baize")) {
		if strings.HasPrefix(name, "bz") && !known[name] {
			out = append(out, "port "+name)
		}
	}
	return out
}
