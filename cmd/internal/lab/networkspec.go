package lab

import (
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/topology"
)

// NetworkSpec is a network that the lab creates.
type NetworkSpec struct {
	Name string `json:"name"`
	// Prefixes are its address ranges, at most one a family.
	Prefixes []netip.Prefix `json:"prefixes"`
	// Transport is that of the lab where empty.
	Transport topology.Transport `json:"transport,omitempty"`
	// VNI is chosen by Baize where 0.
	VNI uint32 `json:"vni,omitempty"`
	// Endpoints is how many each host gets, that of the lab where 0. In the
	// first network they are called c1, c2, …, in others NETWORK-c1, ….
	Endpoints int `json:"endpoints,omitempty"`
}

// network is the record that Baize keeps of it, as far as the lab chooses it.
func (n NetworkSpec) network(t topology.Transport) topology.Network {
	out := topology.Network{Name: n.Name, Transport: t}
	for _, p := range n.Prefixes {
		if p.Addr().Is4() {
			out.IPv4 = p
		} else {
			out.IPv6 = p
		}
	}
	return out
}

// check refuses what cannot become a network, before anything is made for it.
func (n NetworkSpec) check(t topology.Transport) error {
	for i, p := range n.Prefixes {
		for _, q := range n.Prefixes[:i] {
			if p.Addr().Is4() == q.Addr().Is4() {
				return &topology.Error{
					Kind: topology.ErrInvalid, Item: "network " + n.Name,
					What:   fmt.Sprintf("%s and %s: a network has one prefix of each family", q, p),
					Remedy: "leave one out, or give it another name: NAME=" + p.String(),
				}
			}
		}
	}
	network := n.network(t).Defaults()
	if network.VNI = n.VNI; network.VNI == 0 {
		network.VNI = 1 // any: Baize chooses one
	}
	return network.Check()
}

// DefaultNetworkSpec returns the network blue. ipv4, where valid, replaces
// 10.1.0.0/16 (an IPv6 prefix replaces fd00:10:1::/48).
func DefaultNetworkSpec(prefix netip.Prefix) NetworkSpec {
	n := NetworkSpec{
		Name:     DefaultNetwork,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:10:1::/48")},
	}
	switch {
	case !prefix.IsValid():
	case prefix.Addr().Is4():
		n.Prefixes[0] = prefix
	default:
		n.Prefixes[1] = prefix
	}
	return n
}
