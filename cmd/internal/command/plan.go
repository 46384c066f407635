package command

import (
	"fmt"
	"io"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/cmd/internal/api"
	"github.com/baize-net/baize/cmd/internal/drift"
	"github.com/baize-net/baize/cmd/internal/kernel"
	"github.com/baize-net/baize/ovs"
	"github.com/baize-net/baize/ovs/pipeline"
	"github.com/baize-net/baize/ovs/vswitch"
	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// bridgeFlags say which bridge of which Open vSwitch is meant.
func bridgeFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{
			Name: "bridge", Usage: "`NAME` of the integration bridge", Value: ovs.DefaultBridge, Action: isDevice("bridge"),
		},
		&ucli.StringFlag{Name: "ovsdb", Usage: "`ADDRESS` of the Open vSwitch database", Value: vswitch.DefaultEndpoint},
		&ucli.StringFlag{
			Name:  "ovs-rundir",
			Usage: "`DIRECTORY` with the control sockets of Open vSwitch (default where the database's socket is)",
		},
		&ucli.IntFlag{
			Name: "vxlan-port", Usage: "UDP `PORT` of VXLAN, the same on all nodes", Value: 4789, Action: isPort("vxlan-port"),
		},
		&ucli.IntFlag{
			Name: "geneve-port", Usage: "UDP `PORT` of Geneve, the same on all nodes", Value: 6081,
			Action: isPort("geneve-port"),
		},
	}
}

func (r *runner) planCommand() *ucli.Command {
	return &ucli.Command{
		Name: "plan", Usage: "show the bridge, ports, flows and kernel settings that a node should have",
		Description: `Computed from etcd alone, anywhere and without root. The endpoints of a node are
known on that node only: their ports and flows are missing from a plan made
elsewhere, and so are the routes to other nodes, which depend on who is on-link
there. What the kernel should have is shown as the commands that would set it.
With --diff, on the node itself and as root, the plan includes all that and is
compared with the real Open vSwitch and the real kernel; the exit code is 7 when
they differ.

  baize plan --node host2
  baize plan --diff`,
		Flags: append([]ucli.Flag{
			&ucli.StringFlag{Name: "node", Usage: "`NAME` of the node (default the name of this host)"},
			&ucli.BoolFlag{Name: "diff", Usage: "show what differs from the Open vSwitch and the kernel of this host"},
			sourceFlag(), outputFlag("text", "json", "yaml", "jsonpath="),
		}, bridgeFlags()...),
		Action: r.plan,
	}
}

// planItem is a plan in JSON and YAML.
type planItem struct {
	Node   string      `json:"node"`
	Bridge planBridge  `json:"bridge"`
	Ports  []planPort  `json:"ports"`
	Meters []planMeter `json:"meters"`
	// Collectors are where records of networks' flows go (IPFIX).
	Collectors []planCollectors `json:"collectors"`
	Flows      []planFlow       `json:"flows"`
	Kernel     kernel.State     `json:"kernel"`
	Problems   []fault.Fault    `json:"problems"`
}

type planBridge struct {
	Name        string            `json:"name"`
	Datapath    string            `json:"datapath"`
	FailMode    string            `json:"failMode"`
	Protocols   []string          `json:"protocols"`
	OtherConfig map[string]string `json:"otherConfig,omitempty"`
	ExternalIDs map[string]string `json:"externalIDs,omitempty"`
}

type planPort struct {
	Name        string            `json:"name"`
	Type        string            `json:"type,omitempty"`
	Options     map[string]string `json:"options,omitempty"`
	ExternalIDs map[string]string `json:"externalIDs,omitempty"`
}

// planMeter bounds what a port floods, or, without one, what the node does.
type planMeter struct {
	Port string `json:"port,omitempty"`
	Rate int    `json:"rate"`
}

// planCollectors get the packets that flows give to the set of this number.
type planCollectors struct {
	ID      uint32   `json:"id"`
	Targets []string `json:"targets"`
	Timeout int      `json:"timeout"`
}

type planFlow struct {
	Table     int    `json:"table"`
	TableName string `json:"tableName"`
	Priority  int    `json:"priority"`
	Match     string `json:"match"`
	Actions   string `json:"actions"`
}

func newPlanItem(v topology.View, s ovs.State, k kernel.State, problems []fault.Fault) planItem {
	item := planItem{
		Node: v.Node.Name, Kernel: k,
		Bridge: planBridge{
			Name: s.Bridge.Name, Datapath: s.Bridge.Datapath, FailMode: s.Bridge.FailMode, Protocols: s.Bridge.Protocols,
			OtherConfig: s.Bridge.OtherConfig, ExternalIDs: s.Bridge.ExternalIDs,
		},
		Ports: []planPort{}, Meters: []planMeter{}, Collectors: []planCollectors{}, Flows: []planFlow{},
		Problems: append([]fault.Fault{}, problems...),
	}
	for _, p := range s.Ports {
		item.Ports = append(item.Ports, planPort{p.Name, p.Type, p.Options, p.ExternalIDs})
	}
	for _, m := range s.Meters {
		item.Meters = append(item.Meters, planMeter{m.Port, m.Rate})
	}
	for _, c := range s.Collectors {
		item.Collectors = append(item.Collectors, planCollectors{c.ID, c.Targets, c.Timeout})
	}
	for _, f := range s.Flows {
		item.Flows = append(item.Flows, newPlanFlow(f))
	}
	return item
}

