package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/capture"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// How long packets are held to be put in order: those of this host come at once, those of
// others when their agents send them.
const (
	holdLocal  = 50 * time.Millisecond
	holdRemote = 500 * time.Millisecond
)

// captureOutput is where packets go.
type captureOutput struct {
	pcap io.Writer // nil: lines
	file *os.File
}

// checkOutput refuses what nothing could be written to, and touches nothing.
func (x *capturing) checkOutput() error {
	switch name := x.c.String(flagWrite); name {
	case "":
	case "-":
		if f, ok := x.r.Out.(*os.File); ok && cli.IsTerminal(f) {
			return usagef("baize capture", "--write - is no text: pipe it, into 'wireshark -k -i -' or 'tcpdump -r -'")
		}
	default:
		if err := unix.Access(filepath.Dir(name), unix.W_OK); err != nil {
			return notWritten(name, err)
		}
	}
	return nil
}

// output opens the file. What it had is gone then.
func (x *capturing) output() (*captureOutput, error) {
	switch name := x.c.String(flagWrite); name {
	case "":
		return &captureOutput{}, nil
	case "-":
		return &captureOutput{pcap: x.r.Out}, nil
	default:
		// What others say to each other is for root alone.
		f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, notWritten(name, err)
		}
		return &captureOutput{pcap: f, file: f}, nil
	}
}

func notWritten(file string, err error) error {
	return &topology.Error{
		Kind: topology.ErrInvalid, Item: "--write " + file, What: err.Error(), Remedy: "name another file",
	}
}

func (o *captureOutput) close() error {
	if o.file == nil {
		return nil
	}
	return o.file.Close()
}

// run captures at all points, and hands on the packets in the order of time.
func (x *capturing) run(ctx context.Context, stop func(), out *captureOutput) error {
	hold := time.Duration(0)
	for _, s := range x.spots {
		_, err := fmt.Fprintf(x.r.Err, "capturing at %s: %s\n", s.point, s.comment)
		if err != nil {
			return err
		}
	}
	if len(x.spots) > 1 {
		hold = holdLocal
	}
	if x.store != nil {
		hold = holdRemote
	}
	show, err := x.shower(out)
	if err != nil {
		return err
	}
	packets := make(chan capture.Packet, 256)
	counts, errs := make([]capture.Counts, len(x.spots)), make([]error, len(x.spots))
	var running sync.WaitGroup
	for i, s := range x.spots {
		running.Go(func() {
			counts[i], errs[i] = s.run(ctx, func(p capture.Packet) {
				p.Point = i
				packets <- p
			})
			if errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", s.point, errs[i])
			}
		})
	}
	go func() { running.Wait(); close(packets) }()
	left, shown := x.c.Int("count"), make([]uint64, len(x.spots))
	err = capture.Merge(packets, hold, func(p capture.Packet) error {
		if err := show.write(p); err != nil {
			return err
		}
		shown[p.Point]++
		if left--; left == 0 {
			return errEnough
		}
		return nil
	}, show.flush, stop)
	if errors.Is(err, errEnough) {
		err = show.flush()
	}
	for i := range counts { // what came after enough is not there
		counts[i].Captured = shown[i]
	}
	err = errors.Join(err, show.end(counts))
	return errors.Join(err, x.summary(counts), errors.Join(errs...))
}

// shower shows packets in one way or the other.
type shower struct {
	write func(capture.Packet) error
	flush func() error
	end   func([]capture.Counts) error
}

func (x *capturing) shower(out *captureOutput) (shower, error) {
	points, comments := make([]api.Point, len(x.spots)), make([]string, len(x.spots))
	width := 0
	for i, s := range x.spots {
		points[i], comments[i] = s.point, s.comment
		width = max(width, utf8.RuneCountInString(s.point.String()))
	}
	if out.pcap != nil {
		w, err := capture.NewWriter(out.pcap, points, comments, x.options, currentVersion().Version)
		if err != nil {
			return shower{}, err
		}
		return shower{w.Write, w.Flush, w.Close}, nil
	}
	describe := capture.NewDescriber()
	return shower{
		write: func(p capture.Packet) error {
			return x.r.say("%s", packetLine(points[p.Point], p, describe.Describe(p), width))
		},
		flush: func() error { return nil },
		end:   func([]capture.Counts) error { return nil },
	}, nil
}

// packetLine is a packet for people: when, where, in which direction, what.
func packetLine(at api.Point, p capture.Packet, what string, width int) string {
	way := "in "
	if p.Out {
		way = "out"
	}
	name := at.String()
	name += strings.Repeat(" ", width-utf8.RuneCountInString(name))
	line := fmt.Sprintf("%s  %s  %s  %s", p.Time.Local().Format("15:04:05.000000"), name, way, what)
	if at.Kind == api.PointTunnel {
		switch {
		case p.Encap != "":
			line += fmt.Sprintf(" (%s, %s)", p.Network, p.Encap)
		case p.Network == "":
			line += " (no tunnel)"
		}
	}
	return cli.Printable(line)
}

// summary says how much was captured, and what was not.
func (x *capturing) summary(counts []capture.Counts) error {
	for i, s := range x.spots {
		line := fmt.Sprintf("%s: %s captured", s.point, fault.Counted(int(counts[i].Captured), "packet"))
		if n := counts[i].Lost; n > 0 {
			line += fmt.Sprintf(", %d lost, because they came faster than they were read", n)
		}
		if n := counts[i].OverRate; n > 0 {
			line += fmt.Sprintf(", %d left out by --rate %d", n, x.options.Rate)
		}
		if _, err := fmt.Fprintln(x.r.Err, line); err != nil {
			return err
		}
	}
	return nil
}
