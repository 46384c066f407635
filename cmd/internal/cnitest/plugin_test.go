//go:build system

package cnitest_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
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

// network is the one that the tests attach to, on both hosts. Docker has it, too.
const network = "blue"

// hosts are a lab, and where baize-cni is.
type hosts struct {
	*labkit.Lab
	plugins string
}

func (h hosts) in(t *testing.T) hosts { return hosts{h.Lab.In(t), h.plugins} }

// path is CNI_PATH.
func (h hosts) path() []string { return []string{h.plugins, debianPlugins} }

// Whoever starts containers, they are in one Ethernet. One lab, as its hosts take longer
// than most of what is tested.
func TestCNI(t *testing.T) {
	t.Parallel()
	file, err := labkit.Build("baize-cni", "../../..", "./cmd/baize-cni")
	require.NoError(t, err)
	h := hosts{labkit.Up(t, lab.Config{Hosts: 2, Docker: true, Transport: topology.Route, Networks: []lab.NetworkSpec{
		{Name: network, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")}},
	}}), filepath.Dir(file)}
	// The way out, and the way back to whoever comes by a published port.
	h.Must("host1", "baize", "network", "update", network, "--gateway", "10.1.0.1", "--gateway", "fd00:10:1::1")
	for _, test := range []struct {
		name string
		run  func(hosts)
	}{
		{"specification", specification},
		{"routed", routed},
		{"networks of a pod", podNetworks},
		{"reference plugin", referencePlugin},
		{"chain", chain},
		{"etcd", withoutEtcd},
		{"agent", withoutAgent},
		{"names", names},
		{"podman", podman},
		{"containerd", containerd},
		{"netavark", netavark},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(h.in(t)) })
	}
}

// specification tests baize-cni by the text, with every version of it.
func specification(h hosts) {
	own := h.Endpoint("host1/c1").IPs[0]
	var taken atomic.Int64
	cnitest.Run(h.T, cnitest.Suite{
		Type: "baize-cni", Path: h.path(), Config: map[string]any{"network": network},
		Versions: []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"},
		Wrap:     func(argv []string) (command, env []string, err error) { return h.ExecCommand("host1", argv) },
		Broken: func(t *testing.T) (repair func()) {
			require.NoError(t, h.Host("host1").StopService(t.Context(), lab.ServiceAgent))
			return func() { require.NoError(t, h.Host("host1").StartService(t.Context(), lab.ServiceAgent)) }
		},
		Left:   func(t *testing.T, cniNetwork string) []string { return left(h.in(t), cniNetwork) },
		Strict: true, Delegates: true, MAC: true, Bandwidth: true, Parallel: 60,
		Addr: func(*testing.T) string {
			// From the end of the node's subnet: the agent gives addresses from its beginning.
			b := own.As4()
			b[3] = byte(254 - taken.Add(1)%64)
			return netip.PrefixFrom(netip.AddrFrom4(b), 16).String()
		},
	})
}

// routed tests baize-cni by the text where the host routes to its containers, which needs
// no agent. Debian's host-local does not speak 1.1.0.
func routed(h hosts) {
	const file, leases = "/run/baize/routed.env", "/var/lib/cni/networks/"
	write := func() {
		h.Must("host1", "sh", "-c", "printf 'FLANNEL_NETWORK=10.88.0.0/16\nFLANNEL_SUBNET=10.88.1.1/24\n"+
			"FLANNEL_IPV6_NETWORK=fd00:88::/48\nFLANNEL_IPV6_SUBNET=fd00:88:0:1::1/64\n"+
			"FLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n' >"+file)
	}
	write()
	// Docker is beside, and drops what it does not know.
	h.Must("host1", "iptables", "-I", "DOCKER-USER", "-s", "10.88.0.0/16", "-d", "10.88.0.0/16", "-j", "ACCEPT")
	var taken atomic.Int64
	cnitest.Run(h.T, cnitest.Suite{
		Type: "baize-cni", Path: h.path(), Config: map[string]any{"subnetFile": file},
		Versions: []string{"0.3.1", "0.4.0", "1.0.0"},
		Wrap:     func(argv []string) (command, env []string, err error) { return h.ExecCommand("host1", argv) },
		Broken: func(*testing.T) (repair func()) {
			h.Must("host1", "rm", file)
			return write
		},
		Left: func(t *testing.T, cniNetwork string) (left []string) {
			links := h.in(t).Must("host1", "ip", "link", "show", "type", "veth")
			left = regexp.MustCompile(`(?m)alias cni `+cniNetwork+` .*`).FindAllString(links, -1)
			entries, _ := os.ReadDir(leases + cniNetwork)
			for _, e := range entries {
				if _, err := netip.ParseAddr(e.Name()); err == nil {
					left = append(left, "address "+e.Name())
				}
			}
			return left
		},
		Strict: true, MAC: true, Bandwidth: true, Parallel: 60,
		Addr: func(*testing.T) string {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 88, 1, byte(200 + taken.Add(1)%50)}), 32).String()
		},
	})
}

// referencePlugin tests the tests: they hold for the plugin that others measure
// themselves by, too.
func referencePlugin(h hosts) {
	cnitest.Run(h.T, cnitest.Suite{
		Type: "bridge", Path: []string{debianPlugins}, Config: map[string]any{
			"bridge": "cnitest0", "isGateway": true,
			"ipam": map[string]any{
				"type": "host-local", "subnet": "10.77.0.0/16", "dataDir": "/run/cnitest",
				"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		},
		Wrap: func(argv []string) (command, env []string, err error) { return h.ExecCommand("host2", argv) },
	})
}

// left is what host1 has for a CNI network: endpoints, and ports and devices of none.
func left(h hosts, cniNetwork string) (out []string) {
	h.T.Helper()
	known := map[string]bool{}
	for _, e := range h.AgentStatus("host1").Endpoints {
		known[e.Port] = true
		if e.Engine == api.EngineCNI && e.EngineNetwork == cniNetwork {
			out = append(out, fmt.Sprintf("endpoint %s of container %s", e.Name, e.ContainerID))
		}
	}
	for _, line := range strings.Split(h.Must("host1", "ip", "-br", "link", "show", "type", "veth"), "\n") {
		name, _, _ := strings.Cut(line, "@")
		if strings.HasPrefix(name, "bz") && !known[name] {
			out = append(out, "device "+name)
		}
	}
	for _, name := range strings.Fields(h.Must("host1", "ovs-vsctl", "list-ports", "br-baize")) {
		if strings.HasPrefix(name, "bz") && !known[name] {
			out = append(out, "port "+name)
		}
	}
	return out
}
