package command

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/cmd/internal/panels"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// rateText is a rate for people; nil is not known.
func rateText(r *panels.Rate) string {
	if r == nil {
		return "-"
	}
	return scaled(r.Bits) + "bit/s " + scaled(r.Packets) + "p/s"
}

// scaled writes a number in three digits or so, with the unit's prefix: "1.25 M".
func scaled(x float64) string {
	for _, p := range []struct {
		prefix string
		of     float64
	}{{"G", 1e9}, {"M", 1e6}, {"k", 1e3}} {
		if n := x / p.of; n >= 1 {
			digits := 2
			if n >= 100 {
				digits = 0
			} else if n >= 10 {
				digits = 1
			}
			return fmt.Sprintf("%.*f %s", digits, n, p.prefix)
		}
	}
	return fmt.Sprintf("%.0f ", x)
}

// linkID is a link, A before B by name.
type linkID struct {
	a, b  string
	encap topology.Transport
}

// liveHost is a line of the picture.
type liveHost struct {
	name, state    string
	wrong          bool
	endpoints      string
	links          int
	sent, received *panels.Rate
}

// liveLink is one; ab is the direction from A to B.
type liveLink struct {
	linkID
	state        string
	wrong, known bool
	ab, ba       *panels.Rate
	lossAB       *int
	lossBA       *int
	rtt          api.Duration
}

// live is the picture at a moment.
type live struct {
	hosts    []liveHost
	links    []liveLink
	networks int
	total    *panels.Rate
}

// liveOf puts the picture together.
func liveOf(t draw.Topology, a panels.Answered) live {
	l := live{networks: len(t.Networks)}
	links := map[linkID]*liveLink{}
	for _, x := range t.Tunnels {
		id := linkID{x.A, x.B, x.Encap}
		links[id] = &liveLink{linkID: id}
	}
	// What is routed has no tunnel: who probes or counts it says that there is a link.
	for node, x := range a.Now {
		for _, k := range x.Links {
			id := linkBetween(node, k.Node, k.Encap)
			if k.Encap == topology.Route && isRouted(t, node, k.Node) && links[id] == nil {
				links[id] = &liveLink{linkID: id}
			}
		}
	}
	hosts := map[string]*liveHost{}
	for _, n := range t.Nodes {
		hosts[n.Name] = hostOf(n, a)
	}
	for _, x := range links {
		x.fill(a)
		l.links = append(l.links, *x)
	}
	slices.SortFunc(l.links, func(x, y liveLink) int {
		return cmp.Or(topology.CompareNames(x.a, y.a), topology.CompareNames(x.b, y.b), cmp.Compare(x.encap, y.encap))
	})
	for _, x := range l.links {
		for node, way := range map[string][2]*panels.Rate{x.a: {x.ab, x.ba}, x.b: {x.ba, x.ab}} {
			if h := hosts[node]; h != nil {
				h.links++
				h.sent, h.received = h.sent.Plus(way[0]), h.received.Plus(way[1])
			}
		}
		l.total = l.total.Plus(x.ab).Plus(x.ba)
	}
	for _, h := range hosts {
		l.hosts = append(l.hosts, *h)
	}
	slices.SortFunc(l.hosts, func(x, y liveHost) int { return topology.CompareNames(x.name, y.name) })
	return l
}

// isRouted reports whether packets of a network that is shown are routed between two nodes.
func isRouted(t draw.Topology, a, b string) bool {
	for _, n := range t.Networks {
		has := func(node string) bool {
			return slices.ContainsFunc(n.Members, func(m draw.Member) bool { return m.Node == node })
		}
		if n.Transport.Routed() && has(a) && has(b) {
			return true
		}
	}
	return false
}

func linkBetween(x, y string, encap topology.Transport) linkID {
	if topology.CompareNames(x, y) > 0 {
		x, y = y, x
	}
	return linkID{x, y, encap}
}

func hostOf(n draw.Node, a panels.Answered) *liveHost {
	h := &liveHost{name: n.Name, state: string(n.Status), endpoints: "-"}
	h.wrong = n.Status == draw.Down || n.Status == draw.Unknown
	t := a.Now[n.Name]
	switch {
	case n.Status != draw.Ready:
	case t == nil && a.Silent[n.Name] != nil:
		h.state, h.wrong = "no answer", true
	case t == nil: // not asked yet
	case !t.Ready:
		h.state, h.wrong = "not ready", true
	case t.Errors > 0:
		h.state, h.wrong = fault.Counted(t.Errors, "error"), true
	}
	if t != nil {
		h.endpoints = fmt.Sprint(t.Endpoints)
	}
	return h
}

// fill takes what both ends say.
func (x *liveLink) fill(a panels.Answered) {
	var one, two api.Link
	one, two, x.ab, x.ba = a.Both(x.a, x.b, x.encap)
	x.lossAB, x.lossBA = cmp.Or(one.LossOut, two.LossIn), cmp.Or(two.LossOut, one.LossIn)
	x.rtt = cmp.Or(one.RTT, two.RTT)
	x.state = "-"
	for _, end := range []api.Link{one, two} {
		switch {
		case end.Down:
			x.state, x.wrong = "no port", true
			return
		case end.State != "" && wrongState(end.State):
			x.state, x.wrong = end.State, true
		case end.State == api.StateOK && !x.wrong:
			x.state, x.known = end.State, true
		case end.State != "" && x.state == "-":
			x.state = end.State
		}
	}
}

