package command

import (
	"context"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
)

func (r *runner) routeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "route", Usage: "show which way packets to other nodes take",
		Subcommands: []*ucli.Command{{
			Name: "list", Aliases: []string{"ls"}, Usage: "list the subnets and pins of other nodes, the path that packets to them take, and why",
			Description: `It asks the agent of this node. 'route' is not encapsulated: the kernel has a
route through the address after 'via', which 'ip route show proto 173' shows as
well. 'tunnel' is followed by its encapsulation.

  baize route list --network blue`,
			Flags:  []ucli.Flag{&ucli.StringFlag{Name: "network", Usage: "only those of the network with this `NAME`"}, outputFlag(formatsList...)},
			Action: r.routeList,
		}},
	}
}

var routeColumns = []column[api.Route]{
	{"NETWORK", false, func(x api.Route) any { return x.Network }},
	{"PREFIX", false, func(x api.Route) any { return x.Prefix }},
	{"NODE", false, func(x api.Route) any { return x.Node }},
	{"PATH", false, func(x api.Route) any { return routePath(x) }},
	{"WHY", false, func(x api.Route) any { return x.Why }},
	{"DEVICE", true, func(x api.Route) any { return x.Device }},
	{"PIN", true, func(x api.Route) any { return x.Pin }},
}

// routePath writes the way in words: "route via 192.0.2.7", "tunnel vxlan".
func routePath(x api.Route) string {
	out := x.Way
	if x.Via != "" && x.Encap == "" {
		out += " via " + x.Via
	}
	if x.Encap != "" {
		out += " " + string(x.Encap)
	}
	return out
}

func (r *runner) routeList(c *ucli.Context) error {
	network := c.String("network")
	list, err := waiting(r, c, "asking the agent", func(ctx context.Context) ([]api.Route, error) {
		return r.agentClient(c).Routes(ctx)
	})
	if err != nil {
		return err
	}
	items := []api.Route{}
	for _, x := range list {
		if network == "" || x.Network == network {
			items = append(items, x)
		}
	}
	return listing(r, c, items, routeColumns, "no other node has a subnet in a network of this node")
}
