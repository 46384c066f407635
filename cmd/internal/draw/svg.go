package draw

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// The most hosts a picture shows in a row and around a ring. A larger cluster is
// drawn by segments of the underlay (map.go).
const (
	maxRow  = 6
	maxRing = 14
	// maxChips is how many endpoints of a network a host shows.
	maxChips = 3
)

// Sizes in SVG user units (pixels at scale 1).
const (
	margin     = 32.0
	gap        = 40.0
	lineHeight = 17.0
	monoWidth  = 6.7 // of a character at 11px, monospaced
	sansWidth  = 6.6 // of a character at 12px, on average
)

// svgStyle has one colour per network class, twice: for light and for dark
// surroundings. Only fill and stroke are used, which every viewer knows.
const svgStyle = `text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;` +
	`font-size:12px;fill:#1f2933}
.m{font-family:ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace;font-size:11px}
.h{font-size:15px;font-weight:600}.b{font-weight:600}.q{fill:#616e7c}
.bg{fill:#ffffff;stroke:#d9e2ec}.card{fill:#f7f9fb;stroke:#9fb3c8;stroke-width:1.2}
.pill{fill:#ffffff;stroke:#9fb3c8}.under{stroke:#627d98;stroke-width:3;fill:none}` +
	`.drop{stroke:#627d98;fill:#627d98;stroke-width:1.5}
.t{fill:none;stroke:#486581;stroke-width:1.8}.t-gre{stroke-dasharray:8 4}.t-geneve{stroke-dasharray:2 4}
.ready{fill:#27ae60}.down{fill:#cf3a3a}.unknown{fill:#9aa5b1}.other{fill:#b7791f}
.n0{fill:#dcebfd;stroke:#2f7de1}.n1{fill:#fde2e2;stroke:#d64545}.n2{fill:#dff6e6;stroke:#2f9e5b}
.n3{fill:#fdf0d5;stroke:#d48806}.n4{fill:#ece3fc;stroke:#7c4dd6}.n5{fill:#d9f5f5;stroke:#14919b}
@media (prefers-color-scheme:dark){text{fill:#e4e7eb}.q{fill:#9aa5b1}
.bg{fill:#12181f;stroke:#323f4b}.card{fill:#1b232c;stroke:#52606d}.pill{fill:#12181f;stroke:#52606d}
.under,.drop{stroke:#829ab1}.drop{fill:#829ab1}.t{stroke:#9fb3c8}
.n0{fill:#17314f;stroke:#5b9ff0}.n1{fill:#4a2020;stroke:#ef7b7b}.n2{fill:#173d27;stroke:#57c785}
.n3{fill:#46340f;stroke:#f0b429}.n4{fill:#33244f;stroke:#a987f0}.n5{fill:#0f3a3d;stroke:#40c3cc}}
`

const networkClasses = 6

// picture collects the elements of an SVG document.
type picture struct {
	strings.Builder
}

func (p *picture) el(format string, args ...any) {
	fmt.Fprintf(p, format, args...)
	p.WriteByte('\n')
}

func escape(s string) string { return html.EscapeString(s) }

func (p *picture) text(x, y float64, class, s string) {
	p.el(`<text x="%s" y="%s"%s>%s</text>`, num(x), num(y), classAttr(class), escape(s))
}

func (p *picture) rect(x, y, w, h, r float64, class string) {
	p.el(`<rect x="%s" y="%s" width="%s" height="%s" rx="%s"%s/>`,
		num(x), num(y), num(w), num(h), num(r), classAttr(class))
}

func (p *picture) dot(x, y, r float64, class string) {
	p.el(`<circle cx="%s" cy="%s" r="%s"%s/>`, num(x), num(y), num(r), classAttr(class))
}

func classAttr(c string) string {
	if c == "" {
		return ""
	}
	return ` class="` + c + `"`
}

// num writes a coordinate with at most one decimal, so that goldens are stable.
func num(f float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.1f", f), "0"), ".")
}

// cell is one network's box in a host's card.
type cell struct {
	class string
	lines []cellLine
}

type cellLine struct{ left, right string }

// card is a host with its boxes, and its place.
type card struct {
	Node
	cells      []cell
	x, y, w, h float64
}

