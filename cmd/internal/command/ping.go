package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/part"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

const (
	flagMesh    = "mesh"
	pingTimeout = 2 * time.Second
)

func (r *runner) pingCommand() *ucli.Command {
	return &ucli.Command{
		Name: "ping", Usage: "probe the tunnel to another node, or show what probes told of all pairs of nodes",
		ArgsUsage: "[NAME]",
		Description: `NAME is a node, a name that 'baize name list' shows, or an address of a network:
then the node that has it is probed. Probes go the way that frames of endpoints
go; they tell how the tunnel is, not whether a container answers. A probe without
an answer may have arrived: what is known of that is said. The exit code is 7
where a probe was not answered, or a pair is not well.

With --mesh it asks the agents of all nodes, through the tunnels, for what their
probes told, and shows a matrix of all pairs; see docs/mesh.md.

  baize ping host2
  baize ping web --size 1450 --count 10
  baize ping --mesh --watch`,
		Flags: ways.flags(
			&ucli.BoolFlag{Name: flagMesh, Usage: "all pairs of nodes", EnvVars: cli.Env("ping-mesh")},
			&ucli.IntFlag{
				Name: "count", Usage: "`NUMBER` of probes; 0: until Ctrl-C", Value: 4, EnvVars: cli.Env("ping-count"),
			},
			&ucli.IntFlag{
				Name: "size", Usage: "`BYTES` of an IP packet that an endpoint would send (default the least)",
				EnvVars: cli.Env("ping-size"), Action: between("size", 0, 65000),
			},
			&ucli.StringFlag{
				Name: "encap", Usage: "`ENCAPSULATION` of the tunnel, where the node has several", EnvVars: cli.Env("ping-encap"),
			},
			&ucli.DurationFlag{
				Name: "interval", Usage: "pause between probes", Value: time.Second, EnvVars: cli.Env("ping-interval"),
				Action: atLeast("interval", 20*time.Millisecond),
			},
		),
		Action: func(c *ucli.Context) error {
			switch name := c.Args().First(); {
			case c.Bool(flagMesh) && name != "":
				return usagef("baize ping", "takes a NAME or --mesh, not both")
			case c.Bool(flagMesh):
				return r.pingMesh(c)
			case name == "":
				return usagef("baize ping", "needs the NAME of a node, or --mesh")
			}
			return r.pingNode(c)
		},
	}
}

// pongItem is a probe in JSON and YAML.
type pongItem struct {
	Node  string             `json:"node"`
	Encap topology.Transport `json:"encap"`
	// Number counts from 1.
	Number int `json:"number"`
	Size   int `json:"size"`
	// RTT is null where no answer came in time; There says then whether the probe
	// arrived.
	RTT   *api.Duration `json:"rtt"`
	There string        `json:"there,omitempty"`
}

var pongs = kind[pongItem]{
	name: "pong",
	key:  func(p pongItem) string { return p.Node },
	columns: []column[pongItem]{
		{"NODE", plain, func(p pongItem) any { return p.Node }},
		{"ENCAP", plain, func(p pongItem) any { return p.Encap }},
		{"NUMBER", plain, func(p pongItem) any { return p.Number }},
		{"SIZE", plain, func(p pongItem) any { return p.Size }},
		{"RTT", plain, func(p pongItem) any { return p.RTT }},
		{"THERE", plain, func(p pongItem) any { return p.There }},
	},
}

// pingNode probes one node.
func (r *runner) pingNode(c *ucli.Context) error {
	f, err := pongs.form(r, c)
	if err != nil {
		return err
	}
	req := api.PingRequest{
		Node: c.Args().First(), Encap: topology.Transport(c.String("encap")), Size: c.Int("size"),
		Timeout: api.Duration(pingTimeout),
	}
	var list []pongItem
	lines := isTable(string(f.format))
	for n := 1; c.Int("count") == 0 || n <= c.Int("count"); n++ {
		began := time.Now()
		p, err := r.ping(c, &req)
		if err != nil && c.Context.Err() == nil {
			return err
		}
		if c.Context.Err() != nil {
			break // it is how it is meant to end
		}
		item := pongItem{Node: p.Node, Encap: p.Encap, Number: n, Size: p.Size, There: p.There}
		if p.RTT > 0 {
			item.RTT = &p.RTT
		}
		list = append(list, item)
		if lines {
			if err := r.say("%s", pongLine(item)); err != nil {
				return err
			}
		}
		if n != c.Int("count") && !part.Sleep(c.Context, c.Duration("interval")-time.Since(began)) {
			break
		}
	}
	answered := slices.DeleteFunc(slices.Clone(list), func(p pongItem) bool { return p.RTT == nil })
	if lines {
		err = r.say("%s, %d answered%s", fault.Counted(len(list), "probe"), len(answered), rttRange(answered))
	} else {
		err = pongs.print(r, f, list)
	}
	if err == nil && len(answered) < len(list) {
		err = &cli.ExitStatus{Code: exitProblems}
	}
	return err
}

