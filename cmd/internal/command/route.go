package command

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/agent/bgp"
	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/route"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

func (r *runner) routeCommand() *ucli.Command {
	return &ucli.Command{
		Name: "route", Usage: "show which way packets to other nodes take",
		Subcommands: []*ucli.Command{
			{
				Name: "frr-conf", Usage: "print what FRR on a host needs to announce the host's subnets",
				Description: `For hosts that run FRR: it announces by BGP what Baize has on the host, and puts
what it learns into the kernel, where the agent finds it. The agent then needs no
--bgp. The output is the same for every host with the same neighbours; put it
into /etc/frr/frr.conf, or add it to what runs:

  baize route frr-conf --as 65001 --neighbor 65000@192.0.2.1 > baize.conf
  vtysh -f baize.conf`,
				Flags: []ucli.Flag{
					&ucli.UintFlag{Name: "as", Usage: "`AS` number of the host; hosts may share one", Required: true},
					&ucli.StringSliceFlag{Name: "neighbor", Usage: "`AS@ADDRESS` of a router", Required: true},
					&ucli.StringFlag{Name: "password-file", Usage: "`FILE` with one line, the password of the sessions (TCP MD5)"},
				},
				Action: r.routeFRRConf,
			},
			{
				Name:    "list",
				Aliases: []string{"ls"},
				Usage:   "list the subnets and pins of other nodes, the path that packets to them take, and why",
				Description: `It asks the agent of this node. 'route' is not encapsulated: the kernel has a
route through the address after 'via', which 'ip route show' shows as well: of
protocol 173, or, where a routing daemon of this host learned it, of that one's.
'tunnel' is followed by its encapsulation.

  baize route list --network blue`,
				Flags: routes.flags(
					&ucli.StringFlag{Name: "network", Usage: "only those of the network with this `NAME`"},
				),
				Action: routes.list(r, fromAgent(listRoutes)),
			},
		},
	}
}

func (r *runner) routeFRRConf(c *ucli.Context) error {
	const command = "baize route frr-conf"
	if as := c.Uint("as"); as == 0 || uint64(as) > math.MaxUint32 {
		return usagef(command, "--as %d: an AS number is from 1 to 4294967295", as)
	}
	var neighbors []route.FRRNeighbor
	for _, s := range c.StringSlice("neighbor") {
		n, err := bgp.ParseNeighbor(s)
		if err != nil {
			return err
		}
		if n.Port != 0 && n.Port != bgp.Port {
			return usagef(command, "--neighbor %s: FRR connects to port %d", s, bgp.Port)
		}
		neighbors = append(neighbors, route.FRRNeighbor{Addr: n.Addr, AS: n.AS})
	}
	password := ""
	if file := c.String("password-file"); file != "" {
		var err error
		if password, err = bgp.ReadPassword(file); err != nil {
			return err
		}
	}
	return r.withSnapshot(c, func(_ *etcdstore.Store, snap *topology.Snapshot) error {
		var networks []topology.Network
		for _, name := range slices.Sorted(maps.Keys(snap.Networks)) {
			if n := snap.Networks[name]; n.Transport.Routed() {
				networks = append(networks, n)
			}
		}
		if len(networks) == 0 {
			return &topology.Error{
				Kind: topology.ErrNotFound,
				Item: "networks",
				What: "none is of transport route or auto: there is nothing that routers could learn",
				Remedy: "'baize network create NAME --subnet CIDR --transport auto', " +
					"or 'baize network update NAME --transport auto'",
			}
		}
		ports := pipeline.HostPortNames(slices.Sorted(maps.Keys(snap.Networks)))
		port := func(network string) string { return ports[network] }
		_, err := fmt.Fprint(r.Out, route.FRRConf(networks, uint32(c.Uint("as")), neighbors, password, port))
		return err
	})
}

var routes = kind[api.Route]{
	name: "route",
	key:  func(x api.Route) string { return x.Prefix.String() },
	none: "no other node has a subnet in a network of this node",
	columns: []column[api.Route]{
		{"NETWORK", plain, func(x api.Route) any { return x.Network }},
		{"PREFIX", plain, func(x api.Route) any { return x.Prefix }},
		{"NODE", plain, func(x api.Route) any { return x.Node }},
		{"PATH", plain, func(x api.Route) any { return routePath(x) }},
		{"WHY", plain, func(x api.Route) any { return x.Why }},
		{"DEVICE", wide, func(x api.Route) any { return x.Device }},
		{"PIN", wide, func(x api.Route) any { return x.Pin }},
	},
}

// routePath writes the way in words: "route via 192.0.2.7", "tunnel vxlan".
func routePath(x api.Route) string {
	out := x.Kind
	if x.Via != "" && x.Encap == "" {
		out += " via " + x.Via
	}
	if x.Encap != "" {
		out += " " + string(x.Encap)
	}
	return out
}

func listRoutes(ctx context.Context, c *ucli.Context, agent *api.Client) ([]api.Route, error) {
	list, err := agent.Routes(ctx)
	return ofNetwork(c, list, func(x api.Route) string { return x.Network }), err
}