// classes gives every network its colour.
func (t Topology) classes() map[string]string {
	c := make(map[string]string, len(t.Networks))
	for i, n := range t.Networks {
		c[n.Name] = fmt.Sprintf("n%d", i%networkClasses)
	}
	return c
}

// cards lays out the inside of the hosts' cards; compact leaves the
// endpoints out.
func (t Topology) cards(nodes []Node, compact bool) []card {
	class := t.classes()
	out := make([]card, len(nodes))
	longest := 0
	for i, n := range nodes {
		c := card{Node: n}
		for _, net := range t.Networks {
			j := slices.IndexFunc(net.Members, func(m Member) bool { return m.Node == n.Name })
			if j < 0 {
				continue
			}
			c.cells = append(c.cells, newCell(net, net.Members[j], class[net.Name], compact))
		}
		for _, x := range c.cells {
			for _, l := range x.lines {
				longest = max(longest, len(l.left)+len(l.right)+2)
			}
		}
		longest = max(longest, len(n.Name)+8)
		out[i] = c
	}
	w := max(190, float64(longest)*monoWidth+40)
	h := 0.0
	for i := range out {
		out[i].w = w
		out[i].h = out[i].height()
		h = max(h, out[i].h)
	}
	if !compact {
		for i := range out {
			out[i].h = h // in a row all are as tall as the tallest
		}
	}
	return out
}

func newCell(net Network, m Member, class string, compact bool) cell {
	c := cell{class: class}
	for i, p := range m.Subnets {
		l := cellLine{right: m.subnetText(p)}
		if i == 0 {
			l.left = net.Name
		}
		c.lines = append(c.lines, l)
		if compact {
			break
		}
	}
	if len(m.Subnets) == 0 {
		c.lines = append(c.lines, cellLine{net.Name, "no subnet"})
	}
	if compact {
		return c
	}
	for i, e := range m.Endpoints {
		if i == maxChips {
			c.lines = append(c.lines, cellLine{"", fmt.Sprintf("and %d more", len(m.Endpoints)-maxChips)})
			break
		}
		for k, a := range e.IPs {
			l := cellLine{right: a.String()}
			if k == 0 {
				l.left = "• " + e.shown()
			}
			c.lines = append(c.lines, l)
		}
	}
	for _, p := range m.Pins {
		if !slices.ContainsFunc(m.Endpoints, func(e Endpoint) bool { return slices.Contains(e.IPs, p.Address) }) {
			c.lines = append(c.lines, cellLine{"pin", p.Address.String()})
		}
	}
	return c
}

// subnetText names the segment that has the subnet's addresses, if one has.
func (m Member) subnetText(p netip.Prefix) string {
	for _, s := range m.Segments {
		if slices.Contains(s.Subnets, p) {
			return s.Name + " " + p.String()
		}
	}
	return p.String()
}

// shown is what people call an endpoint.
func (e Endpoint) shown() string { return cmp.Or(e.Container, e.Name) }

// class is that of a state's dot; a host that does not run Baize has none of ours.
func (s Status) class() string {
	switch s {
	case Ready, Down, Unknown:
		return string(s)
	}
	return "other"
}

const cardHead = 34.0

func (c card) height() float64 {
	h := cardHead
	for _, x := range c.cells {
		h += float64(len(x.lines))*lineHeight + 18
	}
	if len(c.cells) == 0 {
		h += lineHeight
	}
	return h + 6
}

func (p *picture) card(c card) {
	p.rect(c.x, c.y, c.w, c.h, 10, "card")
	p.dot(c.x+18, c.y+18, 5, c.Status.class())
	p.text(c.x+30, c.y+23, "h", c.Name)
	if c.Status != Ready {
		p.el(`<text x="%s" y="%s" class="q" text-anchor="end">%s</text>`, num(c.x+c.w-12), num(c.y+22), c.Status)
	}
	y := c.y + cardHead
	for _, x := range c.cells {
		h := float64(len(x.lines))*lineHeight + 10
		p.rect(c.x+10, y, c.w-20, h, 6, x.class)
		for i, l := range x.lines {
			ty := y + 18 + float64(i)*lineHeight
			if l.left != "" {
				class := "b"
				if strings.HasPrefix(l.left, "•") || l.left == "pin" {
					class = ""
				}
				p.text(c.x+18, ty, class, l.left)
			}
			p.el(`<text x="%s" y="%s" class="m" text-anchor="end">%s</text>`,
				num(c.x+c.w-18), num(ty), html.EscapeString(l.right))
		}
		y += h + 8
	}
	if len(c.cells) == 0 {
		p.text(c.x+18, y+12, "q", "no network")
	}
}

