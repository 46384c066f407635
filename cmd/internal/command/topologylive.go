package command

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
)

// rate is what goes in a second.
type rate struct{ bits, packets float64 }

func (r *rate) plus(x *rate) *rate {
	switch {
	case r == nil:
		return x
	case x == nil:
		return r
	}
	return &rate{r.bits + x.bits, r.packets + x.packets}
}

// String is the rate for people; nil is not known.
func (r *rate) String() string {
	if r == nil {
		return "-"
	}
	return scaled(r.bits) + "bit/s " + scaled(r.packets) + "p/s"
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

// answered are the last two answers of nodes.
type answered struct {
	before, now map[string]*api.Traffic
	// silent says why a node did not answer.
	silent map[string]error
}

// liveHost is a line of the picture.
type liveHost struct {
	name, state    string
	wrong          bool
	endpoints      string
	links          int
	sent, received *rate
}

// liveLink is one; ab is the direction from A to B.
type liveLink struct {
	linkID
	state        string
	wrong, known bool
	ab, ba       *rate
	lossAB       *int
	lossBA       *int
	rtt          api.Duration
}

// live is the picture at a moment.
type live struct {
	hosts    []liveHost
	links    []liveLink
	networks int
	total    *rate
}

// liveOf puts the picture together.
func liveOf(t draw.Topology, a answered) live {
	l := live{networks: len(t.Networks)}
	links := map[linkID]*liveLink{}
	for _, x := range t.Tunnels {
		id := linkID{x.A, x.B, x.Encap}
		links[id] = &liveLink{linkID: id}
	}
	// What is routed has no tunnel: who probes or counts it says that there is a link.
	for node, x := range a.now {
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
		for node, way := range map[string][2]*rate{x.a: {x.ab, x.ba}, x.b: {x.ba, x.ab}} {
			if h := hosts[node]; h != nil {
				h.links++
				h.sent, h.received = h.sent.plus(way[0]), h.received.plus(way[1])
			}
		}
		l.total = l.total.plus(x.ab).plus(x.ba)
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

func hostOf(n draw.Node, a answered) *liveHost {
	h := &liveHost{name: n.Name, state: string(n.Status), endpoints: "-"}
	h.wrong = n.Status == draw.Down || n.Status == draw.Unknown
	t := a.now[n.Name]
	switch {
	case n.Status != draw.Ready:
	case t == nil && a.silent[n.Name] != nil:
		h.state, h.wrong = "no answer", true
	case t == nil: // not asked yet
	case !t.Ready:
		h.state, h.wrong = "not ready", true
	case t.Errors > 0:
		h.state, h.wrong = counted(t.Errors, "error"), true
	}
	if t != nil {
		h.endpoints = fmt.Sprint(t.Endpoints)
	}
	return h
}

// end is what one node says of a link: how the way from it is, and what it counts.
func (a answered) end(node, peer string, encap topology.Transport) (l api.Link, sent, received *rate) {
	l, known := findLink(a.now[node], peer, encap)
	before, earlier := findLink(a.before[node], peer, encap)
	if !known || !earlier || l.Counted == nil || before.Counted == nil {
		return l, nil, nil
	}
	seconds := time.Duration(a.now[node].At - a.before[node].At).Seconds()
	x, y := before.Counted, l.Counted
	return l, rateOf(x.SentBytes, y.SentBytes, x.SentPackets, y.SentPackets, seconds),
		rateOf(x.ReceivedBytes, y.ReceivedBytes, x.ReceivedPackets, y.ReceivedPackets, seconds)
}

// rateOf is the rate between two readings; nil where the counters, or the agent, began
// anew.
func rateOf(bytes0, bytes1, packets0, packets1 uint64, seconds float64) *rate {
	if seconds <= 0 || bytes1 < bytes0 || packets1 < packets0 {
		return nil
	}
	return &rate{8 * float64(bytes1-bytes0) / seconds, float64(packets1-packets0) / seconds}
}

// fill takes what both ends say.
func (x *liveLink) fill(a answered) {
	one, sent, received := a.end(x.a, x.b, x.encap)
	two, sentBack, receivedThere := a.end(x.b, x.a, x.encap)
	// What arrived; Open vSwitch's userspace datapath counts twice what it sends.
	x.ab, x.ba = cmp.Or(receivedThere, sent), cmp.Or(received, sentBack)
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

// findLink finds one in an answer.
func findLink(t *api.Traffic, peer string, encap topology.Transport) (api.Link, bool) {
	if t == nil {
		return api.Link{}, false
	}
	i := slices.IndexFunc(t.Links, func(l api.Link) bool { return l.Node == peer && l.Encap == encap })
	if i < 0 {
		return api.Link{}, false
	}
	return t.Links[i], true
}

// draw writes the picture in so many lines; 0 for all.
func (l live) draw(out *bytes.Buffer, rows int, color bool) {
	hosts, links := l.rooms(rows)
	fmt.Fprintf(out, "%s, %s, %s: %s\n", counted(len(l.hosts), "host"), counted(l.networks, "network"),
		counted(len(l.links), "link"), l.total)
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
		return cmp.Or(wrongFirst(x.wrong, y.wrong), busier(x.sent.plus(x.received), y.sent.plus(y.received)))
	})
	rows := [][]string{{"HOST", "STATE", "ENDPOINTS", "LINKS", "SENT", "RECEIVED"}}
	likes := [][]string{make([]string, len(rows[0]))}
	for _, h := range list[:min(room, len(list))] {
		like := h.state
		if h.wrong {
			like = "down"
		}
		rows = append(rows, []string{h.name, h.state, h.endpoints, fmt.Sprint(h.links), h.sent.String(), h.received.String()})
		likes = append(likes, []string{"", like, "", "", "", ""})
	}
	out.WriteByte('\n')
	writeCells(out, rows, likes, color)
	if rest := list[min(room, len(list)):]; len(rest) > 0 {
		wrong := 0
		var sent, received *rate
		for _, h := range rest {
			if h.wrong {
				wrong++
			}
			sent, received = sent.plus(h.sent), received.plus(h.received)
		}
		fmt.Fprintf(out, "… %d more, %d with trouble: %s sent, %s received\n", len(rest), wrong, sent, received)
	}
}

func (l live) drawLinks(out *bytes.Buffer, room int, color bool) {
	list := foremost(l.links, room, func(x, y liveLink) int {
		return cmp.Or(wrongFirst(x.wrong, y.wrong), busier(x.ab.plus(x.ba), y.ab.plus(y.ba)))
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
			x.a + " ↔ " + x.b, string(x.encap), x.state, x.ab.String(), x.ba.String(), loss, cmp.Or(rttText(x.rtt), "-"),
		})
		likes = append(likes, []string{"", "", like, "", "", "", ""})
	}
	out.WriteByte('\n')
	writeCells(out, rows, likes, color)
	if rest := list[min(room, len(list)):]; len(rest) > 0 {
		ok, wrong := 0, 0
		var both *rate
		for _, x := range rest {
			if x.wrong {
				wrong++
			} else if x.known {
				ok++
			}
			both = both.plus(x.ab).plus(x.ba)
		}
		fmt.Fprintf(out, "… %d more, %d ok, %d with trouble, %d not known: %s\n",
			len(rest), ok, wrong, len(rest)-ok-wrong, both)
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

func busier(x, y *rate) int {
	bits := func(r *rate) float64 {
		if r == nil {
			return -1
		}
		return r.bits
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
