package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/icmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/probe"
	"github.com/baize-net/baize/topology"
)

const (
	proveParallel = 4
	// proveBytes each way between two endpoints; less where there are so many
	// pairs that all together exceed proveTotal.
	proveBytes    = 4 << 20
	proveTotal    = 512 << 20
	proveLeast    = 64 << 10
	provePings    = 5
	pingTimeout   = 500 * time.Millisecond
	settleTimeout = 15 * time.Second
	bulkTimeout   = 30 * time.Second
	pairTimeout   = settleTimeout + bulkTimeout + 5*time.Second
)

// EndpointStatus is an endpoint that the lab attached.
type EndpointStatus struct {
	Name    string       `json:"name"`
	Node    string       `json:"node"`
	Network string       `json:"network"`
	IPs     []netip.Addr `json:"ips"`
	MAC     string       `json:"mac"`
	MTU     int          `json:"mtu"`
}

// String returns "HOST/ENDPOINT".
func (e EndpointStatus) String() string { return e.Node + "/" + e.Name }

// Path is what was measured from one endpoint to an address of another.
type Path struct {
	From    string     `json:"from"` // "host1/c1"
	To      string     `json:"to"`
	Network string     `json:"network"`
	Addr    netip.Addr `json:"addr"` // of To
	// RTT is the median round trip of some pings.
	RTT time.Duration `json:"rttNanoseconds"`
	// Bytes arrived by TCP, unharmed by their SHA-256, at BitsPerSecond.
	Bytes         int64   `json:"bytes"`
	BitsPerSecond float64 `json:"bitsPerSecond"`
	// Error says what failed; empty where all is well.
	Error string `json:"error,omitempty"`
}

// Proof is what Prove found.
type Proof struct {
	// Endpoints are those that took part, Paths those between endpoints of
	// different hosts in the same network, both ways and for each address.
	Endpoints []EndpointStatus `json:"endpoints"`
	Paths     []Path           `json:"paths"`
	Elapsed   time.Duration    `json:"elapsedNanoseconds"`
}

// Failed returns the paths that do not work.
func (p *Proof) Failed() []Path {
	return slices.DeleteFunc(slices.Clone(p.Paths), func(x Path) bool { return x.Error == "" })
}

// MedianRTT returns the median of the paths' round trips; 0 without paths.
func (p *Proof) MedianRTT() time.Duration {
	var all []time.Duration
	for _, x := range p.Paths {
		if x.Error == "" {
			all = append(all, x.RTT)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// Prove sends pings and bulk TCP between every two endpoints of different hosts
// that share a network, IPv4 and IPv6. Paths may take some seconds to come up
// after Up. The error names the first paths that fail; the Proof is valid all
// the same.
func (l *Lab) Prove(ctx context.Context) (*Proof, error) {
	end := l.begin("prove that every endpoint reaches every other")
	start := time.Now()
	p := &Proof{}
	members, err := l.endpoints(&p.Endpoints)
	if err != nil {
		return p, end(err)
	}
	err = p.measure(ctx, members, l.cfg.ProofBytes)
	p.Elapsed = time.Since(start)
	if err == nil {
		err = p.err(l.cfg.Name)
	}
	return p, end(err)
}

func (p *Proof) err(lab string) error {
	failed := p.Failed()
	if len(failed) == 0 {
		return nil
	}
	var lines []string
	for _, f := range failed[:min(len(failed), 5)] {
		lines = append(lines, fmt.Sprintf("%s to %s (%s): %s", f.From, f.To, f.Addr, f.Error))
	}
	return &topology.Error{
		Kind: topology.ErrUnavailable, Item: "lab " + lab,
		What:   fmt.Sprintf("%d of %d paths do not work:\n  %s", len(failed), len(p.Paths), strings.Join(lines, "\n  ")),
		Remedy: "look at 'baize lab exec HOST -- baize status'",
	}
}

// endpoints lists the endpoints that the lab attached, and where they live.
func (l *Lab) endpoints(out *[]EndpointStatus) (map[string]member, error) {
	running, err := l.running()
	if err != nil {
		return nil, err
	}
	for _, h := range l.Hosts() {
		m, ok := running[h.name]
		if !ok {
			continue
		}
		entries, err := os.ReadDir(m.inside(endpointsDir))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			s := EndpointStatus{Name: e.Name(), Node: h.name, Network: h.attached(m, e.Name()), IPs: []netip.Addr{}}
			if err := s.look(m.inside(filepath.Join(netnsDir, s.Name))); err != nil {
				return nil, fmt.Errorf("endpoint %s: %w", s, err)
			}
			*out = append(*out, s)
		}
	}
	return running, nil
}

// look fills in what the namespace shows.
func (e *EndpointStatus) look(path string) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return err
	}
	for _, l := range links {
		if l.Type() != "veth" {
			continue
		}
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && a.Scope == int(netlink.SCOPE_UNIVERSE) {
				e.IPs = append(e.IPs, ip.Unmap())
				e.MAC, e.MTU = l.Attrs().HardwareAddr.String(), l.Attrs().MTU
			}
		}
	}
	slices.SortFunc(e.IPs, netip.Addr.Compare)
	return nil
}