// tunnelLabel puts a tunnel's encapsulation, and the colours of its networks, on a
// curve.
func (p *picture) tunnelLabel(x, y float64, t Tunnel, class map[string]string) {
	shown := t.Networks[:min(len(t.Networks), 8)]
	w := float64(len(t.Encap))*sansWidth + 20 + float64(len(shown))*11
	p.rect(x-w/2, y-10, w, 20, 10, "pill")
	p.text(x-w/2+9, y+4, "", string(t.Encap))
	for i, n := range shown {
		p.dot(x+w/2-12-float64(len(shown)-1-i)*11, y, 4, class[n])
	}
}

// SVG writes the topology as a picture of hosts on their underlay, the subnets
// they own, and the tunnels between them. It has its own background and reads
// well on light and on dark pages.
func SVG(w io.Writer, t Topology) error {
	p := &picture{}
	legend := t.legendHeight()
	top := margin + legend
	var width, bottom float64
	switch {
	case len(t.Nodes) == 0:
		p.text(margin, top+20, "q", "No nodes yet: start 'baize agent' on each host.")
		width, bottom = 560, top+30
	case len(t.Nodes) <= maxRow:
		width, bottom = t.drawRow(p, top)
	case len(t.Nodes) <= maxRing:
		width, bottom = t.drawRing(p, top)
	default:
		width, bottom = t.drawMap(p, top)
	}
	width = max(width, t.legendWidth())
	height := bottom + margin

	out := &picture{}
	out.el(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%s" height="%s" `+
		`role="img" aria-label="%s">`,
		num(width), num(height), num(width), num(height), html.EscapeString(t.summary()))
	out.el("<title>%s</title>", html.EscapeString(t.summary()))
	out.el("<style>\n%s</style>", svgStyle)
	out.rect(0.5, 0.5, width-1, height-1, 12, "bg")
	t.drawLegend(out)
	out.WriteString(p.String())
	out.el("</svg>")
	_, err := io.WriteString(w, out.String())
	return err
}

func (t Topology) summary() string {
	names := make([]string, len(t.Networks))
	for i, n := range t.Networks {
		names[i] = n.Name
	}
	return fmt.Sprintf("Baize topology: %s, %s, networks %s",
		fault.Counted(len(t.Nodes), "host"), fault.Counted(len(t.Tunnels), "tunnel"), strings.Join(names, ", "))
}

// networkLine describes a network in the legend.
func networkLine(n Network) string {
	text := fmt.Sprintf("%s · VNI %d · %s · MTU %d", join(n.Subnets, " · "), n.VNI, n.Transport, n.MTU)
	if n.Deleting != "" {
		text += " · being deleted"
	}
	return text
}

func (t Topology) encaps() []topology.Transport {
	var out []topology.Transport
	for _, e := range topology.Transports() {
		if slices.ContainsFunc(t.Tunnels, func(x Tunnel) bool { return x.Encap == e }) {
			out = append(out, e)
		}
	}
	return out
}

func (t Topology) legendHeight() float64 { return float64(len(t.Networks)+1)*22 + 12 }

func (t Topology) legendWidth() float64 {
	w := 480.0
	for _, n := range t.Networks {
		w = max(w, 2*margin+28+float64(len(n.Name))*8+12+float64(len([]rune(networkLine(n))))*monoWidth)
	}
	return w
}

