package capture

import (
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/baize-net/baize/cmd/internal/api"
)

// Writer writes pcapng (draft-ietf-opsawg-pcapng), with an interface for each point and
// network. It belongs to one goroutine.
type Writer struct {
	out     io.Writer
	ng      *pcapgo.NgWriter
	section pcapgo.NgSectionInfo
	points  []api.Point
	// comments say of points what a reader has to know.
	comments []string
	options  Options
	known    map[source]int
	began    time.Time
}

// source is what an interface of the file stands for.
type source struct {
	point          int
	network, encap string
}

// NewWriter returns a writer for packets of points. It writes the head of the file at
// once: who reads from a pipe waits for it.
func NewWriter(out io.Writer, points []api.Point, comments []string, o Options, version string) (*Writer, error) {
	w := &Writer{
		out: out, points: points, comments: comments, options: o, known: map[source]int{}, began: time.Now(),
		section: pcapgo.NgSectionInfo{Hardware: runtime.GOARCH, OS: runtime.GOOS, Application: "baize " + version},
	}
	for i, p := range points {
		if _, err := w.interfaceOf(source{i, p.Network, ""}); err != nil {
			return nil, err
		}
	}
	err := w.Flush()
	return w, err
}

// describe is the interface of a source.
func (w *Writer) describe(s source) pcapgo.NgInterface {
	p := w.points[s.point]
	name, what := p.String(), "endpoint "+p.Name+" of host "+p.Node
	if p.Kind == api.PointTunnel {
		what = "from and to host " + p.Name + ", at host " + p.Node
		switch {
		case s.encap != "":
			what += ", taken out of " + s.encap
		case s.network != "":
			what += ", routed"
		}
	}
	if s.network != "" {
		what += ", network " + s.network
		if p.Kind == api.PointTunnel {
			name += "/" + s.network
		}
	}
	return pcapgo.NgInterface{
		Name: name, Description: what, Comment: w.comments[s.point], Filter: w.options.Filter.String(),
		OS: runtime.GOOS, LinkType: layers.LinkTypeEthernet, SnapLength: uint32(w.options.SnapLen), TimestampResolution: 9,
	}
}

func (w *Writer) interfaceOf(s source) (int, error) {
	if n, ok := w.known[s]; ok {
		return n, nil
	}
	var n int
	var err error
	if w.ng == nil {
		w.ng, err = pcapgo.NewNgWriterInterface(w.out, w.describe(s), pcapgo.NgWriterOptions{SectionInfo: w.section})
	} else {
		n, err = w.ng.AddInterface(w.describe(s))
	}
	if err != nil {
		return 0, fmt.Errorf("write the capture: %w", err)
	}
	w.known[s] = n
	return n, nil
}

// Write writes a packet; Flush hands it on.
func (w *Writer) Write(p Packet) error {
	n, err := w.interfaceOf(source{p.Point, p.Network, p.Encap})
	if err != nil {
		return err
	}
	flags := &pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}
	if p.Out {
		flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	err = w.ng.WritePacketWithOptions(gopacket.CaptureInfo{
		Timestamp: p.Time, CaptureLength: len(p.Data), Length: max(p.Length, len(p.Data)), InterfaceIndex: n,
	}, p.Data, pcapgo.NgPacketOptions{Flags: flags})
	if err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}
	return nil
}

// Flush hands on what was written.
func (w *Writer) Flush() error {
	if err := w.ng.Flush(); err != nil {
		return fmt.Errorf("write the capture: %w", err)
	}
	return nil
}

// Close writes how many packets each point had.
func (w *Writer) Close(counts []Counts) error {
	for i, p := range w.points {
		err := w.ng.WriteInterfaceStats(w.known[source{i, p.Network, ""}], pcapgo.NgInterfaceStatistics{
			LastUpdate: time.Now(), StartTime: w.began, EndTime: time.Now(),
			PacketsReceived: counts[i].Captured, PacketsDropped: counts[i].Lost + counts[i].OverRate,
		})
		if err != nil {
			return fmt.Errorf("write the capture: %w", err)
		}
	}
	return w.Flush()
}
