package proof

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/cmd/internal/hostnet"
	"github.com/baize-net/baize/cmd/internal/lab/wait"
	"github.com/baize-net/baize/cmd/internal/probe"
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

// Netns returns the path of an endpoint's network namespace as seen from here.
type Netns func(Endpoint) string

// pair is one direction between two endpoints, to one address.
type pair struct {
	from, to Endpoint
	addr     netip.Addr
}

// pairs are those between endpoints of different hosts in one network.
func pairs(endpoints []Endpoint) (all []pair) {
	for _, from := range endpoints {
		for _, to := range endpoints {
			if from.Node == to.Node || from.Network != to.Network {
				continue
			}
			for _, a := range to.IPs {
				all = append(all, pair{from, to, a})
			}
		}
	}
	return all
}

// Measure sends pings and bytes, or as many as fit where 0, both ways between
// the proof's endpoints and fills in the paths.
func (p *Proof) Measure(ctx context.Context, path Netns, bytes int64) error {
	all := pairs(p.Endpoints)
	if bytes == 0 {
		bytes = int64(max(proveLeast, min(proveBytes, proveTotal/max(len(all), 1))))
	}
	serving, stopServing := context.WithCancel(ctx)
	var servers sync.WaitGroup
	defer servers.Wait()
	defer stopServing()
	ports, err := serve(serving, &servers, p.Endpoints, path)
	if err != nil {
		return err
	}
	p.Paths = make([]Path, len(all))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(proveParallel)
	for i, pr := range all {
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

// serve receives TCP in every endpoint until ctx ends; ports are by the
// endpoints' names.
func serve(
	ctx context.Context, servers *sync.WaitGroup, endpoints []Endpoint, path Netns,
) (ports map[string]string, err error) {
	ports = map[string]string{}
	for _, e := range endpoints {
		var listener net.Listener
		err := hostnet.InNetns(path(e), func() (err error) {
			var lc net.ListenConfig
			listener, err = lc.Listen(ctx, "tcp", ":0")
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("listen in %s: %w", e, err)
		}
		_, ports[e.String()], _ = net.SplitHostPort(listener.Addr().String())
		servers.Go(func() { _ = probe.Serve(ctx, listener, nil) })
	}
	return ports, nil
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
			_ = wait.Pause(limited, 50*time.Millisecond)
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

// StartPings is probe.StartPings in a network namespace, given by its path: an
// endpoint's, or a container's.
func StartPings(namespace string, to netip.Addr, interval time.Duration) (*probe.Pings, error) {
	conn, err := listenICMP(namespace, to)
	if err != nil {
		return nil, err
	}
	return probe.StartPings(conn, to, interval), nil
}
