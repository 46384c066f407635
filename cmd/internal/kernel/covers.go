package kernel

import (
	"fmt"
	"net/netip"

	"github.com/baize-net/baize/topology"
	"github.com/baize-net/baize/topology/fault"
)

// Protected is an address that this host must go on reaching by itself.
type Protected struct {
	Addr netip.Addr
	// What says in words what it is: "the default gateway".
	What string
}

// Covers reports whether a network that the kernel forwards has an address that
// the host itself needs: its routes would lead packets for it into the network,
// and the host would lose its peers, etcd, or the way out. Not even the deletion
// of the network could then reach it. It is pure.
func Covers(n topology.Network, protected []Protected) (fault.Fault, bool) {
	if !n.Kernel() {
		return fault.Fault{}, false
	}
	for _, p := range protected {
		a := p.Addr.Unmap()
		if whole := n.Prefix(topology.FamilyOf(a)); !a.IsValid() || !whole.IsValid() || !whole.Contains(a) {
			continue
		}
		return fault.Fault{
			Code:     fault.NetworkCoversUnderlay,
			Severity: fault.Error,
			Item:     "network " + n.Name,
			What: fmt.Sprintf("its prefix %s covers %s, %s: this host makes no routes for it, or it would cut itself off",
				n.Prefix(topology.FamilyOf(a)), a, p.What),
			Remedy: "delete the network and create it with another prefix, or with a transport that is a tunnel: " +
				"'baize network update " + n.Name + " --transport vxlan'",
		}, true
	}
	return fault.Fault{}, false
}

// Protect returns what no network may cover: the underlay's addresses of this
// node and of its peers, the default gateways, and more that the caller knows,
// etcd's for example.
func Protect(v topology.View, have Observed, more ...Protected) []Protected {
	var out []Protected
	for _, a := range v.Node.VTEPs {
		out = append(out, Protected{a, "this node's own underlay address"})
	}
	seen := map[netip.Addr]bool{}
	for _, n := range v.Networks {
		for _, p := range n.Peers {
			for _, a := range p.VTEPs {
				if !seen[a] {
					seen[a] = true
					out = append(out, Protected{a, "the underlay address of node " + p.Node})
				}
			}
		}
	}
	for _, f := range have.Routes.Foreign {
		if f.Prefix.Bits() == 0 && f.Via.IsValid() && !f.Via.IsLinkLocalUnicast() {
			out = append(out, Protected{f.Via, "the default gateway"})
		}
	}
	return append(out, more...)
}
