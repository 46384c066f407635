//go:build system

// Package flannel proves a cluster of Baize nodes and flannel hosts: real Open
// vSwitch on one side, flannel's own packages and the kernel's VXLAN on the
// other (the module in peer).
package flannel

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/command"
	"github.com/baize-net/baize/cmd/internal/lab"
)

// TestMain makes the test executable a baize as well: the lab starts it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(command.Run(context.Background(), os.Args[1:], command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "flannel: needs root: run it with sudo, or without -tags system")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const patience = 30 * time.Second

// cluster is a lab in which host3 runs flannel.
type cluster struct {
	*lab.Lab
	t    *testing.T
	peer string
	sock string
}

// buildPeer builds flannel's host; Go's cache makes the second time short.
func buildPeer(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "flannel-peer")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // the first time downloads modules
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", file, ".")
	cmd.Dir, cmd.Env = "peer", append(os.Environ(), "GOFLAGS=-mod=readonly", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "build the flannel host: %s", out)
	return file
}

func up(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, peer: buildPeer(t)}
	config := lab.Config{
		Name: fmt.Sprintf("f%d", os.Getpid()), BaseDir: fmt.Sprintf("/run/baize-flanneltest-%d", os.Getpid()), Hosts: 3,
		Networks:  []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}}},
		AgentArgs: []string{"--flannel", "--audit-interval", "1s"}, Endpoints: -1, NoProof: true,
	}
	c.sock = "unix://" + filepath.Join(config.BaseDir, config.Name, "etcd.sock")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := lab.Down(ctx, config)
		require.NoError(t, err)
	})
	// Step one of every tutorial. The agents are ready only after it.
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for t.Context().Err() == nil && c.etcd("-put-config", `{ "Network": "10.1.0.0/16", "Backend": { "Type": "vxlan" } }`) != nil {
			continue
		}
	})
	l, err := lab.Up(t.Context(), config)
	require.NoError(t, err)
	c.Lab = l
	return c
}

