package command

import (
	"context"
	"errors"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/cli"
	"github.com/baize-net/baize/cmd/internal/draw"
	"github.com/baize-net/baize/topology"
)

func (r *runner) topologyCommand() *ucli.Command {
	return &ucli.Command{
		Name: "topology", Aliases: []string{"topo"}, Usage: "show the networks, nodes, subnets and tunnels",
		Description: `Endpoints live on their node alone: they are shown for the node whose agent
answers on this machine. More than ten nodes are grouped by their state, and more
than ten tunnels counted; -o wide shows them one by one.

With --watch it is a live picture of the hosts and the links between them: states, what
goes over them in a second, what is lost and how long answers take, as the agents of all
nodes count it and their probes tell. They are asked by way of etcd, every five seconds,
less often where they are many. Where the screen has no room for all, what is in trouble
comes first, then what has most to do.

  baize topology
  baize topology --watch
  baize topology -o svg > topology.svg
  baize topology -o dot | dot -Tpng > topology.png`,
		Flags: []ucli.Flag{
			&ucli.StringFlag{Name: "network", Usage: "only the network with this `NAME`"},
			&ucli.BoolFlag{
				Name: flagWatch, Aliases: []string{"w"}, EnvVars: cli.Env("topology-watch"),
				Usage: "show hosts and links as they are now, with what goes over them, until Ctrl-C",
			},
			colorFlag(), sourceFlag(), outputFlag("tree", "wide", "json", "yaml", "jsonpath=", "dot", "svg"),
		},
		Action: r.topology,
	}
}

func (r *runner) topology(c *ucli.Context) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	if c.Bool(flagWatch) {
		return r.watchTopology(c, format)
	}
	return r.withTopology(c, "", func(snap *topology.Snapshot) error {
		if network := c.String("network"); network != "" {
			if _, err := findNetwork(snap, network); err != nil {
				return err
			}
			snap = only(snap, network)
		}
		endpoints, err := r.drawnEndpoints(c)
		if err != nil {
			return err
		}
		return r.draw(format, draw.New(snap, endpoints))
	})
}

// drawings are the formats that draw writes, beside JSON and YAML.
var drawings = []string{"tree", "dot", "svg"}

func (r *runner) draw(format string, t draw.Topology) error {
	switch format {
	case "tree":
		return draw.Tree(r.Out, t, false)
	case "wide":
		return draw.Tree(r.Out, t, true)
	case "dot":
		return draw.DOT(r.Out, t)
	case "svg":
		return draw.SVG(r.Out, t)
	}
	return r.data(format, t)
}

// only returns the topology without the other networks.
func only(s *topology.Snapshot, network string) *topology.Snapshot {
	out := *s
	out.Networks = map[string]topology.Network{network: s.Networks[network]}
	out.Subnets = map[topology.SubnetID]topology.Subnet{}
	for id, sub := range s.Subnets {
		if id.Network == network {
			out.Subnets[id] = sub
		}
	}
	out.Pins = map[topology.PinID]topology.Pin{}
	for id, p := range s.Pins {
		if id.Network == network {
			out.Pins[id] = p
		}
	}
	return &out
}

// drawnEndpoints asks the agent of this machine, if there is one.
func (r *runner) drawnEndpoints(c *ucli.Context) ([]draw.Endpoint, error) {
	list, err := waiting(r, c, "asking the agent for its endpoints", func(ctx context.Context) ([]api.Endpoint, error) {
		return r.agentClient(c).Endpoints(ctx)
	})
	if errors.Is(err, topology.ErrUnavailable) {
		return nil, nil // no agent here: the picture is of etcd alone
	}
	if err != nil {
		return nil, err
	}
	var out []draw.Endpoint
	for _, e := range list {
		out = append(out, draw.Endpoint{
			Name: e.Name, Node: e.Node, Network: e.Network, IPs: e.IPs, MAC: e.MAC, Container: e.Container,
		})
	}
	return out, nil
}
