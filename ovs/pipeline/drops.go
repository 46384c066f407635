package pipeline

import "github.com/baize-net/baize/ovs"

// DropReason names why a flow drops, for counters people read; "" when the
// flow does not drop.
func DropReason(f ovs.Flow) string {
	if f.Actions != "drop" {
		return ""
	}
	switch {
	case f.Table == TableClassify:
		return "from a port that is not Baize's"
	case f.Table == TableTunnel:
		return "unknown tunnel key"
	case f.Table == TableGuard && f.Priority == prioNeighbourLie:
		return "spoofed neighbour discovery"
	case f.Table == TableGuard && f.Priority == prioAddressLie:
		return "spoofed address"
	case f.Table == TableGuard && f.Priority == prioMACLie:
		return "spoofed MAC"
	case f.Table == TableSteer && f.Priority == prioTunnelDrop:
		return "from a tunnel for no local endpoint"
	case f.Table == TableSteer && f.Priority == prioUnowned:
		return "ARP or ND for an address nobody leases"
	case f.Table == TableSteer:
		return "for an address of this node without an endpoint"
	case f.Table == TableFlood:
		return "flood without local endpoints"
	}
	return "other"
}
