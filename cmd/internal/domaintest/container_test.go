//go:build system

package domaintest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

func makeImage(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "../../../scripts/image.sh", dir)
	cmd.Env = append(os.Environ(), "VERSION=0.0.1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// The agent of one host becomes a container, of the image that scripts/image.sh
// makes, by the compose file that is delivered.
func TestContainer(t *testing.T) {
	t.Parallel()
	dist := t.TempDir()
	image := make(chan error, 1)
	go func() { image <- makeImage(t.Context(), dist) }()
	d := up(t, topology.Auto, lab.Config{Docker: true, Hosts: 2, Networks: []lab.NetworkSpec{
		{
			Name:     "blue",
			Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")},
		},
	}})
	p := plugin{d}
	for _, host := range []string{"host1", "host2"} {
		p.network(host, "shop", "--subnet", "10.7.0.0/16")
	}
	p.container("host2", "far", "--network", "shop")
	// systemd makes mounts shared, and what is mounted later is to be seen inside.
	d.Must("host1", "mount", "--make-rshared", "/run")
	require.NoError(t, <-image)
	file, err := filepath.Glob(filepath.Join(dist, "*.tar.gz"))
	require.NoError(t, err)
	require.Len(t, file, 1)
	d.docker("host1", "load", "-i", file[0])

	compose := func(args ...string) {
		t.Helper()
		file, err := filepath.Abs("../../../scripts/container/compose.yaml")
		require.NoError(t, err)
		d.Must("host1", append([]string{"docker-compose", "-f", file}, args...)...)
	}
	inside := func(args ...string) (string, error) {
		return d.Run("host1", append([]string{dockerCLI, "exec", "baize", "baize"}, args...)...)
	}
	healthy := func() {
		t.Helper()
		d.Await("the agent in the container to have no problem", func() (bool, string) {
			out, err := inside("status")
			return err == nil && strings.Contains(out, "No problems.") &&
					d.AgentStatus("host1").Version == "0.0.1", fmt.Sprint(
					out,
					err,
				)
		})
	}
	require.NoError(t, d.Host("host1").StopService(t.Context(), lab.ServiceAgent))
	d.Must("host1", "iptables", "-P", "FORWARD", "DROP")
	compose("up", "-d")
	t.Cleanup(func() {
		if t.Failed() {
			out, err := d.Host("host1").Exec(context.Background(), dockerCLI, "logs", "baize")
			t.Log(out, err)
		}
	})
	healthy()

	// A network, whose device, routes and rules it makes, and an endpoint whose
	// namespace is mounted after its start.
	d.Must("host1", "baize", "network", "create", "green", "--subnet", "10.9.0.0/16", "--transport", "auto")
	for _, host := range []string{"host1", "host2"} {
		d.Must(host, "ip", "netns", "add", "late")
		d.Await("an endpoint is added", func() (bool, string) {
			out, err := d.Run(host, "baize", "endpoint", "add", "--network", "green", "--netns", "late")
			return err == nil, fmt.Sprint(out, err)
		})
	}
	d.Reaches("host1/late", d.Endpoint("host2/late"))
	d.Reaches("host2/late", d.Endpoint("host1/late"))
	d.Reaches("host2/c1", d.Endpoint("host1/c1"))
	// The agent in the container sees the host's firewall, which drops what nobody accepts.
	d.Await("the chain in the host's firewall", func() (bool, string) {
		rules, err := d.Run("host1", "iptables", "-S", "BAIZE-FORWARD")
		return err == nil && strings.Contains(rules, "bn-green"), fmt.Sprint(rules, err)
	})
	assert.Equal(t, "1", strings.TrimSpace(d.Must("host1", "cat", "/proc/sys/net/ipv4/conf/bn-green/arp_ignore")))

	// One of Docker's.
	p.container("host1", "near", "--network", "shop")
	d.bulk("host1", "near", "host2", "far", p.addr("host2", "far", "shop").String())
	d.bulk("host2", "far", "host1", "near", p.addr("host1", "near", "shop").String())
	healthy()

	assert.Zero(
		t,
		d.Lost("host1/c1", "host2/c1", func() { d.docker("host1", "stop", "baize") }),
		"packets lost while the container stops",
	)
	assert.Zero(
		t,
		d.Lost("host1/c1", "host2/c1", func() { d.docker("host1", "start", "baize") }),
		"packets lost while it starts",
	)
	healthy()
	d.Must("host1", "ip", "netns", "del", "late")
	d.Await("the namespace, of which the container has a mount, is gone with its endpoint", func() (bool, string) {
		there := d.AgentStatus("host1").Endpoints
		return !slices.ContainsFunc(there, func(e api.Endpoint) bool { return e.Name == "late" }), fmt.Sprint(there)
	})
	d.docker("host1", "rm", "-f", "near")
	p.nothingLeft("host1")

	// It goes as an installed one does: forwarding stays until it is cleaned up.
	compose("down")
	d.Reaches("host1/c1", d.Endpoint("host2/c1"))
	compose("run", "--rm", "baize", "agent", "cleanup")
	assert.NotContains(t, d.Must("host1", "ovs-vsctl", "list-br"), "br-baize")
	assert.NotContains(t, d.Must("host1", "ip", "-o", "link"), " bz")
}