func (c *cluster) etcd(args ...string) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, c.peer, append([]string{"-etcd-endpoints", c.sock}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// run runs a command in a host (host1) or endpoint (host1/c1).
func (c *cluster) run(target string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	host, endpoint, inside := strings.Cut(target, "/")
	if inside {
		return c.Host(host).Endpoint(endpoint).Exec(ctx, argv...)
	}
	return c.Host(host).Exec(ctx, argv...)
}

func (c *cluster) must(target string, argv ...string) string {
	c.t.Helper()
	out, err := c.run(target, argv...)
	require.NoError(c.t, err, "%s: %v", target, argv)
	return out
}

// flannel makes a host one that runs flannel, with a container c1 behind a
// bridge as Docker makes it, and returns the container's address.
func (c *cluster) flannel(host string) (stop func(), addr string) {
	c.t.Helper()
	var log bytes.Buffer
	c.must(host, "rm", "-f", "/run/flannel/subnet.env") // who wrote it is to be seen
	stop, err := c.Host(host).Start(context.Background(), &log, c.peer, "-etcd-endpoints", "http://192.168.77.1:2379", "-iface", "br-phy")
	require.NoError(c.t, err)
	var env string
	require.Eventually(c.t, func() bool {
		env, err = c.run(host, "cat", "/run/flannel/subnet.env")
		return err == nil
	}, patience, 50*time.Millisecond, "the flannel host says nothing")
	_, rest, _ := strings.Cut(env, "FLANNEL_SUBNET=")
	text, _, _ := strings.Cut(rest, "\n")
	gateway := netip.MustParsePrefix(text)
	container := netip.PrefixFrom(gateway.Addr().Next(), gateway.Bits())
	c.must(host, "sh", "-ec", fmt.Sprintf(`sysctl -qw net.ipv4.ip_forward=1
ip link show docker0 >/dev/null 2>&1 && exit
ip link add docker0 type bridge
ip addr add %s dev docker0
ip link set docker0 up
ip netns add c1
ip link add vc1 type veth peer name eth0 netns c1
ip link set vc1 master docker0 up
ip -n c1 link set lo up
ip -n c1 link set eth0 mtu 1450 up
ip -n c1 addr add %s dev eth0
ip -n c1 route add default via %s`, gateway, container, gateway.Addr()))
	return stop, container.Addr().String()
}

// leaves takes Baize off a host.
func (c *cluster) leaves(host string) {
	c.t.Helper()
	require.NoError(c.t, c.Host(host).StopService(c.t.Context(), lab.ServiceAgent))
	c.must(host, "baize", "agent", "cleanup")
	c.must("host1", "baize", "node", "remove", host, "--force")
	key := c.lease(host)
	require.NoError(c.t, c.etcd("-delete", key))
}

// lease returns the key of a Baize node's lease.
func (c *cluster) lease(host string) string {
	env := c.must(host, "cat", "/run/flannel/subnet.env")
	_, rest, _ := strings.Cut(env, "FLANNEL_SUBNET=")
	text, _, _ := strings.Cut(rest, "\n")
	return "subnets/" + strings.Replace(netip.MustParsePrefix(text).Masked().String(), "/", "-", 1)
}

// bulk sends two megabytes of TCP from one container to another; the probe
// compares their SHA-256.
func (c *cluster) bulk(from, to, addr string) {
	c.t.Helper()
	serve := func(target string) (func(), error) {
		host, endpoint, _ := strings.Cut(target, "/")
		if host == "host3" {
			return c.Host(host).Start(c.t.Context(), &bytes.Buffer{}, "ip", "netns", "exec", endpoint, "baize", "probe", "serve")
		}
		return c.Host(host).Endpoint(endpoint).Start(c.t.Context(), &bytes.Buffer{}, "baize", "probe", "serve")
	}
	stop, err := serve(to)
	require.NoError(c.t, err)
	defer stop()
	send := []string{"baize", "probe", "send", "--to", addr, "--bytes", "2M", "--timeout", "10s"}
	host, endpoint, _ := strings.Cut(from, "/")
	target := from
	if host == "host3" {
		send, target = append([]string{"ip", "netns", "exec", endpoint}, send...), host
	}
	deadline := time.Now().Add(patience)
	for _, err = c.run(target, send...); err != nil && time.Now().Before(deadline); {
		_, err = c.run(target, send...)
	}
	if err != nil {
		c.explain(host, to)
	}
	require.NoError(c.t, err, "%s to %s (%s)", from, to, addr)
}

// explain writes what each side has, for a test that failed.
func (c *cluster) explain(hosts ...string) {
	for _, h := range hosts {
		h, _, _ = strings.Cut(h, "/")
		out, _ := c.run(h, "sh", "-c", `baize status; ovs-vsctl show; ovs-ofctl -O OpenFlow14 dump-flows br-baize | grep -v n_packets=0
ovs-appctl tnl/ports/show; ovs-appctl tnl/neigh/show; ip neigh; ip route; ip -d -s link show flannel.1; bridge fdb show dev flannel.1; cat /run/flannel/subnet.env`)
		c.t.Logf("%s:\n%s", h, out)
	}
}

// A Baize node and a flannel host exchange traffic both ways; the flannel host
// comes back under another link address; the last flannel host goes and the
// cluster migrates under traffic.
func TestMixedCluster(t *testing.T) {
	c := up(t)
	c.leaves("host3")
	stop, theirs := c.flannel("host3")
	addrs := map[string]string{}
	for _, h := range []string{"host1", "host2"} {
		_, err := c.Host(h).AddEndpoint(t.Context(), "flannel", "c1")
		require.NoError(t, err)
		addrs[h] = c.address(h)
	}
	for _, h := range []string{"host1", "host2"} {
		c.bulk(h+"/c1", "host3/c1", theirs)
		c.bulk("host3/c1", h+"/c1", addrs[h])
	}
	c.bulk("host1/c1", "host2/c1", addrs["host2"])

	// Open vSwitch prints what was asked for: an audit changes nothing.
	mark := time.Now().Add(2 * time.Second)
	require.Eventually(t, func() bool {
		r := c.status("host1").LastReconcile
		return r.At.After(mark) && r.Changes == 0
	}, patience, 200*time.Millisecond, "audits change something every time")

	list := c.must("host1", "baize", "node", "list")
	require.Regexp(t, `flannel-192\.168\.77\.13 +flannel `, list)
	_, err := c.run("host1", "baize", "migrate", "flannel")
	require.ErrorContains(t, err, "flannel-192.168.77.13")

	// Flannel draws its VTEP's MAC anew with each device.
	stop()
	c.must("host3", "ip", "link", "del", "flannel.1")
	stop, again := c.flannel("host3")
	require.Equal(t, theirs, again)
	c.bulk("host1/c1", "host3/c1", theirs)
	c.bulk("host3/c1", "host1/c1", addrs["host1"])

	stop()
	require.NoError(t, c.etcd("-delete", "subnets/"+subnetOf(theirs)))
	require.Eventually(t, func() bool {
		return !strings.Contains(c.must("host1", "baize", "node", "list"), "flannel-")
	}, patience, 100*time.Millisecond)
	pings := make(chan string, 1)
	go func() {
		out, _ := c.run("host1/c1", "ping", "-i", "0.01", "-c", "800", addrs["host2"])
		pings <- out
	}()
	plan := c.must("host1", "baize", "migrate", "flannel", "--dry-run")
	require.Contains(t, plan, "nothing was changed")
	before := c.must("host1", "cat", "/run/flannel/subnet.env")
	c.must("host1", "baize", "migrate", "flannel")
	require.Eventually(t, func() bool {
		return strings.Contains(c.must("host1", "baize", "network", "list"), "flannel")
	}, patience, 100*time.Millisecond)
	c.bulk("host2/c1", "host1/c1", addrs["host1"])
	require.Equal(t, before, c.must("host1", "cat", "/run/flannel/subnet.env"))
	require.Empty(t, pings, "the migration took longer than the pings")
	require.Contains(t, <-pings, "800 received, 0% packet loss")
}

func (c *cluster) status(host string) api.Status {
	c.t.Helper()
	pid, err := c.Host(host).PID()
	require.NoError(c.t, err)
	st, err := api.NewClient(fmt.Sprintf("/proc/%d/root%s", pid, api.DefaultSocket)).Status(c.t.Context())
	require.NoError(c.t, err)
	return st
}

func (c *cluster) address(host string) string {
	out := c.must(host+"/c1", "sh", "-c", "ip -4 -o addr show dev eth0 | awk '{print $4}'")
	return netip.MustParsePrefix(strings.TrimSpace(out)).Addr().String()
}

func subnetOf(addr string) string {
	p, _ := netip.MustParseAddr(addr).Prefix(24)
	return strings.Replace(p.String(), "/", "-", 1)
}
