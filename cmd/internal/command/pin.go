package command

import (
	"net/netip"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

func (r *runner) pinCommand() *ucli.Command {
	return &ucli.Command{
		Name: "pin", Usage: "list the addresses that live outside their home subnet",
		Subcommands: []*ucli.Command{{
			Name: "list", Aliases: []string{"ls"}, Usage: "list the pins",
			Description: `A pin is created with an endpoint whose static address is outside its node's
subnets, and removed with it.

  baize pin list --network blue`,
			Flags: []ucli.Flag{
				&ucli.StringFlag{Name: "network", Usage: "only those of the network with this `NAME`"},
				// BAIZE_NODE says which node this is.
				&ucli.StringFlag{Name: "node", Usage: "only those of the node with this `NAME`", EnvVars: cli.Env("pin-node")},
				outputFlag(formatsList...),
			},
			Action: r.pinList,
		}},
	}
}

// pinItem is a pin in JSON and YAML.
type pinItem struct {
	Network string     `json:"network"`
	Address netip.Addr `json:"address"`
	Node    string     `json:"node"`
	MAC     string     `json:"mac"`
}

var pinColumns = []column[pinItem]{
	{"NETWORK", false, func(p pinItem) any { return p.Network }},
	{"ADDRESS", false, func(p pinItem) any { return p.Address }},
	{"NODE", false, func(p pinItem) any { return p.Node }},
	{"MAC", false, func(p pinItem) any { return p.MAC }},
}

func (r *runner) pinList(c *ucli.Context) error {
	network, node := c.String("network"), c.String("node")
	return r.withSnapshot(c, func(_ *etcdstore.Store, snap *topology.Snapshot) error {
		if network != "" {
			if _, err := findNetwork(snap, network); err != nil {
				return err
			}
		}
		items := []pinItem{}
		for _, p := range snap.SortedPins() {
			if (network == "" || p.Network == network) && (node == "" || p.Node == node) {
				items = append(items, pinItem{p.Network, p.Addr, p.Node, p.MAC})
			}
		}
		return listing(r, c, items, pinColumns, "no pins: every address lives in its node's subnet")
	})
}