func newPlanFlow(f ovs.Flow) planFlow {
	return planFlow{f.Table, pipeline.TableName(f.Table), f.Priority, f.Match, f.Actions}
}

// planOptions reads the flags; the node's own record says which datapath it
// has.
func planOptions(c *ucli.Context, n topology.Node) pipeline.Options {
	opt := pipeline.Options{
		Bridge:   c.String("bridge"),
		Datapath: n.Datapath,
		Ports: map[topology.Transport]int{
			topology.VXLAN: c.Int("vxlan-port"), topology.Geneve: c.Int("geneve-port"),
		},
	}
	if opt.Datapath == "" {
		opt.Datapath = "system"
	}
	return opt
}

func (r *runner) plan(c *ucli.Context) error {
	format, err := outputOf(c)
	if err != nil {
		return err
	}
	named := c.IsSet("node")
	if err := r.nodeFlags(c, "node", "bridge", "ovsdb", "ovs-rundir", "vxlan-port", "geneve-port"); err != nil {
		return err
	}
	node := c.String("node")
	if node == "" {
		if node, err = hostName(); err != nil {
			return err
		}
	}
	return r.withTopology(c, node, func(snap *topology.Snapshot) error {
		n, known := snap.Nodes[node]
		if !known {
			_, err := findNode(snap, node)
			if err == nil { // it owns subnets, or is alive, but has no record
				err = &topology.Error{
					Kind:   topology.ErrNotFound,
					Item:   "node " + node,
					What:   "not registered",
					Remedy: "start 'baize agent' on it",
				}
			}
			if !named {
				err = fmt.Errorf("%w; --node names another than this host", err)
			}
			return err
		}
		view := snap.View(node)
		if c.Bool("diff") {
			opt := planOptions(c, n)
			routes, err := r.agentRoutes(c, view, &opt)
			if err != nil {
				return err
			}
			return r.planDiff(c, format, view, opt, routes)
		}
		opt := planOptions(c, n)
		state := pipeline.Build(view, nil, opt)
		k, problems := planKernel(view, opt.Ports)
		problems = append(slices.Clone(view.Problems), problems...)
		if format != "text" {
			return r.data(format, newPlanItem(view, state, k, problems))
		}
		if err := pipeline.Format(r.Out, state); err != nil {
			return err
		}
		if err := formatKernel(r.Out, view, k); err != nil {
			return err
		}
		return r.problems(problems)
	})
}

// planKernel computes what is known of a node's kernel anywhere: all but the
// paths to other nodes.
func planKernel(v topology.View, ports map[topology.Transport]int) (kernel.State, []fault.Fault) {
	in := kernel.Input{
		View: v, Ports: map[string]string{}, Protected: kernel.Protect(v, kernel.Observed{}),
		Userspace: v.Node.Datapath != "system", TunnelPorts: ports,
	}
	names := pipeline.NamesOf(v)
	for _, n := range v.Networks {
		if _, ok := n.Host(); ok {
			in.Ports[n.Name] = names.Host(n.Name)
		}
	}
	state, faults := kernel.Wanted(in)
	return state, slices.DeleteFunc(faults, func(f fault.Fault) bool { return f.Code == fault.Unreachable })
}

// formatKernel writes the kernel's part as pipeline.Format writes the switch's;
// nothing where the node's kernel forwards nothing.
func formatKernel(w io.Writer, v topology.View, k kernel.State) error {
	if k.Empty() {
		return nil
	}
	var b strings.Builder
	b.WriteString("\nKernel\n")
	if slices.ContainsFunc(
		v.Networks,
		func(n topology.NetworkView) bool { return n.Transport.Routed() && len(n.Peers) > 0 },
	) {
		b.WriteString("    # and routes to other nodes, by who is on-link: 'baize route list' on the node\n")
	}
	if len(k.Firewall.Accept) > 0 {
		b.WriteString("    # the chains of iptables only where its FORWARD chain may drop something, as Docker's does\n")
	}
	for line := range strings.Lines(k.String()) {
		b.WriteString("    " + line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// agentRoutes asks this host's agent what the kernel routes at this moment, where
// the plan depends on it.
func (r *runner) agentRoutes(c *ucli.Context, v topology.View, opt *pipeline.Options) ([]api.Route, error) {
	if !slices.ContainsFunc(v.Networks, func(n topology.NetworkView) bool { return n.Transport.Routed() }) {
		return nil, nil
	}
	routes, err := waiting(r, c, "asking the agent for its routes", r.agentClient(c).Routes)
	opt.Direct = drift.DirectOf(routes)
	return routes, err
}

// problems lists what is wrong on the error stream, where it does not disturb
// what a script reads.
func (r *runner) problems(ps []fault.Fault) error {
	for _, p := range ps {
		if _, err := fmt.Fprintf(r.Err, "problem: %s\n", strings.TrimSpace(p.String())); err != nil {
			return err
		}
	}
	return nil
}
