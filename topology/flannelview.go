package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/baize-net/baize/topology/fault"
)

// FlannelNetwork is the name that flannel's one network has in Baize.
const FlannelNetwork = "flannel"

// FlannelNode returns the name a host that runs flannel has in Baize: flannel
// knows it by its address only.
func FlannelNode(publicIP netip.Addr) string { return "flannel-" + publicIP.String() }

// WithFlannel returns s with what flannel's layout says, in Baize's own terms:
// the network FlannelNetwork, a node for each host that runs flannel, a subnet
// for each lease. Leases of Baize nodes are told by their VtepMAC. self is the
// node that asks, whose underlay sets the MTU, as with flannel; it may be "".
//
// Once Baize's own layout has a network of that name (after 'baize migrate
// flannel'), flannel's is not looked at any more.
func (s *Snapshot) WithFlannel(f *Snapshot, self string) *Snapshot {
	if _, migrated := s.Networks[FlannelNetwork]; migrated || f == nil {
		return s
	}
	out := *s
	out.Malformed = maps.Clone(s.Malformed)
	report := func(key, what, remedy string) {
		out.Malformed["flannel "+key] = fault.Fault{Item: "flannel's " + key, What: what, Remedy: remedy}
	}
	kv, ok := f.Raw[FlannelConfigKey]
	if !ok {
		report(FlannelConfigKey, "there is no such key below the prefix of flannel", `etcdctl put `+FlannelPrefix+`/config '{ "Network": "10.1.0.0/16", "Backend": { "Type": "vxlan" } }'`)
		return &out
	}
	c, err := DecodeFlannelConfig(kv.Value)
	if err != nil {
		out.Malformed["flannel "+FlannelConfigKey] = fault.Of(err)
		return &out
	}
	out.Networks, out.Nodes, out.Subnets = maps.Clone(s.Networks), maps.Clone(s.Nodes), maps.Clone(s.Subnets)
	out.Networks[FlannelNetwork] = c.network(s.Nodes[self], kv.Meta)
	byVTEP := map[netip.Addr]string{}
	for name, n := range s.Nodes {
		for _, a := range n.VTEPs {
			byVTEP[a] = name
		}
	}
	for _, key := range slices.Sorted(maps.Keys(f.Raw)) {
		if !strings.HasPrefix(key, flannelSubnets) {
			continue
		}
		l, err := DecodeFlannelLease(f.Raw[key])
		if err != nil {
			out.Malformed["flannel "+key] = fault.Of(err)
			continue
		}
		name := byVTEP[l.PublicIP]
		sub := Subnet{Network: FlannelNetwork, Node: name, Reserved: l.Reserved, Meta: l.Meta}
		prefixes := l.Prefixes()
		switch {
		case l.ofBaize() && name != "":
		case l.Reserved && l.VTEP.MAC == "" && l.BackendType != FlannelHostGW:
			// A reservation that its host has not taken up.
		case name == self && name != "":
			continue // left by flannel on this host, and soon taken up
		case l.BackendType != c.Backend.Type || (l.BackendType == FlannelVXLAN && l.VTEP.MAC == ""):
			report(key, fmt.Sprintf("host %s has the backend %q, not %s: it is not reached", l.PublicIP, l.BackendType, c.Backend.Type), "restart flanneld on it")
			continue
		case l.BackendType == FlannelVXLAN && l.VTEP.VNI != c.Backend.VNI:
			report(key, fmt.Sprintf("host %s has the VNI %d, not %d: it is not reached", l.PublicIP, l.VTEP.VNI, c.Backend.VNI), "restart flanneld on it")
			continue
		default:
			delete(out.Nodes, name) // a host that went back to flannel
			sub.Node = FlannelNode(l.PublicIP)
			n := Node{Name: sub.Node, ID: sub.Node, VTEPs: []netip.Addr{l.PublicIP}, Router: &RouterHost{}, Meta: l.Meta}
			if l.BackendType == FlannelVXLAN {
				n.Encapsulations = []Transport{VXLAN}
				n.Router = &RouterHost{MAC: l.VTEP.MAC, IPv6MAC: l.IPv6VTEP.MAC, Port: c.Backend.Port}
			}
			if l.PublicIPv6.IsValid() {
				n.VTEPs = append(n.VTEPs, l.PublicIPv6)
			}
			if l.IPv6Subnet.IsValid() && (!l.PublicIPv6.IsValid() || (l.BackendType == FlannelVXLAN && l.IPv6VTEP.MAC == "")) {
				prefixes = prefixes[:1]
				report(key, fmt.Sprintf("host %s does not say where its IPv6 tunnel ends: only IPv4 is forwarded to it", l.PublicIP), "give the host an IPv6 address and restart flanneld on it")
			}
			out.Nodes[sub.Node] = n
		}
		for _, p := range prefixes {
			sub.Prefix = p
			sub.Reserved = l.Reserved || sub.Node == ""
			out.Subnets[SubnetID{FlannelNetwork, p}] = sub
		}
	}
	return &out
}

// ofBaize reports whether the lease is that of a Baize node.
func (l FlannelLease) ofBaize() bool {
	return l.PublicIP.Is4() && l.VTEP.MAC == FlannelMAC(l.PublicIP).String()
}

// network returns flannel's network as one of Baize's.
func (c FlannelConfig) network(self Node, m Meta) Network {
	underlay := c.Backend.MTU
	if underlay == 0 {
		underlay = self.UnderlayMTU
	}
	if underlay == 0 {
		underlay = DefaultUnderlayMTU
	}
	n := Network{
		Name: FlannelNetwork, IPv4: c.IPv4, IPv6: c.IPv6, VNI: c.Backend.VNI, SubnetLenIPv4: c.SubnetLenIPv4, SubnetLenIPv6: c.SubnetLenIPv6,
		Transport: c.Backend.transport(), Router: true, Layout: FlannelNetwork, Meta: m,
	}
	family := IPv4
	if c.IPv6.IsValid() {
		// Flannel has tunnels over IPv6 for it, with 20 bytes more around packets,
		// and leaves them to fragmentation, which Open vSwitch's userspace
		// datapath does not do.
		family = IPv6
	}
	n.MTU = MTU(n.Transport, family, underlay)
	return n
}

// transport returns what is to Baize what the backend is to flannel.
func (b FlannelBackend) transport() Transport {
	switch {
	case b.Type == FlannelHostGW:
		return Route
	case b.DirectRouting:
		return Auto
	}
	return VXLAN
}
