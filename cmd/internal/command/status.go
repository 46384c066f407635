package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/cmd/internal/settings"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

func (r *runner) statusCommand() *ucli.Command {
	return &ucli.Command{
		Name: "status", Usage: "show how this node and the cluster are, and what to do about problems",
		Description: `On a node, its agent is asked; the rest comes from etcd. The exit code is 7 when
there are problems, 5 when neither the agent nor etcd answers.

  baize status
  baize status --watch
  baize status -o json`,
		Flags: []ucli.Flag{
			&ucli.BoolFlag{
				Name: flagWatch, Aliases: []string{"w"}, EnvVars: cli.Env("status-watch"),
				Usage: "show it again every two seconds, until Ctrl-C",
			},
			colorFlag(), outputFlag(formatsItem...),
		},
		Action: r.status,
	}
}

// statusItem is the status in JSON and YAML.
type statusItem struct {
	// Agent is null where no agent runs.
	Agent *api.Status `json:"agent"`
	// Cluster is null while etcd does not answer.
	Cluster  *clusterItem  `json:"cluster"`
	Problems []fault.Fault `json:"problems"`

	// agentErr and clusterErr say why there is no answer; nil where none was to come.
	agentErr, clusterErr error
}

type clusterItem struct {
	Revision int64 `json:"revision"`
	Networks int   `json:"networks"`
	Nodes    int   `json:"nodes"`
	Ready    int   `json:"ready"`
	Subnets  int   `json:"subnets"`
	Pins     int   `json:"pins"`
}

// add enters faults that are not there yet: the agent sees what we see.
func (s *statusItem) add(ps ...fault.Fault) { s.Problems = fault.Merge(s.Problems, ps...) }

func (r *runner) status(c *ucli.Context) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	color, err := colorOf(r, c)
	if err != nil {
		return err
	}
	if c.Bool(flagWatch) {
		return r.watchStatus(c, format, color)
	}
	item := statusItem{Problems: []fault.Fault{}}
	if err := r.statusOf(c, &item); err != nil {
		return err
	}
	err = r.printStatus(format, item, color)
	switch {
	case err != nil:
		return err
	case item.Agent == nil && item.Cluster == nil:
		return &cli.ExitStatus{Code: cli.ExitUnavailable}
	case len(item.Problems) > 0:
		return &cli.ExitStatus{Code: exitProblems}
	}
	return nil
}

func (r *runner) printStatus(format string, item statusItem, color bool) error {
	if !isTable(format) {
		return r.data(format, item)
	}
	return r.statusText(item, color)
}

// watchStatus shows the status again and again.
func (r *runner) watchStatus(c *ucli.Context, format string, color bool) error {
	quiet := *r // what it waits for would stand in the middle of the screen
	quiet.Err = io.Discard
	ask := polling("asking the agent and etcd", func(context.Context, *ucli.Context) ([]statusItem, error) {
		item := statusItem{Problems: []fault.Fault{}}
		err := quiet.statusOf(c, &item)
		return []statusItem{item}, err
	})
	return r.watching(c, func(_ bool, show func(string, error) error) error {
		return ask(r, c, true, func(items []statusItem, stale error) error {
			var out bytes.Buffer
			drawn := *r
			drawn.Out = &out
			if err := drawn.printStatus(format, items[0], color); err != nil {
				return err
			}
			return show(out.String(), stale)
		})
	})
}

// statusOf asks the agent and etcd. One that does not answer is a fault where
// the other does.
func (r *runner) statusOf(c *ucli.Context, item *statusItem) error {
	agentErr := r.agentStatus(c, item)
	if item.Agent != nil && item.Agent.Etcd.Unused {
		return nil // then there is none to ask
	}
	clusterErr := r.withTopology(c, "", func(snap *topology.Snapshot) error {
		item.Cluster = newClusterItem(snap)
		item.add(snap.Validate()...)
		item.add(snap.Down()...)
		item.add(snap.Deletions()...)
		return nil
	})
	for _, err := range []error{clusterErr, agentErr} {
		if err != nil && !errors.Is(err, topology.ErrUnavailable) {
			return err
		}
	}
	if clusterErr != nil && item.Agent == nil && agentErr == nil {
		return clusterErr
	}
	item.agentErr, item.clusterErr = agentErr, clusterErr
	for _, err := range []error{clusterErr, agentErr} {
		if err == nil {
			continue
		}
		// The agent sees the same, and does not say where this command has etcd from.
		f := fault.Of(err)
		same := func(p fault.Fault) bool { return f.Code != "" && p.Code == f.Code && p.What == f.What }
		if !slices.ContainsFunc(item.Problems, same) {
			item.add(f)
		}
	}
	return nil
}

