//go:build system

// Package domaintest proves the L2 domain on real Open vSwitches: what must
// arrive, what must not, and how often.
package domaintest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/stretchr/testify/require"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/command"
	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab"
	"github.com/baize-net/baize/topology"
)

// TestMain makes the test executable a baize as well: the lab starts it as
// init of its hosts, as etcd and as agent.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(command.Run(context.Background(), os.Args[1:], command.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "domaintest: needs root: run it with sudo, or without -tags system")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// patience is how long anything may take on a busy machine.
const patience = 30 * time.Second

// domain is a lab of three hosts with two networks of one prefix.
type domain struct {
	*lab.Lab
	t *testing.T
}

func up(t *testing.T, transport topology.Transport, config lab.Config) *domain {
	t.Helper()
	config.Name = fmt.Sprintf("d%d-%s", os.Getpid(), transport)
	config.BaseDir = fmt.Sprintf("/run/baize-domaintest-%d", os.Getpid())
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
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := lab.Down(ctx, config)
		require.NoError(t, err)
	})
	l, err := lab.Up(t.Context(), config)
	require.NoError(t, err)
	return &domain{l, t}
}

// run runs a command in a host (host1) or endpoint (host1/c1).
func (d *domain) run(target string, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	host, endpoint, inside := strings.Cut(target, "/")
	if inside {
		return d.Host(host).Endpoint(endpoint).Exec(ctx, argv...)
	}
	return d.Host(host).Exec(ctx, argv...)
}

func (d *domain) must(target string, argv ...string) string {
	d.t.Helper()
	out, err := d.run(target, argv...)
	require.NoError(d.t, err, "%s: %v", target, argv)
	return out
}

// eventually waits for a condition; on failure it says what was last seen.
func (d *domain) eventually(what string, condition func() (ok bool, saw string)) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, saw := condition()
		if ok {
			return
		}
		require.True(d.t, time.Now().Before(deadline), "%s; last seen: %s", what, saw)
		<-tick.C
	}
}

// endpoint returns what the agent knows of host/name.
func (d *domain) endpoint(name string) lab.EndpointStatus {
	d.t.Helper()
	host, endpoint, _ := strings.Cut(name, "/")
	for _, e := range d.status(host).Endpoints {
		if e.Name == endpoint {
			n := lab.EndpointStatus{Name: e.Name, Node: e.Node, Network: e.Network, IPs: e.IPs, MAC: e.MAC}
			for _, x := range d.status(host).Networks {
				if x.Name == e.Network {
					n.MTU = x.MTU
				}
			}
			return n
		}
	}
	require.Fail(d.t, "no endpoint "+name)
	return lab.EndpointStatus{}
}

// endpoints returns the names of a network's endpoints.
func (d *domain) endpoints(network string) []lab.EndpointStatus {
	d.t.Helper()
	s, err := d.Status()
	require.NoError(d.t, err)
	var out []lab.EndpointStatus
	for _, e := range s.Endpoints {
		if e.Network == network {
			out = append(out, e)
		}
	}
	return out
}

func (d *domain) status(host string) api.Status {
	d.t.Helper()
	pid, err := d.Host(host).PID()
	require.NoError(d.t, err)
	st, err := api.NewClient(fmt.Sprintf("/proc/%d/root%s", pid, api.DefaultSocket)).Status(d.t.Context())
	require.NoError(d.t, err)
	return st
}

// socket is a packet socket in a namespace. It counts what it sees.
type socket struct {
	conn *packet.Conn
	mu   sync.Mutex
	seen [][]byte
}

func (d *domain) open(netns, device string) *socket {
	d.t.Helper()
	s := &socket{}
	require.NoError(d.t, hostnet.InNetns(netns, func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		s.conn, err = packet.Listen(dev, packet.Raw, 0x0003, nil) // ETH_P_ALL
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, _, err := s.conn.ReadFrom(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.seen = append(s.seen, bytes.Clone(buf[:n]))
			s.mu.Unlock()
		}
	}()
	d.t.Cleanup(func() {
		_ = s.conn.Close()
		<-done
	})
	return s
}

// inside opens a socket in an endpoint.
func (d *domain) inside(e lab.EndpointStatus) *socket {
	d.t.Helper()
	ns, err := d.Host(e.Node).Endpoint(e.Name).NetnsPath()
	require.NoError(d.t, err)
	return d.open(ns, "eth0")
}

// wire opens a socket on the fabric's port to a host.
func (d *domain) wire(host string) *socket {
	d.t.Helper()
	pid, err := d.Host("fabric").PID()
	require.NoError(d.t, err)
	return d.open(fmt.Sprintf("/proc/%d/ns/net", pid), host)
}

// count returns how many frames contain all of the parts.
func (s *socket) count(parts ...[]byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
frames:
	for _, f := range s.seen {
		for _, p := range parts {
			if !bytes.Contains(f, p) {
				continue frames
			}
		}
		n++
	}
	return n
}

func (s *socket) send(t *testing.T, frame []byte) {
	t.Helper()
	_, err := s.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]})
	require.NoError(t, err)
}

func mac(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	require.NoError(t, err)
	return m
}

// frame is an Ethernet frame, padded to the least length.
func frame(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := append(append(append([]byte{}, dst...), src...), byte(etherType>>8), byte(etherType))
	f = append(f, payload...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// arpRequest is RFC 826.
func arpRequest(src, sha net.HardwareAddr, spa, tpa netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	p = append(append(p, sha...), spa.AsSlice()...)
	p = append(append(p, 0, 0, 0, 0, 0, 0), tpa.AsSlice()...)
	return frame(broadcast, src, 0x0806, p)
}

// ipv4 is a UDP datagram with a payload that can be found again.
func ipv4(dst, src net.HardwareAddr, from, to netip.Addr, payload string) []byte {
	udp := append([]byte{0x30, 0x39, 0x30, 0x39, 0, byte(8 + len(payload)), 0, 0}, payload...)
	h := []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, 17, 0, 0}
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum>>16 + sum)
	h[10], h[11] = byte(sum>>8), byte(sum)
	return frame(dst, src, 0x0800, append(h, udp...))
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