// ping sends one probe. A name that is no peer's is looked for in etcd, once.
func (r *runner) ping(c *ucli.Context, req *api.PingRequest) (api.Pong, error) {
	p, err := r.agentClient(c).Ping(c.Context, *req)
	if !errors.Is(err, topology.ErrNotFound) {
		return p, err
	}
	var node string
	lookErr := r.withTopology(c, "", func(s *topology.Snapshot) error {
		if _, isNode := s.Nodes[req.Node]; !isNode {
			node = nodeOf(s, req.Node)
		}
		return nil
	})
	if lookErr != nil || node == "" {
		return p, err
	}
	if err := r.say("%s is on node %s", req.Node, node); err != nil {
		return p, err
	}
	req.Node = node
	return r.agentClient(c).Ping(c.Context, *req)
}

// nodeOf returns the node that has a name or an address; "" where none has.
func nodeOf(s *topology.Snapshot, name string) string {
	a, _ := netip.ParseAddr(name)
	for _, n := range s.SortedNetworks() {
		for _, form := range topology.NameForms(n.Name, name) {
			for _, p := range s.Published(n.Name) {
				if p.Name == form {
					return p.Node
				}
			}
		}
		if pin, pinned := s.Pins[topology.PinID{Network: n.Name, Addr: a}]; pinned {
			return pin.Node
		}
		if home, leased := s.Home(n.Name, a); leased {
			return home.Node
		}
	}
	return ""
}

func pongLine(p pongItem) string {
	way := fmt.Sprintf("%s over %s, %d bytes: ", p.Node, p.Encap, p.Size)
	switch {
	case p.RTT != nil:
		return way + roundRTT(*p.RTT)
	case p.There == "yes":
		return way + "no answer; the probe arrived, so what is lost is the way back"
	case p.There == "no":
		return way + "no answer; the probe did not arrive"
	}
	return way + "no answer"
}

// rttRange says how fast answers were.
func rttRange(list []pongItem) string {
	if len(list) == 0 {
		return ""
	}
	rtts := make([]api.Duration, len(list))
	for i, p := range list {
		rtts[i] = *p.RTT
	}
	slices.Sort(rtts)
	return fmt.Sprintf("; least %s, median %s, most %s",
		roundRTT(rtts[0]), roundRTT(rtts[len(rtts)/2]), roundRTT(rtts[len(rtts)-1]))
}

// roundRTT writes a time in three digits or so: "0.42ms", "210ms".
func roundRTT(d api.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2fms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1fms", ms)
	}
	return fmt.Sprintf("%.0fms", ms)
}

var ways = kind[api.Way]{
	name: "way",
	key:  func(w api.Way) string { return w.From + "/" + w.To + "/" + string(w.Encap) },
	none: "no other node has a network with tunnels in common with this one",
	columns: []column[api.Way]{
		{"FROM", plain, func(w api.Way) any { return w.From }},
		{"TO", plain, func(w api.Way) any { return w.To }},
		{"ENCAP", plain, func(w api.Way) any { return w.Encap }},
		{"STATE", state, func(w api.Way) any { return w.State }},
		{"LOSS", plain, func(w api.Way) any { return percentText(w.LossOut) }},
		{"LOSS BACK", plain, func(w api.Way) any { return percentText(w.LossIn) }},
		{"RTT", plain, func(w api.Way) any { return rttText(w.RTT) }},
		{"PASSES", plain, func(w api.Way) any { return passesText(w.Passes) }},
	},
	draw: drawMatrix,
}

func percentText(n *int) string {
	if n == nil {
		return ""
	}
	return fmt.Sprintf("%d%%", *n)
}

func rttText(d api.Duration) string {
	if d == 0 {
		return ""
	}
	return roundRTT(d)
}

func passesText(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// pingMesh shows all pairs.
func (r *runner) pingMesh(c *ucli.Context) error {
	bad := false
	from := fromAgent(func(ctx context.Context, _ *ucli.Context, agent *api.Client) ([]api.Way, error) {
		list, err := agent.Mesh(ctx)
		bad = slices.ContainsFunc(list, func(w api.Way) bool { return wrongState(w.State) })
		return list, err
	})
	err := ways.list(r, from)(c)
	if err == nil && bad && !c.Bool(flagWatch) {
		err = &cli.ExitStatus{Code: exitProblems}
	}
	return err
}

// wrongState reports whether something is wrong with a way.
func wrongState(s string) bool {
	return s != api.StateOK && !slices.Contains(api.StatesUnknown(), s)
}

// shortState is a way in a cell of the matrix, and the state whose colour it has.
func shortState(w api.Way) (text, like string) {
	switch w.State {
	case api.StateOK:
		return cmp.Or(rttText(w.RTT), "ok"), api.StateOK
	case api.StateSilent, api.StateMisled:
		return strings.Fields(w.State)[0], "down"
	case api.StateDeaf:
		return "one-way", "down"
	case api.StateLossy:
		lost := 0
		for _, n := range []*int{w.LossOut, w.LossIn} {
			if n != nil {
				lost = max(lost, *n)
			}
		}
		return fmt.Sprintf("-%d%%", lost), "warning"
	case api.StateNarrow:
		return fmt.Sprintf("≤%dB", w.Passes), "warning"
	case api.StateSlow:
		return roundRTT(w.RTT), "warning"
	case api.StateDown:
		return "down", ""
	}
	return "?", ""
}