// measure fills in the paths.
func (p *Proof) measure(ctx context.Context, members map[string]member, bytes int64) error {
	type pair struct {
		from, to EndpointStatus
		addr     netip.Addr
	}
	var pairs []pair
	for _, from := range p.Endpoints {
		for _, to := range p.Endpoints {
			if from.Node == to.Node || from.Network != to.Network {
				continue
			}
			for _, a := range to.IPs {
				pairs = append(pairs, pair{from, to, a})
			}
		}
	}
	if bytes == 0 {
		bytes = int64(max(proveLeast, min(proveBytes, proveTotal/max(len(pairs), 1))))
	}
	path := func(e EndpointStatus) string { return members[e.Node].inside(filepath.Join(netnsDir, e.Name)) }

	// Servers first, one in each endpoint.
	serving, stopServing := context.WithCancel(ctx)
	var servers sync.WaitGroup
	defer servers.Wait()
	defer stopServing()
	ports := map[string]string{}
	for _, e := range p.Endpoints {
		var listener net.Listener
		err := hostnet.InNetns(path(e), func() (err error) {
			var lc net.ListenConfig
			listener, err = lc.Listen(serving, "tcp", ":0")
			return err
		})
		if err != nil {
			return fmt.Errorf("listen in %s: %w", e, err)
		}
		_, ports[e.String()], _ = net.SplitHostPort(listener.Addr().String())
		servers.Go(func() { _ = probe.Serve(serving, listener, nil) })
	}

	p.Paths = make([]Path, len(pairs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(proveParallel)
	for i, pr := range pairs {
		g.Go(func() error {
			limited, cancel := context.WithTimeout(gctx, pairTimeout)
			defer cancel()
			x := Path{From: pr.from.String(), To: pr.to.String(), Network: pr.from.Network, Addr: pr.addr}
			if err := x.measure(limited, path(pr.from), ports[pr.to.String()], bytes); err != nil {
				x.Error = err.Error()
			}
			p.Paths[i] = x
			return gctx.Err()
		})
	}
	return g.Wait()
}

// measure pings and sends from a namespace.
func (x *Path) measure(ctx context.Context, namespace, port string, bytes int64) error {
	conn, err := listenICMP(namespace, x.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := settle(ctx, conn, x.Addr); err != nil {
		return err
	}
	echoes, err := probe.Ping(ctx, conn, x.Addr, provePings, pingTimeout)
	if err != nil {
		return err
	}
	if echoes.Received == 0 {
		return fmt.Errorf("%d pings were lost", echoes.Sent)
	}
	x.RTT = echoes.Median()

	limited, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	var tcp net.Conn
	err = hostnet.InNetns(namespace, func() (err error) {
		var d net.Dialer
		tcp, err = d.DialContext(limited, "tcp", net.JoinHostPort(x.Addr.String(), port))
		return err
	})
	if err != nil {
		return fmt.Errorf("ping works, TCP does not: %w", err)
	}
	sent, err := probe.Send(limited, tcp, bytes)
	x.Bytes, x.BitsPerSecond = sent.Bytes, sent.BitsPerSecond()
	if err != nil {
		return fmt.Errorf("ping works, bulk TCP does not: %w", err)
	}
	return nil
}

func listenICMP(namespace string, to netip.Addr) (conn *icmp.PacketConn, err error) {
	err = hostnet.InNetns(namespace, func() (err error) {
		conn, err = probe.ListenICMP(to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ping: %w", err)
	}
	return conn, nil
}

// StartPings is probe.StartPings in a network namespace, given by its path: that
// of Endpoint.NetnsPath, or a container's.
func StartPings(namespace string, to netip.Addr, interval time.Duration) (*probe.Pings, error) {
	conn, err := listenICMP(namespace, to)
	if err != nil {
		return nil, err
	}
	return probe.StartPings(conn, to, interval), nil
}

// settle pings until the first answer.
func settle(ctx context.Context, conn *icmp.PacketConn, to netip.Addr) error {
	limited, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var last error
	for limited.Err() == nil {
		e, err := probe.Ping(limited, conn, to, 1, pingTimeout)
		if e.Received > 0 {
			return nil
		}
		if err != nil && limited.Err() == nil {
			last = err // no route yet, or its neighbour does not answer
			_ = pause(limited, 50*time.Millisecond)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if last != nil {
		return fmt.Errorf("no answer to pings for %v: %w", settleTimeout, last)
	}
	return fmt.Errorf("no answer to pings for %v", settleTimeout)
}
