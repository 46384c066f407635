//go:build kernel

package kerneltest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
)

// wait is how long anything may take on an emulated processor.
const wait = testkit.Patience

func TestMain(m *testing.M) {
	os.Exit(labkit.Main(m, func() error {
		kernel, err := hostnet.Datapath()
		if kernel {
			return nil
		}
		return fmt.Errorf("these tests need the kernel's Open vSwitch datapath: "+
			"run 'make test-kernel', which brings a kernel along: %w", err)
	}))
}

// endpoints lists the lab's endpoints by "HOST/NAME".
func endpoints(l *labkit.Lab) map[string]lab.EndpointStatus {
	l.T.Helper()
	out := map[string]lab.EndpointStatus{}
	for _, e := range l.Endpoints("") {
		out[e.String()] = e
	}
	return out
}

var lookups = regexp.MustCompile(`lookups: hit:(\d+) missed:(\d+) lost:(\d+)`)

// lost is how many packets the kernel could not hand to ovs-vswitchd.
func lost(l *labkit.Lab, h *lab.Host) (hit, lost int) {
	l.T.Helper()
	out := l.Must(h.Name(), "ovs-appctl", "dpctl/show")
	m := lookups.FindStringSubmatch(out)
	require.NotNil(l.T, m, out)
	hit, _ = strconv.Atoi(m[1])
	lost, _ = strconv.Atoi(m[3])
	return hit, lost
}

var tunnelled = regexp.MustCompile(`packets:[1-9].*actions:.*set\(tunnel\(`)

// requireKernel proves that a host's packets go through the kernel's flows.
// Networks that are routed share the tunnels' datapath: there the traffic is
// that of the first network.
func requireKernel(t *testing.T, l *labkit.Lab, h *lab.Host, encap topology.Transport, name string) {
	t.Helper()
	if encap.Routed() {
		name = "c1"
	}
	other := "host1/"
	if h.Name() == "host1" {
		other = "host2/"
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	// The kernel forgets a flow that is idle for ten seconds.
	_, err := h.Endpoint(name).Exec(ctx, "ping", "-n", "-c", "5", "-i", "0.1", endpoints(l)[other+name].IPs[0].String())
	require.NoError(t, err)
	s := l.AgentStatus(h.Name())
	require.Equal(t, "system", s.Datapath)
	require.Empty(t, s.Problems)
	require.Contains(t, l.Must(h.Name(), "ovs-appctl", "dpif/show"), "system@ovs-system")
	_, missing := lost(l, h)
	require.Zero(t, missing, "packets were lost on their way to ovs-vswitchd")
	flows := l.Must(h.Name(), "ovs-appctl", "dpctl/dump-flows")
	require.Regexp(t, tunnelled, flows, "no flow of the kernel has tunnelled a packet")
	device := map[topology.Transport]string{topology.VXLAN: "vxlan_sys_4789", topology.GRE: "gre_sys", topology.Geneve: "genev_sys_6081"}[encap]
	if device != "" {
		require.Contains(t, l.Must(h.Name(), "ovs-appctl", "dpctl/show"), device)
	}
}
