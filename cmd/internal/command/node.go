package command

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

func (r *runner) nodeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "node", Usage: "list the nodes, and remove those that no longer exist",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list the nodes",
				Description: `STATUS is ready when the node's agent runs, down when it does not (its
forwarding may go on all the same), unknown when the node owns subnets but is
not registered. A host that runs another program in Baize's place has that
program's name.`,
				Flags: nodes.flags(sourceFlag()), Action: nodes.list(r, fromTopology(listNodes)),
			},
			{
				Name: "show", Usage: "show a node", ArgsUsage: "NAME",
				Flags: []ucli.Flag{sourceFlag(), outputFlag(formatsItem...)}, Action: r.nodeShow,
			},
			{
				Name: "hand-over", ArgsUsage: "NAME",
				Usage: "let another machine have a node's name, subnets and pins",
				Description: `For a machine that was set up anew, or replaced by another: a node's name, its
subnets and its pins are its installation's, also while its agent does not run.
Afterwards the next agent that starts under the name has them. It is refused
while the node's agent runs.

  baize node hand-over host3`,
				Flags:  []ucli.Flag{dryRunFlag()},
				Action: r.nodeHandOver,
			},
			{
				Name: "remove", Aliases: []string{"rm"}, ArgsUsage: "NAME",
				Usage: "remove a node for good and release its subnets",
				Description: `For a node that will not come back: a reboot or an outage needs no removal. Its
leases become free for others; subnets reserved for it stay reserved. A node whose
agent runs registers again at once: stop the agent first.

  baize node remove host3`,
				Flags: []ucli.Flag{
					&ucli.BoolFlag{Name: "force", Usage: "remove it even if its agent runs; asks first"},
					yesFlag(), dryRunFlag(),
				},
				Action: r.nodeRemove,
			},
		},
	}
}

// nodeItem is a node in JSON and YAML.
type nodeItem struct {
	Name           string               `json:"name"`
	Status         draw.Status          `json:"status"`
	VTEPs          []netip.Addr         `json:"vteps"`
	Encapsulations []topology.Transport `json:"encapsulations"`
	Datapath       string               `json:"datapath"`
	Version        string               `json:"version"`
	Hostname       string               `json:"hostname"`
	ID             string               `json:"id"`
	UnderlayMTU    int                  `json:"underlayMTU,omitempty"`
	Epoch          string               `json:"epoch,omitempty"`
	Subnets        []nodeSubnet         `json:"subnets"`
	ModRevision    int64                `json:"modRevision,omitempty"`
}

type nodeSubnet struct {
	Network  string       `json:"network"`
	Prefix   netip.Prefix `json:"prefix"`
	Reserved bool         `json:"reserved,omitempty"`
}

// nodeItems lists the registered nodes, and those that are only referred to.
func nodeItems(s *topology.Snapshot) []nodeItem {
	subnets := map[string][]nodeSubnet{}
	names := map[string]bool{}
	for _, sub := range s.SortedSubnets() {
		if sub.Node != "" {
			subnets[sub.Node] = append(subnets[sub.Node], nodeSubnet{sub.Network, sub.Prefix, sub.Reserved})
			names[sub.Node] = true
		}
	}
	for n := range s.Nodes {
		names[n] = true
	}
	for n := range s.Alive {
		names[n] = true
	}
	items := []nodeItem{}
	for _, name := range sortedNames(names) {
		n := s.Nodes[name]
		items = append(items, nodeItem{
			Name: name, Status: draw.StatusOf(s, name), VTEPs: append([]netip.Addr{}, n.VTEPs...),
			Encapsulations: append([]topology.Transport{}, n.Encapsulations...), Datapath: n.Datapath, Version: n.Version,
			Hostname: n.Hostname, ID: n.ID, UnderlayMTU: n.UnderlayMTU, Epoch: n.Epoch,
			Subnets: append([]nodeSubnet{}, subnets[name]...), ModRevision: n.ModRevision,
		})
	}
	return items
}

// subnets names the network only where the node has subnets in several.
func (n nodeItem) subnets() []string {
	several := false
	for _, s := range n.Subnets {
		several = several || s.Network != n.Subnets[0].Network
	}
	var out []string
	for _, s := range n.Subnets {
		if several {
			out = append(out, s.Network+":"+s.Prefix.String())
		} else {
			out = append(out, s.Prefix.String())
		}
	}
	return out
}

