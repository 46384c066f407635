package command

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

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
  baize network update blue --allow ra,dhcp-server --bum 5000`,
		Flags: append(append([]ucli.Flag{
			&ucli.StringSliceFlag{Name: "subnet", Usage: "`PREFIX` of its family, once for IPv4, once for IPv6, or both"},
		}, append(divisionFlags(), networkSettings()...)...),
			&ucli.BoolFlag{Name: "no-gateway", Usage: "remove the gateway"},
			&ucli.BoolFlag{Name: "no-allow", Usage: "allow the endpoints no kind of traffic"},
			dryRunFlag(), outputFlag(formatsItem...)),
		Action: r.networkUpdate,
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

// networkItem is a network in JSON and YAML.
type networkItem struct {
	Name          string             `json:"name"`
	VNI           uint32             `json:"vni"`
	Subnets       []netip.Prefix     `json:"subnets"`
	SubnetLenIPv4 int                `json:"subnetLenIPv4,omitempty"`
	SubnetLenIPv6 int                `json:"subnetLenIPv6,omitempty"`
	Transport     topology.Transport `json:"transport"`
	// Limits says what the transport cannot carry.
	Limits string `json:"limits,omitempty"`
	// Router says that the nodes' kernels are routers in it, Layout whose keys
	// in etcd it is in, unless Baize's own.
	Router bool   `json:"router,omitempty"`
	Layout string `json:"layout,omitempty"`
	// CreatedBy is "docker" where an engine asked for it.
	CreatedBy string `json:"createdBy,omitempty"`
	// Deleting says that it is being deleted, and how; Holders are the nodes that it
	// waits for then.
	Deleting topology.Deletion `json:"deleting,omitempty"`
	Holders  []topology.Holder `json:"holders,omitempty"`
	MTU      int               `json:"mtu"`
	// MTUDefault says that nobody chose the MTU, MTUNode which node's link makes it
	// smaller then.
	MTUDefault bool         `json:"mtuDefault,omitempty"`
	MTUNode    string       `json:"mtuNode,omitempty"`
	Gateways   []netip.Addr `json:"gateways"`
	// Allow are the kinds of traffic that all endpoints may send. BUM is how many
	// broadcast, multicast and unknown unicast frames a second one may; 0: any number.
	Allow []topology.Traffic `json:"allow,omitempty"`
	BUM   int                `json:"bum"`

	LeasesIPv4     *leases       `json:"leasesIPv4,omitempty"`
	LeasesIPv6     *leases       `json:"leasesIPv6,omitempty"`
	Nodes          []networkNode `json:"nodes"`
	CreateRevision int64         `json:"createRevision,omitempty"`
	ModRevision    int64         `json:"modRevision,omitempty"`
}

// leases counts the subnets of a network that are leased or reserved, out of
// those that can be.
type leases struct {
	Used  uint64 `json:"used"`
	Total uint64 `json:"total"`
}

func (l *leases) String() string { return fmt.Sprintf("%d/%d", l.Used, l.Total) }

type networkNode struct {
	Node    string         `json:"node"`
	Subnets []netip.Prefix `json:"subnets"`
}

func newNetworkItem(s *topology.Snapshot, n topology.Network) networkItem {
	n, least := n.WithMTU(s.Underlay())
	item := networkItem{
		Name: n.Name, VNI: n.VNI, Subnets: n.Prefixes(), SubnetLenIPv4: n.SubnetLenIPv4, SubnetLenIPv6: n.SubnetLenIPv6,
		Transport: n.Transport, Limits: n.Transport.Limits(), Router: n.Router, Layout: n.Layout, MTU: n.MTU,
		CreatedBy: n.CreatedBy, MTUDefault: n.MTUDefault, MTUNode: least, Allow: n.AllowTraffic, BUM: n.BUMRate(),
		Gateways: []netip.Addr{}, Nodes: []networkNode{}, Deleting: n.Deleting,
		CreateRevision: n.CreateRevision, ModRevision: n.ModRevision,
	}
	if n.Deleting != "" {
		item.Holders = s.Holders(n.Name)
	}
	used := map[topology.Family]uint64{}
	byNode := map[string][]netip.Prefix{}
	for _, sub := range s.SortedSubnets() {
		if sub.Network != n.Name {
			continue
		}
		used[topology.FamilyOf(sub.Prefix.Addr())]++
		if sub.Node != "" {
			byNode[sub.Node] = append(byNode[sub.Node], sub.Prefix)
		}
	}
	for _, f := range n.Families() {
		// The first subnet of a network is never leased.
		l := &leases{Used: used[f], Total: max(topology.SubnetCount(n, f), 1) - 1}
		if f == topology.IPv6 {
			item.LeasesIPv6 = l
		} else {
			item.LeasesIPv4 = l
		}
		if g := n.Gateway(f); g.IsValid() {
			item.Gateways = append(item.Gateways, g)
		}
	}
	for _, node := range sortedNames(byNode) {
		item.Nodes = append(item.Nodes, networkNode{node, byNode[node]})
	}
	return item
}

// leaseText is the scarcer family's count: IPv4's where there is one.
func (n networkItem) leaseText() string {
	if n.LeasesIPv4 != nil {
		return n.LeasesIPv4.String()
	}
	if n.LeasesIPv6 != nil {
		return n.LeasesIPv6.String()
	}
	return ""
}

var networks = kind[networkItem]{
	name: "network",
	key:  func(n networkItem) string { return n.Name },
	none: "no networks: create one with 'baize network create NAME --subnet 10.1.0.0/16'",
	columns: []column[networkItem]{
		{"NAME", plain, func(n networkItem) any { return n.Name }},
		{"VNI", plain, func(n networkItem) any { return n.VNI }},
		{"SUBNETS", plain, func(n networkItem) any { return n.Subnets }},
		{"TRANSPORT", plain, func(n networkItem) any { return n.Transport }},
		{"MTU", plain, func(n networkItem) any { return n.MTU }},
		{"GATEWAY", plain, func(n networkItem) any { return n.Gateways }},
		{"LEASES", plain, func(n networkItem) any { return n.leaseText() }},
		{"STATUS", state, func(n networkItem) any {
			if n.Deleting != "" {
				return "deleting"
			}
			return ""
		}},
		{"SUBNET-LEN", wide, func(n networkItem) any {
			var out []string
			for _, l := range []int{n.SubnetLenIPv4, n.SubnetLenIPv6} {
				if l != 0 {
					out = append(out, "/"+strconv.Itoa(l))
				}
			}
			return out
		}},
		{"LEASES-V6", wide, func(n networkItem) any {
			if n.LeasesIPv6 == nil {
				return ""
			}
			return n.LeasesIPv6.String()
		}},
		{"NODES", wide, func(n networkItem) any { return len(n.Nodes) }},
	},
}

// mtuText says where the MTU is from.
func (n networkItem) mtuText() string {
	out := strconv.Itoa(n.MTU)
	switch {
	case n.MTUNode != "":
		out += ", which is what the link of node " + n.MTUNode + " carries"
	case n.MTUDefault:
		out += ", the default"
	}
	return out
}

// bumText says how much an endpoint may flood.
func (n networkItem) bumText() string {
	if n.BUM == 0 {
		return "not limited"
	}
	return fmt.Sprintf("%d frames a second from an endpoint", n.BUM)
}

func (n networkItem) describe() []field {
	out := []field{
		{"Name", n.Name}, {"VNI", strconv.FormatUint(uint64(n.VNI), 10)}, {"Subnets", joined(n.Subnets)},
		{"Transport", string(n.Transport)}, {"MTU", n.mtuText()}, {"Gateway", joined(n.Gateways)},
	}
	if n.Deleting != "" {
		out = append(out, field{"Status", "being deleted; it waits for " + counted(len(n.Holders), "node")})
	}
	for _, h := range n.Holders {
		out = append(out, field{"Held by " + h.Node, h.Why()})
	}
	if n.Limits != "" {
		out = append(out, field{"Limits", n.Limits})
	}
	if len(n.Allow) > 0 {
		out = append(out, field{"Allowed", joined(n.Allow)})
	}
	out = append(out, field{"Flooding", n.bumText()})
	if n.Router {
		out = append(out, field{"Router", "the nodes' kernels; a docker0 with the node's subnet is reached through its host"})
	}
	if n.Layout != "" {
		out = append(out, field{"Layout", n.Layout + "'s keys, until 'baize migrate " + n.Layout + "'"})
	}
	if n.CreatedBy == topology.CreatedByDocker {
		out = append(out, field{"Created by", "Docker; it goes with the last node that uses it"})
	}
	if n.LeasesIPv4 != nil {
		out = append(out, field{"Leases IPv4", fmt.Sprintf("%s of /%d", n.LeasesIPv4, n.SubnetLenIPv4)})
	}
	if n.LeasesIPv6 != nil {
		out = append(out, field{"Leases IPv6", fmt.Sprintf("%s of /%d", n.LeasesIPv6, n.SubnetLenIPv6)})
	}
	for _, node := range n.Nodes {
		out = append(out, field{"Node " + node.Node, joined(node.Subnets)})
	}
	return out
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
	return nil
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
	out.limits = func(n *topology.Network) error { return setLimits(n, command, c) }
	if err := out.limits(new(topology.Network)); err != nil {
		return out, err
	}
	if c.IsSet("mtu") {
		mtu := c.Int("mtu")
		out.mtu = &mtu
	}
	if !anySet(c, "subnet", "subnet-len", "subnet-len-v6", "transport", "mtu", "gateway", "no-gateway", "allow",
		"no-allow", "bum") {
		return out, usagef(command, "nothing to change: give --subnet, --subnet-len, --subnet-len-v6, --transport, --mtu, "+
			"--gateway, --no-gateway, --allow, --no-allow or --bum")
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
	if err := x.limits(n); err != nil {
		return err
	}
	return setGateways(n, command, x.gateways)
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
