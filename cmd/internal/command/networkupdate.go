package command

import (
	"fmt"
	"net/netip"
	"slices"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

func (r *runner) networkUpdateCommand() *ucli.Command {
	return &ucli.Command{
		Name: "update", Usage: "change a network", ArgsUsage: "NAME",
		Description: `Only the settings that are given change. Running containers keep their default
route until they are restarted; a new transport, and a smaller MTU, take effect on
all nodes at once. '--mtu 0' is the default again.

A prefix of the other family can be added while the network is in use: its nodes
lease subnets of it, and endpoints attached from then on have addresses of both. The
prefix of a family that is there, the length of its subnets and the VNI change only
while no node uses the network.

  baize network update blue --mtu 1400
  baize network update blue --subnet fd00:10:1::/48
  baize network update blue --no-gateway
  baize network update blue --allow ra,dhcp-server --bum 5000
  baize network update blue --ipfix 192.0.2.9:4739 --ipfix-sampling 1000`,
		Flags: append(append([]ucli.Flag{
			&ucli.StringSliceFlag{Name: "subnet", Usage: "`PREFIX` of its family, once for IPv4, once for IPv6, or both"},
		}, append(divisionFlags(), networkSettings()...)...),
			&ucli.BoolFlag{Name: "no-gateway", Usage: "remove the gateway"},
			&ucli.BoolFlag{Name: "no-allow", Usage: "allow the endpoints no kind of traffic"},
			&ucli.BoolFlag{Name: "no-ipfix", Usage: "send no records of its flows"},
			dryRunFlag(), outputFlag(formatsItem...)),
		Action: r.networkUpdate,
	}
}

// networkChange is what 'network update' is to change; its zero values leave a
// setting as it is.
type networkChange struct {
	prefixes  topology.Network
	transport topology.Transport
	mtu       *int
	gateways  []string
	noGateway bool
	// limits are --allow and --bum, as setLimits reads them.
	limits  func(n *topology.Network) error
	noAllow bool
	noIPFIX bool
}

func (r *runner) networkUpdate(c *ucli.Context) error {
	const command = "baize network update"
	name := c.Args().First()
	change, err := readNetworkChange(c, command)
	if err != nil {
		return err
	}
	return r.writing(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		if _, err := findNetwork(snap, name); err != nil {
			return err
		}
		changed, err := s.UpdateNetwork(c.Context, name, func(n *topology.Network) error {
			return change.apply(n, command, snap)
		})
		if err != nil {
			return err
		}
		item := newNetworkItem(snap, changed)
		sentence := fmt.Sprintf("network %s updated: %s, MTU %d", changed.Name, changed.Transport, changed.MTU)
		if len(c.StringSlice("subnet")) > 0 {
			sentence = fmt.Sprintf("network %s updated: %s", changed.Name, joined(item.Subnets))
		}
		return r.item(c, item, nil, withLimits(sentence, item))
	})
}

// anySet reports whether one of several flags is given.
func anySet(c *ucli.Context, names ...string) bool { return slices.ContainsFunc(names, c.IsSet) }

// readNetworkChange checks flags before anything is read from etcd.
func readNetworkChange(c *ucli.Context, command string) (networkChange, error) {
	out := networkChange{gateways: c.StringSlice("gateway"), noGateway: c.Bool("no-gateway"), noAllow: c.Bool("no-allow")}
	out.noIPFIX = c.Bool("no-ipfix")
	var err error
	if out.transport, err = transportOf(c, command); err != nil {
		return out, err
	}
	if len(out.gateways) > 0 && out.noGateway {
		return out, usagef(command, "--gateway and --no-gateway contradict each other")
	}
	if out.noAllow && c.IsSet("allow") {
		return out, usagef(command, "--allow and --no-allow contradict each other")
	}
	if out.noIPFIX && anySet(c, "ipfix", "ipfix-sampling", "ipfix-cache") {
		return out, usagef(command, "--no-ipfix contradicts the other flags of IPFIX")
	}
	out.limits = func(n *topology.Network) error { return setLimits(n, command, c) }
	if err := out.limits(new(topology.Network)); err != nil {
		return out, err
	}
	if c.IsSet("mtu") {
		mtu := c.Int("mtu")
		out.mtu = &mtu
	}
	if !anySet(c, "subnet", "subnet-len", "subnet-len-v6", "transport", "mtu", "gateway", "no-gateway", "allow",
		"no-allow", "bum", "ipfix", "ipfix-sampling", "ipfix-cache", "no-ipfix") {
		return out, usagef(command, "nothing to change: give --subnet, --subnet-len, --subnet-len-v6, --transport, --mtu, "+
			"--gateway, --no-gateway, --allow, --no-allow, --bum, --ipfix, --ipfix-sampling, --ipfix-cache or --no-ipfix")
	}
	if err := setPrefixes(&out.prefixes, command, c.StringSlice("subnet")); err != nil {
		return out, err
	}
	out.prefixes.SubnetLenIPv4, out.prefixes.SubnetLenIPv6 = c.Int("subnet-len"), c.Int("subnet-len-v6")
	return out, setGateways(new(topology.Network), command, out.gateways)
}

func (x networkChange) apply(n *topology.Network, command string, snap *topology.Snapshot) error {
	if p := x.prefixes.IPv4; p.IsValid() {
		n.IPv4 = p
	}
	if p := x.prefixes.IPv6; p.IsValid() {
		n.IPv6 = p
	}
	if l := x.prefixes.SubnetLenIPv4; l != 0 {
		n.SubnetLenIPv4 = l
	}
	if l := x.prefixes.SubnetLenIPv6; l != 0 {
		n.SubnetLenIPv6 = l
	}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		if flag := divisionFlag(f); n.SubnetLen(f) != 0 && !n.Prefix(f).IsValid() {
			return usagef(command, "--%s is given but the network has no %s prefix", flag, f)
		}
	}
	if x.transport != "" {
		n.Transport = x.transport
	}
	if x.mtu != nil {
		n.MTU, n.MTUDefault = *x.mtu, *x.mtu == 0
	}
	*n, _ = n.Defaults().WithMTU(snap.Underlay())
	if x.noGateway {
		n.GatewayIPv4, n.GatewayIPv6 = netip.Addr{}, netip.Addr{}
	}
	if x.noAllow {
		n.AllowTraffic = nil
	}
	if x.noIPFIX {
		n.IPFIX = nil
	}
	if err := x.limits(n); err != nil {
		return err
	}
	return setGateways(n, command, x.gateways)
}
