package flannel

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Merge returns own with what flannel's keys (raw) say, in Baize's own terms:
// the network Network, a node for each host that runs flannel, a subnet for
// each lease. A lease of a Baize node is recognised by its VtepMAC. self is the
// node that asks, whose underlay sets the MTU, as with flannel; it may be "".
//
// Once Baize's own keys have a network of that name (after 'baize migrate
// flannel'), flannel's are not looked at any more.
func Merge(own, raw *topology.Snapshot, self string) *topology.Snapshot {
	if migrated(own) || raw == nil {
		return own
	}
	l := Listing{Layout: Name, Config: raw.Raw[ConfigKey]}
	for _, key := range slices.Sorted(maps.Keys(raw.Raw)) {
		if strings.HasPrefix(key, dirSubnets) {
			lease, err := DecodeLease(raw.Raw[key])
			l.Hosts = append(l.Hosts, Host{Key: key, Lease: lease, Err: err})
		}
	}
	return l.Merge(own, self)
}

// Listing is all that a registry says of flannel's network.
type Listing struct {
	// Layout is that of what comes from it.
	Layout string
	// Config is flannel's configuration; without a key where there is none.
	Config topology.KV
	Hosts  []Host
}

// Host is a host of flannel's network.
type Host struct {
	// Key is what its lease is called, in messages.
	Key string
	// Name is the host's name; "" where only its address is known.
	Name string
	Lease
	// Err is why the lease cannot be read.
	Err error
}

// Merge returns own with what the listing says; see the function.
func (l Listing) Merge(own *topology.Snapshot, self string) *topology.Snapshot {
	m := merger{Snapshot: *own, self: self, layout: l.Layout}
	m.Malformed = maps.Clone(own.Malformed)
	if l.Config.Key == "" {
		m.report(ConfigKey, "there is no such key below the prefix of flannel",
			`etcdctl put `+DefaultPrefix+"/"+ConfigKey+` '`+exampleConfig+`'`)
		return &m.Snapshot
	}
	decode := DecodeNetConf
	if l.Layout == Name {
		decode = DecodeConfig
	}
	c, err := decode(l.Config.Value)
	if err != nil {
		m.Malformed[malformedKey(ConfigKey)] = fault.Of(err)
		return &m.Snapshot
	}
	m.config = c
	m.Networks, m.Nodes, m.Subnets = maps.Clone(own.Networks), maps.Clone(own.Nodes), maps.Clone(own.Subnets)
	// Those that a migration has written before it was cut off do not count.
	maps.DeleteFunc(m.Subnets, func(id topology.SubnetID, _ topology.Subnet) bool { return id.Network == Network })
	n := c.network(own.Nodes[self], l.Config.Meta)
	n.Layout = l.Layout
	m.Networks[Network] = n
	m.byVTEP = map[netip.Addr]string{}
	for name, n := range own.Nodes {
		for _, a := range n.VTEPs {
			m.byVTEP[a] = name
		}
	}
	for _, h := range l.Hosts {
		if h.Err != nil {
			m.Malformed[malformedKey(h.Key)] = fault.Of(h.Err)
			continue
		}
		m.lease(h)
	}
	return &m.Snapshot
}

// migrated reports whether flannel's network is in Baize's own keys.
func migrated(own *topology.Snapshot) bool {
	_, ok := own.Networks[Network]
	return ok
}

// malformedKey is where a fault of one of flannel's keys is in
// Snapshot.Malformed; no key of Baize's own is like it.
func malformedKey(key string) string { return Name + " " + key }

// merger adds flannel's leases to a snapshot.
type merger struct {
	topology.Snapshot
	config Config
	self   string
	layout string
	byVTEP map[netip.Addr]string // Baize nodes
}

func (m *merger) report(key, what, remedy string) {
	m.Malformed[malformedKey(key)] = fault.Fault{
		Code: fault.SourceMalformed, Item: "flannel's " + key, What: what, Remedy: remedy,
	}
}

