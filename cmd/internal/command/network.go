package command

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/etcdstore"
)

// networkSettings are the flags of what can be changed later.
func networkSettings() []ucli.Flag {
	return []ucli.Flag{
		&ucli.StringFlag{
			Name: "transport", Usage: "`TRANSPORT` between nodes: " + transportNames() + " (default vxlan)",
		},
		&ucli.IntFlag{
			Name: "mtu", Usage: "`BYTES` of the largest IP packet of a container (default what all nodes carry, with an " +
				"underlay of 1500 at most)",
			Action: between("mtu", 1, math.MaxUint16),
		},
		&ucli.StringSliceFlag{
			Name: "gateway", Usage: "`ADDRESS` of the endpoints' default route, one for each family",
		},
		&ucli.StringSliceFlag{
			Name: "allow", Usage: "kind of `TRAFFIC` that all its endpoints may send: " + trafficNames() + " (default none)",
		},
		&ucli.StringFlag{
			Name: "bum", Usage: fmt.Sprintf("broadcast, multicast and unknown unicast `FRAMES` that an endpoint may send a "+
				"second, or off (default %d)", topology.DefaultBUM),
		},
		&ucli.StringSliceFlag{
			Name: "ipfix", Usage: "send records of its flows to the collector at this `ADDRESS`, 192.0.2.9:4739: see " +
				"docs/flows.md (default none)",
		},
		&ucli.IntFlag{
			Name:   "ipfix-sampling",
			Usage:  fmt.Sprintf("look at one of `N` packets for them (default %d)", topology.DefaultSampling),
			Action: between("ipfix-sampling", 1, topology.MaxSampling),
		},
		&ucli.DurationFlag{
			Name: "ipfix-cache", Usage: fmt.Sprintf("how long packets of one flow are counted before a record tells of it; "+
				"0: each packet is a record (default %ds)", topology.DefaultIPFIXCache),
			Action: notNegative("ipfix-cache"),
		},
	}
}

// divisionFlags are the lengths of the subnets that nodes lease.
func divisionFlags() []ucli.Flag {
	return []ucli.Flag{
		&ucli.IntFlag{
			Name: "subnet-len", Usage: "prefix `LENGTH` of the IPv4 subnets nodes lease (default 24)",
			Action: between("subnet-len", 1, 30),
		},
		&ucli.IntFlag{
			Name: "subnet-len-v6", Usage: "prefix `LENGTH` of the IPv6 subnets nodes lease (default 64)",
			Action: between("subnet-len-v6", 1, 126),
		},
	}
}

func (r *runner) networkCommand() *ucli.Command {
	return &ucli.Command{
		Name: "network", Aliases: []string{"net"}, Usage: "create, list, change and delete networks",
		Subcommands: []*ucli.Command{
			{
				Name: "create", Usage: "create a network", ArgsUsage: "NAME",
				Description: `A network is one Ethernet over all nodes that carry it. A node
leases a subnet of its prefix when something there needs the network, an endpoint
for example; containers have the mask of the whole network.

  baize network create blue --subnet 10.1.0.0/16 --subnet fd00:10:1::/48
  baize network create red --subnet 10.2.0.0/16 --transport gre --vni 200`,
				Flags: append([]ucli.Flag{
					&ucli.StringSliceFlag{
						Name: "subnet", Usage: "`PREFIX` of the network; once for IPv4, once for IPv6, or both", Required: true,
					},
					&ucli.UintFlag{Name: "vni", Usage: "`NUMBER` of the network on the wire, 1 to 16777215 (default a free one)"},
				}, append(append(divisionFlags(), networkSettings()...), dryRunFlag(), outputFlag(formatsItem...))...),
				Action: r.networkCreate,
			},
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list the networks",
				Flags: networks.flags(sourceFlag()), Action: networks.list(r, fromTopology(listNetworks)),
			},
			{
				Name: "show", Usage: "show a network with its nodes", ArgsUsage: "NAME",
				Flags: []ucli.Flag{sourceFlag(), outputFlag(formatsItem...)}, Action: r.networkShow,
			},
			r.networkUpdateCommand(),
			r.networkRenameCommand(),
			r.networkDeleteCommand(),
		},
	}
}

func (r *runner) networkRenameCommand() *ucli.Command {
	return &ucli.Command{
		Name: "rename", Usage: "give a network that no node uses another name", ArgsUsage: "NAME NEWNAME",
		Description: `Endpoints, engines and keys in etcd refer to a network by its name: one that is in
use keeps it, and the error names the nodes. Reservations go along.

  baize network rename blue azure`,
		Flags:  []ucli.Flag{dryRunFlag(), outputFlag(formatsItem...)},
		Action: r.networkRename,
	}
}