func (t Topology) drawLegend(p *picture) {
	y := margin
	for i, n := range t.Networks {
		p.rect(margin, y-10, 18, 14, 4, fmt.Sprintf("n%d", i%networkClasses))
		p.text(margin+28, y+1, "b", n.Name)
		p.text(margin+28+float64(len(n.Name))*8+12, y+1, "m", networkLine(n))
		y += 22
	}
	x := margin
	for _, e := range t.encaps() {
		p.el(`<line x1="%s" y1="%s" x2="%s" y2="%s" class="t t-%s"/>`, num(x), num(y-4), num(x+30), num(y-4), e)
		p.text(x+38, y, "q", string(e)+" tunnel")
		x += 38 + float64(len(e)+7)*sansWidth + 22
	}
	p.el(`<line x1="%s" y1="%s" x2="%s" y2="%s" class="under"/>`, num(x), num(y-4), num(x+30), num(y-4))
	p.text(x+38, y, "q", "underlay")
	x += 38 + 8*sansWidth + 22
	if slices.ContainsFunc(t.Networks, routed) {
		p.dot(x+5, y-4, 4, t.classes()[t.Networks[slices.IndexFunc(t.Networks, routed)].Name])
		p.text(x+16, y, "q", routedText)
		x += 16 + float64(len(routedText))*sansWidth + 22
	}
	for _, s := range []Status{Ready, Down} {
		p.dot(x+5, y-4, 5, string(s))
		p.text(x+16, y, "q", string(s))
		x += 16 + float64(len(s))*sansWidth + 22
	}
}

// drawRow places the hosts side by side on the underlay, tunnels arching over
// them. It returns the width and the lowest coordinate.
func (t Topology) drawRow(p *picture, top float64) (width, bottom float64) {
	cards := t.cards(t.Nodes, false)
	index := map[string]int{}
	for i, c := range cards {
		index[c.Name] = i
	}
	// Arches of equal span have one height, wider ones arch over them, and two
	// tunnels between the same hosts lie one above the other.
	const step = 32.0
	distance := func(x Tunnel) int { return index[x.B] - index[x.A] }
	perPair := map[[2]string]int{}
	slots := make([]int, len(cards))
	for _, x := range t.Tunnels {
		k := [2]string{x.A, x.B}
		perPair[k]++
		slots[distance(x)] = max(slots[distance(x)], perPair[k])
	}
	levels := make([]int, len(cards)+1)
	for d := range slots {
		levels[d+1] = levels[d] + slots[d]
	}
	cardTop := top + float64(levels[len(cards)])*step + 20
	width = 2*margin + float64(len(cards))*cards[0].w + float64(len(cards)-1)*gap
	left := margin + max(0, t.legendWidth()-width)/2
	width = max(width, t.legendWidth())
	for i := range cards {
		cards[i].x = left + float64(i)*(cards[i].w+gap)
		cards[i].y = cardTop
	}
	t.drawArches(p, cards, index, func(x Tunnel, nth int) float64 {
		return float64(levels[distance(x)]+nth+1) * step
	})

	under := cardTop + cards[0].h + 46
	p.el(`<line x1="%s" y1="%s" x2="%s" y2="%s" class="under" stroke-linecap="round"/>`,
		num(margin), num(under), num(width-margin), num(under))
	for _, c := range cards {
		mid := c.x + c.w/2
		p.el(`<line x1="%s" y1="%s" x2="%s" y2="%s" class="drop"/>`, num(mid), num(c.y+c.h), num(mid), num(under))
		for i, a := range c.VTEPs {
			p.text(mid+8, c.y+c.h+18+float64(i)*14, "m", a.String())
		}
		p.dot(mid, under, 4, "drop")
		t.routedDots(p, c, mid, under)
		p.card(c)
	}
	p.text(margin, under+20, "q", "underlay: any IP network")
	return width, under + 20
}

// routed reports whether packets of a network travel on the underlay as they are,
// where it can be.
func routed(n Network) bool { return n.Transport.Routed() }

const routedText = "routed, without a tunnel where possible"

// routedDots marks at a host's place on the underlay the networks that are routed there.
func (t Topology) routedDots(p *picture, c card, x, y float64) {
	class := t.classes()
	at := x + 14
	for _, n := range t.Networks {
		if routed(n) && slices.ContainsFunc(n.Members, func(m Member) bool { return m.Node == c.Name }) {
			p.dot(at, y, 5, class[n.Name])
			at += 13
		}
	}
}