// agentLine says why there is nothing to tell of the agent.
func (s *statusItem) agentLine() string {
	switch {
	case s.agentErr == nil:
		return "Node: no agent runs on this host"
	case errors.Is(s.agentErr, os.ErrPermission):
		return "Node: unknown, because this user may not open the agent's socket"
	}
	return "Node: its agent does not answer"
}

// clusterLine says why there is nothing to tell of the cluster.
func (s *statusItem) clusterLine() string {
	switch {
	case s.Agent != nil && s.Agent.Etcd.Unused:
		return "Cluster: unknown here, because the agent has no etcd"
	case errors.Is(s.clusterErr, os.ErrPermission):
		return "Cluster: unknown, because this user may not read where etcd is"
	}
	return "Cluster: etcd does not answer"
}

// agentStatus asks the agent. Where no socket is, this is no node: that is no
// error unless a socket was named.
func (r *runner) agentStatus(c *ucli.Context, item *statusItem) error {
	socket := r.socket(c)
	named := socket.Source == settings.Flag || socket.Source == settings.Environment
	if _, err := os.Stat(socket.Value); errors.Is(err, os.ErrNotExist) && !named {
		return nil
	}
	s, err := waiting(r, c, "asking the agent", func(ctx context.Context) (api.Status, error) {
		return r.agentClient(c).Status(ctx)
	})
	if err != nil {
		return err
	}
	item.Agent = &s
	item.add(s.Problems...)
	return nil
}

func newClusterItem(s *topology.Snapshot) *clusterItem {
	out := &clusterItem{
		Revision: s.Revision,
		Networks: len(s.Networks),
		Nodes:    len(s.Nodes),
		Subnets:  len(s.Subnets),
		Pins:     len(s.Pins),
	}
	for name := range s.Nodes {
		if draw.StatusOf(s, name) == draw.Ready {
			out.Ready++
		}
	}
	return out
}

func (r *runner) statusText(item statusItem, color bool) error {
	var b strings.Builder
	title := ""
	if a := item.Agent; a != nil {
		title = agentTitle(*a, color)
		agentText(&b, *a)
	} else {
		b.WriteString(item.agentLine() + "\n")
	}
	if cl := item.Cluster; cl != nil {
		fmt.Fprintf(
			&b,
			"\nCluster: %s, %d ready; %s, %s, %s; etcd at revision %d\n",
			fault.Counted(
				cl.Nodes,
				"node",
			),
			cl.Ready,
			fault.Counted(cl.Networks, "network"),
			fault.Counted(cl.Subnets, "subnet"),
			fault.Counted(cl.Pins, "pin"),
			cl.Revision,
		)
	} else {
		b.WriteString("\n" + item.clusterLine() + "\n")
	}
	if len(item.Problems) == 0 {
		b.WriteString("\nNo problems.\n")
	} else {
		fmt.Fprintf(&b, "\n%s:\n", capital(fault.Counted(len(item.Problems), "problem")))
	}
	for _, p := range item.Problems {
		headline := p
		headline.Remedy = ""
		fmt.Fprintf(&b, "  %s%s\n", headline, sinceText(p.Since))
		if p.Remedy != "" {
			fmt.Fprintf(&b, "      → %s\n", p.Remedy)
		}
	}
	_, err := fmt.Fprint(r.Out, title, fault.Printable(b.String()))
	return err
}

// agentTitle is the first line, in which the state has its colour.
func agentTitle(a api.Status, color bool) string {
	state := "not ready"
	if a.Ready {
		state = "ready"
	}
	if color {
		state = cli.Paint(state)
	}
	return fmt.Sprintf("Node %s: %s\n", fault.Printable(a.Node), state)
}

// sinceText says when a fault was seen first, where somebody keeps that.
func sinceText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return ", first seen " + cli.Ago(time.Since(t))
}