// setPrefixes reads --subnet.
func setPrefixes(n *topology.Network, command string, raw []string) error {
	for _, s := range raw {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return usagef(command, "--subnet %q is not a prefix: write it like 10.1.0.0/16 or fd00:10:1::/48", s)
		}
		slot := &n.IPv4
		if p.Addr().Is6() {
			slot = &n.IPv6
		}
		if slot.IsValid() {
			return usagef(command, "--subnet %s and %s: a network has one prefix of each family", *slot, p)
		}
		*slot = p
	}
	return nil
}

// setGateways reads --gateway; families not named stay as they are.
func setGateways(n *topology.Network, command string, raw []string) error {
	var v4, v6 netip.Addr
	for _, s := range raw {
		a, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return usagef(command, "--gateway %q is not an address: write it like 10.1.0.1", s)
		}
		slot := &v4
		if a.Is6() {
			slot = &v6
		}
		if slot.IsValid() {
			return usagef(command, "--gateway %s and %s: a network has one gateway of each family", *slot, a)
		}
		*slot = a
	}
	if v4.IsValid() {
		n.GatewayIPv4 = v4
	}
	if v6.IsValid() {
		n.GatewayIPv6 = v6
	}
	return nil
}

func divisionFlag(f topology.Family) string {
	if f == topology.IPv6 {
		return "subnet-len-v6"
	}
	return "subnet-len"
}

// setLimits reads --allow and --bum; what is not given stays as it is.
func setLimits(n *topology.Network, command string, c *ucli.Context) error {
	if c.IsSet("allow") {
		kinds, err := topology.ParseTraffic("--allow", c.StringSlice("allow"))
		if err != nil {
			return usagef(command, "%v", err)
		}
		n.AllowTraffic = kinds
	}
	if c.IsSet("bum") {
		rate, err := topology.ParseBUM("--bum", c.String("bum"))
		if err != nil {
			return usagef(command, "%v", err)
		}
		n.BUM = rate
	}
	return setIPFIX(n, command, c)
}

// setIPFIX reads --ipfix and what belongs to it; what is not given stays as it is.
func setIPFIX(n *topology.Network, command string, c *ucli.Context) error {
	if !anySet(c, "ipfix", "ipfix-sampling", "ipfix-cache") {
		return nil
	}
	var x topology.IPFIX
	if n.IPFIX != nil {
		x = *n.IPFIX
	}
	if c.IsSet("ipfix") {
		all, err := collectorsOf(c, command, "ipfix", topology.IPFIXPort)
		if err != nil {
			return err
		}
		x.Collectors = all
	}
	if c.IsSet("ipfix-sampling") {
		x.Sampling = c.Int("ipfix-sampling")
	}
	if c.IsSet("ipfix-cache") {
		d := c.Duration("ipfix-cache")
		if x.Cache = int(d / time.Second); d%time.Second != 0 || x.Cache > topology.MaxIPFIXCache {
			return usagef(command, "--ipfix-cache %s: use whole seconds, %ds at most", d, topology.MaxIPFIXCache)
		}
		if x.Cache == 0 {
			x.Cache = -1
		}
	}
	n.IPFIX = &x
	return nil
}

// collectorsOf reads the addresses of a flag.
func collectorsOf(c *ucli.Context, command, flag string, port uint16) ([]string, error) {
	given := c.StringSlice(flag)
	out := make([]string, len(given))
	for i, text := range given {
		var err error
		if out[i], err = topology.ParseCollector("--"+flag, text, port); err != nil {
			return nil, usagef(command, "%v", err)
		}
	}
	if len(out) > topology.MaxCollectors {
		return nil, usagef(command, "--%s: %d are too many: use %d at most", flag, len(out), topology.MaxCollectors)
	}
	return out, nil
}

// trafficNames lists all kinds of traffic in one sentence.
func trafficNames() string { return sentence(topology.Traffics()) }

// transportNames lists all transports in one sentence.
func transportNames() string { return sentence(topology.Transports()) }

// sentence lists alternatives.
func sentence[T ~string](all []T) string {
	out := ""
	for i, t := range all {
		switch {
		case i == len(all)-1:
			out += " or "
		case i > 0:
			out += ", "
		}
		out += string(t)
	}
	return out
}

func transportOf(c *ucli.Context, command string) (topology.Transport, error) {
	t := c.String("transport")
	if t == "" {
		return "", nil
	}
	var names []string
	for _, x := range topology.Transports() {
		names = append(names, string(x))
	}
	return topology.Transport(t), checkOneOf(command, "transport", t, names)
}

