//go:build kernel

package kerneltest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/command"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

const wait, tick = 30 * time.Second, 20 * time.Millisecond

// TestMain makes the test executable a baize as well: labs run it as pid 1 of
// their hosts, as etcd and as agent.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM) // until the end
		os.Exit(command.Run(ctx, os.Args[1:], command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	if kernel, err := hostnet.Datapath(); !kernel {
		fmt.Fprintln(os.Stderr, "kernel tests: these need the kernel's Open vSwitch datapath: run 'make test-kernel', which brings a kernel along:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// up makes a lab, or changes the one of that name. The logs of a test that
// fails are shown.
func up(t *testing.T, c lab.Config) *lab.Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	start := time.Now()
	l, err := lab.Up(ctx, c)
	t.Cleanup(func() {
		if t.Failed() && l != nil {
			showLogs(t, l)
		}
	})
	require.NoError(t, err)
	t.Logf("lab %s is up after %v", c.Name, time.Since(start).Round(time.Millisecond))
	return l
}

func down(t *testing.T, c lab.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := lab.Down(ctx, c)
	require.NoError(t, err)
}

func showLogs(t *testing.T, l *lab.Lab) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(l.Dir(), "*", "log", "*.log"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("%s:\n%s", f, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}

// run runs a command on a host.
func run(t *testing.T, h *lab.Host, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	out, err := h.Exec(ctx, argv...)
	require.NoError(t, err)
	return out
}

func status(t *testing.T, h *lab.Host) api.Status {
	t.Helper()
	out := run(t, h, "baize", "status", "-o", "json")
	var all struct{ Agent *api.Status }
	require.NoError(t, json.Unmarshal([]byte(out), &all), out)
	require.NotNil(t, all.Agent, out)
	return *all.Agent
}

// endpoints lists the lab's endpoints by "HOST/NAME".
func endpoints(t *testing.T, l *lab.Lab) map[string]lab.EndpointStatus {
	t.Helper()
	s, err := l.Status()
	require.NoError(t, err)
	out := map[string]lab.EndpointStatus{}
	for _, e := range s.Endpoints {
		out[e.String()] = e
	}
	return out
}

// netns is the path of an endpoint's namespace, given as "HOST/NAME".
func netns(t *testing.T, l *lab.Lab, endpoint string) string {
	t.Helper()
	host, name, _ := strings.Cut(endpoint, "/")
	path, err := l.Host(host).Endpoint(name).NetnsPath()
	require.NoError(t, err)
	return path
}

var lookups = regexp.MustCompile(`lookups: hit:(\d+) missed:(\d+) lost:(\d+)`)

// lost is how many packets the kernel could not hand to ovs-vswitchd.
func lost(t *testing.T, h *lab.Host) (hit, lost int) {
	t.Helper()
	out := run(t, h, "ovs-appctl", "dpctl/show")
	m := lookups.FindStringSubmatch(out)
	require.NotNil(t, m, out)
	hit, _ = strconv.Atoi(m[1])
	lost, _ = strconv.Atoi(m[3])
	return hit, lost
}

var tunnelled = regexp.MustCompile(`packets:[1-9].*actions:.*set\(tunnel\(`)

// requireKernel proves that a host's packets go through the kernel's flows.
// Networks that are routed share the tunnels' datapath: there the traffic is
// that of the first network.
func requireKernel(t *testing.T, l *lab.Lab, h *lab.Host, encap topology.Transport, name string) {
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
	_, err := h.Endpoint(name).Exec(ctx, "ping", "-n", "-c", "5", "-i", "0.1", endpoints(t, l)[other+name].IPs[0].String())
	require.NoError(t, err)
	s := status(t, h)
	require.Equal(t, "system", s.Datapath)
	require.Empty(t, s.Problems)
	require.Contains(t, run(t, h, "ovs-appctl", "dpif/show"), "system@ovs-system")
	_, missing := lost(t, h)
	require.Zero(t, missing, "packets were lost on their way to ovs-vswitchd")
	flows := run(t, h, "ovs-appctl", "dpctl/dump-flows")
	require.Regexp(t, tunnelled, flows, "no flow of the kernel has tunnelled a packet")
	device := map[topology.Transport]string{topology.VXLAN: "vxlan_sys_4789", topology.GRE: "gre_sys", topology.Geneve: "genev_sys_6081"}[encap]
	if device != "" {
		require.Contains(t, run(t, h, "ovs-appctl", "dpctl/show"), device)
	}
}
