// Package capture captures packets at named points of a host: the devices of endpoints,
// and what goes to and comes from another node, without its encapsulation. It taps
// devices with packet sockets (packet(7)): nothing is configured, so nothing is left when
// the process ends, however it ends. Points are chosen by the agent (points.go); a capture
// on another host comes by a connection of its own (stream.go).
package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/time/rate"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/hostnet"
)

// Bounds of a capture.
const (
	// DefaultSnapLen keeps the headers and little of what people say to each other.
	DefaultSnapLen = 256
	MaxSnapLen     = 65535
	// DefaultRate and MaxRate are packets a second.
	DefaultRate = 5000
	MaxRate     = 200_000
	// MaxDuration is how long a capture may run.
	MaxDuration = 24 * time.Hour
)

// Options bound a capture, and choose its packets.
type Options struct {
	Filter Filter `json:"filter,omitzero"`
	// SnapLen is how many bytes of a frame are kept.
	SnapLen int `json:"snapLen"`
	// Rate is how many packets a second are kept at a point; what is more is counted.
	Rate int `json:"rate"`
}

// Packet is one that was captured.
type Packet struct {
	// Point is the number of the point, in the order that was asked for.
	Point int `json:"point"`
	// Time is the kernel's, Length the frame's before it was cut.
	Time   time.Time `json:"time"`
	Length int       `json:"length"`
	// Out: from the endpoint, or to the other node.
	Out bool `json:"out,omitempty"`
	// Network is its name; of a tunnel whose VNI no network has, the number.
	Network string `json:"network,omitempty"`
	// Encap is what the packet was in, empty for none.
	Encap string `json:"encap,omitempty"`
	Data  []byte `json:"data"`
}

// Counts are those of a point.
type Counts struct {
	// Captured were handed on.
	Captured uint64 `json:"captured"`
	// Lost are those that the kernel had no room for, OverRate those above Options.Rate.
	Lost     uint64 `json:"lost,omitempty"`
	OverRate uint64 `json:"overRate,omitempty"`
}

// Run captures at a point until ctx ends, and calls emit with each packet, from several
// goroutines where the point has several devices. ready is called once all devices are
// tapped. A device that goes away is an error.
func Run(ctx context.Context, p api.Point, o Options, ready func(), emit func(Packet)) (Counts, error) {
	program, err := program(p, o.SnapLen)
	if err != nil {
		return Counts{}, err
	}
	taps, err := openAll(p, program)
	if err != nil {
		return Counts{}, err
	}
	ready()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	allowed := rate.NewLimiter(rate.Limit(o.Rate), max(1, o.Rate/2))
	var captured, over atomic.Uint64
	errs, lost := make([]error, len(taps)), make([]uint64, len(taps))
	var running sync.WaitGroup
	for i, t := range taps {
		running.Go(func() {
			defer stop() // half of a point is no point
			of := newReader(p, o)
			lost[i], errs[i] = t.run(ctx, func(f frame) {
				packet, wanted := of.read(f)
				switch {
				case !wanted:
				case !allowed.Allow():
					over.Add(1)
				default:
					captured.Add(1)
					emit(packet)
				}
			})
		})
	}
	running.Wait()
	counts := Counts{Captured: captured.Load(), OverRate: over.Load()}
	for _, n := range lost {
		counts.Lost += n
	}
	return counts, errors.Join(errs...)
}

// openAll taps the devices of a point, all or none.
func openAll(p api.Point, program []bpf.RawInstruction) (taps []*tap, err error) {
	open := func() error {
		for _, device := range p.Devices {
			t, err := openTap(device, program)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			taps = append(taps, t)
		}
		return nil
	}
	if p.Netns == "" {
		err = open()
	} else {
		err = hostnet.InNetns(p.Netns, open) // a socket stays where it was opened
	}
	if err != nil {
		for _, t := range taps {
			t.close()
		}
	}
	return taps, err
}

// reader makes packets of frames. It belongs to one goroutine.
type reader struct {
	point    api.Point
	options  Options
	outer    *parser
	inner    *parser
	filtered bool
}

func newReader(p api.Point, o Options) *reader {
	return &reader{point: p, options: o, outer: newParser(), inner: newParser(), filtered: o.Filter != Filter{}}
}

// read makes a packet of a frame. It is not wanted where the filter says so, or where it
// is none of the point.
func (r *reader) read(f frame) (Packet, bool) {
	p := Packet{Time: f.time, Length: f.length, Data: f.data, Network: r.point.Network}
	if r.point.Kind == api.PointEndpoint {
		// A host's end of a pair sends what the endpoint receives.
		p.Out = f.outgoing == (r.point.Netns != "")
	} else if !r.uncover(&p) {
		return p, false
	}
	if r.filtered && !r.options.Filter.takes(r.inner.parse(p.Data)) {
		return p, false
	}
	p.Data = slices.Clone(p.Data[:min(len(p.Data), r.options.SnapLen)])
	return p, true
}

// uncover takes the packet out of its encapsulation. It reports whether it is one between
// this node and the other.
func (r *reader) uncover(p *Packet) bool {
	l := r.outer.parse(p.Data)
	src, dst, ok := l.addrs()
	if !ok {
		return false
	}
	t := r.point
	if slices.Contains(t.Locals, src) && slices.Contains(t.Remotes, dst) {
		p.Out = true
	} else if !slices.Contains(t.Locals, dst) || !slices.Contains(t.Remotes, src) {
		p.Out = within(t.OwnPrefixes, src) && within(t.PeerPrefixes, dst)
		return p.Out || within(t.OwnPrefixes, dst) && within(t.PeerPrefixes, src)
	}
	inner, encap, vni, ok := l.uncover(t.UDPPorts)
	if !ok {
		return l.fragment() // of a tunnel, most likely: it stays as it is
	}
	p.Length -= len(p.Data) - len(inner)
	p.Data, p.Encap = inner, string(encap)
	p.Network = cmp.Or(t.Networks[vni], fmt.Sprintf("VNI %d", vni))
	return true
}

// interfaceOf returns a device by its name.
func interfaceOf(device string) (*net.Interface, error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", device, err)
	}
	return i, nil
}
