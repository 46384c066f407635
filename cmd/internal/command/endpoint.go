package command

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

func (r *runner) endpointCommand() *ucli.Command {
	return &ucli.Command{
		Name: "endpoint", Aliases: []string{"ep"}, Usage: "attach namespaces of this node to networks, list and detach them",
		Subcommands: []*ucli.Command{
			r.endpointAddCommand(),
			{
				Name: "remove", Aliases: []string{"rm"}, Usage: "detach an endpoint of this node", ArgsUsage: "NAME",
				Description: `A container loses this interface without its engine knowing: 'docker network
disconnect', or 'docker rm', is what removes it. So that is asked first. NAME may be
the container's.`,
				Flags:  []ucli.Flag{yesFlag(), dryRunFlag()},
				Action: r.endpointRemove,
			},
			r.endpointMoveCommand(),
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

func (r *runner) endpointAddCommand() *ucli.Command {
	return &ucli.Command{
		Name: "add", Usage: "attach a network namespace to a network", ArgsUsage: "[NAME]",
		Description: `The agent of this node creates a veth pair: one end on the bridge, the other in
the namespace, with an address of the node's subnet and the network's mask and MTU.
It works while etcd is down, unless it is the node's first use of the network: then
a subnet is leased ('baize agent --network' does that ahead). A static address
outside the node's subnet becomes a pin; where another node leases it, that node's
agent has to agree first.

An endpoint sends from its own addresses only, unless --allow gives it more: those
behind a router, or one that moves between endpoints. 0.0.0.0/0 lets a router
forward everything. Other nodes find an allowed address only in this node's
subnets; what lies behind a router is reached by those who have a route to it.

  ip netns add c1
  baize endpoint add c1 --network blue --netns c1
  baize endpoint add --network blue --netns /proc/4711/ns/net --ip 10.1.9.9
  baize endpoint add gw --network blue --netns gw --allow 0.0.0.0/0,::/0,ra

Router advertisements and redirects, answers of DHCP servers, frames of bridges and
tagged frames are dropped unless the network or the endpoint is allowed them.

The port on the bridge is named after the endpoint: that of c1 is bz-c1. Of a name
that is longer than twelve characters, or that another port has, the port's name has
a hash and the end.`,
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
			dryRunFlag(), outputFlag(formatsItem...),
		},
		Action: r.endpointAdd,
	}
}

func (r *runner) endpointMoveCommand() *ucli.Command {
	return &ucli.Command{
		Name: "move", Usage: "move an endpoint of another host to a namespace of this one", ArgsUsage: "NAME HOST",
		Description: `Run it on the host that the endpoint goes to; HOST is the one that has it. Its
addresses, its MAC and what it is allowed come along, and packets go to the new
namespace from one moment on: the interface is ready there before etcd says so, in
one transaction, and HOST's agent removes the old one after it. What runs in the
old namespace, and its connections, stay behind. Both agents have to run.

  baize endpoint move web host1 --netns web

A container is moved by its engine: stop it, and start it on the other host with
its address and MAC ('docker run --ip … --mac-address …').`,
		Flags: []ucli.Flag{
			&ucli.StringFlag{
				Name: "netns", Usage: "the namespace here: a `PATH`, or a name that 'ip netns' knows", Required: true,
			},
			&ucli.StringFlag{
				Name: "ifname", Usage: "`NAME` of the interface in the namespace (default as it was)", Action: isDevice("ifname"),
			},
			dryRunFlag(), outputFlag(formatsItem...),
		},
		Action: r.endpointMove,
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
	var err error
	if req.Netns, err = netnsPath(req.Netns); err != nil {
		return err
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
	if c.Bool(flagDryRun) {
		return r.rehearseAdd(c, req)
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

// netnsPath makes a namespace's path absolute: the agent has another working directory.
func netnsPath(netns string) (string, error) {
	if !strings.ContainsRune(netns, '/') {
		return netns, nil
	}
	return filepath.Abs(netns)
}

func (r *runner) endpointMove(c *ucli.Context) error {
	name, host := c.Args().Get(0), c.Args().Get(1)
	if c.NArg() != 2 {
		return usagef("baize endpoint move", "name the endpoint and the HOST that has it")
	}
	netns, err := netnsPath(c.String("netns"))
	if err != nil {
		return err
	}
	return r.withSnapshot(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		if _, err := findNode(snap, host); err != nil {
			return err
		}
		if _, runs := snap.Alive[host]; !runs {
			return &topology.Error{
				Kind: topology.ErrUnavailable, Item: "node " + host,
				What: "its agent does not run, and cannot let go of the endpoint", Remedy: "start it",
			}
		}
		old, err := r.endpointOn(c, s, host, name)
		if err != nil {
			return err
		}
		req := api.EndpointRequest{
			Name: old.Name, Network: old.Network, Netns: netns, Ifname: cmp.Or(c.String("ifname"), old.Ifname),
			IPs: old.IPs, MAC: old.MAC, Allow: old.Allow, AllowTraffic: old.AllowTraffic, MoveFrom: host,
		}
		if c.Bool(flagDryRun) {
			return r.rehearseMove(c, snap, old, req)
		}
		e, err := waiting(r, c, "moving the endpoint", func(ctx context.Context) (api.Endpoint, error) {
			return r.agentClient(c).AddEndpoint(ctx, req)
		})
		if err != nil {
			return err
		}
		return r.item(c, e, nil, fmt.Sprintf("endpoint %s of network %s moved from %s to %s: %s, MAC %s", e.Name, e.Network,
			host, e.Node, joined(e.IPs), e.MAC))
	})
}

// endpointOn asks the agent of another node for one of its endpoints.
func (r *runner) endpointOn(c *ucli.Context, s *etcdstore.Store, host, name string) (api.Endpoint, error) {
	type heard struct {
		answers map[string][]api.Endpoint
		errs    map[string]error
	}
	h, err := waiting(r, c, "asking "+host+" for it", func(ctx context.Context) (h heard, err error) {
		h.answers, h.errs, err = ask[[]api.Endpoint](ctx, s, api.EndpointsKind, []string{host}, name)
		return h, err
	})
	if err != nil {
		return api.Endpoint{}, err
	}
	item := "endpoint " + name + " of " + host
	if why := h.errs[host]; why != nil {
		return api.Endpoint{}, &topology.Error{
			Kind: topology.ErrUnavailable, Item: item, What: why.Error(),
			Remedy: "its agent has to run, and be no older than this one: 'baize node list'",
		}
	}
	list := h.answers[host]
	switch {
	case len(list) == 0:
		return api.Endpoint{}, &topology.Error{
			Kind: topology.ErrNotFound, Item: item, What: "there is none of that name",
			Remedy: "'baize endpoint list' on " + host + " shows those there",
		}
	case len(list) > 1:
		return api.Endpoint{}, &topology.Error{
			Kind: topology.ErrConflict, Item: item, What: "there is one in several networks",
			Remedy: "name it " + list[0].Network + "/" + name,
		}
	case list[0].Engine != "":
		return api.Endpoint{}, &topology.Error{
			Kind: topology.ErrInvalid, Item: item, What: "it is that of " + containerOf(list[0]),
			Remedy: fmt.Sprintf("stop the container there, and start it here with --ip %s and --mac-address %s",
				joined(list[0].IPs), list[0].MAC),
		}
	}
	return list[0], nil
}

func (r *runner) endpointRemove(c *ucli.Context) error {
	name := c.Args().First()
	if c.Bool(flagDryRun) {
		return r.rehearseRemove(c, name)
	}
	e, err := r.ownEndpoint(c, name)
	if err != nil {
		return err
	}
	if ok, err := r.mayDetach(c, e); err != nil || !ok {
		return err
	}
	_, err = waiting(r, c, "detaching the namespace", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.agentClient(c).RemoveEndpoint(ctx, e.Network+"/"+e.Name)
	})
	if err != nil {
		return err
	}
	return r.say("endpoint %s removed", e.Name)
}

func listEndpoints(ctx context.Context, c *ucli.Context, agent *api.Client) ([]api.Endpoint, error) {
	list, err := agent.Endpoints(ctx)
	return ofNetwork(c, list, func(e api.Endpoint) string { return e.Network }), err
}

// mayDetach asks where an endpoint is that of a container.
func (r *runner) mayDetach(c *ucli.Context, e api.Endpoint) (bool, error) {
	if e.Engine == "" || c.Bool(flagYes) {
		return true, nil
	}
	return r.agreed(c, fmt.Sprintf("Endpoint %s is that of %s, which loses %s in network %s; its engine goes on to "+
		"think that it has them. Detach it?", e.Name, containerOf(e), joined(e.IPs), e.Network))
}

// containerOf says which container has an endpoint that an engine made.
func containerOf(e api.Endpoint) string {
	if e.Container == "" {
		return "a container of Docker's"
	}
	return "container " + e.Container
}
