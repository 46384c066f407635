package draw

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// A large cluster is drawn as a map: a box for each segment of the underlay, a tile for
// each host in it. All pairs of hosts have tunnels, so these are told in words.

const (
	tileHeight = 24.0
	tileGap    = 6.0
	// mapWidth is what the boxes of a map are laid out in.
	mapWidth = 1280.0
	// maxName is how many characters of a host's name a tile shows.
	maxName = 22
	// maxMissing is how many pairs without a tunnel are named.
	maxMissing = 5
)

// area is a segment of the underlay with its hosts.
type area struct {
	name  string
	nodes []Node
}

// SegmentOf names the segment of the underlay that a host with these VTEPs is in: by the
// first of them, the /24, and the /64 in IPv6.
func SegmentOf(vteps []netip.Addr) string {
	if len(vteps) == 0 {
		return "no address"
	}
	bits := 24
	if vteps[0].Is6() {
		bits = 64
	}
	return netip.PrefixFrom(vteps[0], bits).Masked().String()
}

// areas groups hosts by their segments.
func (t Topology) areas() []area {
	var out []area
	at := map[string]int{}
	for _, n := range t.Nodes {
		name := SegmentOf(n.VTEPs)
		i, known := at[name]
		if !known {
			i = len(out)
			at[name] = i
			out = append(out, area{name: name})
		}
		out[i].nodes = append(out[i].nodes, n)
	}
	return out
}

// title is "192.168.77.0/24 · 40 hosts, 2 down".
func (a area) title() string {
	text := a.name + " · " + fault.Counted(len(a.nodes), "host")
	for _, s := range a.states() {
		text += fmt.Sprintf(", %d %s", a.count(s), s)
	}
	return text
}

func (a area) count(s Status) (n int) {
	for _, x := range a.nodes {
		if x.Status == s {
			n++
		}
	}
	return n
}

// states are those of its hosts, but for that of all being well.
func (a area) states() []Status {
	var out []Status
	for _, n := range a.nodes {
		if n.Status != Ready && !slices.Contains(out, n.Status) {
			out = append(out, n.Status)
		}
	}
	slices.Sort(out)
	return out
}

// drawMap draws the boxes, those with few hosts side by side.
func (t Topology) drawMap(p *picture, top float64) (width, bottom float64) {
	y := top
	for _, line := range t.meshes() {
		p.text(margin, y+4, "q", line)
		y += 20
	}
	y += 8
	class, tile := t.classes(), t.tileWidth()
	most := max(1, int((mapWidth-2*margin-20+tileGap)/(tile+tileGap)))
	x, row := margin, 0.0
	for _, a := range t.areas() {
		columns := min(len(a.nodes), most)
		w := max(float64(columns)*(tile+tileGap)-tileGap+20, float64(len(a.title()))*8+20)
		h := math.Ceil(float64(len(a.nodes))/float64(columns))*(tileHeight+tileGap) - tileGap + cardHead + 12
		if x > margin && x+w > mapWidth-margin {
			x, y, row = margin, y+row+16, 0
		}
		p.rect(x, y, w, h, 10, "card")
		p.text(x+12, y+22, "b", a.title())
		for i, n := range a.nodes {
			t.tile(p, n, class, x+10+float64(i%columns)*(tile+tileGap),
				y+cardHead+float64(i/columns)*(tileHeight+tileGap), tile)
		}
		width, row = max(width, x+w+margin), max(row, h)
		x += w + 16
	}
	return max(width, t.legendWidth()), y + row
}

// tileWidth is what the longest name and the most networks of a host need.
func (t Topology) tileWidth() float64 {
	longest, networks := 0, map[string]int{}
	for _, n := range t.Networks {
		for _, m := range n.Members {
			networks[m.Node]++
		}
	}
	most := 0
	for _, n := range t.Nodes {
		longest, most = max(longest, len([]rune(shortName(n.Name)))), max(most, networks[n.Name])
	}
	return 26 + float64(longest)*sansWidth + 10 + float64(min(most, networkClasses))*10 + 6
}

func shortName(name string) string {
	if r := []rune(name); len(r) > maxName {
		return string(r[:maxName-1]) + "…"
	}
	return name
}

// tile is a host: its state, its name, and a dot for each network that it carries.
func (t Topology) tile(p *picture, n Node, class map[string]string, x, y, w float64) {
	p.el("<g>")
	p.el("<title>%s</title>", escape(n.Name+" "+join(n.VTEPs, " ")+" "+string(n.Status)))
	p.rect(x, y, w, tileHeight, 5, "pill")
	p.dot(x+12, y+tileHeight/2, 4, n.Status.class())
	p.text(x+22, y+16, "", shortName(n.Name))
	at := x + w - 10
	shown := 0
	for _, net := range slices.Backward(t.Networks) {
		if shown < networkClasses && slices.ContainsFunc(net.Members, func(m Member) bool { return m.Node == n.Name }) {
			p.dot(at, y+tileHeight/2, 4, class[net.Name])
			at -= 10
			shown++
		}
	}
	p.el("</g>")
}

// meshes tells the tunnels network by network: "blue: vxlan tunnels between all of its
// 40 hosts", and which pairs have none.
func (t Topology) meshes() []string {
	have := map[string]map[[2]string]bool{}
	encap := map[string]map[topology.Transport]bool{}
	for _, x := range t.Tunnels {
		for _, n := range x.Networks {
			if have[n] == nil {
				have[n], encap[n] = map[[2]string]bool{}, map[topology.Transport]bool{}
			}
			have[n][[2]string{x.A, x.B}], encap[n][x.Encap] = true, true
		}
	}
	var out []string
	for _, n := range t.Networks {
		var names []string
		for _, e := range topology.Transports() {
			if encap[n.Name][e] {
				names = append(names, string(e))
			}
		}
		if len(names) == 0 {
			continue
		}
		line := fmt.Sprintf("%s: %s tunnels between all of its %d hosts",
			n.Name, strings.Join(names, " and "), len(n.Members))
		if missing, count := n.missing(have[n.Name]); count > 0 {
			line += fmt.Sprintf(", but for %s: %s", fault.Counted(count, "pair"), strings.Join(missing, ", "))
		}
		out = append(out, line)
	}
	return out
}

// missing are pairs of members that have no tunnel: the first of them, and their number.
func (n Network) missing(have map[[2]string]bool) (first []string, count int) {
	for i, a := range n.Members {
		for _, b := range n.Members[i+1:] {
			if have[[2]string{a.Node, b.Node}] || have[[2]string{b.Node, a.Node}] {
				continue
			}
			if count++; count <= maxMissing {
				first = append(first, a.Node+" ↔ "+b.Node)
			}
		}
	}
	return first, count
}
