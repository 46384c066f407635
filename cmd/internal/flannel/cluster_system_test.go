//go:build system

// Package flannel proves a cluster of Baize nodes and flannel hosts: real Open
// vSwitch on one side, flannel's own packages and the kernel's VXLAN and routes
// on the other (the module in peer).
package flannel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/cmd/internal/subnetenv"
	"github.com/baize-net/baize/cmd/internal/testkit"
	"github.com/baize-net/baize/cmd/internal/testkit/labkit"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/flannel"
)

func TestMain(m *testing.M) { os.Exit(labkit.Main(m)) }

// cluster is a lab in which host3 runs flannel.
type cluster struct {
	*labkit.Lab
	peer string
	sock string
}

// peer is the program of a host that runs flannel, built once for all tests.
func peer(t *testing.T) string {
	t.Helper()
	file, err := buildPeer()
	require.NoError(t, err)
	return file
}

var buildPeer = sync.OnceValues(func() (string, error) {
	return labkit.Build("flannel-peer", "peer", ".", "GOFLAGS=-mod=readonly")
})

// up makes a lab whose hosts run the agent with --flannel, and puts flannel's
// configuration into etcd.
func up(t *testing.T, flannel string, config lab.Config) *cluster {
	t.Helper()
	config.AgentArgs = []string{"--flannel", "--ip-masq", "--audit-interval", "1s"}
	return boot(t, flannel, config)
}

