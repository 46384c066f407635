package command

import (
	"fmt"
	"net/netip"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

func (r *runner) subnetCommand() *ucli.Command {
	networkFlag := func(required bool) ucli.Flag {
		usage := "`NAME` of the network"
		if !required {
			usage = "only those of the network with this `NAME`"
		}
		return &ucli.StringFlag{Name: "network", Usage: usage, Required: required}
	}
	// BAIZE_NODE says which node this is: it must not choose whose subnets are
	// listed, let alone for whom one is reserved.
	nodeFlag := func(usage string) ucli.Flag {
		return &ucli.StringFlag{Name: "node", Usage: usage, EnvVars: cli.Env("subnet-node"), Action: isName("node", "node")}
	}
	return &ucli.Command{
		Name: "subnet", Usage: "list the subnets of the networks, reserve and release them",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list the subnets that are leased or reserved",
				Flags: subnets.flags(
					networkFlag(false), nodeFlag("only those of the node with this `NAME`"), sourceFlag(),
				),
				Action: subnets.list(r, fromTopology(listSubnets)),
			},
			{
				Name: "reserve", Usage: "reserve a subnet for a node, or keep it free of leases", ArgsUsage: "PREFIX",
				Description: `A reservation stays until it is released, whether its node exists or not.

  baize subnet reserve 10.1.5.0/24 --network blue --node host5
  baize subnet reserve 10.1.200.0/21 --network blue --comment 'old VMs'`,
				Flags: []ucli.Flag{
					networkFlag(true), nodeFlag("`NAME` of the node it is for (default none: no node leases it)"),
					&ucli.StringFlag{Name: "comment", Usage: "a `NOTE` on what it is for"},
					&ucli.BoolFlag{Name: "force", Usage: "write over a reservation that is there already"}, dryRunFlag(),
				},
				Action: r.subnetReserve,
			},
			{
				Name: "release", Usage: "release a reservation or a lease", ArgsUsage: "PREFIX",
				Flags: []ucli.Flag{
					networkFlag(true),
					&ucli.BoolFlag{
						Name: "force",
						Usage: "release it even if its node is alive: where it needs one, the node leases another, and its " +
							"endpoints in this one lose their network; asks first",
					},
					yesFlag(), dryRunFlag(),
				},
				Action: r.subnetRelease,
			},
		},
	}
}

// subnetItem is a subnet in JSON and YAML.
type subnetItem struct {
	Network  string       `json:"network"`
	Prefix   netip.Prefix `json:"prefix"`
	Node     string       `json:"node"`
	Reserved bool         `json:"reserved"`
	Segment  string       `json:"segment,omitempty"`
	Comment  string       `json:"comment,omitempty"`
}

var subnets = kind[subnetItem]{
	name: "subnet",
	key:  func(s subnetItem) string { return s.Prefix.String() },
	none: "no subnet is leased or reserved",
	columns: []column[subnetItem]{
		{"NETWORK", plain, func(s subnetItem) any { return s.Network }},
		{"PREFIX", plain, func(s subnetItem) any { return s.Prefix }},
		{"NODE", plain, func(s subnetItem) any { return s.Node }},
		{"KIND", plain, func(s subnetItem) any {
			kind := "lease"
			if s.Reserved {
				kind = "reservation"
			}
			if s.Segment != "" {
				kind += " for " + s.Segment
			}
			return kind
		}},
		{"COMMENT", wide, func(s subnetItem) any { return s.Comment }},
	},
}

func listSubnets(c *ucli.Context, snap *topology.Snapshot) ([]subnetItem, error) {
	network, node := c.String("network"), c.String("node")
	if network != "" {
		if _, err := findNetwork(snap, network); err != nil {
			return nil, err
		}
	}
	if node != "" {
		if _, err := findNode(snap, node); err != nil {
			return nil, err
		}
	}
	items := []subnetItem{}
	for _, s := range snap.SortedSubnets() {
		if (network == "" || s.Network == network) && (node == "" || s.Node == node) {
			items = append(items, subnetItem{s.Network, s.Prefix, s.Node, s.Reserved, s.Segment, s.Comment})
		}
	}
	return items, nil
}

func prefixArgument(c *ucli.Context, command string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(c.Args().First())
	if err != nil {
		return p, usagef(command, "%q is not a prefix: write it like 10.1.5.0/24", c.Args().First())
	}
	return p, nil
}

func (r *runner) subnetReserve(c *ucli.Context) error {
	p, err := prefixArgument(c, "baize subnet reserve")
	if err != nil {
		return err
	}
	if p != p.Masked() {
		return usagef("baize subnet reserve", "%s has bits set beyond its length: write %s", p, p.Masked())
	}
	sub := topology.Subnet{
		Network: c.String("network"), Prefix: p, Node: c.String("node"), Reserved: true, Comment: c.String("comment"),
	}
	return r.writing(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		if _, err := findNetwork(snap, sub.Network); err != nil {
			return err
		}
		if c.Bool("force") {
			sub.Meta = snap.Subnets[topology.SubnetID{Network: sub.Network, Prefix: p}].Meta
		}
		if _, err := s.ReserveSubnet(c.Context, sub); err != nil {
			return err
		}
		if sub.Node == "" {
			return r.say("subnet %s of network %s reserved", p, sub.Network)
		}
		return r.say("subnet %s of network %s reserved for node %s", p, sub.Network, sub.Node)
	})
}

func (r *runner) subnetRelease(c *ucli.Context) error {
	p, err := prefixArgument(c, "baize subnet release")
	if err != nil {
		return err
	}
	network := c.String("network")
	return r.writing(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		owner := snap.Subnets[topology.SubnetID{Network: network, Prefix: p.Masked()}].Node
		if l, runs := snap.Alive[owner]; runs && c.Bool("force") {
			if ok, err := r.agreed(c, fmt.Sprintf("The agent of node %s runs on host %s: endpoints with addresses of %s lose "+
				"network %s. Release it?", owner, l.Hostname, p, network)); err != nil || !ok {
				return err
			}
		}
		if err := s.ReleaseSubnet(c.Context, network, p, c.Bool("force")); err != nil {
			return err
		}
		return r.say("subnet %s of network %s released", p, network)
	})
}
