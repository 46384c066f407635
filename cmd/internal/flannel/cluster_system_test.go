//go:build system

// Package flannel proves a cluster of Baize nodes and flannel hosts: real Open
// vSwitch on one side, flannel's own packages and the kernel's VXLAN and routes
// on the other (the module in peer).
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
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/flannel"
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

// output is what a program in the background has printed so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
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

// up makes a lab whose hosts run the agent with --flannel, and puts flannel's
// configuration into etcd.
func up(t *testing.T, flannel string, config lab.Config) *cluster {
	t.Helper()
	c := &cluster{t: t, peer: buildPeer(t)}
	config.AgentArgs = []string{"--flannel", "--ip-masq", "--audit-interval", "1s"}
	c.boot(flannel, config)
	return c
}

// boot makes the lab; where flannel's configuration is given, it is put into
// etcd meanwhile.
func (c *cluster) boot(flannel string, config lab.Config) {
	c.t.Helper()
	t := c.t
	config.Name, config.BaseDir = fmt.Sprintf("f%d", os.Getpid()), fmt.Sprintf("/run/baize-flanneltest-%d", os.Getpid())
	config.Hosts, config.Endpoints, config.NoProof = 3, -1, true
	config.Networks = []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}}}
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
		for flannel != "" && t.Context().Err() == nil && c.etcd("-put-config", flannel) != nil {
			continue
		}
	})
	l, err := lab.Up(t.Context(), config)
	require.NoError(t, err)
	c.Lab = l
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

// run runs a command in a host (host1) or in a container of it (host1/c1), a
// namespace.
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

// eventually waits for a condition; on failure it says what was last seen.
func (c *cluster) eventually(what string, condition func() (ok bool, saw string)) {
	c.t.Helper()
	var saw string
	require.Eventually(c.t, func() (ok bool) {
		ok, saw = condition()
		return ok
	}, patience, 25*time.Millisecond, "%s", what)
	if c.t.Failed() {
		c.t.Log(saw)
	}
}

