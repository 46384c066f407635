package command

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
)

func (r *runner) endpointCommand() *ucli.Command {
	return &ucli.Command{
		Name: "endpoint", Aliases: []string{"ep"}, Usage: "attach namespaces of this node to networks, list and detach them",
		Subcommands: []*ucli.Command{
			{
				Name: "add", Usage: "attach a network namespace to a network", ArgsUsage: "[NAME]",
				Description: `The agent of this node creates a veth pair: one end on the bridge, the other in
the namespace, with an address of the node's subnet and the network's mask and MTU.
It works while etcd is down, unless it is the node's first use of the network: then
a subnet is leased ('baize agent --network' does that ahead). A static address outside the node's subnet becomes a
pin; where another node leases it, that node's agent has to agree first.

An endpoint sends from its own addresses only, unless --allow gives it more: those
behind a router, or one that moves between endpoints. 0.0.0.0/0 lets a router
forward everything. Other nodes find an allowed address only in this node's
subnets; what lies behind a router is reached by those who have a route to it.

  ip netns add c1
  baize endpoint add c1 --network blue --netns c1
  baize endpoint add --network blue --netns /proc/4711/ns/net --ip 10.1.9.9
  baize endpoint add gw --network blue --netns gw --allow 0.0.0.0/0,::/0,ra

Router advertisements and redirects, answers of DHCP servers, frames of bridges and
tagged frames are dropped unless the network or the endpoint is allowed them.`,
				Flags: []ucli.Flag{
					&ucli.StringFlag{Name: "network", Usage: "`NAME` of the network", Required: true},
					&ucli.StringFlag{Name: "netns", Usage: "the namespace: a `PATH`, or a name that 'ip netns' knows", Required: true},
					&ucli.StringSliceFlag{
						Name: "ip", Usage: "static `ADDRESS`, at most one of each family (default one of the node's subnet)",
					},
					&ucli.StringFlag{Name: "mac", Usage: "link `ADDRESS` (default 02:42 and the IPv4 address)"},
					&ucli.StringSliceFlag{
						Name: "allow", Usage: "`PREFIX` or address that it may send from as well, or a kind of traffic: " +
							trafficNames(),
					},
					&ucli.StringFlag{
						Name: "ifname", Usage: "`NAME` of the interface in the namespace (default eth0)", Action: isDevice("ifname"),
					},
					outputFlag(formatsItem...),
				},
				Action: r.endpointAdd,
			},
			{
				Name: "remove", Aliases: []string{"rm"}, Usage: "detach an endpoint of this node", ArgsUsage: "NAME",
				Description: `A container loses this interface without its engine knowing: 'docker network
disconnect', or 'docker rm', is what removes it. So that is asked first.`,
				Flags:  []ucli.Flag{yesFlag()},
				Action: r.endpointRemove,
			},
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list the endpoints of this node",
				Flags: endpoints.flags(
					&ucli.StringFlag{Name: "network", Usage: "only those in the network with this `NAME`"},
				),
				Action: endpoints.list(r, fromAgent(listEndpoints)),
			},
		},
	}
}

var endpoints = kind[api.Endpoint]{
	name: "endpoint",
	key:  func(e api.Endpoint) string { return e.Name },
	none: "no endpoints on this node: attach one with 'baize endpoint add'",
	columns: []column[api.Endpoint]{
		{"NAME", plain, func(e api.Endpoint) any { return e.Name }},
		{"NODE", plain, func(e api.Endpoint) any { return e.Node }},
		{"NETWORK", plain, func(e api.Endpoint) any { return e.Network }},
		{"IPS", plain, func(e api.Endpoint) any { return e.IPs }},
		{"MAC", plain, func(e api.Endpoint) any { return e.MAC }},
		{"CONTAINER", optional, func(e api.Endpoint) any { return e.Container }},
		{"SERVICE", optional, func(e api.Endpoint) any { return e.Service }},
		{"IMAGE", optional, func(e api.Endpoint) any { return e.Image }},
		{"PORT", wide, func(e api.Endpoint) any { return e.Port }},
		{"ALLOW", wide, func(e api.Endpoint) any { return append(texts(e.Allow), texts(e.AllowTraffic)...) }},
		{"IFNAME", wide, func(e api.Endpoint) any { return e.Ifname }},
		{"NETNS", wide, func(e api.Endpoint) any { return e.Netns }},
	},
}

