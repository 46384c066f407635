package command

import (
	"net/netip"
	"slices"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
)

func (r *runner) nameCommand() *ucli.Command {
	network := func() ucli.Flag {
		return &ucli.StringFlag{Name: "network", Usage: "only those of the network with this `NAME`"}
	}
	return &ucli.Command{
		Name: "name", Usage: "show the names that containers find each other by",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list the names, with the node that publishes each",
				Description: `Nodes publish the names of their Docker containers a moment after the container
has started. A name that several nodes publish is there several times; the answer
to a container has the addresses of all of them.

  baize name list --network blue`,
				Flags: names.flags(network(), sourceFlag()), Action: names.list(r, fromTopology(listNames)),
			},
			{
				Name: "resolve", Usage: "show what the name service answers for a name, and from which node", ArgsUsage: "NAME",
				Description: `NAME is a name, one with the network's behind it, or an address. A container is
answered for the networks that it is in; Docker's own resolver answers first for
the containers of the same host. The exit code is 3 where nobody has the name.

  baize name resolve web --network blue
  baize name resolve web.blue
  baize name resolve 10.1.5.2`,
				Flags: names.flags(network(), sourceFlag()), Action: names.list(r, fromTopology(resolveName)),
			},
		},
	}
}

// nameItem is a name in JSON and YAML, as one node publishes it.
type nameItem struct {
	Network   string       `json:"network"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	Node      string       `json:"node"`
	// Status is that of the node.
	Status draw.Status `json:"status"`
}

var names = kind[nameItem]{
	name: "name",
	key:  func(n nameItem) string { return n.Name },
	none: "no names: nodes publish those of containers in their networks",
	columns: []column[nameItem]{
		{"NETWORK", plain, func(n nameItem) any { return n.Network }},
		{"NAME", plain, func(n nameItem) any { return n.Name }},
		{"ADDRESSES", plain, func(n nameItem) any { return n.Addresses }},
		{"NODE", plain, func(n nameItem) any { return n.Node }},
		{"STATUS", state, func(n nameItem) any { return n.Status }},
	},
}

// publishedNames calls f with what is published in each network that --network
// leaves.
func publishedNames(c *ucli.Context, s *topology.Snapshot, f func(network string, all []topology.Published)) error {
	only := c.String("network")
	if only != "" {
		if _, err := findNetwork(s, only); err != nil {
			return err
		}
	}
	for _, n := range s.SortedNetworks() {
		if only == "" || n.Name == only {
			f(n.Name, s.Published(n.Name))
		}
	}
	return nil
}

func newNameItem(s *topology.Snapshot, p topology.Published) nameItem {
	return nameItem{
		Network: p.Network, Name: p.Name, Addresses: p.Addrs, Node: p.Node, Status: draw.StatusOf(s, p.Node),
	}
}

func listNames(c *ucli.Context, s *topology.Snapshot) ([]nameItem, error) {
	items := []nameItem{}
	err := publishedNames(c, s, func(_ string, all []topology.Published) {
		for _, p := range all {
			items = append(items, newNameItem(s, p))
		}
	})
	return items, err
}

func resolveName(c *ucli.Context, s *topology.Snapshot) ([]nameItem, error) {
	name := c.Args().First()
	addr, _ := netip.ParseAddr(name)
	items := []nameItem{}
	var known []string
	err := publishedNames(c, s, func(network string, all []topology.Published) {
		var answer []topology.Published
		for _, form := range topology.NameForms(network, name) {
			if len(answer) == 0 {
				answer = slices.DeleteFunc(slices.Clone(all), func(p topology.Published) bool { return p.Name != form })
			}
		}
		for _, p := range all {
			known = append(known, p.Name)
			if addr.IsValid() && slices.Contains(p.Addrs, addr) {
				answer = append(answer, p)
			}
		}
		for _, p := range answer {
			items = append(items, newNameItem(s, p))
		}
	})
	if err == nil && len(items) == 0 {
		err = notFound("name", name, known, "'baize name list' shows them all")
	}
	return items, err
}