func (r *runner) networkCreate(c *ucli.Context) error {
	const command = "baize network create"
	n := topology.Network{
		Name: c.Args().First(), VNI: uint32(min(c.Uint("vni"), topology.MaxVNI)), MTU: c.Int("mtu"),
		SubnetLenIPv4: c.Int("subnet-len"), SubnetLenIPv6: c.Int("subnet-len-v6"),
	}
	var err error
	if n.Transport, err = transportOf(c, command); err != nil {
		return err
	}
	if vni := c.Uint("vni"); c.IsSet("vni") && (vni == 0 || vni > topology.MaxVNI) {
		return usagef(command, "--vni %d is no VNI: use 1 to %d, or leave it out for a free one", vni, topology.MaxVNI)
	}
	if err := setPrefixes(&n, command, c.StringSlice("subnet")); err != nil {
		return err
	}
	if err := setGateways(&n, command, c.StringSlice("gateway")); err != nil {
		return err
	}
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		flag := divisionFlag(f)
		if c.IsSet(flag) && !n.Prefix(f).IsValid() {
			return usagef(command, "--%s is given but no %s --subnet", flag, f)
		}
	}
	if err := setLimits(&n, command, c); err != nil {
		return err
	}
	return r.withStore(c, func(s *etcdstore.Store) error {
		return r.rehearsed(c, s, func() error { return r.createNetwork(c, s, n) })
	})
}

func (r *runner) createNetwork(c *ucli.Context, s *etcdstore.Store, n topology.Network) error {
	made, err := waiting(r, c, "creating the network", func(ctx context.Context) (topology.Network, error) {
		return s.CreateNetwork(ctx, n)
	})
	if err != nil {
		return err
	}
	item := newNetworkItem(topology.NewSnapshot(0, nil), made)
	sentence := fmt.Sprintf("network %s created: %s, VNI %d, %s, MTU %d",
		made.Name, joined(item.Subnets), made.VNI, made.Transport, made.MTU)
	return r.item(c, item, func() []field { return nil }, withLimits(sentence, item))
}

// withLimits adds to a message what the network cannot carry.
func withLimits(sentence string, n networkItem) string {
	if n.Limits == "" {
		return sentence
	}
	return sentence + "\n" + string(n.Transport) + " carries " + n.Limits
}

func listNetworks(_ *ucli.Context, snap *topology.Snapshot) ([]networkItem, error) {
	items := []networkItem{}
	for _, n := range snap.SortedNetworks() {
		items = append(items, newNetworkItem(snap, n))
	}
	return items, nil
}

func (r *runner) networkShow(c *ucli.Context) error {
	return r.withTopology(c, "", func(snap *topology.Snapshot) error {
		n, err := findNetwork(snap, c.Args().First())
		if err != nil {
			return err
		}
		item := newNetworkItem(snap, n)
		return r.item(c, item, item.describe, "")
	})
}

func (r *runner) networkRename(c *ucli.Context) error {
	from, to := c.Args().Get(0), c.Args().Get(1)
	return r.writing(c, func(s *etcdstore.Store, snap *topology.Snapshot) error {
		if _, err := findNetwork(snap, from); err != nil {
			return err
		}
		renamed, err := s.RenameNetwork(c.Context, from, to)
		if err != nil {
			return err
		}
		return r.item(c, newNetworkItem(snap, renamed), nil, fmt.Sprintf("network %s is now %s", from, to))
	})
}

// findNetwork looks a network up; the error proposes another one.
func findNetwork(snap *topology.Snapshot, name string) (topology.Network, error) {
	if n, ok := snap.Networks[name]; ok {
		return n, nil
	}
	if p, ok := snap.Malformed[topology.NetworkKey(name)]; ok {
		return topology.Network{}, &topology.Error{Kind: topology.ErrInvalid, Item: p.Item, What: p.What, Remedy: p.Remedy}
	}
	return topology.Network{}, notFound("network", name, sortedNames(snap.Networks), "'baize network list' shows them all")
}

// notFound names the missing item and the one that may have been meant.
func notFound(kind, name string, have []string, otherwise string) error {
	e := &topology.Error{
		Kind: topology.ErrNotFound, Item: kind + " " + name, What: "there is none of that name", Remedy: otherwise,
	}
	if hint := strings.TrimPrefix(didYouMean(name, have, ""), ": "); hint != "" {
		e.Remedy = hint
	}
	return e
}

func sortedNames[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.SortFunc(out, topology.CompareNames)
	return out
}

// joined writes values with commas between.
func joined[T any](xs []T) string { return strings.Join(texts(xs), ", ") }

// texts writes values.
func texts[T any](xs []T) []string {
	out := make([]string, len(xs))
	for i, x := range xs {
		out[i] = fmt.Sprint(x)
	}
	return out
}
