package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/capture"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// Flags of capture.
const (
	flagBothEnds   = "both-ends"
	flagWrite      = "write"
	flagDuration   = "duration"
	flagSnapLen    = "snaplen"
	flagRate       = "rate"
	flagListenPort = "listen-port"
)

func (r *runner) captureCommand() *ucli.Command {
	return &ucli.Command{
		Name: "capture", Usage: "capture the packets of endpoints and tunnels, on this host and on others, by time",
		ArgsUsage: "POINT...",
		Description: `A POINT is an endpoint or a container of this node, a port of its bridge, or another
node: then it is what goes there and comes from there, taken out of the tunnel.
host2/c1 is an endpoint of another node, host2/host1 is that node's end of the tunnel.
What is captured on other nodes comes by an encrypted connection from their agents,
which connect to this command. Packets of all points are put in order, by this host's
clock.

It prints a line for each packet, or writes pcapng, which Wireshark and tcpdump read.
256 bytes of a packet are kept, headers and little more, unless --snaplen says so.
Nothing is configured for a capture, and nothing is left of it. See docs/capture.md.

  baize capture c1
  baize capture c1 host2/c1 --proto icmp
  baize capture host2 --both-ends --port 443 --write tunnel.pcapng
  baize capture c1 --write - | wireshark -k -i -
  baize capture web --write - | tcpdump -n -r -`,
		Flags:  captureFlags(),
		Action: r.capture,
	}
}

func captureFlags() []ucli.Flag {
	env := func(flag string) []string { return cli.Env("capture-" + flag) }
	return []ucli.Flag{
		&ucli.BoolFlag{
			Name: flagBothEnds, EnvVars: env(flagBothEnds), Usage: "of a tunnel, the other node's end as well",
		},
		&ucli.StringFlag{
			Name: flagWrite, EnvVars: env(flagWrite), Usage: "write pcapng to this `FILE`; - for the standard output",
		},
		&ucli.StringFlag{
			Name: "host", EnvVars: env("host"), Usage: "only packets from or to this `ADDRESS` or prefix",
		},
		&ucli.IntFlag{
			Name: "port", EnvVars: env("port"), Action: isPort("port"),
			Usage: "only packets of TCP or UDP from or to this `PORT`",
		},
		&ucli.StringFlag{
			Name: "proto", EnvVars: env("proto"),
			Usage: "only packets of this `PROTOCOL`: " + strings.Join(capture.Protocols(), ", "),
		},
		&ucli.IntFlag{Name: "count", EnvVars: env("count"), Usage: "end after this `NUMBER` of packets (default never)"},
		&ucli.DurationFlag{
			Name: flagDuration, EnvVars: env(flagDuration), Usage: "end after this time", Value: time.Hour,
			Action: atLeast(flagDuration, time.Second),
		},
		&ucli.IntFlag{
			Name: flagSnapLen, EnvVars: env(flagSnapLen), Usage: "`BYTES` of each packet to keep", Value: capture.DefaultSnapLen,
			Action: between(flagSnapLen, 1, capture.MaxSnapLen),
		},
		&ucli.IntFlag{
			Name: flagRate, EnvVars: env(flagRate), Usage: "keep at most this `NUMBER` of packets a second at a point",
			Value: capture.DefaultRate, Action: between(flagRate, 1, capture.MaxRate),
		},
		&ucli.IntFlag{
			Name: flagListenPort, EnvVars: env(flagListenPort), Action: isPort(flagListenPort),
			Usage: "TCP `PORT` of this host that the agent of another node connects to (default any)",
		},
	}
}

// spot is a point that is captured at, here or on another node.
type spot struct {
	point api.Point
	// comment says what a reader of the capture has to know of it.
	comment string
	// run captures until ctx ends.
	run func(ctx context.Context, emit func(capture.Packet)) (capture.Counts, error)
}

// capturing is one run of the command.
type capturing struct {
	r        *runner
	c        *ucli.Context
	options  capture.Options
	duration time.Duration
	// self is this node, once somebody asked; the records are read for points of others.
	self  string
	store *etcdstore.Store
	snap  *topology.Snapshot
	spots []spot
}

func (r *runner) capture(c *ucli.Context) error {
	x, err := r.newCapturing(c)
	if err != nil {
		return err
	}
	names := c.Args().Slice()
	remote := c.Bool(flagBothEnds) || slices.ContainsFunc(names, func(s string) bool { return strings.Contains(s, "/") })
	if !remote {
		return x.all(names)
	}
	return r.withSnapshot(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		x.store, x.snap = s, snap
		return x.all(names)
	})
}

func (r *runner) newCapturing(c *ucli.Context) (*capturing, error) {
	const command = "baize capture"
	x := &capturing{r: r, c: c, duration: c.Duration(flagDuration), options: capture.Options{
		SnapLen: c.Int(flagSnapLen), Rate: c.Int(flagRate),
		Filter: capture.Filter{Port: c.Int("port"), Proto: c.String("proto")},
	}}
	if x.duration > capture.MaxDuration {
		return nil, usagef(command, "--duration %s is too long: use %s or less", x.duration, capture.MaxDuration)
	}
	if p := x.options.Filter.Proto; p != "" {
		if err := checkOneOf(command, "proto", p, capture.Protocols()); err != nil {
			return nil, err
		}
	}
	if host := c.String("host"); host != "" {
		p, err := netip.ParsePrefix(host)
		if a, aerr := netip.ParseAddr(host); aerr == nil {
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
		}
		if err != nil {
			return nil, usagef(command, "--host %q is neither an address nor a prefix", host)
		}
		x.options.Filter.Host = p.Masked()
	}
	if err := x.checkOutput(); err != nil {
		return nil, err
	}
	return x, nil
}

