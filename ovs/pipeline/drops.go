package pipeline

import "github.com/baize-net/baize/ovs"

// DropReason names why a flow drops, for counters people read; "" when the
// flow does not drop.
func DropReason(f ovs.Flow) string {
	if f.Actions != "drop" {
		return ""
	}
	switch {
	case f.Table == TableClassify && f.Priority == prioMACTheft:
		return "spoofed MAC"
	case f.Table == TableClassify:
		return "from a port that is not Baize's"
	case f.Table == TableTunnel:
		return "unknown tunnel key"
	case f.Table == TableRouted:
		return "routed to this node, for an address without an endpoint"
	case f.Table == TableGuard && f.Priority == prioNeighbourOwn:
		return "docker0's fe80::1, the same on every host"
	case f.Table == TableGuard && (f.Priority == prioNeighbourLie || f.Priority == prioNeighbourBad):
		return "spoofed neighbour discovery"
	case f.Table == TableGuard && f.Priority == prioAddressLie:
		return "spoofed address"
	case f.Table == TableGuard && f.Priority == prioMACLie:
		return "spoofed MAC"
	case f.Table == TableLocal && f.Priority == prioTarget:
		return "ARP or ND for an address of this node without an endpoint"
	case f.Table == TableLocal:
		return "for a MAC of this node without an endpoint"
	case f.Table == TableSteer && f.Priority == prioMACRange:
		return "not IP, in a network that is routed"
	case f.Table == TableAnswer:
		return "duplicate address detection of an address that lives elsewhere"
	case f.Table == TableSteer:
		return "ARP or ND for an address nobody leases"
	case f.Table == TableFlood:
		return "flood without local endpoints"
	}
	return "other"
}