func agentText(b *strings.Builder, a api.Status) {
	etcd := fmt.Sprintf("connected, revision %d", a.Etcd.Revision)
	switch {
	case a.Etcd.Unused:
		etcd = "none, the topology is from elsewhere"
	case !a.Etcd.Connected:
		etcd = fmt.Sprintf("not connected, working from revision %d", a.Etcd.Revision)
	}
	rows := [][]string{
		{"agent:", fmt.Sprintf("%s, up %s", orUnknown(a.Version), time.Duration(a.Uptime).Round(time.Second))},
		{"etcd:", etcd},
		{"bridge:", fmt.Sprintf("%s, %s, %s", a.Bridge, fault.Counted(a.Ports, "port"), fault.Counted(a.Flows, "flow"))},
		{"datapath:", withReason(a.Datapath, a.DatapathReason)},
		{"Open vSwitch:", orUnknown(a.OVSVersion)},
	}
	for _, reason := range sortedNames(a.Drops) {
		rows = append(rows, []string{"dropped " + reason + ":", fault.Counted(int(a.Drops[reason]), "packet")})
	}
	for _, s := range a.Segments {
		rows = append(rows, []string{s.Name + ":", fmt.Sprintf("a part of %s, %s", s.Network, orDash(joined(s.Subnets)))})
	}
	for _, x := range a.FastPath {
		rows = append(rows, []string{"fast path of " + x.Network + ":", fastPathText(x)})
	}
	for _, x := range a.BGP {
		rows = append(
			rows,
			[]string{
				"BGP " + x.Neighbor.String() + ":",
				fmt.Sprintf("AS %d, %s for %s", x.AS, x.State, time.Since(x.Since).Round(time.Second)),
			},
		)
	}
	if len(a.Foreign) > 0 {
		rows = append(rows, []string{"not ours:", strings.Join(a.Foreign, ", ")})
	}
	indented(b, rows)
	table(
		b,
		[]string{"NETWORK", "VNI", "TRANSPORT", "MTU", "SUBNETS", "PEERS", "ENDPOINTS"},
		a.Networks,
		func(n api.Network) []string {
			return []string{
				n.Name, strconv.FormatUint(uint64(n.VNI), 10), string(n.Transport), strconv.Itoa(n.MTU),
				orDash(joined(n.Subnets)), strconv.Itoa(n.Peers), strconv.Itoa(n.Endpoints),
			}
		},
	)
	table(b, []string{"PEER", "ENCAP", "VTEP", "PORT", "AGENT", "TUNNEL"}, a.Peers, peerRow)
	table(b, []string{"ENDPOINT", "NETWORK", "IPS", "MAC", "CONTAINER"}, a.Endpoints, func(e api.Endpoint) []string {
		return []string{e.Name, e.Network, orDash(joined(e.IPs)), orDash(e.MAC), orDash(e.Container)}
	})
}

// fastPathText says what takes the fast path, and how much has.
func fastPathText(x api.FastPath) string {
	if !x.Used {
		return "not used: " + x.Why
	}
	packets := map[string]uint64{}
	for _, c := range x.Counters {
		packets[c.Direction] += c.Packets
	}
	return fmt.Sprintf("%s; packets sent: %d, received: %d", x.Why, packets["sent"], packets["received"])
}

func peerRow(p api.Peer) []string {
	alive, tunnel := "down", "up" // a port that can forward says nothing of what arrives
	switch {
	case p.Alive:
		alive = "ready"
	case p.Layout != "":
		alive = p.Layout
	}
	if p.Error != "" {
		tunnel = p.Error
	} else if p.OFPort < 1 {
		tunnel = "no port yet"
	} else if p.Probed != nil {
		tunnel = probedText(*p.Probed)
	}
	return []string{p.Node, orDash(string(p.Encap)), orDash(joined(p.VTEPs)), orDash(p.Port), alive, tunnel}
}

// probedText says how a tunnel is that has a port.
func probedText(p api.Probed) string {
	switch {
	case p.State == api.StateOK && p.RTT > 0:
		return "ok, " + roundRTT(p.RTT)
	case slices.Contains(api.StatesUnknown(), p.State):
		return "up, " + p.State
	}
	return p.State
}

// table writes an indented table after an empty line; nothing without rows.
func table[T any](b *strings.Builder, head []string, items []T, row func(T) []string) {
	if len(items) == 0 {
		return
	}
	b.WriteByte('\n')
	rows := [][]string{head}
	for _, x := range items {
		rows = append(rows, row(x))
	}
	indented(b, rows)
}

func indented(b *strings.Builder, rows [][]string) {
	for i := range rows {
		rows[i][0] = "  " + rows[i][0]
	}
	_ = writeRows(b, rows) // a strings.Builder does not fail
}

func withReason(s, reason string) string {
	if reason == "" {
		return orUnknown(s)
	}
	return fmt.Sprintf("%s (%s)", s, reason)
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