// all finds the points and captures at them. A file that is there is written only then.
func (x *capturing) all(names []string) error {
	ctx, stop := context.WithTimeout(x.c.Context, x.duration)
	defer stop()
	for _, name := range names {
		if err := x.add(ctx, name); err != nil {
			return err
		}
	}
	if x.c.Bool(flagBothEnds) {
		if err := x.addOtherEnds(ctx); err != nil {
			return err
		}
	}
	out, err := x.output()
	if err != nil {
		return err
	}
	return errors.Join(x.run(ctx, stop, out), out.close())
}

// add finds a point by its name.
func (x *capturing) add(ctx context.Context, name string) error {
	node, rest, named := strings.Cut(name, "/")
	if named && x.snap != nil {
		if _, known := x.snap.Nodes[node]; known {
			self, err := x.selfName(ctx)
			if err != nil {
				return err
			}
			if node != self {
				return x.addRemote(ctx, node, rest)
			}
			name = rest
		}
	}
	return x.addLocal(ctx, name)
}

// addOtherEnds adds, of each tunnel, the end that is not yet there. Two endpoints that are
// named are both ends already.
func (x *capturing) addOtherEnds(ctx context.Context) error {
	tunnels := 0
	for _, s := range slices.Clone(x.spots) {
		if s.point.Kind != api.PointTunnel {
			continue
		}
		tunnels++
		other := s.point.Name + "/" + s.point.Node
		if slices.ContainsFunc(x.spots, func(s spot) bool { return s.point.String() == other }) {
			continue
		}
		if err := x.add(ctx, other); err != nil {
			return err
		}
	}
	if tunnels == 0 && len(x.spots) < 2 {
		return usagef("baize capture", "--both-ends is of a tunnel: name both endpoints, such as c1 host2/c1")
	}
	return nil
}

// selfName is this node, as its agent says; where none runs, this host's name.
func (x *capturing) selfName(ctx context.Context) (string, error) {
	if x.self != "" {
		return x.self, nil
	}
	st, err := x.r.agentClient(x.c).Status(ctx)
	if x.self = st.Node; err != nil {
		x.self, err = hostName()
	}
	return x.self, err
}

// addLocal is a point of this host.
func (x *capturing) addLocal(ctx context.Context, name string) error {
	p, err := x.r.agentClient(x.c).Point(ctx, name)
	if errors.Is(err, api.ErrNoAgent) {
		return fmt.Errorf("%w; without an agent, 'ovs-vsctl list-ports br-baize' names the ports, and 'tcpdump -i PORT' "+
			"shows one", err)
	}
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: "point " + p.String(), What: "capturing is not permitted",
			Remedy: "run as root",
		}
	}
	at := fmt.Sprintf("device %s", strings.Join(p.Devices, ", "))
	if p.Netns != "" {
		at += " in " + p.Netns
	}
	x.spots = append(x.spots, spot{p, at, func(ctx context.Context, emit func(capture.Packet)) (capture.Counts, error) {
		return capture.Run(ctx, p, x.options, func() {}, emit)
	}})
	return nil
}

// addRemote is a point of another node, whose agent connects to this command.
func (x *capturing) addRemote(ctx context.Context, node, name string) error {
	if _, alive := x.snap.Alive[node]; !alive {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: "point " + node + "/" + name, What: "the agent of " + node + " does not run",
			Remedy: "'systemctl start baize' there",
		}
	}
	at, err := x.placeFor(x.snap.Nodes[node])
	if err != nil {
		return err
	}
	receiver, err := capture.Listen(ctx, at)
	if err != nil {
		return err
	}
	defer receiver.Close()
	type accepted struct {
		stream *capture.Stream
		err    error
	}
	connected := make(chan accepted, 1)
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		s, err := receiver.Accept(waiting)
		connected <- accepted{s, err}
	}()
	req := receiver.Request(name, x.options, x.duration)
	answers, errs, err := ask[api.Point](ctx, x.store, capture.QuestionKind, []string{node}, req)
	if err == nil {
		err = errs[node]
	}
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	time.AfterFunc(askPatience, cancel)
	got := <-connected
	if got.err != nil {
		return fmt.Errorf("node %s: its agent has not connected: %w", node, got.err)
	}
	comment := fmt.Sprintf("device %s, its clock is this host's within %s", strings.Join(answers[node].Devices, ", "),
		got.stream.Within.Round(time.Microsecond))
	if d := got.stream.Ahead; d != 0 {
		comment = fmt.Sprintf("device %s, its clock is ahead by %s ± %s, which is taken off all times",
			strings.Join(answers[node].Devices, ", "), d.Round(time.Microsecond), got.stream.Within.Round(time.Microsecond))
	}
	x.spots = append(x.spots, spot{answers[node], comment, got.stream.Run})
	return nil
}

// placeFor is an address of this host that another node reaches it at.
func (x *capturing) placeFor(n topology.Node) (netip.AddrPort, error) {
	for _, a := range n.VTEPs {
		// Nothing is sent: it asks for the source address of the route.
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9)))
		if err != nil {
			continue
		}
		local, _ := netip.ParseAddrPort(conn.LocalAddr().String())
		_ = conn.Close()
		return netip.AddrPortFrom(local.Addr().Unmap(), uint16(x.c.Int(flagListenPort))), nil
	}
	return netip.AddrPort{}, &topology.Error{
		Kind: topology.ErrUnavailable, Item: "node " + n.Name, What: "this host has no route to it",
		Remedy: "run this on a node of the cluster, or 'baize capture' on " + n.Name + " itself",
	}
}