func (r *runner) endpointAdd(c *ucli.Context) error {
	const command = "baize endpoint add"
	req := api.EndpointRequest{
		Name: c.Args().First(), Network: c.String("network"), Netns: c.String("netns"), Ifname: c.String("ifname"),
	}
	if strings.ContainsRune(req.Netns, '/') {
		abs, err := filepath.Abs(req.Netns) // the agent has another working directory
		if err != nil {
			return err
		}
		req.Netns = abs
	}
	families := map[topology.Family]bool{}
	for _, s := range c.StringSlice("ip") {
		a, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return usagef(command, "--ip %q is not an address: write it like 10.1.5.7, without a length", s)
		}
		f := topology.FamilyOf(a)
		if families[f] {
			return usagef(command, "--ip %s is a second %s address: give one of each family", a, f)
		}
		families[f] = true
		req.IPs = append(req.IPs, a.Unmap())
	}
	may, err := topology.ParseAllowance("--allow", c.StringSlice("allow"))
	if err != nil {
		return usagef(command, "%v", err)
	}
	req.Allow, req.AllowTraffic = may.Prefixes, may.Traffic
	if s := c.String("mac"); s != "" {
		m, err := topology.ParseMAC(s)
		if err != nil {
			return usagef(command, "--mac: %v", err)
		}
		req.MAC = m.String()
	}
	e, err := waiting(r, c, "attaching the namespace", func(ctx context.Context) (api.Endpoint, error) {
		return r.agentClient(c).AddEndpoint(ctx, req)
	})
	if err != nil {
		return err
	}
	sentence := fmt.Sprintf("endpoint %s added to network %s: %s, MAC %s", e.Name, e.Network, joined(e.IPs), e.MAC)
	return r.item(c, e, nil, sentence)
}

func (r *runner) endpointRemove(c *ucli.Context) error {
	name := c.Args().First()
	if ok, err := r.mayDetach(c, name); err != nil || !ok {
		return err
	}
	_, err := waiting(r, c, "detaching the namespace", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.agentClient(c).RemoveEndpoint(ctx, name)
	})
	if errors.Is(err, topology.ErrNotFound) {
		if list, lerr := r.agentClient(c).Endpoints(c.Context); lerr == nil {
			var names []string
			for _, e := range list {
				names = append(names, e.Name)
			}
			return notFound("endpoint", name, names, "'baize endpoint list' shows those of this node")
		}
	}
	if err != nil {
		return err
	}
	return r.say("endpoint %s removed", name)
}

func listEndpoints(ctx context.Context, c *ucli.Context, agent *api.Client) ([]api.Endpoint, error) {
	list, err := agent.Endpoints(ctx)
	return ofNetwork(c, list, func(e api.Endpoint) string { return e.Network }), err
}

// mayDetach asks where an endpoint is that of a container.
func (r *runner) mayDetach(c *ucli.Context, name string) (bool, error) {
	if c.Bool(flagYes) {
		return true, nil
	}
	list, err := waiting(r, c, "asking the agent", func(ctx context.Context) ([]api.Endpoint, error) {
		return r.agentClient(c).Endpoints(ctx)
	})
	if err != nil {
		return false, err
	}
	for _, e := range list {
		if e.Engine == "" || (e.Name != name && e.Network+"/"+e.Name != name) {
			continue
		}
		return r.agreed(c, fmt.Sprintf("Endpoint %s is that of %s, which loses %s in network %s; its engine goes on to "+
			"think that it has them. Detach it?", e.Name, containerOf(e), joined(e.IPs), e.Network))
	}
	return true, nil
}

// containerOf says which container has an endpoint that an engine made.
func containerOf(e api.Endpoint) string {
	if e.Container == "" {
		return "a container of Docker's"
	}
	return "container " + e.Container
}