// drawArches draws the tunnels over a row of cards. height says how high the
// apex of a tunnel is over the cards.
func (t Topology) drawArches(p *picture, cards []card, index map[string]int, height func(t Tunnel, nth int) float64) {
	// Where a host has many tunnels their ends are spread along its top edge so
	// that arches nest instead of crossing: those to the left first, the nearest
	// outermost; then those to the right, the nearest outermost again.
	ends := make([][]int, len(cards)) // per card: the tunnels, from left to right
	for i, x := range t.Tunnels {
		ends[index[x.A]] = append(ends[index[x.A]], i)
		ends[index[x.B]] = append(ends[index[x.B]], i)
	}
	for c := range ends {
		other := func(i int) int { return index[t.Tunnels[i].A] + index[t.Tunnels[i].B] - c }
		slices.SortFunc(ends[c], func(i, j int) int {
			oi, oj := other(i), other(j)
			switch {
			case oi < c && oj > c:
				return -1
			case oi > c && oj < c:
				return 1
			case oi != oj:
				return oj - oi
			case oi < c:
				return i - j // the second of a pair arches over the first
			}
			return j - i
		})
	}
	endX := func(tunnel, c int) float64 {
		k := slices.Index(ends[c], tunnel)
		return cards[c].x + cards[c].w*float64(k+1)/float64(len(ends[c])+1)
	}
	class := t.classes()
	nth := map[[2]string]int{}
	type label struct {
		x, y float64
		t    Tunnel
	}
	var labels []label
	for i, x := range t.Tunnels {
		k := [2]string{x.A, x.B}
		h := height(x, nth[k])
		nth[k]++
		x1, x2, y := endX(i, index[x.A]), endX(i, index[x.B]), cards[0].y
		// The apex of this cubic is at three quarters of its control points.
		c := h / 0.75
		p.el(`<path d="M%s %sC%s %s %s %s %s %s" class="t t-%s"/>`,
			num(x1), num(y), num(x1), num(y-c), num(x2), num(y-c), num(x2), num(y), x.Encap)
		labels = append(labels, label{(x1 + x2) / 2, y - h, x})
	}
	for _, l := range labels { // over all curves
		p.tunnelLabel(l.x, l.y, l.t, class)
	}
}

// drawRing places the hosts around the underlay, tunnels as chords.
func (t Topology) drawRing(p *picture, top float64) (width, bottom float64) {
	cards := t.cards(t.Nodes, true)
	w, h := cards[0].w, 0.0
	for _, c := range cards {
		h = max(h, c.h)
	}
	n := float64(len(cards))
	ry := max(190, n*(h+14)/4.2)
	rx := max(ry*1.35, n*(w+14)/6)
	width = max(2*margin+2*rx+w, t.legendWidth())
	cx, cy := width/2, top+ry+h/2+14
	p.el(`<ellipse cx="%s" cy="%s" rx="%s" ry="%s" class="under"/>`, num(cx), num(cy), num(rx), num(ry))
	index := map[string]int{}
	for i := range cards {
		a := -math.Pi/2 + 2*math.Pi*float64(i)/n
		cards[i].x = cx + rx*math.Cos(a) - w/2
		cards[i].y = cy + ry*math.Sin(a) - cards[i].h/2
		index[cards[i].Name] = i
	}
	for _, x := range t.Tunnels {
		i, ok1 := index[x.A]
		j, ok2 := index[x.B]
		if !ok1 || !ok2 {
			continue
		}
		a, b := cards[i], cards[j]
		x1, y1, x2, y2 := a.x+w/2, a.y+a.h/2, b.x+w/2, b.y+b.h/2
		mx, my := (x1+x2)/2, (y1+y2)/2
		p.el(`<path d="M%s %sQ%s %s %s %s" class="t t-%s"/>`,
			num(x1), num(y1), num(mx+(cx-mx)*0.45), num(my+(cy-my)*0.45), num(x2), num(y2), x.Encap)
	}
	for _, c := range cards {
		p.card(c)
		if len(c.VTEPs) > 0 {
			p.el(`<text x="%s" y="%s" class="m q" text-anchor="end">%s</text>`, num(c.x+c.w-12), num(c.y+23), vtepLabel(c))
		}
	}
	for _, c := range cards {
		bottom = max(bottom, c.y+c.h)
	}
	return width, bottom
}

// vtepLabel is a host's address where it fits beside the name and status.
func vtepLabel(c card) string {
	a := netip.Addr{}
	if len(c.VTEPs) > 0 {
		a = c.VTEPs[0]
	}
	if c.Status != Ready || !a.Is4() || float64(len(c.Name))*9+float64(len(a.String()))*monoWidth+50 > c.w {
		return ""
	}
	return a.String()
}