// boot makes the lab; where flannel's configuration is given, it is put into
// etcd meanwhile.
func boot(t *testing.T, flannel string, config lab.Config) *cluster {
	t.Helper()
	config = labkit.Config(t, config)
	config.Hosts, config.Endpoints, config.NoProof = 3, -1, true
	config.Networks = []lab.NetworkSpec{{Name: "blue", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")}}}
	c := &cluster{peer: peer(t), sock: "unix://" + filepath.Join(config.BaseDir, config.Name, "etcd.sock")}
	// Step one of every tutorial. The agents are ready only after it.
	ctx, giveUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer giveUp() // where there is no lab there may be no etcd either
	wg.Go(func() {
		for flannel != "" && ctx.Err() == nil && c.etcd("-put-config", flannel) != nil {
			continue
		}
	})
	c.Lab = labkit.UpAs(t, config)
	wg.Wait()
	return c
}

func (c *cluster) etcd(args ...string) error {
	out, err := testkit.Try(testkit.Patience, nil, append([]string{c.peer, "-etcd-endpoints", c.sock}, args...)...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// flannel makes a host one that runs flannel.
func (c *cluster) flannel(host string, args ...string) (stop func()) {
	c.T.Helper()
	c.Must(host, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	// Who wrote the file is to be seen by its time; flannel reads what it says.
	before, _ := c.Run(host, "stat", "-c", "%y", subnetenv.FlannelFile)
	// Until it is stopped: a subtest may start what the next one needs.
	var log testkit.Output
	stop, err := c.Host(host).
		Start(context.Background(), &log, append([]string{c.peer, "-etcd-endpoints", "http://192.168.77.1:2379", "-iface", "br-phy"}, args...)...)
	require.NoError(c.T, err)
	c.Await("the flannel host to write its subnet", func() (bool, string) {
		now, err := c.Run(host, "stat", "-c", "%y", subnetenv.FlannelFile)
		return err == nil && now != before, log.String()
	})
	return stop
}

func (c *cluster) env(host string) subnetenv.Env {
	c.T.Helper()
	e, err := subnetenv.Parse([]byte(c.Must(host, "cat", subnetenv.FlannelFile)))
	require.NoError(c.T, err)
	return e
}

// bridge makes on a host what Docker makes of subnet.env: docker0 and a
// container, c1. It returns the container's addresses.
func (c *cluster) bridge(host string) (addrs []string) {
	c.T.Helper()
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
	c.Must(host, "sh", "-ec", script)
	return addrs
}

// leaves takes Baize off a host.
func (c *cluster) leaves(host string) {
	c.T.Helper()
	require.NoError(c.T, c.Host(host).StopService(c.T.Context(), lab.ServiceAgent))
	c.Must(host, "baize", "agent", "cleanup")
	c.Must("host1", "baize", "node", "remove", host, "--force", "--yes")
}

// key returns the key of a host's lease.
func (c *cluster) key(host string) string {
	e := c.env(host)
	return flannel.LeaseKey(e.Subnet, e.IPv6Subnet)
}

// exchange sends bulk TCP, of which the probe compares the SHA-256, and
// numbered UDP datagrams, whose checksums the kernel verifies: each arrives, and
// none twice.
func (c *cluster) exchange(from string, to string, addrs ...string) {
	c.T.Helper()
	for _, addr := range addrs {
		for _, o := range []probe.SendOptions{
			{Bytes: 2 << 20}, {Datagrams: 100, Size: 1000, Interval: 500 * time.Microsecond},
		} {
			o.Timeout = 10 * time.Second
			deadline := time.Now().Add(testkit.Patience)
			out, err := c.Probe(from, netip.MustParseAddr(addr), o)
			for err != nil && time.Now().Before(deadline) {
				out, err = c.Probe(from, netip.MustParseAddr(addr), o)
			}
			if err != nil {
				c.explain(from, to)
			}
			require.NoError(c.T, err, "%s to %s (%s)", from, to, addr)
			if o.Datagrams > 0 {
				require.Contains(c.T, out, `"received":100`)
				require.Contains(c.T, out, `"duplicates":0`, "%s to %s", from, to)
			}
		}
	}
}

// pinging pings every 10 ms until done is called, which returns how many were
// answered and requires that none was lost.
func (c *cluster) pinging(from, to string) (done func() int) {
	c.T.Helper()
	p := c.Ping(c.Netns(from), netip.MustParseAddr(to), 10*time.Millisecond)
	return func() int {
		c.T.Helper()
		p.Goes(10) // what happened is over when the last ones are sent
		e := p.Ends()
		require.Empty(c.T, e.Missing, "%s to %s: lost, of %d (%v)", from, to, e.Sent, e.Unsent)
		return e.Received
	}
}

// wire counts, while 50 datagrams go from one container to another, the frames
// that carry one on the wire of the receiver's host: encapsulated ones (UDP to
// the port) and plain ones.
func (c *cluster) wire(from, to, addr string, port int) (plain, encapsulated int) {
	c.T.Helper()
	const size, each = 777, 50
	host, _, _ := strings.Cut(to, "/")
	w := c.Wire(host)
	defer w.Close()
	_, err := c.Probe(from, netip.MustParseAddr(addr), probe.SendOptions{Datagrams: each, Size: size})
	require.NoError(c.T, err)
	c.Await("the capture", func() (bool, string) {
		plain, encapsulated = count(w.Frames(), netip.MustParseAddr(addr).Is6(), size+8, port)
		return plain+encapsulated >= each, fmt.Sprint(plain, encapsulated)
	})
	return plain, encapsulated
}

// count counts the frames that carry a UDP datagram of a length in IPv4 or in
// IPv6. Outside of it are 50 bytes more, or 70: flannel has tunnels of either
// family, Baize of one.
func count(frames [][]byte, v6 bool, length, port int) (plain, encapsulated int) {
	at, protocol, etherType := 38, 23, 0x0800
	if v6 {
		at, protocol, etherType = 58, 20, 0x86dd
	}
	number := func(f []byte, at int) int {
		if at+2 > len(f) {
			return -1
		}
		return int(binary.BigEndian.Uint16(f[at:]))
	}
	for _, f := range frames {
		outer4 := number(f, 12) == 0x0800 && f[23] == unix.IPPROTO_UDP && number(f, 36) == port
		outer6 := number(f, 12) == 0x86dd && f[20] == unix.IPPROTO_UDP && number(f, 56) == port
		switch {
		case outer4 && number(f, at+50) == length, outer6 && number(f, at+70) == length:
			encapsulated++
		case number(f, 12) == etherType && f[protocol] == unix.IPPROTO_UDP && number(f, at) == length:
			plain++
		}
	}
	return plain, encapsulated
}

// explain writes what each side has, for a test that failed.
func (c *cluster) explain(hosts ...string) {
	for _, h := range hosts {
		h, _, _ := strings.Cut(h, "/")
		out, _ := c.Run(
			h,
			"sh",
			"-c",
			`baize status; baize route list; ovs-vsctl show; ovs-ofctl -O OpenFlow14 dump-flows br-baize | grep -v n_packets=0
ovs-appctl tnl/ports/show; ovs-appctl tnl/neigh/show; ip neigh; ip route; ip -6 route; iptables -S; ip -d -s link show flannel.1; bridge fdb show dev flannel.1; cat /run/flannel/subnet.env`,
		)
		c.T.Logf("%s:\n%s", h, out)
	}
}

// addresses returns those of an endpoint of Baize's.
func (c *cluster) addresses(host, name string) (out []string) {
	for _, e := range c.AgentStatus(host).Endpoints {
		if e.Name == name {
			for _, ip := range e.IPs {
				out = append(out, ip.String())
			}
		}
	}
	require.NotEmpty(c.T, out)
	return out
}

// settled waits until audits change nothing: Open vSwitch prints what was asked
// for.
func (c *cluster) settled(host string) {
	c.T.Helper()
	mark := time.Now().Add(time.Second)
	c.Await("audits not to change anything", func() (bool, string) {
		st := c.AgentStatus(host)
		return st.LastReconcile.At.After(mark) && st.LastReconcile.Changes == 0, fmt.Sprint(st.LastReconcile)
	})
}