// draw writes the picture in so many lines; 0 for all.
func (l live) draw(out *bytes.Buffer, rows int, color bool) {
	hosts, links := l.rooms(rows)
	fmt.Fprintf(out, "%s, %s, %s: %s\n", fault.Counted(len(l.hosts), "host"), fault.Counted(l.networks, "network"),
		fault.Counted(len(l.links), "link"), rateText(l.total))
	l.drawHosts(out, hosts, color)
	if len(l.links) > 0 {
		l.drawLinks(out, links, color)
	}
}

// around are the lines beside those of hosts and links: the first, two empty ones, two
// titles, what is left out of both, and the cursor's.
const around = 8

// rooms share the lines that there are between hosts and links.
func (l live) rooms(rows int) (hosts, links int) {
	left := rows - around
	if rows == 0 || len(l.hosts)+len(l.links) <= left {
		return len(l.hosts), len(l.links)
	}
	hosts = min(len(l.hosts), max(1, left/3, left-len(l.links)))
	return hosts, max(1, left-hosts)
}

func (l live) drawHosts(out *bytes.Buffer, room int, color bool) {
	list := foremost(l.hosts, room, func(x, y liveHost) int {
		return cmp.Or(wrongFirst(x.wrong, y.wrong), busier(x.sent.Plus(x.received), y.sent.Plus(y.received)))
	})
	rows := [][]string{{"HOST", "STATE", "ENDPOINTS", "LINKS", "SENT", "RECEIVED"}}
	likes := [][]string{make([]string, len(rows[0]))}
	for _, h := range list[:min(room, len(list))] {
		like := h.state
		if h.wrong {
			like = "down"
		}
		rows = append(rows, []string{
			h.name, h.state, h.endpoints, fmt.Sprint(h.links), rateText(h.sent), rateText(h.received),
		})
		likes = append(likes, []string{"", like, "", "", "", ""})
	}
	out.WriteByte('\n')
	writeCells(out, rows, likes, color)
	if rest := list[min(room, len(list)):]; len(rest) > 0 {
		wrong := 0
		var sent, received *panels.Rate
		for _, h := range rest {
			if h.wrong {
				wrong++
			}
			sent, received = sent.Plus(h.sent), received.Plus(h.received)
		}
		fmt.Fprintf(out, "… %d more, %d with trouble: %s sent, %s received\n", len(rest), wrong, rateText(sent),
			rateText(received))
	}
}

func (l live) drawLinks(out *bytes.Buffer, room int, color bool) {
	list := foremost(l.links, room, func(x, y liveLink) int {
		return cmp.Or(wrongFirst(x.wrong, y.wrong), busier(x.ab.Plus(x.ba), y.ab.Plus(y.ba)))
	})
	rows := [][]string{{"LINK", "OVER", "STATE", "→", "←", "LOSS → ←", "RTT"}}
	likes := [][]string{make([]string, len(rows[0]))}
	for _, x := range list[:min(room, len(list))] {
		like := x.state
		if x.wrong {
			_, like = shortState(api.Way{Probed: api.Probed{State: x.state}})
			like = cmp.Or(like, "down")
		}
		loss := "-"
		if x.lossAB != nil || x.lossBA != nil {
			loss = cmp.Or(percentText(x.lossAB), "-") + " " + cmp.Or(percentText(x.lossBA), "-")
		}
		rows = append(rows, []string{
			x.a + " ↔ " + x.b, string(x.encap), x.state, rateText(x.ab), rateText(x.ba), loss, cmp.Or(rttText(x.rtt), "-"),
		})
		likes = append(likes, []string{"", "", like, "", "", "", ""})
	}
	out.WriteByte('\n')
	writeCells(out, rows, likes, color)
	if rest := list[min(room, len(list)):]; len(rest) > 0 {
		ok, wrong := 0, 0
		var both *panels.Rate
		for _, x := range rest {
			if x.wrong {
				wrong++
			} else if x.known {
				ok++
			}
			both = both.Plus(x.ab).Plus(x.ba)
		}
		fmt.Fprintf(out, "… %d more, %d ok, %d with trouble, %d not known: %s\n",
			len(rest), ok, wrong, len(rest)-ok-wrong, rateText(both))
	}
}

// foremost puts those that matter first, where not all have room; else they stay in their
// order.
func foremost[T any](list []T, room int, compare func(x, y T) int) []T {
	if len(list) <= room {
		return list
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, compare)
	return list
}

func wrongFirst(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

func busier(x, y *panels.Rate) int {
	bits := func(r *panels.Rate) float64 {
		if r == nil {
			return -1
		}
		return r.Bits
	}
	return cmp.Compare(bits(y), bits(x))
}

// text is the picture with what has to be said above it.
func (l live) text(hint string, rows int, color bool) string {
	var out bytes.Buffer
	if hint != "" {
		out.WriteString("as last known: " + cli.Printable(strings.TrimSpace(hint)) + "\n")
		rows = max(rows-1, min(rows, 1))
	}
	l.draw(&out, rows, color)
	return out.String()
}