// flannel makes a host one that runs flannel.
func (c *cluster) flannel(host string, args ...string) (stop func()) {
	c.t.Helper()
	var log output
	c.must(host, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	// Who wrote the file is to be seen by its time; flannel reads what it says.
	before, _ := c.run(host, "stat", "-c", "%y", subnetenv.FlannelFile)
	stop, err := c.Host(host).Start(context.Background(), &log, append([]string{c.peer, "-etcd-endpoints", "http://192.168.77.1:2379", "-iface", "br-phy"}, args...)...)
	require.NoError(c.t, err)
	c.eventually("the flannel host to write its subnet", func() (bool, string) {
		now, err := c.run(host, "stat", "-c", "%y", subnetenv.FlannelFile)
		return err == nil && now != before, log.String()
	})
	return stop
}

func (c *cluster) env(host string) subnetenv.Env {
	c.t.Helper()
	e, err := subnetenv.Parse([]byte(c.must(host, "cat", subnetenv.FlannelFile)))
	require.NoError(c.t, err)
	return e
}

// bridge makes on a host what Docker makes of subnet.env: docker0 and a
// container, c1. It returns the container's addresses.
func (c *cluster) bridge(host string) (addrs []string) {
	c.t.Helper()
	e := c.env(host)
	script := fmt.Sprintf(`ip link add docker0 type bridge
ip link set docker0 up
ip netns add c1
ip link add vc1 type veth peer name eth0 netns c1
ip link set vc1 master docker0 up
ip -n c1 link set lo up
ip -n c1 link set eth0 mtu %d up
`, e.MTU)
	for _, p := range []netip.Prefix{e.Subnet, e.IPv6Subnet} {
		if !p.IsValid() {
			continue
		}
		gateway, flags := topology.NodeAddr(p), ""
		if p.Addr().Is6() {
			flags = "nodad"
		}
		addrs = append(addrs, gateway.Next().String())
		script += fmt.Sprintf(`ip addr add %s/%d dev docker0 %s
ip -n c1 addr add %s/%d dev eth0 %s
ip -n c1 route add default via %s
`, gateway, p.Bits(), flags, gateway.Next(), p.Bits(), flags, gateway)
	}
	c.must(host, "sh", "-ec", script)
	return addrs
}

// leaves takes Baize off a host.
func (c *cluster) leaves(host string) {
	c.t.Helper()
	require.NoError(c.t, c.Host(host).StopService(c.t.Context(), lab.ServiceAgent))
	c.must(host, "baize", "agent", "cleanup")
	c.must("host1", "baize", "node", "remove", host, "--force")
}

// key returns the key of a host's lease.
func (c *cluster) key(host string) string {
	e := c.env(host)
	return flannel.LeaseKey(e.Subnet, e.IPv6Subnet)
}

// serve answers probes in a container.
func (c *cluster) serve(target string) {
	c.t.Helper()
	host, endpoint, _ := strings.Cut(target, "/")
	stop, err := c.Host(host).Endpoint(endpoint).Start(context.Background(), &output{}, "baize", "probe", "serve")
	require.NoError(c.t, err)
	c.t.Cleanup(stop)
}

// exchange sends bulk TCP, of which the probe compares the SHA-256, and
// numbered UDP datagrams, whose checksums the kernel verifies: each arrives, and
// none twice.
func (c *cluster) exchange(from string, to string, addrs ...string) {
	c.t.Helper()
	for _, addr := range addrs {
		for _, o := range []probe.SendOptions{{Bytes: 2 << 20}, {Datagrams: 100, Size: 1000, Interval: 500 * time.Microsecond}} {
			o.To, o.Timeout = addr, 10*time.Second
			deadline := time.Now().Add(patience)
			out, err := c.send(from, o)
			for err != nil && time.Now().Before(deadline) {
				out, err = c.send(from, o)
			}
			if err != nil {
				c.explain(from, to)
			}
			require.NoError(c.t, err, "%s to %s (%s)", from, to, addr)
			if o.Datagrams > 0 {
				require.Contains(c.t, out, `"received":100`)
				require.Contains(c.t, out, `"duplicates":0`, "%s to %s", from, to)
			}
		}
	}
}

// send is 'baize probe send' in a container, without a process of its own: there
// are many.
func (c *cluster) send(from string, o probe.SendOptions) (string, error) {
	c.t.Helper()
	host, endpoint, _ := strings.Cut(from, "/")
	path, err := c.Host(host).Endpoint(endpoint).NetnsPath()
	require.NoError(c.t, err)
	var out bytes.Buffer
	err = hostnet.InNetns(path, func() error { return probe.RunSend(c.t.Context(), o, &out) })
	return out.String(), err
}

// pinging pings every 10 ms until done is called, which returns what ping said.
func (c *cluster) pinging(from, to string) (done func() string) {
	host, _, _ := strings.Cut(from, "/")
	ended := make(chan string, 1)
	go func() {
		out, _ := c.run(from, "sh", "-c", "rm -f /run/ping.stop; ping -i 0.01 "+to+` & p=$!
until [ -e /run/ping.stop ]; do sleep 0.05; done; kill -INT $p; wait $p`)
		ended <- out
	}()
	return func() string {
		c.must(host, "touch", "/run/ping.stop")
		return <-ended
	}
}

// wire counts, while 50 datagrams go from one container to another, the frames
// that carry one on the receiver's underlay: encapsulated ones (UDP to the
// port) and plain ones.
func (c *cluster) wire(from, to, addr string, port int) (plain, encapsulated int) {
	c.t.Helper()
	const size, file = 777, "/run/capture.pcap"
	host, _, _ := strings.Cut(to, "/")
	var log output
	// Its buffer holds as many frames as fit at their largest: a small -s is many.
	stop, err := c.Host(host).Start(context.Background(), &log, "tcpdump", "--immediate-mode", "-s", "2000", "-i", "eth0", "-Q", "in", "-U", "-w", file, "udp")
	require.NoError(c.t, err)
	defer stop()
	c.eventually("tcpdump to listen", func() (bool, string) { return strings.Contains(log.String(), "listening"), log.String() })
	_, err = c.send(from, probe.SendOptions{To: addr, Datagrams: 50, Size: size, Timeout: 10 * time.Second})
	require.NoError(c.t, err)
	// UDP's length is at 38 of an Ethernet frame with IPv4, at 58 with IPv6;
	// outside of that are 50 bytes more, or 70: flannel has tunnels of either
	// family, Baize of one.
	length := 38
	if netip.MustParseAddr(addr).Is6() {
		length = 58
	}
	plainFilter := fmt.Sprintf("udp and ether[%d:2]=%d", length, size+8)
	tunnelFilter := fmt.Sprintf("udp dst port %d and (ether[%d:2]=%d or (ip6 and ether[%d:2]=%d))", port, length+50, size+8, length+70, size+8)
	count := func(filter string) int {
		out := c.must(host, "sh", "-c", fmt.Sprintf("tcpdump -n -r %s '%s' 2>/dev/null | grep -c '^[0-9]' || true", file, filter))
		var n int
		_, err := fmt.Sscan(out, &n)
		require.NoError(c.t, err)
		return n
	}
	c.eventually("the capture", func() (bool, string) {
		plain, encapsulated = count(plainFilter), count(tunnelFilter)
		return plain+encapsulated >= 50, fmt.Sprint(plain, encapsulated)
	})
	return plain, encapsulated
}

// explain writes what each side has, for a test that failed.
func (c *cluster) explain(hosts ...string) {
	for _, h := range hosts {
		h, _, _ := strings.Cut(h, "/")
		out, _ := c.run(h, "sh", "-c", `baize status; baize route list; ovs-vsctl show; ovs-ofctl -O OpenFlow14 dump-flows br-baize | grep -v n_packets=0
ovs-appctl tnl/ports/show; ovs-appctl tnl/neigh/show; ip neigh; ip route; ip -6 route; iptables -S; ip -d -s link show flannel.1; bridge fdb show dev flannel.1; cat /run/flannel/subnet.env`)
		c.t.Logf("%s:\n%s", h, out)
	}
}

func (c *cluster) status(host string) api.Status {
	c.t.Helper()
	pid, err := c.Host(host).PID()
	require.NoError(c.t, err)
	st, err := api.NewClient(fmt.Sprintf("/proc/%d/root%s", pid, api.DefaultSocket)).Status(c.t.Context())
	require.NoError(c.t, err)
	return st
}

// addresses returns those of an endpoint of Baize's.
func (c *cluster) addresses(host, name string) (out []string) {
	for _, e := range c.status(host).Endpoints {
		if e.Name == name {
			for _, ip := range e.IPs {
				out = append(out, ip.String())
			}
		}
	}
	require.NotEmpty(c.t, out)
	return out
}

// settled waits until audits change nothing: Open vSwitch prints what was asked
// for.
func (c *cluster) settled(host string) {
	c.t.Helper()
	mark := time.Now().Add(time.Second)
	c.eventually("audits not to change anything", func() (bool, string) {
		st := c.status(host)
		return st.LastReconcile.At.After(mark) && st.LastReconcile.Changes == 0, fmt.Sprint(st.LastReconcile)
	})
}