// lease adds one lease.
func (m *merger) lease(h Host) {
	key, l := h.Key, h.Lease
	addr, vtep := l.end()
	node := m.byVTEP[addr]
	if h.Name != "" && h.Name == m.self {
		node = h.Name
	}
	prefixes := l.Prefixes()
	switch own, registered := m.Nodes[node]; {
	case registered && vtep.MAC == topology.RouterMAC(own).String():
	case l.Reserved && l.VTEP.MAC == "" && l.BackendType != HostGW:
		// A reservation that its host has not taken up.
	case node == m.self && node != "":
		return // left by flannel on this host, and soon taken up
	default:
		if why := m.config.Backend.misfit(l); why != "" {
			m.report(key, fmt.Sprintf("host %s has %s: it is not reached", addr, why), "restart flanneld on it")
			return
		}
		delete(m.Nodes, node) // a host that went back to flannel
		host := m.host(h)
		node, m.Nodes[host.Name] = host.Name, host
		if l.IPv6Subnet.IsValid() && !l.reachableIPv6() {
			prefixes = prefixes[:1]
			m.report(key,
				fmt.Sprintf("host %s does not say where its IPv6 tunnel ends: only IPv4 is forwarded to it", addr),
				"give the host an IPv6 address and restart flanneld on it")
		}
	}
	for _, p := range prefixes {
		m.Subnets[topology.SubnetID{Network: Network, Prefix: p}] = topology.Subnet{
			Network: Network, Prefix: p, Node: node, Reserved: l.Reserved || node == "", Meta: l.Meta,
		}
	}
}

// misfit says what keeps hosts of the configured backend from reaching the host
// of a lease; "" where nothing does.
func (b Backend) misfit(l Lease) string {
	_, vtep := l.end()
	switch {
	case l.BackendType != b.Type || (l.BackendType == VXLAN && vtep.MAC == ""):
		return fmt.Sprintf("the backend %q, not %s", l.BackendType, b.Type)
	case l.BackendType == VXLAN && vtep.VNI != b.VNI:
		return fmt.Sprintf("the VNI %d, not %d", vtep.VNI, b.VNI)
	}
	return ""
}

// reachableIPv6 reports whether the lease says where IPv6 packets go.
func (l Lease) reachableIPv6() bool {
	return l.PublicIPv6.IsValid() && (l.BackendType != VXLAN || l.IPv6VTEP.MAC != "")
}

// host returns the node of a host that runs flannel: a router.
func (m *merger) host(l Host) topology.Node {
	addr, _ := l.end()
	n := topology.Node{
		Name: cmp.Or(l.Name, NodeName(addr)), VTEPs: []netip.Addr{addr},
		Router: &topology.RouterHost{}, Layout: m.layout, Meta: l.Meta,
	}
	n.ID = n.Name
	if l.BackendType == VXLAN {
		n.Encapsulations = []topology.Transport{topology.VXLAN}
		n.Router = &topology.RouterHost{MAC: l.VTEP.MAC, IPv6MAC: l.IPv6VTEP.MAC, Port: m.config.Backend.Port}
	}
	if l.PublicIPv6.IsValid() && addr.Is4() {
		n.VTEPs = append(n.VTEPs, l.PublicIPv6)
	}
	return n
}

// ofBaize reports whether the lease is that of a Baize node.
func (l Lease) ofBaize() bool { return l.PublicIP.Is4() && l.VTEP.MAC == VtepMAC(l.PublicIP) }

// network returns flannel's network as one of Baize's.
func (c Config) network(self topology.Node, m topology.Meta) topology.Network {
	underlay := c.Backend.MTU
	if underlay == 0 {
		underlay = self.UnderlayMTU
	}
	if underlay == 0 {
		underlay = topology.DefaultUnderlayMTU
	}
	n := topology.Network{
		Name: Network, IPv4: c.IPv4, IPv6: c.IPv6, VNI: c.Backend.VNI,
		SubnetLenIPv4: c.SubnetLenIPv4, SubnetLenIPv6: c.SubnetLenIPv6,
		Transport: c.Backend.transport(), Router: true, Layout: Name, Meta: m,
	}
	family := topology.IPv4
	if c.IPv6.IsValid() {
		// Flannel has tunnels over IPv6 for it, with 20 bytes more around packets,
		// and leaves them to fragmentation, which Open vSwitch's userspace
		// datapath does not do.
		family = topology.IPv6
	}
	n.MTU = topology.MTU(n.Transport, family, underlay)
	return n
}

// transport returns what is to Baize what the backend is to flannel.
func (b Backend) transport() topology.Transport {
	switch {
	case b.Type == HostGW:
		return topology.Route
	case b.DirectRouting:
		return topology.Auto
	}
	return topology.VXLAN
}