var nodes = kind[nodeItem]{
	name: "node",
	key:  func(n nodeItem) string { return n.Name },
	none: "no nodes: start 'baize agent' on each host",
	columns: []column[nodeItem]{
		{"NAME", plain, func(n nodeItem) any { return n.Name }},
		{"STATUS", state, func(n nodeItem) any { return n.Status }},
		{"VTEP", plain, func(n nodeItem) any { return n.VTEPs }},
		{"ENCAPS", plain, func(n nodeItem) any { return n.Encapsulations }},
		{"DATAPATH", plain, func(n nodeItem) any { return n.Datapath }},
		{"VERSION", plain, func(n nodeItem) any { return n.Version }},
		{"SUBNETS", plain, func(n nodeItem) any { return n.subnets() }},
		{"HOSTNAME", wide, func(n nodeItem) any { return n.Hostname }},
		{"UNDERLAY-MTU", wide, func(n nodeItem) any { return orEmpty(n.UnderlayMTU) }},
		{"ID", wide, func(n nodeItem) any { return n.ID }},
	},
}

func orEmpty(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func (n nodeItem) describe() []field {
	out := []field{
		{"Name", n.Name}, {"Status", string(n.Status)}, {"Hostname", n.Hostname}, {"VTEP", joined(n.VTEPs)},
		{"Encapsulations", joined(n.Encapsulations)}, {"Datapath", n.Datapath}, {"Underlay MTU", orEmpty(n.UnderlayMTU)},
		{"Version", n.Version}, {"ID", n.ID}, {"Epoch", n.Epoch},
	}
	for _, s := range n.Subnets {
		text := s.Prefix.String()
		if s.Reserved {
			text += " (reserved)"
		}
		out = append(out, field{"Subnet in " + s.Network, text})
	}
	return out
}

func listNodes(_ *ucli.Context, snap *topology.Snapshot) ([]nodeItem, error) {
	return nodeItems(snap), nil
}

func (r *runner) nodeShow(c *ucli.Context) error {
	return r.withTopology(c, "", func(snap *topology.Snapshot) error {
		item, err := findNode(snap, c.Args().First())
		if err != nil {
			return err
		}
		return r.item(c, item, item.describe, "")
	})
}

// findNode looks a node up; the error proposes another one.
func findNode(snap *topology.Snapshot, name string) (nodeItem, error) {
	items := nodeItems(snap)
	var names []string
	for _, n := range items {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	if p, ok := snap.Malformed[topology.NodeKey(name)]; ok {
		return nodeItem{}, &topology.Error{Kind: topology.ErrInvalid, Item: p.Item, What: p.What, Remedy: p.Remedy}
	}
	return nodeItem{}, notFound("node", name, names, "'baize node list' shows them all")
}

func (r *runner) nodeHandOver(c *ucli.Context) error {
	name := c.Args().First()
	return r.writing(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		if _, err := findNode(snap, name); err != nil {
			return err
		}
		_, err := waiting(r, c, "handing the node over", func(ctx context.Context) (struct{}, error) {
			return struct{}{}, s.HandOverNode(ctx, name, "")
		})
		if err != nil {
			return err
		}
		return r.say("node %s handed over: the next agent that starts under this name has its subnets and pins", name)
	})
}

func (r *runner) nodeRemove(c *ucli.Context) error {
	name := c.Args().First()
	return r.writing(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		alive, runs := snap.Alive[name]
		if runs && c.Bool("force") {
			if ok, err := r.agreed(c, removalQuestion(snap, alive)); err != nil || !ok {
				return err
			}
		}
		freed, err := waiting(r, c, "removing the node", func(ctx context.Context) ([]string, error) {
			return s.RemoveNode(ctx, name, c.Bool("force"))
		})
		if errors.Is(err, topology.ErrNotFound) {
			if _, missing := findNode(snap, name); missing != nil {
				return missing
			}
		}
		if err != nil {
			return err
		}
		if err := r.say("node %s removed", name); err != nil {
			return err
		}
		for _, f := range freed {
			if _, err := fmt.Fprintf(r.Out, "  %s\n", f); err != nil {
				return err
			}
		}
		if runs {
			return r.say("its agent runs on host %s, and registers it again: to remove it for good, stop the agent there first",
				alive.Hostname)
		}
		return nil
	})
}

// removalQuestion says what becomes of a node whose agent runs.
func removalQuestion(snap *topology.Snapshot, l topology.Liveness) string {
	var leased []string
	for _, sub := range snap.SortedSubnets() {
		if sub.Node == l.Node && !sub.Reserved {
			leased = append(leased, sub.Prefix.String())
		}
	}
	what := "It has no subnet."
	if len(leased) > 0 {
		what = "Its endpoints in " + joined(leased) + " are cut off until it has leased these again, and for good where " +
			"another node is faster."
	}
	return fmt.Sprintf("The agent of node %s runs on host %s: the node comes back at once. %s Remove it?",
		l.Node, l.Hostname, what)
}
