package probe

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/baize-net/baize/topology"
)

// DefaultPort is where a probe's server listens, TCP and UDP.
const DefaultPort = "7000"

// ServeOptions are those of 'baize probe serve'.
type ServeOptions struct {
	// Listen is "[ADDRESS]:PORT".
	Listen string
	// Once ends the server after the first bulk exchange.
	Once bool
}

// RunServe serves TCP and UDP until ctx is done and writes a line of JSON for
// each bulk exchange.
func RunServe(ctx context.Context, o ServeOptions, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return cannotListen(o.Listen, err)
	}
	udp, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
	if err != nil {
		_ = l.Close()
		return cannotListen(o.Listen, err)
	}
	fmt.Fprintf(out, "listening on %s\n", l.Addr())
	var mu sync.Mutex
	var last error
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ServeUDP(ctx, udp) })
	g.Go(func() error {
		return Serve(ctx, l, func(b Bulk, err error) {
			mu.Lock()
			defer mu.Unlock()
			writeResult(out, b, err)
			if o.Once {
				last = err
				cancel()
			}
		})
	})
	return errors.Join(g.Wait(), last)
}

func cannotListen(address string, err error) error {
	return &topology.Error{
		Kind: topology.ErrInUse, Item: "probe on " + address, What: err.Error(),
		Remedy: "name another address with --listen",
	}
}

// writeResult writes one line of JSON, {"bytes":…,"error":…}.
func writeResult(out io.Writer, result any, err error) {
	line := struct {
		Result any    `json:"result"`
		Error  string `json:"error,omitempty"`
	}{Result: result}
	if err != nil {
		line.Error = err.Error()
	}
	// The results are plain structs: marshalling cannot fail.
	b, _ := json.Marshal(line)
	fmt.Fprintf(out, "%s\n", b)
}

// SendOptions are those of 'baize probe send'.
type SendOptions struct {
	// To is "ADDRESS:PORT", or an address alone.
	To string
	// Bytes is the size of a bulk exchange.
	Bytes int64
	// Datagrams, unless 0, asks for that many UDP datagrams instead, of Size
	// bytes and Interval apart.
	Datagrams int
	Size      int
	Interval  time.Duration
	// Timeout bounds connecting and sending.
	Timeout time.Duration
}

// RunSend sends to a server and writes the result as one line of JSON. The
// error says what went wrong: no connection, damage, or datagrams lost.
func RunSend(ctx context.Context, o SendOptions, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	to := o.To
	if _, _, err := net.SplitHostPort(to); err != nil {
		to = net.JoinHostPort(strings.Trim(to, "[]"), DefaultPort)
	}
	network := "tcp"
	if o.Datagrams > 0 {
		network = "udp"
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, to)
	if err != nil {
		return &topology.Error{
			Kind: topology.ErrUnavailable, Item: "probe to " + to, What: err.Error(),
			Remedy: "check that 'baize probe serve' runs there, and that ping works",
		}
	}
	if o.Datagrams > 0 {
		r, err := SendUDP(ctx, conn, o.Datagrams, o.Size, o.Interval)
		if err == nil && r.Lost() > 0 {
			err = fmt.Errorf("%d of %d datagrams to %s were lost", r.Lost(), r.Sent, to)
		}
		writeResult(out, r, err)
		return err
	}
	r, err := Send(ctx, conn, o.Bytes)
	writeResult(out, r, err)
	return err
}

// ServeMain is 'baize probe serve [--listen ADDRESS:PORT] [--once]'.
func ServeMain(ctx context.Context, args []string, out io.Writer) error {
	f := newFlags("baize probe serve")
	var o ServeOptions
	f.StringVar(&o.Listen, "listen", ":"+DefaultPort, "")
	f.BoolVar(&o.Once, "once", false, "")
	if err := parseFlags(f, args); err != nil {
		return err
	}
	return RunServe(ctx, o, out)
}

// SendMain is 'baize probe send --to ADDRESS[:PORT] [--bytes 20M]
// [--datagrams N [--size BYTES] [--interval DURATION]] [--timeout DURATION]'.
func SendMain(ctx context.Context, args []string, out io.Writer) error {
	f := newFlags("baize probe send")
	o := SendOptions{Bytes: 4 << 20}
	f.StringVar(&o.To, "to", "", "")
	f.Func("bytes", "", func(s string) (err error) { o.Bytes, err = ParseBytes(s); return err })
	f.IntVar(&o.Datagrams, "datagrams", 0, "")
	f.IntVar(&o.Size, "size", 1000, "")
	f.DurationVar(&o.Interval, "interval", 0, "")
	f.DurationVar(&o.Timeout, "timeout", time.Minute, "")
	if err := parseFlags(f, args); err != nil {
		return err
	}
	if o.To == "" {
		return &topology.Error{
			Kind: topology.ErrInvalid, Item: "baize probe send", What: "no destination",
			Remedy: "give one: --to ADDRESS[:PORT]",
		}
	}
	return RunSend(ctx, o, out)
}

func newFlags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

func parseFlags(f *flag.FlagSet, args []string) error {
	err := f.Parse(args)
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err != nil {
		return &topology.Error{Kind: topology.ErrInvalid, Item: f.Name(), What: err.Error()}
	}
	return nil
}

// ParseBytes reads a number of bytes with an optional suffix K, M or G, powers
// of 1024: "20M" is 20971520.
func ParseBytes(s string) (int64, error) {
	shift := 0
	digits := strings.TrimRight(strings.TrimSuffix(strings.ToUpper(s), "B"), "KMG")
	switch suffix := strings.TrimSuffix(strings.ToUpper(s), "B")[len(digits):]; suffix {
	case "":
	case "K":
		shift = 10
	case "M":
		shift = 20
	case "G":
		shift = 30
	default:
		return 0, fmt.Errorf("%q is not a number of bytes: write 4096, 64K, 20M or 1G", s)
	}
	n, err := strconv.ParseInt(digits, 10, 33)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of bytes: write 4096, 64K, 20M or 1G", s)
	}
	return n << shift, nil
}
