package ovs

import (
	"cmp"

	"github.com/baize-net/baize/topology"
)

// TunnelID says which tunnel a port is. Its name does not: that is for people,
// and may change.
type TunnelID struct {
	Node  string // the peer
	Encap topology.Transport
	// Second is the tunnel over IPv6 that a peer has beside the one over IPv4.
	Second bool
}

// TunnelID reads the identity of a tunnel from the port's external_ids; false
// where the port is not a tunnel of Baize.
func (p Port) TunnelID() (TunnelID, bool) {
	if !p.Owned() || p.Role() != RoleTunnel {
		return TunnelID{}, false
	}
	id := p.ExternalIDs
	return TunnelID{Node: id[KeyNode], Encap: topology.Transport(id[KeyEncap]), Second: id[KeySecond] != ""}, true
}

// hostNetwork returns the network in which a port is the host's own.
func (p Port) hostNetwork() (string, bool) {
	return p.ExternalIDs[KeyNetwork], p.Owned() && p.Role() == RoleHost
}

// Tunnels returns the wanted tunnel ports by what they are.
func (s State) Tunnels() map[TunnelID]Port {
	out := make(map[TunnelID]Port, len(s.Ports))
	for _, p := range s.Ports {
		if id, ok := p.TunnelID(); ok {
			out[id] = p
		}
	}
	return out
}

// HostPort returns the wanted port of the host in a network.
func (s State) HostPort(network string) (Port, bool) {
	for _, p := range s.Ports {
		if n, ok := p.hostNetwork(); ok && n == network {
			return p, true
		}
	}
	return Port{}, false
}

// Tunnels returns the tunnel ports that are there by what they are. Of two that
// are the same it takes the one that can forward.
func (o Observed) Tunnels() map[TunnelID]ObservedPort {
	out := make(map[TunnelID]ObservedPort, len(o.Ports))
	for _, p := range o.Ports {
		if id, ok := p.TunnelID(); ok {
			if old, there := out[id]; !there || p.before(old) {
				out[id] = p
			}
		}
	}
	return out
}

// HostPort returns the port of the host in a network.
func (o Observed) HostPort(network string) (out ObservedPort, found bool) {
	for _, p := range o.Ports {
		if n, ok := p.hostNetwork(); ok && n == network && (!found || p.before(out)) {
			out, found = p, true
		}
	}
	return out, found
}

// before says which of two ports that are the same is meant.
func (p ObservedPort) before(q ObservedPort) bool {
	if p.Live() != q.Live() {
		return p.Live()
	}
	return cmp.Less(p.Name, q.Name)
}
